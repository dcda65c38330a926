"""Deep copies of networks, also of those whose weights hooks compute before each pass."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def deep_copy(model: Network) -> Network:
    """A copy; parameters that share memory share it in the copy too."""
    # Weights that hooks compute, such as masked ones, have a gradient, with which torch copies no tensor.
    computed = [each for module in model.modules() for each in vars(module).values() if _is_computed(each)]
    twin = copy.deepcopy(model, {id(each): each.detach().clone() for each in computed})
    # deepcopy keeps one Parameter in two modules shared, but separates two that are views of one storage.
    first: dict[tuple[Any, ...], Tensor] = {}
    for old, new in zip(model.parameters(), twin.parameters(), strict=True):
        if isinstance(old, nn.UninitializedParameter):  # without memory yet
            continue
        memory = (old.untyped_storage()._cdata, old.storage_offset(), old.numel())
        if (base := first.setdefault(memory, new)) is not new and old.numel():
            new.data = base.data.as_strided(old.shape, old.stride())
    return twin


def _is_computed(value: object) -> bool:
    return isinstance(value, Tensor) and not value.is_leaf
