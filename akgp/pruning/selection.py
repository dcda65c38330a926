"""Which units of each group are removed: those with the lowest scores, for given widths."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from akgp.models import ChannelMap
from akgp.pruning.budget import Widths
from akgp.pruning.coupling.groups import Group
from akgp.pruning.coupling.network import Coupling


def shortcut_sources(model: nn.Module, coupling: Coupling) -> Tensor:
    """Unit that an option A shortcut copies to -> the unit that it copies, by label [count]; 0 for none."""
    sources = torch.zeros(coupling.units.count, dtype=torch.long)
    for name, (inputs, outputs) in coupling.record.shortcuts.items():
        module = model.get_submodule(name)
        assert isinstance(module, ChannelMap)
        if len(inputs):
            index = module.index.cpu()
            copied = index >= 0
            sources[coupling.labels[outputs[copied]]] = coupling.labels[inputs[index[copied]]]
    return sources


def floors(groups: Sequence[Group], sources: Tensor) -> dict[int, int]:
    """Group -> the group whose surviving units a shortcut copies into it: it cannot be narrower."""
    number = {unit: index for index, group in enumerate(groups) for unit in group.units.tolist()}
    found = {}
    for index, group in enumerate(groups):
        read = {number[source] for source in sources[group.units].tolist() if source in number}
        if read:
            found[index] = min(read)
    return found


def removed_units(
    groups: Sequence[Group], scores: Sequence[Tensor], widths: Widths, sources: Tensor
) -> list[int]:
    """The units to remove: in every group, those with the lowest scores among those that may be removed."""
    number = {unit: index for index, group in enumerate(groups) for unit in group.units.tolist()}
    removed: dict[int, list[int]] = {}

    def decide(index: int) -> list[int]:  # recursive: a shortcut's source comes first
        if index not in removed:
            group = groups[index]
            removed[index] = []
            mine = sources[group.units]
            for read in {number[each] for each in mine.tolist() if each in number} - {index}:
                decide(read)
            gone = torch.tensor([0, *(unit for units in removed.values() for unit in units)])
            # Free are units that a shortcut copies nothing into, or a unit that is removed itself.
            free = torch.isin(mine, gone)
            removed[index] = _lowest(group, scores[index].masked_fill(~free, torch.inf), widths[index])
        return removed[index]

    return [unit for index in range(len(groups)) for unit in decide(index)]


def _lowest(group: Group, scores: Tensor, width: int) -> list[int]:
    """The labels of the units with the lowest finite scores, equally many of each row."""
    rows = int(group.rows.max()) + 1
    count = (group.width - width) // rows
    free = min(int((scores[group.rows == row] < torch.inf).sum()) for row in range(rows))
    chosen = []
    for row in range(rows):
        members = (group.rows == row).nonzero().flatten()
        # Stable: of equal scores the lower index is removed, on every machine.
        ranking = members[scores[members].argsort(stable=True)]
        chosen += ranking[: min(count, free)].tolist()
    return group.units[sorted(chosen)].tolist()
