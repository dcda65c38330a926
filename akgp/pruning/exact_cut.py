"""Cuts a network until what is left computes what the given one does with the same units set to zero."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from akgp.io.errors import message
from akgp.models.eval_mode import eval_mode
from akgp.models.inputs import Inputs
from akgp.models.view_sizes import Changes, set_all_view_sizes
from akgp.pruning.choice import Choice
from akgp.pruning.coupling.groups import layer_filters
from akgp.pruning.coupling.marks import shrink
from akgp.pruning.coupling.network import Coupling, Known, follow
from akgp.pruning.coupling.preparation import PruningError, copy_network
from akgp.pruning.coupling.trace import Conflict
from akgp.pruning.cutting import Removal, cut, removal
from akgp.pruning.masking import norm_ids
from akgp.pruning.verification import Inexact, verify
from akgp.timed_search import doing

log = logging.getLogger(__name__)

ATTEMPTS = 40
"""Cuts that are tried before every activation keeps its layout."""


class Exact(NamedTuple):
    """A cut network, what was removed, and by how much its outputs deviate (`verify`)."""

    model: nn.Module
    removed: Removal
    deviation: float


def cut_exactly(model: nn.Module, example_input: Inputs, choose: Choice) -> Exact:
    """A cut copy of `model` that computes what `model` does with the same units set to zero.

    Units without which a layer would compute something else stay, and the cut is made again.
    """
    while True:
        smaller, removed = _cut_without_conflict(model, example_input, choose)
        try:
            return Exact(smaller, removed, verify(model, removed, smaller, example_input))
        except Inexact as error:
            if removed.alive.all():
                raise
            log.debug("%s", error)
            _keep_before(error.layer, removed)


def _keep_before(layer: str, removed: Removal) -> None:
    """Never remove the units that arrive in `layer`; where these are not known, none of the removed ones."""
    coupling = removed.coupling
    arriving = [ids for ids in coupling.record.inputs.get(layer, ()) if ids is not None]
    arriving = arriving or [shrink(ids).reshape(-1) for ids in norm_ids(layer, removed)]
    ids = torch.cat(arriving) if arriving else torch.zeros(0, dtype=torch.long)
    gone = ids[~removed.alive[ids]]
    if not len(gone):
        gone = (~removed.alive).nonzero().flatten()
    reason = f"without it {layer} computes other values: an operation before it turns zeros into others"
    coupling.keep([gone], reason)


def _cut_without_conflict(
    model: nn.Module, example_input: Inputs, choose: Choice
) -> tuple[nn.Module, Removal]:
    """A cut copy of `model` in which every operation joins what it joined before.

    Where the code of the network fixes a size or an order, the units there keep their layout, and the cut is
    made again. Where that does not help, such as where it reads a layer's out_channels, they stay.
    """
    coupling = choose.coupling
    for attempt in range(ATTEMPTS):
        doing(f"cutting, attempt {attempt + 1}")
        removed = removal(model, coupling, choose())
        if coupling.keep(_zeroed(model, removed), "would be zeroed, not removed: the layout behind it stays"):
            continue
        try:
            smaller, removed = cut_checked(model, example_input, removed)
            if not choose.provisional:
                return smaller, removed
            choose.provisional = False
        except Conflict as conflict:
            log.debug("%s: %s", type(model).__name__, conflict.reason)
            everything = [ids for layers in coupling.layers.values() for ids in layers]
            if attempt < ATTEMPTS - 3 and coupling.hold(conflict.ids, conflict.reason):
                continue
            if coupling.hold(everything, conflict.reason):
                continue
            gone = [ids[~removed.alive[ids]] for ids in conflict.ids]
            if attempt == ATTEMPTS - 1 or not coupling.keep(gone, conflict.reason):
                raise PruningError(f"{type(model).__name__} cannot be cut: {conflict.reason}") from conflict
    raise AssertionError("the last attempts keep every layout")


def _zeroed(model: nn.Module, removed: Removal) -> list[Tensor]:
    """Filters that would stay as zeros, for nothing: their positions stay, their layer cannot be adapted."""
    filters = (ids for name, _, ids in layer_filters(model, removed.coupling) if name not in removed.adapted)
    return [ids[removed.present[ids] & ~removed.alive[ids]] for ids in filters]


def cut_checked(model: nn.Module, example_input: Inputs, removed: Removal) -> tuple[nn.Module, Removal]:
    """A cut copy of `model`, and `removed` with the sizes that views in the network's code must have.

    Raises:
        Conflict: the cut network joins channels that the given one does not.
    """
    coupling, smaller = removed.coupling, copy_network(model)
    layers = cut(smaller, removed)
    changes: dict[str, Changes] = {}
    for training in (False, True)[: 1 + coupling.trains]:
        probe, example = copy_network(smaller).cpu(), example_input.map(Tensor.cpu)
        if training:
            probe, example = probe.train(), example.two_or_more()
        with eval_mode(probe) if not training else contextlib.nullcontext():
            trace = follow(
                probe, example, Known(coupling), layers, expected=coupling.record, present=removed.present
            )
        for name, found in trace.changes.items():
            for call, change in found.items():
                changes.setdefault(name, {}).setdefault(call, {}).update(change)
    set_all_view_sizes(smaller, changes)
    if changes:
        _require_other_batches(model, smaller, example_input, coupling, list(changes))
    return smaller, replace(removed, view_sizes=changes)


def _require_other_batches(
    model: nn.Module, smaller: nn.Module, example_input: Inputs, coupling: Coupling, changed: list[str]
) -> None:
    """Raise Conflict if the cut network, once it has run, fails on one input more; the dense one does not.

    Its views are told apart by their order, which differs where a loop has as many as there are inputs, or
    where the first pass keeps something for the next ones.

    Args:
        changed: the modules whose views have other sizes than in their code.
    """

    def failure(network: nn.Module) -> Exception | None:
        probe = copy_network(network)
        with torch.random.fork_rng(devices=[]), torch.no_grad(), eval_mode(probe):
            try:
                example_input.run(probe)
                example_input.one_more().run(probe)
            except Exception as error:  # whatever the user's forward pass raises
                return error
        return None

    if (error := failure(smaller)) is not None and failure(model) is None:
        ids = [each for name in changed for each in coupling.record.by_module[name]]
        raise Conflict(ids, f"{changed[0]} makes other calls for other inputs ({message(error)})")
