"""Prune a network: score its filters, choose the widths, remove the filters with the lowest scores.

Channels are removed, not masked. After every surgery it is checked that the smaller network computes what
the given one computes with the same filters set to zero.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from akgp.evaluation.cost import count
from akgp.io.terminal import first_of
from akgp.models.attention import given_name, weight_names
from akgp.models.inputs import Example
from akgp.models.memory_format import format_of, to_format
from akgp.params import Limit
from akgp.pruning.amount import LATENCY, TOLERANCE, UNITS, Amount, Reached, chosen
from akgp.pruning.bounds import Rules
from akgp.pruning.choice import Choice
from akgp.pruning.coupling.groups import SCOPES, Sparing
from akgp.pruning.coupling.layers import PRUNABLE
from akgp.pruning.coupling.network import couple
from akgp.pruning.coupling.preparation import (
    NothingRemoved,
    PruningError,
    as_pruning_error,
    autograd_enabled,
    contiguous,
    copy_network,
    on_device,
    require_prunable,
)
from akgp.pruning.cutting import hold_layouts
from akgp.pruning.dense_reference import DenseReference
from akgp.pruning.evidence import Evidence
from akgp.pruning.exact_cut import cut_exactly
from akgp.pruning.int8_bytes import int8_bytes
from akgp.pruning.latency import Latencies
from akgp.pruning.narrowing import with_narrowable_attention
from akgp.pruning.record import Layer, Pruned, layers_of, since_dense
from akgp.pruning.scoring import Scoring
from akgp.timed_search import doing

log = logging.getLogger(__name__)

NONE: Mapping[str, Any] = MappingProxyType({})


def prune(
    model: nn.Module,
    example_input: Example,
    *,
    ratio: float | None = None,
    macs: float | None = None,
    params: float | None = None,
    bytes: int | None = None,
    latency_ms: float | None = None,
    latencies: Latencies | None = None,
    criterion: str = "fpgm",
    scope: str = "all",
    round_to: int = 8,
    skip: Sequence[str] = (),
    layers: Mapping[str, float] = NONE,
    limits: Mapping[str, Limit] = NONE,
    seed: int = 0,
    evidence: Evidence | None = None,
    after: Pruned | None = None,
    more_follow: bool = False,
) -> Pruned:
    """A smaller copy of `model` without its least important filters; `model` is neither changed nor run.

    The copy keeps requires_grad, each module's training mode and shared weights. no_grad and inference_mode,
    around the call or in the forward pass, make no difference; the CPU's random state stays as it is.

    Exactly one of `ratio`, `macs`, `params`, `bytes` and `latency_ms` says how many filters to remove. Layers
    whose outputs are summed lose the same channels and are scored together (`criteria.coupled_scores`). The
    classifier and layers that cannot be cut exactly stay dense; `Pruned.layers` says why.

    In a CIFAR ResNet, a channel into which the parameter-free shortcut copies a surviving channel
    of the previous stage stays too: with its filters removed it would still carry that copy.

    Args:
        example_input: [N, ...] for a forward pass. Of several inputs a tuple (of positional arguments) or a
            dict (of keyword arguments, or the only argument): `akgp.models.Inputs.of`.
        ratio: share of the filters of each layer to *remove*, in [0, 1).
        macs: share of the multiply-accumulates to *keep*, in (0, 1), as `akgp.evaluation.count` counts them,
            met within 2 %, or the nearest that widths allow, which `Pruned.budget` explains; filters are
            ranked across all layers, scores divided by their layer's mean.
        params: share of the parameters to *keep*, likewise; a shared parameter counts once.
        bytes: of the values in an int8 file, likewise: weights, biases and scales, as
            `akgp.pruning.int8_bytes` counts them; what names and operations take comes on top.
        latency_ms: milliseconds of the int8 file by `latencies`, met within 3 % or as nearly as widths allow;
            a network that is fast enough stays as wide as it may be.
        latencies: what is measured; given with `latency_ms`.
        criterion: a name of `scoring.NAMES`; the filters with the lowest scores are removed.
        scope: all, or inside: channels in which outputs of layers are summed (residual streams) stay dense.
        round_to: widths are rounded to positive multiples of this (a tie: to the wider); layers that
            are no wider than this stay dense.
        skip: qualified names of layers that stay dense, or of modules whose layers all do.
        layers: name of a layer, or pattern of names (* and ?) -> share of its filters to remove, in [0, 1);
            the others by the amount for all.
        limits: likewise -> a `Limit`, the least and the most that may be removed.
        seed: of the criterion random.
        evidence: what taylor, obd, hrank and knowledge look at; on the network's device.
        after: what an earlier cut came to, of whose network `model` has the shape, trained or not. Then all
            shares, in `layers` and `limits` too, are of the dense network, and `Pruned.layers` says what
            became of that one. What the earlier cut removed may suffice. See `schedule.prune_gradually`.
        more_follow: other cuts will; this one need not remove anything.

    Raises:
        PruningError: an argument is out of its range; the network cannot be traced (it is scripted, compiled
            or quantized), holds values that are not finite, or cannot be cut exactly; nothing would be
            removed (other than by ratio 0, or in a network that is fast enough); `layers` or `limits` match
            no layer, or contradict each other.
    """
    amount = chosen(ratio=ratio, macs=macs, params=params, bytes=bytes, latency_ms=latency_ms)
    if (amount.key == LATENCY) != (latencies is not None):
        raise PruningError("latency_ms and latencies, which measures it, must be given together")
    rules = Rules(round_to, layers, limits)
    with autograd_enabled(), torch.random.fork_rng(devices=[]):
        choose = choice_for(
            model, example_input, amount, rules,
            criterion=criterion, scope=scope, skip=skip, seed=seed, evidence=evidence, latencies=latencies,
            origin=after.origin if after else None,
        )  # fmt: skip
        smaller, removed, deviation = cut_exactly(choose.model, choose.example_input, choose)
        pruned_layers = layers_of(choose, removed)
        since = since_dense(pruned_layers, after) if after else pruned_layers
        asked = bool(rules.remove) or (amount != Amount("ratio", 0) and choose.timed is None)
        whole = all(layer.pruned_width == layer.dense_width for layer in since)
        if asked and not more_follow and removed.alive.all() and (after is None or whole):
            raise NothingRemoved(_nothing_removed(model, amount, since))
        budget = _report(choose, pruned_layers, smaller)
        if (layout := format_of(model)) != torch.contiguous_format:
            to_format(smaller, layout)
        origin = choose.origin.after(choose, removed)
    return Pruned(smaller, since, budget, deviation, origin, choose.part_ms)


def choice_for(
    model: nn.Module, example_input: Example, amount: Amount, rules: Rules,
    *, criterion: str, scope: str, skip: Sequence[str], seed: int, evidence: Evidence | None,
    latencies: Latencies | None = None, origin: DenseReference | None = None,
) -> Choice:  # fmt: skip
    """What to remove from `model`, for arguments of `prune`, which it checks.

    Args:
        origin: None: `model` itself is the dense network.

    Raises:
        PruningError: as `prune`.
    """
    if scope not in SCOPES:
        raise PruningError(f"scope must be one of {', '.join(SCOPES)}, got {scope!r}")
    require_prunable(model)
    inputs = on_device(model, example_input)
    model = contiguous(model)
    model = with_narrowable_attention(model, inputs, _skipped(model, skip))
    traced = copy_network(model)
    with as_pruning_error(model, f"cannot be traced with {inputs}"):
        size = count(traced, inputs)
    origin = origin or DenseReference(size, int8_bytes(model))
    scoring = Scoring(model, inputs, criterion, seed, evidence)
    doing("following the channels")
    coupling, sparing = couple(model, inputs), Sparing(_skipped(model, skip), scope)
    hold_layouts(model, coupling)
    return Choice(model, coupling, sparing, inputs, origin, amount, scoring, rules, latencies)


def require_names(model: nn.Module, rules: Rules, skip: Sequence[str]) -> None:
    """Raise PruningError if `rules` or `skip` name what `model` does not have; nothing is run."""
    rules.require_matches(
        [
            each
            for name, module in model.named_modules()
            if isinstance(module, (*PRUNABLE, nn.MultiheadAttention))
            for each in (
                weight_names(name) if isinstance(module, nn.MultiheadAttention) else [given_name(model, name)]
            )
        ]
    )
    _skipped(model, skip)


def _skipped(model: nn.Module, skip: Sequence[str]) -> set[nn.Module]:
    names = dict(model.named_modules(remove_duplicate=False))
    if isinstance(skip, str) or not isinstance(skip, Iterable):
        raise PruningError(f"skip must be a list of names of modules, got {skip!r}")
    for name in skip:
        if not name or name not in names:
            like = f", such as {list(names)[1]!r}" if len(names) > 1 else ""  # the first is "", the network
            raise PruningError(f"skip: {name!r} is not a module of the network{like}")
        if not any(isinstance(module, PRUNABLE) for module in names[name].modules()):
            raise PruningError(
                f"skip: {name!r} holds no convolution or linear layer, whose filters alone are chosen: "
                "name the layers that write its channels"
            )
    return {module for name in skip for module in names[name].modules()}


def _nothing_removed(model: nn.Module, amount: Amount, layers: Sequence[Layer]) -> str:
    """The error that no filter was removed, with the layers by reason."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for layer in layers:
        by_reason[str(layer.reason)].append(layer.name)
    why = "; ".join(f"{first_of(names, 3)}: {reason}" for reason, names in by_reason.items())
    return f"{type(model).__name__}: nothing can be removed by {amount}: {why}"


def _report(choice: Choice, layers: Sequence[Layer], smaller: nn.Module) -> Reached | None:
    """Log what was kept; what a budget came to, as it is counted on the smaller network."""
    amount, dense = choice.amount, choice.origin.dense
    pruned = count(copy_network(smaller), choice.example_input)  # a copy: a forward pass may write to buffers
    filters = sum(layer.dense_width for layer in layers), sum(layer.pruned_width for layer in layers)
    kept = {"macs": pruned.macs / max(1, dense.macs), "params": pruned.params / dense.params}
    log.info(
        "%s. Kept: %s of %s filters, %s of %s MACs (%.1f %%), %s of %s parameters (%.1f %%)",
        amount,
        *(f"{each:,}" for each in reversed(filters)),
        *(f"{pruned.macs:,}", f"{dense.macs:,}", 100 * kept["macs"]),
        *(f"{pruned.params:,}", f"{dense.params:,}", 100 * kept["params"]),
    )
    if choice.timed:
        timed = choice.timed
        return Reached(amount.key, amount.value, timed.measured_ms, timed.why, timed.predicted_ms)
    if amount.key == "ratio":
        return None
    reached, why = float(kept.get(amount.key, int8_bytes(smaller))), None
    if abs(reached / amount.value - 1) > TOLERANCE:
        counted = f"so many {UNITS[amount.key]} are counted, where its layers' widths promised otherwise"
        why = choice.missed or counted
    return Reached(amount.key, amount.value, reached, why)
