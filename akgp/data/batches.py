"""Batches for training and evaluation: whole batches at a time, on the device, no per-sample Python.

Randomness is drawn on the processor from (seed, epoch), so that every device and every number of
workers sees the same images. Reading files is not done here. N: images, B: of a batch, C: channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from akgp.data.images import Images
from akgp.params import Augment

NCHW = torch.contiguous_format


@dataclass(frozen=True)
class Batch:
    """index: [B] positions in the split; inputs: [B, C, H, W] normalised floats; labels: int64 [B].

    columns: [B, ...], whatever else its source knows of each image, by name.
    """

    index: Tensor
    inputs: Tensor
    labels: Tensor
    columns: Mapping[str, Tensor] = field(default_factory=dict)

    def take(self, index: Tensor) -> Batch:
        """The images at the positions `index` of this batch."""
        columns = {name: column[index] for name, column in self.columns.items()}
        return Batch(self.index[index], self.inputs[index], self.labels[index], columns)


class BatchSource(Protocol):
    """N labelled images as batches: all that training, evaluation and prediction ask of a data set.

    Where the pixels lie, how they are read and in which units they are normalised is its own affair.
    """

    @property
    def labels(self) -> Tensor:
        """int64 [N], class indices."""

    @property
    def columns(self) -> Mapping[str, Tensor]:
        """What else is known of each image, [N, ...] by name; every batch carries its rows of them."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""

    def __len__(self) -> int: ...

    def to(self, device: torch.device | str) -> BatchSource:
        """The same images, their batches on this device."""

    def take(self, index: Tensor) -> BatchSource:
        """The images at the positions `index` [M], in this order, and their rows of the columns."""

    def with_columns(self, **columns: Tensor) -> BatchSource:
        """The same images, with these columns besides or instead."""

    def epoch(
        self,
        *,
        batch_size: int,
        augment: Augment | None,
        seed: int,
        epoch: int,
        rank: int = 0,
        world: int = 1,
        channels_last: bool = False,
    ) -> Iterator[Batch]:
        """The training batches of one epoch, in an order that depends on (seed, epoch) alone.

        Only whole global batches are used, the rest waits for another epoch's order; a split smaller
        than `batch_size` is one batch. Worker `rank` of `world` gets its slice of each.

        Args:
            batch_size: over all workers, a multiple of `world`.
            augment: None: the images as they are.

        Raises:
            ValueError: fewer images than workers.
        """

    def ordered(
        self, *, batch_size: int, rank: int = 0, world: int = 1, channels_last: bool = False
    ) -> Iterator[Batch]:
        """Every image once over all workers, in order, as it is."""


class Pixels(Protocol):
    """Images uint8 [N, C, H, W] that are read by position. A tensor is one; so is what reads a file."""

    @property
    def shape(self) -> Sequence[int]: ...

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """uint8 [B, C, H, W], of the positions `index` [B], on the device."""

    def to(self, device: torch.device | str, /) -> Pixels: ...


@dataclass(frozen=True)
class IndexedSource:
    """A `BatchSource` of images that are read by position, each worker the whole of a global batch.

    The whole, as augmentation is drawn for all of it: so a batch does not depend on the number of workers.

    mean, std: of each channel, in units of 255.
    positions: [N] into `pixels` and only into these; None: all of them, in order.
    """

    pixels: Pixels
    labels: Tensor
    mean: Sequence[float]
    std: Sequence[float]
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    positions: Tensor | None = None

    @classmethod
    def of(cls, images: Images, mean: Sequence[float], std: Sequence[float]) -> IndexedSource:
        return cls(images.pixels, images.labels, mean, std)

    @property
    def image_shape(self) -> tuple[int, ...]:
        return tuple(self.pixels.shape[1:])

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> IndexedSource:
        return replace(
            self,
            pixels=self.pixels.to(device),
            labels=self.labels.to(device),
            columns={name: column.to(device) for name, column in self.columns.items()},
            positions=None if self.positions is None else self.positions.to(device),
        )

    def take(self, index: Tensor) -> IndexedSource:
        return replace(
            self,
            labels=self.labels[index],
            columns={name: column[index] for name, column in self.columns.items()},
            positions=index if self.positions is None else self.positions[index],
        )

    def with_columns(self, **columns: Tensor) -> IndexedSource:
        """As `BatchSource.with_columns`.

        Raises:
            ValueError: a column has not one row an image.
        """
        for name, column in columns.items():
            if column.shape[:1] != (len(self),):
                raise ValueError(
                    f"column {name}: must be [{len(self)}, ...], a row an image, got {list(column.shape)}"
                )
        moved = {name: column.to(self.labels.device) for name, column in columns.items()}
        return replace(self, columns={**self.columns, **moved})

    def epoch(
        self,
        *,
        batch_size: int,
        augment: Augment | None,
        seed: int,
        epoch: int,
        rank: int = 0,
        world: int = 1,
        channels_last: bool = False,
    ) -> Iterator[Batch]:
        """As `BatchSource.epoch`: the order is a permutation, drawn before the augmentations."""
        if len(self) < world:
            raise ValueError(
                f"{len(self)} training images are too few for {world} workers: lower ray.workers"
            )
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
        order = torch.randperm(len(self), generator=generator)
        size = min(batch_size, len(self) // world * world)
        share = size // world
        mine = slice(rank * share, (rank + 1) * share)
        for start in range(0, len(self) - size + 1, size):
            index = order[start : start + size].to(self.labels.device)
            pixels = self._read(index)
            if augment is not None:
                pixels = augmented(pixels, augment, generator)
            yield self._batch(index[mine], pixels[mine], channels_last)

    def ordered(
        self, *, batch_size: int, rank: int = 0, world: int = 1, channels_last: bool = False
    ) -> Iterator[Batch]:
        positions = torch.arange(len(self), device=self.labels.device)[rank::world]
        for index in positions.split(batch_size) if len(positions) else ():
            yield self._batch(index, self._read(index), channels_last)

    def _read(self, index: Tensor) -> Tensor:
        return self.pixels[index if self.positions is None else self.positions[index]]

    def _batch(self, index: Tensor, pixels: Tensor, channels_last: bool) -> Batch:
        inputs = normalize(pixels, self.mean, self.std, channels_last=channels_last)
        columns = {name: column[index] for name, column in self.columns.items()}
        return Batch(index, inputs, self.labels[index], columns)


def normalize(
    pixels: Tensor, mean: Sequence[float], std: Sequence[float], *, channels_last: bool = False
) -> Tensor:
    """(pixels / 255 − mean) / std, a channel each.

    Args:
        pixels: uint8 [N, C, H, W].
        mean, std: [C], in units of 255.
    """
    shape = (1, len(mean), 1, 1)
    scale = 1 / (255 * torch.tensor(std, device=pixels.device).view(shape))
    shift = torch.tensor(mean, device=pixels.device).view(shape) / torch.tensor(
        std, device=pixels.device
    ).view(shape)
    return laid_out(pixels.float() * scale - shift, torch.channels_last if channels_last else NCHW)


def laid_out(images_NCHW: Tensor, memory_format: torch.memory_format) -> Tensor:
    """The images in this memory format, by their strides too; copied only where they lie otherwise.

    Images of one channel are in both formats at once, so that `contiguous` leaves their strides as they are;
    but by these a convolution chooses the format of its outputs.
    """
    if memory_format is NCHW:
        return images_NCHW.contiguous().flatten().view(images_NCHW.shape)
    images_NHWC = images_NCHW.permute(0, 2, 3, 1).contiguous()
    return images_NHWC.flatten().view(images_NHWC.shape).permute(0, 3, 1, 2)


def augmented(pixels: Tensor, params: Augment, generator: torch.Generator) -> Tensor:
    """Random crops after reflected padding, mirroring and cut-out, drawn for the whole batch.

    Args:
        pixels: uint8 [N, C, H, W].
        generator: on the processor; draws the same numbers for every device.

    Returns:
        uint8 [N, C, H, W]; a cut-out square holds the batch's mean colour.
    """
    count, _, height, width = pixels.shape
    device, pad = pixels.device, params.crop_padding
    rows, columns = torch.arange(height).expand(count, -1), torch.arange(width).expand(count, -1)
    if pad:
        offsets = torch.randint(-pad, pad + 1, (2, count, 1), generator=generator)
        rows, columns = _reflected(rows + offsets[0], height), _reflected(columns + offsets[1], width)
    if params.flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    if pad or params.flip:
        sample = torch.arange(count, device=device)[:, None, None]
        grid = pixels.permute(0, 2, 3, 1)[sample, rows.to(device)[:, :, None], columns.to(device)[:, None, :]]
        pixels = grid.permute(0, 3, 1, 2)
    if params.cutout:
        centre = torch.stack(
            [torch.randint(0, side, (count, 1), generator=generator) for side in (height, width)]
        )
        low = centre - params.cutout // 2
        inside = [
            (torch.arange(side) >= edge) & (torch.arange(side) < edge + params.cutout)
            for side, edge in zip((height, width), low, strict=True)
        ]
        square = (inside[0][:, None, :, None] & inside[1][:, None, None, :]).to(device)
        fill = pixels.float().mean((0, 2, 3), keepdim=True).round().to(torch.uint8)
        pixels = torch.where(square, fill, pixels)
    return pixels


def _reflected(position: Tensor, size: int) -> Tensor:
    """Positions outside [0, size) mirrored, as often as needed, at the border pixels (not repeated)."""
    period = max(2 * (size - 1), 1)
    position = position.abs() % period
    return torch.where(position >= size, period - position, position)
