"""Prune a network: score its filters, decide how many stay, cut the others out.

Channels are removed, not masked: the network that comes out is smaller. Its outputs are those of
the given network with the same filters set to zero, which is checked after every surgery.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from akgp.counting import evaluated
from akgp.models import ChannelMap
from akgp.pruning.budget import Costs, Widths, budget_widths, ratio_widths
from akgp.pruning.criteria import CRITERIA, coupled_scores
from akgp.pruning.graph import NORMS, PRUNABLE, Graph, Group, Part, PruningError

EXACT = 1e-4
"""Largest difference between surgered and masked outputs, as a share of their largest magnitude."""


@dataclass(frozen=True)
class Layer:
    """What pruning did to one convolution or linear layer of the given network."""

    name: str
    kept: tuple[int, ...]  # surviving filters, sorted
    dense_width: int
    pruned_width: int
    reason: str | None  # why it was left dense


@dataclass(frozen=True)
class Pruned:
    """A smaller network, and what became of every layer, in the network's order."""

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
    round_to: int = 8,
    skip: Sequence[str] = (),
    seed: int = 0,
) -> Pruned:
    """A smaller copy of `model` without its least important filters; `model` stays as it is.

    Exactly one of `ratio`, `macs` and `params` says how many filters go. Layers whose outputs are
    summed lose the same channels and are scored together (`criteria.coupled_scores`). The classifier,
    and layers that cannot be cut exactly, stay dense; `Pruned.layers` says why.

    In a CIFAR ResNet, a channel into which the parameter-free shortcut copies a surviving channel
    of the stage before stays too: without its own filters it would still carry that copy.

    Args:
        example_input: [N, ...] for a forward pass.
        ratio: share of the filters of each layer to remove, in [0, 1).
        macs: share of the multiply-accumulates to keep, in (0, 1), met within 2 %; the filters to
            remove are found by a ranking over all layers, scores divided by their layer's mean.
        params: likewise for parameters.
        criterion: fpgm, l1, l2 or random; the filters of lowest score go.
        round_to: widths are rounded to multiples of this (a tie: to the wider), at least one; layers
            that are no wider stay dense.
        skip: qualified names of modules that stay dense, with all that is inside them.
        seed: of the criterion random.

    Raises:
        PruningError: an argument is out of its range; the network cannot be traced, holds values
            that are not finite, or cannot be cut exactly.
    """
    _check(ratio, macs, params, criterion, round_to)
    smaller = copy.deepcopy(model)
    with evaluated(smaller):
        graph = Graph(smaller, example_input, skip)
        scores = _scores(graph.groups, criterion, seed)
        floors = _floors(graph.groups)
        if ratio is not None:
            widths = ratio_widths(graph.groups, ratio, round_to)
        else:
            share, unit = (macs, "MACs") if macs is not None else (params, "parameters")
            assert share is not None
            costs = Costs(smaller, graph.groups, example_input, unit)
            widths = budget_widths(graph.groups, scores, costs, share * costs.dense, round_to, floors)
        removed = _removed(graph.groups, scores, widths)
        gone: list[Part] = []
        for group, channels in zip(graph.groups, removed, strict=True):
            gone += group.only(channels)
            graph.remove(group, channels)
    _verify(masked(model, gone), smaller, example_input)
    return Pruned(smaller, _layers(model, graph.groups, gone, round_to))


def layers_table(layers: Iterable[Layer]) -> list[dict[str, Any]]:
    """Rows of name, dense_width, pruned_width and reason (empty if pruned)."""
    return [
        {
            "name": layer.name,
            "dense_width": layer.dense_width,
            "pruned_width": layer.pruned_width,
            "reason": layer.reason or "",
        }
        for layer in layers
    ]


def masked(model: nn.Module, gone: Iterable[Part]) -> nn.Module:
    """A copy of `model` with removed filters, and γ and β of their BatchNorms, set to zero."""
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for part in gone:
            module = masked.get_submodule(part.name)
            if part.writes and isinstance(module, (*PRUNABLE, *NORMS)):
                for parameter in module.parameters(recurse=False):
                    parameter[list(part.indices)] = 0
    return masked


def _check(
    ratio: float | None, macs: float | None, params: float | None, criterion: str, round_to: int
) -> None:
    amounts = {"ratio": ratio, "macs": macs, "params": params}
    given = {key: value for key, value in amounts.items() if value is not None}
    if len(given) != 1:
        raise PruningError(
            f"exactly one of ratio, macs, params must be given, got {', '.join(given) or 'none'}"
        )
    ((key, value),) = given.items()
    allowed = 0 <= value < 1 if key == "ratio" else 0 < value < 1
    if not allowed:
        raise PruningError(f"{key} must be in {'[' if key == 'ratio' else '('}0, 1), got {value}")
    if criterion not in CRITERIA:
        raise PruningError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}")
    if round_to < 1:
        raise PruningError(f"round_to must be 1 or more, got {round_to}")


def _scores(groups: Sequence[Group], criterion: str, seed: int) -> list[Tensor]:
    """Scores of each group's channels, divided by their mean; ones where nothing may be removed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [
            torch.ones(group.width, dtype=torch.float64)
            if group.reason
            else coupled_scores([_weight(part) for part in group.layers], CRITERIA[criterion]).cpu()
            for group in groups
        ]


def _weight(layer: Part) -> Tensor:
    """The filters of a layer in the order of its group's channels, [width, ...]."""
    assert isinstance(layer.module, PRUNABLE)
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
        if len(sides) == 2:
            yield sides[False], sides[True], module


def _floors(groups: Sequence[Group]) -> dict[int, int]:
    """Group -> the group whose surviving channels a shortcut copies into it."""
    return {written: read for read, written, _ in _shortcuts(groups)}


def _removed(groups: Sequence[Group], scores: Sequence[Tensor], widths: Widths) -> list[list[int]]:
    """The channels of each group to remove: the lowest scores among those that may go."""
    shortcuts = {written: (read, module.index) for read, written, module in _shortcuts(groups)}
    removed: dict[int, list[int]] = {}

    def decide(index: int) -> list[int]:
        if index not in removed:
            free = torch.ones(groups[index].width, dtype=torch.bool)
            if index in shortcuts:
                read, source = shortcuts[index]
                gone = torch.zeros(groups[read].width + 1, dtype=torch.bool)  # the last one: no source
                gone[[*decide(read), -1]] = True
                free = gone[source]
            count = groups[index].width - widths[index]
            ranking = scores[index].masked_fill(~free, torch.inf).argsort(stable=True)
            removed[index] = sorted(ranking[: min(count, int(free.sum()))].tolist())
        return removed[index]

    return [decide(index) for index in range(len(groups))]


def _verify(masked: nn.Module, surgered: nn.Module, example_input: Tensor) -> None:
    """Raise PruningError unless both networks give the same outputs for random inputs."""
    noise = torch.randn(example_input.shape, generator=torch.Generator().manual_seed(0))
    noise = noise.to(example_input.device, example_input.dtype)
    try:
        with torch.no_grad(), evaluated(masked), evaluated(surgered):
            expected, got = masked(noise), surgered(noise)
    except (RuntimeError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise PruningError(
            f"{type(surgered).__name__} does not run without the removed channels ({reason}): "
            "name the modules around it in skip"
        ) from error
    if not expected.isfinite().all():
        raise PruningError(
            f"{type(masked).__name__} gives values that are not finite; did its training diverge?"
        )
    difference = float((expected - got).abs().max())
    if difference > EXACT * float(expected.abs().max()):
        raise PruningError(
            f"{type(surgered).__name__} without the removed channels differs by {difference:.3g} from the "
            "network with them set to zero: something makes more of zeros than zeros; name it in skip"
        )


def _layers(model: nn.Module, groups: Sequence[Group], gone: Iterable[Part], round_to: int) -> list[Layer]:
    removed: dict[str, set[int]] = defaultdict(set)
    for part in gone:
        if part.writes:
            removed[part.name].update(part.indices)
    reasons = {layer.name: group.reason for group in groups for layer in group.layers}
    layers = []
    for name, module in model.named_modules():
        if isinstance(module, PRUNABLE):
            width = len(module.weight)
            kept = tuple(sorted(set(range(width)) - removed[name]))
            reason = None
            if len(kept) == width:
                narrow = f"no wider than round_to ({round_to})" if width <= round_to else "ratio or budget"
                reason = reasons.get(name, "not reached from the input") or narrow
            layers.append(Layer(name, kept, width, len(kept), reason))
    return layers
