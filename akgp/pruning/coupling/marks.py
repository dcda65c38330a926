"""Marks: which units a tensor's positions belong to, and what they hold without them.

Ids and dead values have the tensor's own shape. Dimensions along which they do not vary have stride 0, so
that they cost no memory: the ids [N, C, H, W] of a feature map are C numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Marks:
    """What is known of a tensor.

    Attributes:
        layers: ids, each of the tensor's shape; a position belongs to the units of all layers. A feature map
            has one, a weight two: of its rows and of its columns.
        dead: what a position holds once its unit's filters are zero; NaN where that is not known.
        weight: whether it is computed from parameters and buffers alone.
    """

    layers: tuple[Tensor, ...]
    dead: Tensor
    weight: bool = False


def varying(ids: Tensor) -> tuple[int, ...]:
    """The dimensions along which ids vary."""
    return tuple(d for d in range(ids.ndim) if ids.shape[d] > 1 and ids.stride(d) != 0)


def shrink(tensor: Tensor) -> Tensor:
    """One position of every dimension along which a tensor is expanded."""
    for d in range(tensor.ndim):
        if tensor.shape[d] > 1 and tensor.stride(d) == 0:
            tensor = tensor.narrow(d, 0, 1)
    return tensor


def tidy(tensor: Tensor) -> Tensor:
    """The same values, expanded along every dimension along which they do not vary."""
    shape = tensor.shape
    tensor = shrink(tensor)
    for d in range(tensor.ndim):
        if tensor.shape[d] > 1:
            first = tensor.narrow(d, 0, 1)
            if _same(tensor, first):
                tensor = first
    return tensor.expand(shape)


def _same(tensor: Tensor, first: Tensor) -> bool:
    equal = tensor == first
    if tensor.is_floating_point():
        equal |= tensor.isnan() & first.isnan()
    return bool(equal.all())


def constant(like: Tensor, value: float) -> Tensor:
    """`value` in the shape and type of a tensor, in one number of memory."""
    return torch.full((), value, dtype=like.dtype, device=like.device).expand(like.shape)


def unknown(like: Tensor) -> Tensor:
    """Dead values of which nothing is known."""
    return constant(like, float("nan") if like.is_floating_point() else 1)


def along(ids: Tensor, dim: int) -> Tensor:
    """Ids [.., K, ..] as [M, K]: K along `dim`, M over the others that vary."""
    ids = shrink(ids).movedim(dim, -1)
    return ids.reshape(-1, ids.shape[-1])


def constants(dead: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Dead values along `dim` [K], and whether each is one and the same number everywhere else [K]."""
    rows = along(dead, dim)
    rows = rows if rows.is_complex() else rows.double()
    if rows.shape[1] < dead.shape[dim]:
        rows = rows.expand(-1, dead.shape[dim])
    first = rows[0]
    return first, (rows == first).all(0)  # NaN equals nothing


def place(ids: Tensor, shape: Sequence[int]) -> Tensor:
    """Ids broadcast to a shape."""
    return ids.expand(torch.broadcast_shapes(ids.shape, tuple(shape)))
