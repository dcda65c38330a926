"""What to remove from a network, by the arguments of `prune`."""

from __future__ import annotations

from torch import Tensor, nn

from akgp.pruning.budget import Costs, budget_widths, ratio_widths
from akgp.pruning.coupling.groups import Group, Sparing, groups
from akgp.pruning.coupling.network import Coupling
from akgp.pruning.coupling.preparation import copy_network
from akgp.pruning.scoring import Scoring
from akgp.pruning.selection import floors, removed_units, shortcut_sources

Amount = tuple[str, float]
UNITS = {"macs": "MACs", "params": "parameters"}


class Choice:
    """The units to remove from a network, by the arguments of `prune`."""

    def __init__(
        self, model: nn.Module, coupling: Coupling, sparing: Sparing, example_input: Tensor,
        amount: Amount, scoring: Scoring, round_to: int,
    ) -> None:  # fmt: skip
        self.model, self.coupling, self.sparing, self.example_input = model, coupling, sparing, example_input
        self.amount, self.scoring, self.round_to = amount, scoring, round_to
        self.groups: list[Group] = []
        self.provisional = amount[0] != "ratio"
        """Whether half of the units go, to find what cuts conflict, before a search for a budget's widths."""

    def __call__(self) -> list[int]:
        """The labels of the units; again after `coupling` has changed."""
        self.groups = groups(self.model, self.coupling, self.sparing)
        scores = self.scoring.of(self.groups)
        sources = shortcut_sources(self.model, self.coupling)
        key, share = self.amount
        if key == "ratio" or self.provisional:
            widths = ratio_widths(self.groups, share if key == "ratio" else 0.5, self.round_to)
        else:
            costs = Costs(
                copy_network(self.model), self.groups, self.coupling, self.example_input, UNITS[key]
            )
            widths = budget_widths(
                self.groups, scores, costs, share * costs.dense, self.round_to, floors(self.groups, sources)
            )
        return removed_units(self.groups, scores, widths, sources)
