"""The record of a cut: what was removed from every layer, and why others stay dense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from akgp.models.attention import given_name
from akgp.pruning.amount import Reached
from akgp.pruning.choice import Choice
from akgp.pruning.coupling.groups import layer_filters
from akgp.pruning.coupling.layers import PRUNABLE, width
from akgp.pruning.cutting import Removal
from akgp.pruning.dense_reference import DenseReference


@dataclass(frozen=True)
class Layer:
    """What pruning did to one convolution or linear layer of the given network."""

    name: str  # of the module; of a parameter such as in_proj_weight in a MultiheadAttention
    kept: tuple[int, ...]  # indices of the surviving filters, sorted; none in a bypassed block
    dense_width: int
    pruned_width: int
    reason: str | None  # why it was left dense
    # The entry of `layers` or `limits` that bounds its width, and what stays all the same; or bypass (BLOCK).
    rule: str | None = None
    layout: str | None = None  # why zeros take the place of its removed filters, the dense layout


@dataclass(frozen=True)
class Pruned:
    """A pruned network, and what was removed from every layer, in the network's order.

    Attributes:
        budget: what was reached of a budget; None if it was pruned by ratio.
        deviation: by how much, at most, an output differs from that of the given network with the removed
            filters set to zero: with random weights and inputs, in float64 where the network runs in it. As a
            share of the largest change of an output by these filters, or of how far the outputs lie from
            their mean, whichever is less.
        origin: what `prune(…, after=…)` needs.
        part_ms: for a budget of time, milliseconds of each part of the int8 file before and after, by a
            table; a layer's with what is fused into it under its name, sums of activations under others.
            Their sums are comparable with each other, not with a network's latency.
    """

    model: nn.Module
    layers: list[Layer]
    budget: Reached | None = None
    deviation: float = 0.0
    origin: DenseReference | None = None
    part_ms: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def layers_table(pruned: Pruned) -> list[dict[str, Any]]:
    """Rows of name, dense_width, pruned_width, reason, rule and layout, the last three empty for None.

    With a budget of time also dense_ms and pruned_ms, 0 for a layer that is no part of its own, or gone.
    """
    rows: list[dict[str, Any]] = [
        {
            "name": layer.name, "dense_width": layer.dense_width, "pruned_width": layer.pruned_width,
            "reason": layer.reason or "", "rule": layer.rule or "", "layout": layer.layout or "",
        }
        for layer in pruned.layers
    ]  # fmt: skip
    if pruned.part_ms:
        for row in rows:
            row["dense_ms"], row["pruned_ms"] = pruned.part_ms.get(row["name"], (0.0, 0.0))
    return rows


def layers_of(choice: Choice, removed: Removal) -> list[Layer]:
    """What a cut does to every layer of the network that it is made in."""
    model, coupling = choice.model, choice.coupling
    filters = {name: ids for name, _, ids in layer_filters(model, coupling)}
    reason_of, rule_of = dict[int, str | None](), dict[int, str | None]()
    for group, bound in zip(choice.groups, choice.bounds, strict=True):
        for unit in group.units.tolist():
            reason_of[unit], rule_of[unit] = group.reason, bound.rule
    round_to = choice.rules.round_to
    layers = []
    for name, module in model.named_modules():
        if isinstance(module, PRUNABLE):
            dense = width(module)
            alive = removed.alive[filters[name]] if name in filters else torch.ones(dense, dtype=torch.bool)
            if len(alive) != dense:  # a transposed convolution of groups, whose weight has those of one
                alive = torch.ones(dense, dtype=torch.bool)
            kept = tuple(alive.nonzero().flatten().tolist())
            reason = None
            labels = coupling.labels[filters[name]].tolist() if name in filters else []
            rule = next((each for label in labels if (each := rule_of[label])), None)
            if len(kept) == dense:
                narrow = f"no wider than round_to ({round_to})" if dense <= round_to else None
                otherwise = narrow or rule or "ratio or budget"
                reason = next((each for label in labels if (each := reason_of[label])), otherwise)
                reason = "skipped" if module in choice.sparing.skipped else reason
            whole = [each for label in labels if (each := reason_of[label])]
            if rule and 0 < len(whole) < len(labels):
                rule += f"; {len(whole)} filters stay ({whole[0]})"
            gone = [label for label, there in zip(labels, alive.tolist(), strict=False) if not there]
            layout = next((coupling.held[label] for label in gone if label in coupling.held), None)
            layers.append(Layer(given_name(model, name), kept, dense, len(kept), reason, rule, layout))
    return layers


def since_dense(layers: Sequence[Layer], before: Pruned) -> list[Layer]:
    """What a cut of an already pruned network and the cuts before it did to the dense one.

    Args:
        layers: of that cut alone.
        before: the outcome of the cuts before.
    """
    assert before.origin is not None
    found, earlier = [], {layer.name: layer for layer in before.layers}
    for layer in layers:
        dense = earlier.get(layer.name, layer)  # attention that is cut only now
        filters = before.origin.filters_of(layer.name, layer.dense_width)
        kept = tuple(filters[list(layer.kept)].tolist())
        reason = layer.reason if len(kept) == dense.dense_width else None
        layout = dense.layout or layer.layout
        found.append(replace(layer, kept=kept, dense_width=dense.dense_width, reason=reason, layout=layout))
    now = {layer.name: layer for layer in found}
    # Layers of bypassed blocks are no longer there.
    known = [now.pop(layer.name, layer) for layer in before.layers if layer.name in now or not layer.kept]
    return [*known, *now.values()]
