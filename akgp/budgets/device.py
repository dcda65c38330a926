"""Pruning until a network fits a device: the widest that does, all layers narrowed by the same ratio."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from akgp.microcontroller.device import Need
from akgp.params import Device
from akgp.pruning import NothingRemoved, Pruned, PruningError
from akgp.timed_search import ended

RATIOS = tuple(step / 32 for step in range(32))


def prune_to_device(
    cut: Callable[[float], Pruned], need: Callable[[nn.Module], Need], device: Device
) -> Pruned:
    """The network pruned by the smallest of RATIOS with which it fits.

    Args:
        cut: prunes by a ratio, of which 0 leaves it dense.
        need: what a pruned network takes; never more at a higher ratio.

    Raises:
        PruningError: not even the narrowest fits; says what it takes and what the device has.
    """
    limits = (device.flash_bytes, device.ram_bytes)
    narrowest = _cut_or_dense(cut, RATIOS[-1])
    taken = need(narrowest.model)
    if said := taken.excess(*limits):
        raise PruningError(
            f"prune.device: the narrowest network needs {said} (most of the RAM in {taken.layer}): take a "
            "smaller network or images, scope all if it is inside, a lower round_to, or a larger device"
        )
    fits, low, high = narrowest, 0, len(RATIOS) - 1
    while low < high and not ended():
        middle = (low + high) // 2
        candidate = _cut_or_dense(cut, RATIOS[middle])
        if need(candidate.model).excess(*limits):
            low = middle + 1
        else:
            fits, high = candidate, middle
    return fits


def _cut_or_dense(cut: Callable[[float], Pruned], ratio: float) -> Pruned:
    """Cut by a ratio; the dense network where that is too little for one filter."""
    try:
        return cut(ratio)
    except NothingRemoved:
        return cut(0.0)
