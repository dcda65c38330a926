"""Batches for training and evaluation: whole batches at a time, on the device, no per-sample Python.

Randomness is drawn on the processor from (seed, epoch), so that every device and every number of
workers sees the same images. Reading files is not done here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from akgp.data.images import Images
from akgp.params import Augment

NCHW = torch.contiguous_format


@dataclass(frozen=True)
class Batch:
    """index: [B] positions in the split; inputs: [B, C, H, W] normalised floats; labels: [B]."""

    index: Tensor
    inputs: Tensor
    labels: Tensor


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


def epoch_batches(
    images: Images,
    *,
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    augment: Augment | None,
    seed: int,
    epoch: int,
    rank: int = 0,
    world: int = 1,
    channels_last: bool = False,
) -> Iterator[Batch]:
    """The training batches of one epoch: a permutation that depends on (seed, epoch) alone.

    Only whole global batches are used, the rest waits for another epoch's order; a split smaller
    than `batch_size` is one batch. Worker `rank` of `world` gets its slice of each.

    Args:
        batch_size: over all workers, a multiple of `world`.
        augment: None: the images as they are.

    Raises:
        ValueError: fewer images than workers.
    """
    if len(images) < world:
        raise ValueError(f"{len(images)} training images are too few for {world} workers: lower ray.workers")
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    order = torch.randperm(len(images), generator=generator)
    size = min(batch_size, len(images) // world * world)
    share = size // world
    for start in range(0, len(images) - size + 1, size):
        index = order[start : start + size].to(images.labels.device)
        pixels = images.pixels[index]
        if augment is not None:
            pixels = augmented(pixels, augment, generator)
        mine = slice(rank * share, (rank + 1) * share)
        yield Batch(
            index[mine],
            normalize(pixels[mine], mean, std, channels_last=channels_last),
            images.labels[index[mine]],
        )


def ordered_batches(
    images: Images,
    *,
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    rank: int = 0,
    world: int = 1,
    channels_last: bool = False,
) -> Iterator[Batch]:
    """Every image once over all workers, in order, as it is."""
    positions = torch.arange(len(images), device=images.labels.device)[rank::world]
    for index in positions.split(batch_size) if len(positions) else ():
        yield Batch(
            index,
            normalize(images.pixels[index], mean, std, channels_last=channels_last),
            images.labels[index],
        )
