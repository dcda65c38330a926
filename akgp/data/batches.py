"""Batches for training and evaluation: assembled and augmented as whole tensors on the device.

Random numbers are drawn on the CPU from (seed, epoch), so that every device and every number of workers
sees the same images. Files are read elsewhere.

Letters of shapes: N images, B images of a batch, C channels, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from akgp.data.augmentation import augmented, draw
from akgp.data.images import Images
from akgp.data.mixing import Mixed, mixed_pixels
from akgp.data.normalization import normalize
from akgp.data.views import VIEW, Views
from akgp.params import Augment


@dataclass(frozen=True)
class Batch:
    """A batch. index: [B] positions in its source; inputs: [B, C, H, W] normalised; labels: int64 [B].

    columns: [B, ...] by name, further values of each image that its source has, such as a weight.
    mixed: where images were mixed with others.
    """

    index: Tensor
    inputs: Tensor
    labels: Tensor
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    mixed: Mixed | None = None

    def take(self, index: Tensor) -> Batch:
        """The images at the positions `index` of this batch."""
        columns = {name: column[index] for name, column in self.columns.items()}
        mixed = self.mixed and Mixed(*(each[index] for each in self.mixed))
        return Batch(self.index[index], self.inputs[index], self.labels[index], columns, mixed)


class BatchSource(Protocol):
    """N labelled images as batches: the interface of a data set to training, evaluation and prediction.

    Storage, reading and normalisation of the pixels are left to the implementation.
    """

    @property
    def labels(self) -> Tensor:
        """int64 [N], class indices."""

    @property
    def columns(self) -> Mapping[str, Tensor]:
        """Further values of each image, [N, ...] by name; every batch carries its rows of them."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""

    def __len__(self) -> int: ...

    def to(self, device: torch.device | str) -> BatchSource:
        """The same images, with batches on this device."""

    def take(self, index: Tensor) -> BatchSource:
        """The images at the positions `index` [M], in this order, and their rows of the columns."""

    def with_columns(self, **columns: Tensor) -> BatchSource:
        """The same images, with these columns added or replaced."""

    def with_views(self, augment: Augment, count: int, seed: int) -> BatchSource:
        """The same images in `count` fixed views, drawn from the seed, which the epochs show in turn.

        Batches say which view they show, in the column VIEW.
        """

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
        """Training batches of one epoch, in an order that depends on (seed, epoch) alone.

        Only whole global batches are used; which images are left out differs by epoch. A source
        smaller than `batch_size` is one batch. Worker `rank` of `world` gets its slice of each batch.

        Args:
            batch_size: over all workers, a multiple of `world`.
            augment: None: without augmentation. A source with views shows these instead.

        Raises:
            ValueError: fewer images than workers.
        """

    def ordered(
        self,
        *,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        channels_last: bool = False,
        view: int | None = None,
    ) -> Iterator[Batch]:
        """Every image once over all workers, in order, without augmentation, or in this view."""


class Pixels(Protocol):
    """Images uint8 [N, C, H, W] that are read by position: a tensor, or an object that reads a file."""

    @property
    def shape(self) -> Sequence[int]: ...

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """uint8 [B, C, H, W], of the positions `index` [B], on the device."""

    def to(self, device: torch.device | str, /) -> Pixels: ...


@dataclass(frozen=True)
class IndexedSource:
    """A `BatchSource` of images that are read by position.

    Each worker reads and augments the whole global batch and keeps its slice, so that a batch does not depend
    on the number of workers.

    mean, std: of each channel, in units of 255.
    positions: [N] into `pixels` alone, not labels or columns; None: all of them, in order.

    Raises:
        ValueError: pixels, labels, mean or std are not as above.
    """

    pixels: Pixels
    labels: Tensor
    mean: Sequence[float]
    std: Sequence[float]
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    positions: Tensor | None = None
    views: Views | None = None

    def __post_init__(self) -> None:
        kind = getattr(self.pixels, "dtype", torch.uint8)  # of what is not in memory, known when it is read
        if kind != torch.uint8 or len(self.pixels.shape) != 4:
            raise ValueError(
                f"pixels must be uint8 [N, C, H, W], 0 to 255, got {kind} {list(self.pixels.shape)}"
            )
        images = self.pixels.shape[0] if self.positions is None else len(self.positions)
        if self.labels.dtype != torch.int64 or self.labels.shape != (images,):
            raise ValueError(
                f"labels must be int64 [{images}], one an image, got {self.labels.dtype} "
                f"{list(self.labels.shape)}"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            given = list(values) if isinstance(values, Iterable) else []
            inside = all(0 <= each <= 1 and (each > 0 or name == "mean") for each in given)
            if len(given) != self.pixels.shape[1] or not inside:
                raise ValueError(
                    f"{name} must be {self.pixels.shape[1]} numbers, one a channel, in units of 255: "
                    f"{'above 0' if name == 'std' else 'from 0'} to 1, got {values}"
                )

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
            views=self.views and self.views.take(index),
        )

    def with_columns(self, **columns: Tensor) -> IndexedSource:
        """As `BatchSource.with_columns`.

        Raises:
            ValueError: a column does not have one row for each image.
        """
        for name, column in columns.items():
            if column.shape[:1] != (len(self),):
                raise ValueError(
                    f"column {name}: must be [{len(self)}, ...], a row for each image, got "
                    f"{list(column.shape)}"
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
        # A prime above any number of epochs: nearby pairs of (seed, epoch) differ. Torch keeps 32 bits of it.
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
        order = torch.randperm(len(self), generator=generator)
        size = min(batch_size, len(self) // world * world)  # equal slices for all workers
        share = size // world
        mine = slice(rank * share, (rank + 1) * share)
        for start in range(0, len(self) - size + 1, size):
            index = order[start : start + size].to(self.labels.device)
            pixels, mixed, view = self._read(index), None, None
            if self.views is not None:
                view = self.views.at(epoch, index)
                pixels = self.views.show(pixels, index, view)
            elif augment is not None:
                height, width = self.image_shape[1:]
                pixels = augmented(pixels, augment, draw(augment, size, (height, width), generator))
                if augment.mixes:
                    pixels, own = mixed_pixels(pixels, augment, generator)
                    others = self.labels[index].roll(1)
                    mixed = Mixed(others[mine], own.to(others.device)[mine])
            shown = view if view is None else view[mine]
            yield self._batch(index[mine], pixels[mine], channels_last, mixed, shown)

    def with_views(self, augment: Augment, count: int, seed: int) -> IndexedSource:
        height, width = self.image_shape[1:]
        return replace(self, views=Views.of(augment, count, len(self), (height, width), seed))

    def ordered(
        self,
        *,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        channels_last: bool = False,
        view: int | None = None,
    ) -> Iterator[Batch]:
        positions = torch.arange(len(self), device=self.labels.device)[rank::world]
        for index in positions.split(batch_size) if len(positions) else ():
            pixels, shown = self._read(index), None
            if view is not None and self.views is not None:
                shown = torch.full_like(index, view)
                pixels = self.views.show(pixels, index, shown)
            yield self._batch(index, pixels, channels_last, view=shown)

    def _read(self, index: Tensor) -> Tensor:
        return self.pixels[index if self.positions is None else self.positions[index]]

    def _batch(
        self,
        index: Tensor,
        pixels: Tensor,
        channels_last: bool,
        mixed: Mixed | None = None,
        view: Tensor | None = None,
    ) -> Batch:
        inputs = normalize(pixels, self.mean, self.std, channels_last=channels_last)
        columns = {name: column[index] for name, column in self.columns.items()}
        columns |= {} if view is None else {VIEW: view}
        return Batch(index, inputs, self.labels[index], columns, mixed)
