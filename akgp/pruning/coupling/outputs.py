"""The tensors that a forward pass returns, wherever they are in what it returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree


def output_tensors(outputs: Any) -> Iterator[Tensor]:
    """The tensors in tuples, lists, dictionaries (of any class, such as OrderedDict's) and dataclasses."""
    for leaf in pytree.tree_leaves(outputs):
        if isinstance(leaf, Tensor):
            yield leaf
        elif isinstance(leaf, Mapping):  # of a class that torch does not know
            yield from output_tensors(list(leaf.values()))
        elif isinstance(leaf, (list, tuple)):
            yield from output_tensors(list(leaf))
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            yield from output_tensors([getattr(leaf, field.name) for field in fields(leaf)])
