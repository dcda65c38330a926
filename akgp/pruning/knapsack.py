"""Widths of the greatest worth within a limit of cost: a knapsack over groups of channels.

What a group costs depends on the widths of its neighbours, so it is filled greedily: from the widest network
on, whatever loses least worth for each unit of cost that it saves. Widths that cost no less than a wider one
are passed over by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from akgp.pruning.bounds import Bound
from akgp.pruning.budget import Widths, with_floors

FINENESS = 8
"""Widths from FINENESS steps on are no finer than this part of themselves."""
TINY = 1e-12
LOOKAHEAD = 3
"""How many narrower widths of a group are considered at a time: some save nothing."""
PAIRS = 64
"""Changes of two groups at once of which the cost is asked."""


def allowed_widths(bound: Bound) -> list[int]:
    """The widths of a group that are considered, ascending: every step while narrow, fewer then."""
    widths = [bound.low]
    while widths[-1] < bound.high:
        step = max(bound.step, widths[-1] // FINENESS // bound.step * bound.step)
        widths.append(min((widths[-1] // bound.step * bound.step) + step, bound.high))
    return widths


def worth(scores: Tensor, factor: float) -> list[float]:
    """What a group's k best channels are worth, k from 0 to its width: `factor` · log(share of the score).

    The less is left of a group, the more a further channel counts: no layer is cut to the least width
    only because it is slow. Of a group of which nothing is left: minus infinity.

    Args:
        scores: [width]; those below 0 count as 0.
        factor: how much the group counts beside others. With its whole score, removing little costs the
            score of what is removed.
    """
    kept = scores.clamp_min(0).sort(descending=True).values.cumsum(0).tolist()
    if kept[-1] <= 0:
        return [-math.inf, *[0.0] * len(kept)]
    return [-math.inf, *(factor * math.log(max(each / kept[-1], TINY)) for each in kept)]


@dataclass(frozen=True)
class Knapsack:
    """The choice of widths.

    Attributes:
        worths: of each group, see `worth`.
        cost: of a network with these widths; wider should not cost less, but may.
        floors: index of a group -> index of the group that it must be at least as wide as.
    """

    bounds: Sequence[Bound]
    worths: Sequence[Sequence[float]]
    cost: Callable[[Widths], float]
    floors: Mapping[int, int]

    @cached_property
    def allowed(self) -> list[list[int]]:
        return [allowed_widths(bound) for bound in self.bounds]

    @cached_property
    def widest(self) -> Widths:
        return with_floors([bound.high for bound in self.bounds], self.bounds, self.floors)

    @cached_property
    def path(self) -> list[tuple[float, Widths]]:
        """Cost and widths of ever narrower networks, from the widest to one that no step makes cheaper."""
        widths = self.widest
        path = [(self.cost(widths), widths)]
        while True:
            cost, before = path[-1][0], self.value(widths)
            steps = [
                ((before - self.value(each)) / (cost - cheaper), cheaper, each)
                for each in self._neighbours(widths, narrower=True)
                if (cheaper := self.cost(each)) < cost
            ]
            if not steps:
                return path
            _, cheaper, widths = min(steps)
            path.append((cheaper, widths))

    def value(self, widths: Widths) -> float:
        return sum(worths[width] for worths, width in zip(self.worths, widths, strict=True))

    def fill(self, limit: float) -> Widths:
        """Widths that cost at most `limit`; the cheapest that there are if none do."""
        cost, widths = next((each for each in self.path if each[0] <= limit), self.path[-1])
        while cost <= limit:
            best = max(self._wider(widths, limit), key=lambda each: each[0], default=None)
            if best is None or best[0] <= self.value(widths):
                break
            _, cost, widths = best
        return widths

    def near(
        self,
        widths: Widths,
        cost: Callable[[Widths], float],
        aim: float,
        tolerance: float,
        without: Sequence[Widths],
    ) -> Widths | None:
        """Widths that differ from `widths` in a group or two, by any number of steps, and cost about `aim`.

        Of those within `tolerance` the ones of the greatest worth, else the nearest.

        Args:
            cost: a better one than the knapsack's own.
            without: not these.

        Returns:
            None if there are no others.
        """
        ones = [
            each
            for narrower in (True, False)
            for each in self._neighbours(widths, narrower=narrower, ahead=None)
        ]
        more = [cost(each) - cost(widths) for each in ones]
        pairs = self._pairs(widths, ones, more, aim - cost(widths)) if ones else ()
        every = [each for each in (*ones, *pairs) if each not in without]
        off = [abs(cost(each) - aim) for each in every]
        within = [each for each, distance in zip(every, off, strict=True) if distance <= tolerance]
        if within:
            return max(within, key=self.value)
        return every[off.index(min(off))] if every else None

    def _pairs(
        self, widths: Widths, ones: Sequence[Widths], more: Sequence[float], aim: float
    ) -> Iterator[Widths]:
        """Two of the changes `ones` to different groups at once, whose sum of `more` is nearest to `aim`."""
        start, changes = torch.tensor(widths), torch.tensor(ones) - torch.tensor(widths)
        cost = torch.tensor(more, dtype=torch.float64)
        off = (cost[:, None] + cost - aim).abs()
        changed = (changes != 0).double()
        same_group = changed @ changed.T > 0
        off[same_group | torch.ones_like(same_group).tril()] = math.inf
        nearest = off.flatten().sort()
        possible = nearest.indices[nearest.values < math.inf][:PAIRS]
        both = start + changes[possible // len(ones)] + changes[possible % len(ones)]
        for each in both.tolist():
            yield with_floors(each, self.bounds, self.floors)

    def _wider(self, widths: Widths, limit: float) -> Iterator[tuple[float, float, Widths]]:
        """Value, cost and widths, within the limit, with a group wider and perhaps another narrower."""
        value = self.value(widths)
        for wide in self._neighbours(widths, narrower=False):
            if self.value(wide) <= value:
                continue
            if (cost := self.cost(wide)) <= limit:
                yield self.value(wide), cost, wide
                continue
            for both in self._neighbours(wide, narrower=True, ahead=1):
                if self.value(both) > value and (cost := self.cost(both)) <= limit:
                    yield self.value(both), cost, both

    def _neighbours(
        self, widths: Widths, *, narrower: bool, ahead: int | None = LOOKAHEAD
    ) -> Iterator[Widths]:
        """Widths with a group narrower or wider by up to `ahead` steps, and others as `floors` asks."""
        for group, allowed in enumerate(self.allowed):
            if narrower:
                others = [each for each in reversed(allowed) if each < widths[group]][:ahead]
            else:
                others = [each for each in allowed if each > widths[group]][:ahead]
            for other in others:
                changed = list(widths)
                changed[group] = other
                changed = with_floors(changed, self.bounds, self.floors)
                if changed != widths:
                    yield changed
