"""Units that are seen in tensors without ids.

An operation over the channels, such as softmax, leaves a value for each of them. Where these reach the
network's output, as the probabilities of classes do, their units stay. A product ends this: what comes of it
is no channel's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from akgp.pruning.coupling.marks import Marks, shrink, varying
from akgp.pruning.coupling.rules.products import PRODUCTS


class Shown:
    """Which units' values a tensor holds one by one."""

    def __init__(self) -> None:
        self._ids = WeakTensorKeyDictionary()

    def of(self, tensor: Tensor) -> Tensor:
        """Their ids."""
        return torch.tensor(sorted(self._ids.get(tensor, ())), dtype=torch.long)

    def follow(
        self, operation: str, operands: Sequence[tuple[Tensor, Marks | None]], output: Tensor, lost: bool
    ) -> None:
        """Note what an operation of these operands passes on.

        Args:
            lost: whether its output has no ids of its own.
        """
        if operation in PRODUCTS:
            return
        shown: frozenset[int] = self._ids.get(output, frozenset())
        for tensor, marks in operands:
            shown |= self._ids.get(tensor, frozenset())
            for ids in marks.layers if lost and marks is not None and not marks.weight else ():
                if _is_shown(ids, output):
                    shown |= frozenset(shrink(ids).reshape(-1).tolist())
        if shown:
            self._ids[output] = shown


def _is_shown(ids: Tensor, output: Tensor) -> bool:
    """Whether a channel each is left, or numbers of channels, as from argmax."""
    alike = output.ndim == ids.ndim and all(output.shape[d] == ids.shape[d] for d in varying(ids))
    return alike or not (output.is_floating_point() or output.is_complex())
