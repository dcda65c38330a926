"""Pruning until the int8 file of a network is as fast as asked for, in the runtime that it will run in."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from akgp.budgets.deployed import Deployed
from akgp.deployment.width_times import WidthTimes
from akgp.params import Prune
from akgp.pruning import Pruned, PruningError, Reached
from akgp.pruning.latency import TOLERANCE, Latencies
from akgp.runtimes import RUNTIMES
from akgp.timed_search import doing, ended

ATTEMPTS = 3
"""Cuts whose own files are timed. Mostly one: only a network that keeps a layout differs from what was timed
while its widths were sought."""

Cut = Callable[[float, Latencies], Pruned]
"""Prunes to so many milliseconds, as far as is measured."""


def prune_to_latency(
    cut: Cut, model: nn.Module, images: Tensor, params: Prune, deployed: Deployed, dense: nn.Module
) -> Pruned:
    """The network pruned to `prune.latency_ms` or `prune.speedup`; its `budget` is in the unit of that.

    Args:
        model: that is cut.
        images: [N, C, H, W], of which the shape counts.
        dense: whose time in float32 `speedup` divides: `model`, or the network with the blocks it lacks.

    Raises:
        PruningError: no widths are so fast, or the runtime cannot time them.
    """
    doing("timing the dense network")
    with tempfile.TemporaryDirectory() as folder:
        try:
            times = WidthTimes(
                model, images.shape[1:], RUNTIMES[deployed.runtime], deployed.threads, Path(folder),
                precision=deployed.precision,
            )  # fmt: skip
            float_ms = times.float_ms if dense is model else times.float_ms_of(dense)
            return cut_and_measure(cut, times, times.of, params, float_ms)
        except ValueError as error:
            raise PruningError(f"prune.{_key(params)}: {error}") from error


def cut_and_measure(
    cut: Cut, latencies: Latencies, measure: Callable[[nn.Module], float], params: Prune, float_ms: float
) -> Pruned:
    """Cut, measure the pruned network's own file, and aim again where that differs from what was promised.

    Args:
        measure: of a pruned network, ms.
        float_ms: of the dense network in float32.
    """
    target = params.latency_ms or float_ms / _asked(params)
    aim, cuts = target, list[tuple[float, Pruned]]()
    while len(cuts) < ATTEMPTS:
        try:
            pruned = cut(aim, latencies)
        except PruningError as error:
            if not cuts:
                raise PruningError(f"{_asked(params):g}, dense float {float_ms:.3g} ms: {error}") from error
            break  # no widths are so much faster: the nearest stands
        cuts.append((measure(pruned.model), pruned))
        if abs(cuts[-1][0] / target - 1) <= TOLERANCE or _is_widest(pruned) or ended():
            break
        aim *= target / cuts[-1][0]
    measured, pruned = min(cuts, key=lambda each: abs(each[0] - target))
    return replace(pruned, budget=_reached(params, pruned.budget, target, measured, float_ms))


def _is_widest(pruned: Pruned) -> bool:
    """Whether nothing more could be left: it is fast enough as wide as it may be."""
    return pruned.budget is not None and pruned.budget.asked > pruned.budget.reached * (1 + TOLERANCE)


def _reached(
    params: Prune, budget: Reached | None, target: float, measured: float, float_ms: float
) -> Reached:
    assert budget is not None and budget.predicted is not None
    why = None
    if abs(measured / target - 1) > TOLERANCE:
        why = (
            budget.why
            or ended()
            or f"its own file took {measured:.3g} ms where its widths promised {budget.reached:.3g}"
        )
    unit = (lambda ms: float_ms / ms) if params.speedup else (lambda ms: ms)
    return Reached(_key(params), _asked(params), unit(measured), why, unit(budget.predicted))


def _key(params: Prune) -> str:
    return "speedup" if params.speedup else "latency_ms"


def _asked(params: Prune) -> float:
    asked = params.speedup or params.latency_ms
    assert asked is not None
    return asked
