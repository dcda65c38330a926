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
from akgp.pruning.budget import TOLERANCE
from akgp.pruning.choice import UNITS, Amount, Choice
from akgp.pruning.coupling.groups import SCOPES, Sparing, layer_filters
from akgp.pruning.coupling.layers import PRUNABLE, width
from akgp.pruning.coupling.network import couple
from akgp.pruning.coupling.preparation import (
    PruningError,
    as_pruning_error,
    autograd_enabled,
    copy_network,
    require_prunable,
)
from akgp.pruning.cutting import Removal
from akgp.pruning.evidence import Evidence
from akgp.pruning.exact_cut import cut_exactly
from akgp.pruning.scoring import Scoring

log = logging.getLogger(__name__)

MEANING = {
    "ratio": "the share of each layer's filters to remove",
    "macs": "the share of the MACs to keep",
    "params": "the share of the parameters to keep",
}


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
    evidence: Evidence | None = None,
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
        criterion: a name of `scoring.NAMES`; the filters with the lowest scores are removed.
        scope: all, or inside: channels in which outputs of layers are summed (residual streams) stay dense.
        round_to: widths are rounded to positive multiples of this (a tie: to the wider); layers that
            are no wider than this stay dense.
        skip: qualified names of modules that stay dense, together with their submodules.
        seed: of the criterion random.
        evidence: what taylor, obd, hrank and knowledge look at; on the network's device.

    Raises:
        PruningError: an argument is out of its range; the network cannot be traced (it is scripted, compiled
            or quantized), holds values that are not finite, or cannot be cut exactly; nothing would be
            removed (other than by ratio 0); a budget is not met.
    """
    amount = _check(ratio, macs, params, round_to)
    if scope not in SCOPES:
        raise PruningError(f"scope must be one of {', '.join(SCOPES)}, got {scope!r}")
    require_prunable(model)
    scoring = Scoring(model, example_input, criterion, seed, evidence)
    with autograd_enabled():
        example_input = _on_device(model, example_input)
        traced = copy_network(model)
        with as_pruning_error(model, f"cannot be traced with an input of {list(example_input.shape)}"):
            dense = count(traced, example_input)
        coupling = couple(model, example_input)
        sparing = Sparing(_skipped(model, skip), scope)
        choose = Choice(model, coupling, sparing, example_input, amount, scoring, round_to)
        smaller, removed = cut_exactly(model, example_input, choose)
        layers = _layers(model, choose, removed, round_to)
        if removed.alive.all() and amount != ("ratio", 0):
            raise PruningError(_nothing_removed(model, amount, layers))
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


def _check(ratio: float | None, macs: float | None, params: float | None, round_to: int) -> Amount:
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


def _layers(model: nn.Module, choice: Choice, removed: Removal, round_to: int) -> list[Layer]:
    coupling = choice.coupling
    filters = {name: ids for name, _, ids in layer_filters(model, coupling)}
    reason_of = {unit: group.reason for group in choice.groups for unit in group.units.tolist()}
    layers = []
    for name, module in model.named_modules():
        if isinstance(module, PRUNABLE):
            dense = width(module)
            alive = removed.alive[filters[name]] if name in filters else torch.ones(dense, dtype=torch.bool)
            kept = tuple(alive.nonzero().flatten().tolist())
            reason = None
            if len(kept) == dense:
                labels = coupling.labels[filters[name]].tolist() if name in filters else []
                narrow = f"no wider than round_to ({round_to})" if dense <= round_to else "ratio or budget"
                reason = next((each for label in labels if (each := reason_of[label])), narrow)
            layers.append(Layer(name, kept, dense, len(kept), reason))
    return layers


def _skipped(model: nn.Module, skip: Sequence[str]) -> set[nn.Module]:
    names = dict(model.named_modules(remove_duplicate=False))
    if isinstance(skip, str):
        raise PruningError(f"skip must be a list of names of modules, got {skip!r}")
    for name in skip:
        if not name or name not in names:
            like = f", such as {list(names)[1]!r}" if len(names) > 1 else ""  # the first is "", the network
            raise PruningError(f"skip: {name!r} is not a module of the network{like}")
    return {module for name in skip for module in names[name].modules()}


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
