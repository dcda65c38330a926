"""What to remove from a network, by the arguments of `prune`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from akgp.models.attention import given_name
from akgp.models.inputs import Inputs
from akgp.pruning.amount import CLOSE, TOLERANCE, UNITS, Amount
from akgp.pruning.bounds import Bound, Rules
from akgp.pruning.budget import Measure, Widths, budget_widths, per_cost, ratio_widths, why_missed
from akgp.pruning.costs import Costs
from akgp.pruning.coupling.groups import Group, Sparing, groups
from akgp.pruning.coupling.layers import PRUNABLE
from akgp.pruning.coupling.network import Coupling
from akgp.pruning.coupling.preparation import PruningError, copy_network
from akgp.pruning.dense_reference import DenseReference
from akgp.pruning.knapsack import Knapsack, worth
from akgp.pruning.latency import Filters, Latencies, LatencyWidths, latency_widths
from akgp.pruning.scoring import Scoring
from akgp.pruning.selection import floors, removed_units, shortcut_sources
from akgp.timed_search import doing


class Choice:
    """The units to remove from a network, by the arguments of `prune`."""

    def __init__(
        self, model: nn.Module, coupling: Coupling, sparing: Sparing, example_input: Inputs,
        origin: DenseReference, amount: Amount, scoring: Scoring, rules: Rules, latencies: Latencies | None,
    ) -> None:  # fmt: skip
        self.model, self.coupling, self.sparing, self.example_input = model, coupling, sparing, example_input
        self.origin, self.amount, self.scoring, self.rules = origin, amount, scoring, rules
        self.latencies = latencies
        self.timed: LatencyWidths | None = None
        """What a budget of time came to."""
        self.part_ms: dict[str, tuple[float, float]] = {}
        """Then the time of each part of the file by the table, as wide as it was and after pruning, ms."""
        self.groups: list[Group] = []
        self.dense_widths: list[int] = []
        """Of each group in the dense network, of which `model` may have been cut already."""
        self.bounds: list[Bound] = []
        self.scores: list[Tensor] = []
        self.missed: str | None = None
        """Why a budget is not met within 2 %, if it is not."""
        self.provisional = amount.key != "ratio"
        """Whether half of the units go, to find what cuts conflict, before a search for a budget's widths."""

    def __call__(self) -> list[int]:
        """The labels of the units; again after `coupling` has changed."""
        self.groups = groups(self.model, self.coupling, self.sparing)
        names = {
            name: given_name(self.model, name)
            for name, module in self.model.named_modules()
            if isinstance(module, PRUNABLE)
        }
        self.dense_widths = self.origin.dense_widths(self.groups, names)
        self.bounds = self.rules.bounds(self.groups, names, self.dense_widths)
        self.scores = self.scoring.of(self.groups)
        sources = shortcut_sources(self.model, self.coupling)
        by_ratio = self.amount.key == "ratio"
        if by_ratio:
            widths = ratio_widths(self.bounds, self.dense_widths, self.amount.value)
        elif self.provisional:
            widths = ratio_widths(self.bounds, [group.width for group in self.groups], 0.5)
        elif self.latencies:
            self.timed = self._in_time(self.latencies, floors(self.groups, sources))
            widths = self.timed.widths
        else:
            widths = self._within_budget(floors(self.groups, sources))
        removed = removed_units(self.groups, self.scores, widths, sources)
        if not self.provisional:
            _require_bounds(self.groups, self.bounds, removed)
        return removed

    def _in_time(self, latencies: Latencies, floors: dict[int, int]) -> LatencyWidths:
        filters = Filters(self.model, self.groups, self.coupling)
        knapsack = Knapsack(
            self.bounds,
            [self._worth(group, scores) for group, scores in zip(self.groups, self.scores, strict=True)],
            lambda widths: latencies.predicted(filters.of(widths)),
            floors,
        )
        latencies.prepare(filters.allowed(knapsack.allowed))
        found = latency_widths(knapsack, filters, latencies, self.amount.value)
        dense = latencies.by_part({})
        self.part_ms = {
            name: (dense[name], ms) for name, ms in latencies.by_part(filters.of(found.widths)).items()
        }
        return found

    def _worth(self, group: Group, scores: Tensor) -> list[float]:
        # Scores that rank within a group alone: a channel counts once for each layer that writes it.
        layers = len({writer.name for writer in group.writers})
        return worth(scores, float(scores.sum()) if self.scoring.comparable else float(layers))

    def _measure(self) -> Measure:
        """What the budget limits."""
        unit = UNITS[self.amount.key]
        return Costs(copy_network(self.model), self.groups, self.coupling, self.example_input, unit)

    def _within_budget(self, floors: dict[int, int]) -> Widths:
        doing(f"searching widths of {len(self.groups)} groups of layers")
        measure = self._measure()
        absolute = self.amount.key == "bytes"
        dense = self.origin.dense
        target = self.amount.value * (1 if absolute else getattr(dense, self.amount.key))
        tolerance = CLOSE if absolute else TOLERANCE
        scores = per_cost(self.scores, self.bounds, measure) if self.scoring.of_loss else self.scores
        widths = budget_widths(
            scores, self.bounds, measure, target, floors, tolerance, may_stay=bool(self.origin.filters)
        )
        self.missed = why_missed(
            widths, self.groups, self.bounds, measure, target, floors, self.rules.round_to
        )
        return widths


def _require_bounds(groups: Sequence[Group], bounds: Sequence[Bound], removed: Sequence[int]) -> None:
    """Raise PruningError where channels that a shortcut copies keep a layer wider than its rule says."""
    gone = set(removed)
    for group, bound in zip(groups, bounds, strict=True):
        width = sum(unit not in gone for unit in group.units.tolist())
        if width > bound.high:
            raise PruningError(
                f"{group.writers[0].name} cannot be cut to {bound.high} filters by {bound.rule!r}: a "
                f"shortcut copies channels into {width} of them; remove more of the layers before it, or "
                "less of it"
            )
