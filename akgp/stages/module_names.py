"""Modules that params.yaml names in `prune`, `freeze` and `distill.heads`: the networks must have them."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from akgp.params import Params, Prune, Training
from akgp.workspace import StageError

if TYPE_CHECKING:
    from torch import nn


def names_modules(name: str, params: Params) -> bool:
    """Whether any is named that network `name` must have."""
    prune = params.prune
    of_student = prune.layers or prune.limits or prune.skip or prune.bypass or _heads(params)
    frozen = any(training.freeze for training in trainings(name, params).values())
    return frozen or (name == params.student and bool(of_student))


def check_module_names(model: nn.Module, name: str, params: Params) -> None:
    """Raise StageError if `model`, network `name`, does not have what is named; nothing is run."""
    for section, training in trainings(name, params).items():
        _check_frozen(model, section, training)
    if name == params.student:
        _check_heads(model, _heads(params))
        _check_pruned(model, params.prune)


def check_names_after_pruning(pruned: nn.Module, params: Params) -> None:
    """Raise StageError if the pruned student, which lacks bypassed blocks, does not have what is named."""
    try:
        for section, training in _recoveries(params).items():
            _check_frozen(pruned, section, training)
        _check_heads(pruned, _heads(params))
    except StageError as error:
        from akgp.budgets import WITHOUT_BLOCKS

        raise StageError(f"{error}{WITHOUT_BLOCKS}" if params.prune.bypass else str(error)) from None


def trainings(name: str, params: Params) -> dict[str, Training]:
    """The trainings of a network and, of the student, its pruned copy's."""
    own = {} if params.networks[name].trained else {"teacher": params.teacher}
    return own | _recoveries(params) if name == params.student else own


def _recoveries(params: Params) -> dict[str, Training]:
    recoveries = {"distill.training": params.distill.training}
    if schedule := params.prune.schedule:
        recoveries["prune.schedule.recovery"] = schedule.recovery
    return recoveries


def _heads(params: Params) -> tuple[str, ...]:
    """Those that the strategy reads."""
    return params.distill.heads if params.distill.facts.heads else ()


def _check_frozen(model: nn.Module, section: str, training: Training) -> None:
    if not training.freeze:
        return
    from akgp.training import TrainingError
    from akgp.training.freezing import frozen

    try:
        with frozen(model, training.freeze):
            pass
    except TrainingError as error:
        raise StageError(f"{section}.{error}") from None


def _check_heads(model: nn.Module, heads: tuple[str, ...]) -> None:
    modules = dict(model.named_modules())
    for head in heads:
        if head not in modules:
            raise StageError(f"distill.heads: {head!r} is not a module of the network")


def _check_pruned(model: nn.Module, prune: Prune) -> None:
    modules = [name for name, _ in model.named_modules() if name]
    for each in prune.bypass:  # whether it is a block shows when the network is run
        if not any(fnmatchcase(name, each) for name in modules):
            raise StageError(f"prune.bypass: {each!r} is not a module of the network")
    from akgp.budgets import require_pruned_names
    from akgp.pruning import PruningError

    try:
        require_pruned_names(model, prune)
    except PruningError as error:
        raise StageError(f"prune.{error}") from None
