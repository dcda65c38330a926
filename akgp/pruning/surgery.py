"""Prune a network: score its filters, choose the widths, remove the filters with the lowest scores.

Channels are removed, not masked. After every surgery it is checked that the smaller network computes what
the given one computes with the same filters set to zero.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from akgp.evaluation.cost import Counts, count
from akgp.models import ChannelMap
from akgp.models.eval_mode import eval_mode
from akgp.pruning.budget import TOLERANCE, Costs, Widths, budget_widths, ratio_widths
from akgp.pruning.coupling.graph import Graph, Group
from akgp.pruning.coupling.tracing import PruningError, autograd_enabled, copy_network, require_prunable
from akgp.pruning.criteria import CRITERIA, coupled_scores
from akgp.pruning.cutting import PRUNABLE, ChannelSlice, cut
from akgp.pruning.verification import verify

log = logging.getLogger(__name__)

Amount = tuple[str, float]
MEANING = {
    "ratio": "the share of each layer's filters to remove",
    "macs": "the share of the MACs to keep",
    "params": "the share of the parameters to keep",
}
UNITS = {"macs": "MACs", "params": "parameters"}


@dataclass(frozen=True)
class Layer:
    """What pruning did to one convolution or linear layer of the given network."""

    name: str
    kept: tuple[int, ...]  # indices of the surviving filters, sorted
    dense_width: int
    pruned_width: int
    reason: str | None  # why it was left dense


@dataclass(frozen=True)
class Pruned:
    """A pruned network, and what was removed from every layer, in the network's order."""

    model: nn.Module
    layers: list[Layer]


def prune(
    model: nn.Module,
    example_input: Tensor,
    *,
    ratio: float | None = None,
    macs: float | None = None,
    params: float | None = None,
    criterion: str = "fpgm",
    scope: str = "all",
    round_to: int = 8,
    skip: Sequence[str] = (),
    seed: int = 0,
) -> Pruned:
    """A smaller copy of `model` without its least important filters; `model` is neither changed nor run.

    The copy keeps requires_grad, each module's training mode and shared weights. no_grad and inference_mode,
    around the call or in the forward pass, make no difference.

    Exactly one of `ratio`, `macs` and `params` says how many filters to remove. Layers whose outputs are
    summed lose the same channels and are scored together (`criteria.coupled_scores`). The classifier
    and layers that cannot be cut exactly stay dense; `Pruned.layers` says why.

    In a CIFAR ResNet, a channel into which the parameter-free shortcut copies a surviving channel
    of the previous stage stays too: with its filters removed it would still carry that copy.

    Args:
        example_input: [N, ...] for a forward pass.
        ratio: share of the filters of each layer to *remove*, in [0, 1).
        macs: share of the multiply-accumulates to *keep*, in (0, 1), as `akgp.evaluation.count` counts them,
            met within 2 %; filters are ranked across all layers, scores divided by their layer's mean.
        params: share of the parameters to *keep*, likewise; a shared parameter counts once.
        criterion: fpgm, l1, l2 or random; the filters with the lowest scores are removed.
        scope: all, or inside: channels in which outputs of layers are summed (residual streams) stay dense.
        round_to: widths are rounded to positive multiples of this (a tie: to the wider); layers that
            are no wider than this stay dense.
        skip: qualified names of modules that stay dense, together with their submodules.
        seed: of the criterion random.

    Raises:
        PruningError: an argument is out of its range; the network cannot be traced (it is scripted, compiled
            or quantized), holds values that are not finite, or cannot be cut exactly; nothing would be
            removed (other than by ratio 0); a budget is not met.
    """
    amount = _check(ratio, macs, params, criterion, round_to)
    require_prunable(model)
    with autograd_enabled():
        example_input = _on_device(model, example_input)
        traced = copy_network(model)  # tracing turns on gradients and may leave a graph in buffers
        with eval_mode(traced):
            graph = Graph(traced, example_input, skip, scope)
            dense = count(traced, example_input)
            scores = _scores(graph.groups, criterion, seed)
            widths = _widths(traced, graph.groups, scores, example_input, amount, round_to)
        removed = _removed_channels(graph.groups, scores, widths)
        slices = [
            part
            for group, channels in zip(graph.groups, removed, strict=True)
            for part in group.only(channels)
            if part.indices
        ]
        layers = _layers(traced, graph, slices, round_to)
        if not any(removed) and amount != ("ratio", 0):
            raise PruningError(_nothing_removed(model, amount, layers))
        smaller = copy_network(model)
        cut(smaller, slices)
        verify(model, slices, smaller, example_input)
        # Counted on a copy: a forward pass may write to buffers.
        _report(amount, layers, dense, count(copy_network(smaller), example_input))
    return Pruned(smaller, layers)


def layers_table(layers: Iterable[Layer]) -> list[dict[str, Any]]:
    """Rows of name, dense_width, pruned_width and reason (empty if pruned)."""
    return [
        {
            "name": layer.name, "dense_width": layer.dense_width, "pruned_width": layer.pruned_width,
            "reason": layer.reason or "",
        }
        for layer in layers
    ]  # fmt: skip


def _check(
    ratio: float | None, macs: float | None, params: float | None, criterion: str, round_to: int
) -> Amount:
    """The name and value of the given one of ratio, macs and params; PruningError for bad arguments."""
    amounts = {"ratio": ratio, "macs": macs, "params": params}
    given = {key: value for key, value in amounts.items() if value is not None}
    if len(given) != 1:
        raise PruningError(
            f"exactly one of ratio, macs, params must be given, got {', '.join(given) or 'none'}"
        )
    ((key, value),) = given.items()
    # bool is an int, and False would pass as a ratio of 0.
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not (0 <= value < 1 if key == "ratio" else 0 < value < 1):
        start = "[" if key == "ratio" else "("
        raise PruningError(f"{key} must be in {start}0, 1), got {value}; it is {MEANING[key]}")
    if criterion not in CRITERIA:
        raise PruningError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}")
    if round_to < 1:
        raise PruningError(f"round_to must be 1 or more, got {round_to}")
    return key, float(value)


def _on_device(model: nn.Module, example_input: Tensor) -> Tensor:
    """A copy of the example on the network's device, never an inference tensor, which autograd refuses."""
    if not isinstance(example_input, Tensor):
        raise PruningError(f"example_input must be a tensor [N, ...], got {type(example_input).__name__}")
    if not example_input.numel():
        raise PruningError(f"example_input must hold an input, got one of {list(example_input.shape)}")
    return example_input.detach().clone().to(next(model.parameters()).device)


def _widths(
    model: nn.Module,
    groups: Sequence[Group],
    scores: Sequence[Tensor],
    example_input: Tensor,
    amount: Amount,
    round_to: int,
) -> Widths:
    key, share = amount
    if key == "ratio":
        return ratio_widths(groups, share, round_to)
    costs = Costs(model, groups, example_input, UNITS[key])
    return budget_widths(groups, scores, costs, share * costs.dense, round_to, _floors(groups))


def _scores(groups: Sequence[Group], criterion: str, seed: int) -> list[Tensor]:
    """Scores [width] of each group's channels, divided by their mean; ones where nothing may be removed."""
    # The criterion random draws from the CPU's generator; torch.manual_seed would seed the GPUs too.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return [
            torch.ones(group.width, dtype=torch.float64)
            if group.reason
            else coupled_scores([_weight(part) for part in group.layers], CRITERIA[criterion]).cpu()
            for group in groups
        ]


def _weight(layer: ChannelSlice) -> Tensor:
    """The filters of a layer in the order of its group's channels: [width, ...]."""
    assert isinstance(layer.module, PRUNABLE)
    # Filter j of every layer is made channel j, as coupled scores need it.
    order = torch.tensor(layer.indices)[torch.tensor(layer.channels).argsort()]
    weight = layer.module.weight.detach()[order]
    if not weight.isfinite().all():
        raise PruningError(f"{layer.name}.weight holds values that are not finite: did the training diverge?")
    return weight


def _shortcuts(groups: Sequence[Group]) -> Iterable[tuple[int, int, ChannelMap]]:
    """(group read, group written, shortcut) for every option A shortcut between two groups."""
    ends: dict[nn.Module, dict[bool, int]] = defaultdict(dict)
    for index, group in enumerate(groups):
        for part in group.parts:
            if isinstance(part.module, ChannelMap):
                ends[part.module][part.writes] = index
    for module, sides in ends.items():
        assert isinstance(module, ChannelMap)
        if len(sides) == 2:  # else one side is in no group, and the shortcut carries nothing between two
            yield sides[False], sides[True], module


def _floors(groups: Sequence[Group]) -> dict[int, int]:
    """Group -> the group whose surviving channels a shortcut copies into it: it cannot be narrower."""
    return {written: read for read, written, _ in _shortcuts(groups)}


def _removed_channels(groups: Sequence[Group], scores: Sequence[Tensor], widths: Widths) -> list[list[int]]:
    """The channels of each group to remove: those with the lowest scores among those that may be removed."""
    shortcuts = {written: (read, module.index) for read, written, module in _shortcuts(groups)}
    removed: dict[int, list[int]] = {}

    def decide(index: int) -> list[int]:  # recursive: a shortcut's source comes first
        if index not in removed:
            free = torch.ones(groups[index].width, dtype=torch.bool)
            if index in shortcuts:
                read, source = shortcuts[index]
                # Free are channels whose source is removed, or is -1: the last entry, which stands for zeros.
                no_source = torch.zeros(groups[read].width + 1, dtype=torch.bool)
                no_source[[*decide(read), -1]] = True
                free = no_source[source]
            count = groups[index].width - widths[index]
            # Stable: of equal scores the lower index is removed, on every machine.
            ranking = scores[index].masked_fill(~free, torch.inf).argsort(stable=True)
            removed[index] = sorted(ranking[: min(count, int(free.sum()))].tolist())
        return removed[index]

    return [decide(index) for index in range(len(groups))]


def _layers(model: nn.Module, graph: Graph, slices: Iterable[ChannelSlice], round_to: int) -> list[Layer]:
    removed: dict[str, set[int]] = defaultdict(set)
    for part in slices:
        if part.writes:
            removed[part.name].update(part.indices)
    reasons = graph.outside | {layer.name: group.reason for group in graph.groups for layer in group.layers}
    layers = []
    for name, module in model.named_modules():
        if isinstance(module, PRUNABLE):
            width = len(module.weight)
            kept = tuple(sorted(set(range(width)) - removed[name]))
            reason = None
            if len(kept) == width:
                narrow = f"no wider than round_to ({round_to})" if width <= round_to else "ratio or budget"
                reason = reasons[name] or narrow
            layers.append(Layer(name, kept, width, len(kept), reason))
    return layers


def _nothing_removed(model: nn.Module, amount: Amount, layers: Sequence[Layer]) -> str:
    """The error that no filter was removed, with the layers by reason."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for layer in layers:
        by_reason[str(layer.reason)].append(layer.name)
    key, value = amount
    why = "; ".join(
        f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}: {reason}"
        for reason, names in by_reason.items()
    )
    return f"{type(model).__name__}: nothing can be removed by {key} {value:g} ({MEANING[key]}): {why}"


def _report(amount: Amount, layers: Sequence[Layer], dense: Counts, pruned: Counts) -> None:
    """Log what was kept; raise PruningError where the cost that is counted misses the budget."""
    key, share = amount
    filters = sum(layer.dense_width for layer in layers), sum(layer.pruned_width for layer in layers)
    kept = {"macs": pruned.macs / max(1, dense.macs), "params": pruned.params / dense.params}
    log.info(
        "%s %g is %s. Kept: %s of %s filters, %s of %s MACs (%.1f %%), %s of %s parameters (%.1f %%)",
        *(key, share, MEANING[key]),
        *(f"{each:,}" for each in reversed(filters)),
        *(f"{pruned.macs:,}", f"{dense.macs:,}", 100 * kept["macs"]),
        *(f"{pruned.params:,}", f"{dense.params:,}", 100 * kept["params"]),
    )
    if key in kept and abs(kept[key] / share - 1) > TOLERANCE:
        raise PruningError(
            f"a budget of {share:g} of the {UNITS[key]} was not met: {kept[key]:.3f} of them are left when "
            "counted on the smaller network, where its layers' widths promised otherwise; use ratio"
        )
