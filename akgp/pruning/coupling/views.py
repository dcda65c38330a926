"""Which tensors are views of which, in one forward pass."""

from __future__ import annotations

import itertools
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


class Views:
    """The tensor that each view is one of."""

    def __init__(self) -> None:
        self._sources = WeakTensorKeyDictionary()

    def add(self, view: Tensor, source: Tensor) -> None:
        self._sources[view] = source

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor in self._sources

    def chain(self, tensor: Tensor) -> list[Tensor]:
        """The tensor, what it is a view of, and so on."""
        chain = [tensor]
        while (source := self._sources.get(chain[-1])) is not None:
            chain.append(source)
        return chain

    def same(self, tensor: Tensor) -> list[Tensor]:
        """The tensor and what it is a view of without a change, as `x[:, :32]` is of 32 channels."""
        return list(itertools.takewhile(lambda each: _places(each) == _places(tensor), self.chain(tensor)))


def _places(tensor: Tensor) -> tuple[Any, ...]:
    """Where its values lie in memory."""
    return tensor.shape, tensor.stride(), tensor.storage_offset()
