"""How much a network loses when filters of one layer alone are removed, by their share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from akgp.models.attention import given_name
from akgp.models.inputs import Example
from akgp.pruning.amount import Amount
from akgp.pruning.bounds import Rules
from akgp.pruning.coupling.preparation import PruningError, autograd_enabled, copy_network
from akgp.pruning.cutting import cut, removal
from akgp.pruning.evidence import Evidence
from akgp.pruning.exact_cut import cut_checked, cut_exactly
from akgp.pruning.selection import removed_units, shortcut_sources
from akgp.pruning.surgery import choice_for


@dataclass(frozen=True)
class Point:
    """A network of which one group of layers was cut.

    Attributes:
        layers: names of the layers that lose the same filters, as in `Layer`.
        ratio: the share that was asked to be removed.
        value: what `judge` gave for it.
    """

    layers: tuple[str, ...]
    ratio: float
    dense_width: int
    pruned_width: int
    value: float


class Sensitivity:
    """The groups of layers of a network, each cut alone.

    Arguments and errors are those of `akgp.pruning.prune`; `model` is not changed.

    Args:
        ratios: shares of a group's filters to remove, in (0, 1).
        judge: a network -> a number, such as its accuracy; it may run it.

    Raises:
        PruningError: also where no layer can be cut.
    """

    def __init__(
        self, model: nn.Module, example_input: Example, ratios: Sequence[float],
        judge: Callable[[nn.Module], float],
        *, criterion: str = "fpgm", scope: str = "all", round_to: int = 8, skip: Sequence[str] = (),
        seed: int = 0, evidence: Evidence | None = None,
    ) -> None:  # fmt: skip
        if not ratios or not all(0 < ratio < 1 for ratio in ratios):
            raise PruningError(f"ratios must be in (0, 1), got {', '.join(map(str, ratios)) or 'none'}")
        self._ratios, self._judge = ratios, judge
        with autograd_enabled(), torch.random.fork_rng(devices=[]):
            self._choice = choice_for(
                model, example_input, Amount("ratio", 0.5), Rules(round_to),
                criterion=criterion, scope=scope, skip=skip, seed=seed, evidence=evidence,
            )  # fmt: skip
            # From now on its coupling knows what layouts the network's code fixes.
            exact = cut_exactly(self._choice.model, self._choice.example_input, self._choice)
        self._sized = bool(exact.removed.view_sizes)
        self._free = [index for index, bound in enumerate(self._choice.bounds) if bound.low < bound.high]
        if not self._free:
            raise PruningError(f"{type(model).__name__}: no layer can be cut with round_to {round_to}")

    def __len__(self) -> int:
        """The number of points."""
        return len(self._free) * len(self._ratios)

    def __iter__(self) -> Iterator[Point]:
        """The points, layer by layer in the network's order."""
        choice = self._choice
        sources = shortcut_sources(choice.model, choice.coupling)
        dense = [bound.dense for bound in choice.bounds]
        for index in self._free:
            group, bound = choice.groups[index], choice.bounds[index]
            names = tuple(dict.fromkeys(given_name(choice.model, writer.name) for writer in group.writers))
            for ratio in self._ratios:
                widths = list(dense)
                widths[index] = bound.nearest(bound.dense * (1 - ratio))
                units = removed_units(choice.groups, choice.scores, widths, sources)
                smaller = self._cut(units)
                pruned = (group.width - len(units)) * group.filters // group.width
                yield Point(names, ratio, group.filters, pruned, self._judge(smaller))

    def _cut(self, units: list[int]) -> nn.Module:
        """A copy without these units; where its code fixes sizes, they are looked for in each copy."""
        choice = self._choice
        removed = removal(choice.model, choice.coupling, units)
        if self._sized:
            with torch.random.fork_rng(devices=[]):
                return cut_checked(choice.model, choice.example_input, removed)[0]
        smaller = copy_network(choice.model)
        cut(smaller, removed)
        return smaller
