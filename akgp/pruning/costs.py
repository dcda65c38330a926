"""The cost of a pruned network, computed from its groups' widths without cutting anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from akgp.evaluation.cost import count_macs
from akgp.models.inputs import Inputs
from akgp.pruning.budget import Widths
from akgp.pruning.coupling.groups import Group, layer_filters
from akgp.pruning.coupling.layers import width
from akgp.pruning.coupling.marks import shrink
from akgp.pruning.coupling.network import Coupling
from akgp.pruning.cutting import removal
from akgp.pruning.int8_bytes import FILTER, entry_bytes, int8_bytes


class Costs:
    """The cost of a network in MACs, parameters or bytes as a function of the width of every group."""

    def __init__(
        self, model: nn.Module, groups: Sequence[Group], coupling: Coupling, example_input: Inputs, unit: str
    ) -> None:
        """Measure the dense network.

        Args:
            unit: `MACs`, for one input, `parameters`, or `bytes` of int8 values (`int8_bytes`).
        """
        self.unit, self.groups = unit, groups
        nothing = removal(model, coupling, ())
        number = torch.full((coupling.units.count,), len(groups))
        for index, group in enumerate(groups):
            number[group.units] = index
        removable = ~coupling.mask(coupling.held)
        in_adapted = torch.zeros_like(removable)  # ids of layers that lose filters whatever layouts stay
        for name, layers in coupling.layers.items():
            for ids in layers if nothing.owners(name) else ():
                in_adapted[shrink(ids)] = True
        shares, costs = [], []
        self.dense, by_parameter = _dense(model, example_input, unit)
        for name, parameter in model.named_parameters():
            layers = coupling.layers.get(name, ())
            cost = by_parameter.get(parameter, 0)
            if cost and layers:
                cuttable = removable | bool(nothing.owners(name))
                shares.append([_shares(ids, number, cuttable, coupling, groups) for ids in layers])
                costs.append(float(cost))
        for name, module, ids in layer_filters(model, coupling) if unit == "bytes" else ():
            cuttable = removable | bool(nothing.owners(f"{name}.weight"))
            shares.append([_shares(ids, number, cuttable, coupling, groups)])
            costs.append(float(FILTER * width(module)))
        for product in coupling.units.products if unit == "MACs" else ():
            cuttable = removable | in_adapted if product.weight else removable
            shares.append([_shares(ids, number, cuttable, coupling, groups) for ids in product.layers])
            costs.append(product.macs / coupling.example_input.batch)
        self._shares = torch.zeros(
            len(shares), max(map(len, shares), default=1), len(groups), dtype=torch.float64
        )
        for row, each in enumerate(shares):
            for column, share in enumerate(each):
                self._shares[row, column] = share
        self._costs = torch.tensor(costs, dtype=torch.float64)
        # What no group changes.
        self.fixed = self.dense - float(self._costs.sum())

    def of(self, widths: Widths) -> float:
        """The cost of the network with these widths."""
        removed = torch.tensor(
            [group.width - width for group, width in zip(self.groups, widths, strict=True)]
        )
        kept = 1 - (self._shares * removed).sum(2)
        return self.fixed + float((self._costs * kept.prod(1)).sum())


def _dense(model: nn.Module, example_input: Inputs, unit: str) -> tuple[float, Mapping[nn.Parameter, int]]:
    """The cost of the dense network, and those of its parameters."""
    if unit == "MACs":
        macs = count_macs(model, example_input)
        return float(macs.total), macs.by_parameter
    if unit == "bytes":
        entry = entry_bytes(model)
        return float(int8_bytes(model)), {each: size * each.numel() for each, size in entry.items()}
    sizes = {each: each.numel() for each in model.parameters()}
    return float(sum(sizes.values())), sizes


def _shares(
    ids: Tensor, number: Tensor, cuttable: Tensor, coupling: Coupling, groups: Sequence[Group]
) -> Tensor:
    """The share of a parameter's positions along some dimensions that one unit of each group has."""
    flat = shrink(ids).reshape(-1)
    counts = number[coupling.labels[flat]][cuttable[flat]].bincount(minlength=len(groups) + 1)[: len(groups)]
    return counts.double() / len(flat) / torch.tensor([float(group.width) for group in groups])
