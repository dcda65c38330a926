"""The state of a training packed into few tensors, since torch.save costs time for each tensor.

The state of a ResNet-20 with its optimizer is 300 small tensors: 22 ms an epoch; packed, 6.5 ms. Unpacking
gives the same state, strides included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

TENSOR = "packed tensor"


def packed(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """`state` with each tensor replaced by a record of place, shape and strides; and all numbers by type.

    Args:
        state: dicts, lists, tuples, plain values and dense tensors.
    """
    parts: dict[str, list[Tensor]] = {}
    lengths: dict[str, int] = {}

    def pack(tensor: Tensor) -> tuple[str, str, int, tuple[int, ...], tuple[int, ...]]:
        kind = f"{tensor.dtype} {tensor.device}"  # only tensors of one kind can be concatenated
        if tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
            tensor = tensor.clone()  # a view of a larger storage, or not dense
        parts.setdefault(kind, []).append(tensor.detach().as_strided((tensor.numel(),), (1,)))
        start = lengths.get(kind, 0)
        lengths[kind] = start + tensor.numel()
        return TENSOR, kind, start, tuple(tensor.shape), tensor.stride()

    structure = _mapped(state, lambda node: isinstance(node, Tensor), pack)
    return structure, {kind: torch.cat(tensors) for kind, tensors in parts.items()}


def unpacked(structure: Any, numbers: dict[str, Tensor]) -> Any:
    """The state that `packed` was given."""

    def unpack(record: tuple[str, str, int, tuple[int, ...], tuple[int, ...]]) -> Tensor:
        _, kind, start, shape, stride = record
        # A copy: a view would keep the packed tensor alive, and be saved with all of it the next time.
        return numbers[kind].as_strided(shape, stride, start).clone()

    return _mapped(structure, lambda node: isinstance(node, tuple) and node[:1] == (TENSOR,), unpack)


def _mapped(node: Any, chosen: Callable[[Any], bool], change: Callable[[Any], Any]) -> Any:
    """A copy of the tree with `change` applied to every node that `chosen` accepts."""
    if chosen(node):
        return change(node)
    if isinstance(node, dict):
        return {key: _mapped(value, chosen, change) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(_mapped(value, chosen, change) for value in node)
    return node
