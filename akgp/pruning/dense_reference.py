"""The dense network that an already pruned one comes from, filter by filter.

Cuts one after another are shares of the dense network, not of what the cut before has left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from akgp.evaluation.cost import Counts
from akgp.models.attention import given_name
from akgp.pruning.coupling.groups import Group, layer_filters
from akgp.pruning.cutting import Removal

if TYPE_CHECKING:
    from akgp.pruning.choice import Choice


@dataclass(frozen=True)
class DenseReference:
    """The dense network, as far as a later cut asks.

    Attributes:
        dense: its parameters and MACs.
        values: the bytes of its int8 values, as `int8_bytes` counts them.
        filters: by layer, the dense network's number of each filter that is left [O].
        widths: by layer, the dense width of each filter's group [O].
    """

    dense: Counts
    values: int
    filters: Mapping[str, Tensor] = field(default_factory=dict)
    widths: Mapping[str, Tensor] = field(default_factory=dict)

    def filters_of(self, layer: str, width: int) -> Tensor:
        """The dense network's numbers of the `width` filters of a layer [O]."""
        return self.filters.get(layer, torch.arange(width))

    def dense_widths(self, groups: Sequence[Group], names: Mapping[str, str]) -> list[int]:
        """The width that each group had.

        Args:
            names: of all layers with filters: the module's -> the one in the given network.
        """
        return [self._width(group, names[group.writers[0].name]) for group in groups]

    def _width(self, group: Group, layer: str) -> int:
        if layer not in self.widths:
            return group.width
        return int(self.widths[layer][group.writers[0].filters[0, 0]])

    def after(self, choice: Choice, removed: Removal) -> DenseReference:
        """That of the network that a cut leaves."""
        group_width = torch.zeros(choice.coupling.units.count, dtype=torch.long)
        for group, width in zip(choice.groups, choice.dense_widths, strict=True):
            group_width[group.units] = width
        filters, widths = {}, {}
        for module, _, ids in layer_filters(choice.model, choice.coupling):
            name, left = given_name(choice.model, module), removed.keeps(f"{module}.weight")[ids]
            filters[name] = self.filters_of(name, len(ids))[left]
            widths[name] = group_width[choice.coupling.labels[ids]][left]
        return DenseReference(self.dense, self.values, filters, widths)
