"""Widths by measured milliseconds: a knapsack filled by a table, corrected by timing whole networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from akgp.pruning.budget import Widths
from akgp.pruning.coupling.groups import Group, layer_filters
from akgp.pruning.coupling.network import Coupling
from akgp.pruning.coupling.preparation import PruningError
from akgp.pruning.knapsack import Knapsack
from akgp.pruning.table_correction import CorrectedTable, Parts
from akgp.timed_search import doing, ended

TOLERANCE = 0.03
"""A time is met if it differs from what was asked by at most this share."""
CLOSE = TOLERANCE / 4
"""Networks this share from what is asked differ by their worth alone."""
ROUNDS = 10
"""Networks that are timed at most, beside the widest and the narrowest."""

LayerWidths = Mapping[str, int]
"""Name of a convolution or linear layer -> its filters."""


class Latencies(Protocol):
    """Milliseconds of a network's deployed file as a function of its layers' widths, in a runtime."""

    def prepare(self, allowed: Mapping[str, Sequence[int]]) -> None:
        """Called first, with all widths that may be asked for, by layer; others stay dense."""

    def by_part(self, widths: LayerWidths) -> dict[str, float]:
        """Of each part of the file, by a table; the part of a layer is called like it."""

    def predicted(self, widths: LayerWidths) -> float:
        """The sum of all parts: quick, and comparable with other predictions only."""

    def measured(self, widths: LayerWidths) -> float:
        """Of a whole network of these widths."""


@dataclass(frozen=True)
class Timed:
    """Widths, what the table says of them, and what their network took, ms."""

    widths: Widths
    table_ms: float
    measured_ms: float


@dataclass(frozen=True)
class LatencyWidths:
    """The widths that were found, and the time of their network, ms.

    Attributes:
        predicted_ms: by the table, corrected by networks that were timed before.
        why: why no nearer widths were reached; None if they are within 3 % of what was asked.
    """

    widths: Widths
    predicted_ms: float
    measured_ms: float
    why: str | None


class Filters:
    """The filters of every layer as a function of the groups' widths."""

    def __init__(self, model: nn.Module, groups: Sequence[Group], coupling: Coupling) -> None:
        number = torch.full((coupling.units.count,), len(groups))
        for index, group in enumerate(groups):
            number[group.units] = index
        self._fixed: dict[str, int] = {}
        self._copies: dict[str, list[tuple[int, float]]] = {}
        for name, ids in _filter_ids(model, coupling):
            counts = number[coupling.labels[ids]].bincount(minlength=len(groups) + 1).tolist()
            self._fixed[name] = counts.pop()  # filters in no group
            self._copies[name] = [
                (index, many / groups[index].width) for index, many in enumerate(counts) if many
            ]

    def of(self, widths: Widths) -> dict[str, int]:
        return {
            name: self._fixed[name] + round(sum(copies * widths[index] for index, copies in rows))
            for name, rows in self._copies.items()
        }

    def allowed(self, widths: Sequence[Sequence[int]]) -> dict[str, list[int]]:
        """Of each layer, its filters for each of its group's widths."""
        return {
            name: sorted({self._fixed[name] + round(copies * width) for width in widths[index]})
            for name, rows in self._copies.items()
            for index, copies in rows[:1]
        }


def _filter_ids(model: nn.Module, coupling: Coupling) -> list[tuple[str, Tensor]]:
    """Layers, the shortcuts without parameters among them, and the ids of their filters [O]."""
    layers = [(name, ids) for name, _, ids in layer_filters(model, coupling)]
    return layers + [(name, outputs) for name, (_, outputs) in coupling.record.shortcuts.items()]


def latency_widths(
    knapsack: Knapsack, filters: Filters, latencies: Latencies, target_ms: float
) -> LatencyWidths:
    """Widths whose network takes `target_ms`, within 3 % or as near as the rounds come.

    Each round fills the knapsack up to the table's time that lies between those of two networks as the target
    lies between their measured times: the nearest that are slower and faster. Full knapsacks are far apart,
    so from the first that comes no nearer on a group or two of the nearest network are changed, by the table
    as the networks that were timed correct it. If the widest network is fast enough, it is the answer.

    Args:
        knapsack: whose cost is what the table says.

    Raises:
        PruningError: the narrowest network is slower than that.
    """

    def time(widths: Widths, number: int) -> Timed:
        doing(f"timing network {number} of at most {ROUNDS + 2}")
        return Timed(widths, knapsack.cost(widths), latencies.measured(filters.of(widths)))

    def parts(widths: Widths) -> dict[str, float]:
        return latencies.by_part(filters.of(widths))

    widest = time(knapsack.widest, 1)
    if widest.measured_ms <= target_ms * (1 + TOLERANCE):
        met = widest.measured_ms >= target_ms * (1 - TOLERANCE)
        why = None if met else "as wide as it may be it is faster than that, so nothing more is cut"
        return LatencyWidths(widest.widths, widest.measured_ms, widest.measured_ms, why)
    narrowest = time(knapsack.path[-1][1], 2)
    if narrowest.measured_ms > target_ms * (1 + TOLERANCE):
        raise PruningError(
            f"{target_ms:.3g} ms are asked, but the fastest widths take {narrowest.measured_ms:.3g} ms in "
            f"int8 (dense {widest.measured_ms:.3g} ms): ask for less speed, bypass blocks, take scope all if "
            "it is inside, a lower round_to, or a smaller network"
        )
    timed = [narrowest, widest]
    predicted, filling = {id(narrowest): narrowest.measured_ms}, True
    while len(timed) < ROUNDS + 2 and not ended():
        nearest = _nearest(timed, target_ms)
        if filling:
            widths, ms = _filled(knapsack, timed, target_ms)
            filling = all(widths != each.widths for each in timed)
        if not filling:
            changed = _nearer(knapsack, parts, timed, target_ms)
            if changed is None:
                break
            widths, ms = changed
        timed.append(time(widths, len(timed) + 1))
        predicted[id(timed[-1])] = ms
        filling = filling and _nearest((nearest, timed[-1]), target_ms) is timed[-1]
        if abs(timed[-1].measured_ms / target_ms - 1) <= TOLERANCE / 2:
            break
    nearest = _nearest([each for each in timed if each is not widest], target_ms)
    met = abs(nearest.measured_ms / target_ms - 1) <= TOLERANCE
    why = None if met else (ended() or f"no nearer widths were met in {len(timed)} networks that were timed")
    return LatencyWidths(nearest.widths, predicted[id(nearest)], nearest.measured_ms, why)


def _filled(knapsack: Knapsack, timed: Sequence[Timed], target_ms: float) -> tuple[Widths, float]:
    """Widths of the greatest worth, and their time, by the line through the networks next to the target."""
    line = _line(timed, target_ms)
    widths = knapsack.fill(line.table_ms(target_ms))
    return widths, line.measured_ms(knapsack.cost(widths))


def _nearer(
    knapsack: Knapsack, parts: Callable[[Widths], Parts], timed: Sequence[Timed], target_ms: float
) -> tuple[Widths, float] | None:
    """The nearest network with a group or two changed, and its time; None if all such were timed."""
    table = CorrectedTable([parts(each.widths) for each in timed], [each.measured_ms for each in timed])
    nearest = _nearest(timed, target_ms)
    # Of this one the time is known: the table only says what a change makes of it.
    off = nearest.measured_ms - table.of(parts(nearest.widths))

    def expected(widths: Widths) -> float:
        return table.of(parts(widths)) + off

    without = [each.widths for each in timed]
    widths = knapsack.near(nearest.widths, expected, target_ms, CLOSE * target_ms, without)
    return (widths, expected(widths)) if widths else None


def _nearest(timed: Sequence[Timed], target_ms: float) -> Timed:
    return min(timed, key=lambda each: abs(each.measured_ms - target_ms))


@dataclass(frozen=True)
class _Line:
    """The straight line through two networks: a faster and a slower one."""

    fast: Timed
    slow: Timed

    def table_ms(self, measured_ms: float) -> float:
        share = (measured_ms - self.fast.measured_ms) / (self.slow.measured_ms - self.fast.measured_ms)
        return self.fast.table_ms + share * (self.slow.table_ms - self.fast.table_ms)

    def measured_ms(self, table_ms: float) -> float:
        between = self.slow.table_ms - self.fast.table_ms
        share = (table_ms - self.fast.table_ms) / between if between else 0.0
        return self.fast.measured_ms + share * (self.slow.measured_ms - self.fast.measured_ms)


def _line(timed: Sequence[Timed], target_ms: float) -> _Line:
    """Through the networks next to the target."""
    fast = max((each for each in timed if each.measured_ms <= target_ms), key=lambda each: each.measured_ms,
               default=timed[0])  # the narrowest, up to 3 % above  # fmt: skip
    slow = min((each for each in timed if each.measured_ms > max(target_ms, fast.measured_ms)),
               key=lambda each: each.measured_ms)  # fmt: skip
    return _Line(fast, slow)
