"""Pruning in several cuts, between which the network is trained: each is scored on what was recovered.

Every cut keeps the same share of what the one before it left, so that the last one meets the amount.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from akgp.models.inputs import Example
from akgp.params import SCHEDULED, Limit
from akgp.pruning.amount import MEANING, chosen
from akgp.pruning.bounds import Rules
from akgp.pruning.coupling.preparation import PruningError
from akgp.pruning.int8_bytes import int8_bytes
from akgp.pruning.record import Pruned
from akgp.pruning.surgery import prune


def prune_gradually(
    model: nn.Module, example_input: Example, *, steps: int, after: Pruned | None = None, **options: Any
) -> Iterator[Pruned]:
    """Prune `model` in `steps` cuts; yield what each came to, to be trained in place before the next.

    for pruned in prune_gradually(network, example, steps=3, macs=0.5):
        recover(pruned.model)

    `Pruned.layers` and `budget` always say how the whole differs from `model`, which is not changed.

    Args:
        steps: 1 or more; 1: `prune` alone.
        after: see `prune`; what `without_blocks` has made of the dense network, whose `model` is given.
        options: those of `prune`; of the amounts one of SCHEDULED.

    Raises:
        PruningError: `steps` is no whole number of 1 or more, the amount is another one, or as `prune`.
    """
    if not isinstance(steps, int) or steps < 1:
        raise PruningError(f"steps must be a whole number of 1 or more, got {steps!r}")
    if steps > 1 and not any(options.get(key) is not None for key in SCHEDULED):
        raise PruningError(
            f"steps above 1 need one of {', '.join(SCHEDULED)}, got {', '.join(options) or 'none'}"
        )
    # Before parts of them are computed, which would hide what was asked.
    chosen(**{key: options.get(key) for key in MEANING})
    Rules(options.get("round_to", 8), options.get("layers", {}), options.get("limits", {}))
    pruned, network = after, model
    for step in range(1, steps + 1):
        part = partial_amount(options, step / steps, network, pruned)
        pruned = prune(network, example_input, **options | part, after=pruned, more_follow=step < steps)
        network = pruned.model
        yield pruned


def partial_amount(
    options: Mapping[str, Any], done: float, model: nn.Module, after: Pruned | None
) -> dict[str, Any]:
    """Those of the options of `prune` that a cut before the last changes, for that cut.

    A share s that is kept becomes s^done: at .5 in three cuts .79, .63 and .5. What may be removed at most
    and the filters that stay are as they were.

    Args:
        done: the share of the cuts that are made with this one, in (0, 1]; 1: the last.
        model: the network to be cut.
        after: what the cuts before came to.
    """
    if done == 1:
        return {}
    part: dict[str, Any] = {}
    if (ratio := options.get("ratio")) is not None:
        part["ratio"] = _removed(ratio, done)
    for key in ("macs", "params"):
        if (share := options.get(key)) is not None:
            part[key] = share**done
    if (size := options.get("bytes")) is not None:
        dense = after.origin.values if after and after.origin else int8_bytes(model)
        part["bytes"] = round(dense * (size / dense) ** done)
    part["layers"] = {name: _removed(ratio, done) for name, ratio in options.get("layers", {}).items()}
    part["limits"] = {name: _eased(limit, done) for name, limit in options.get("limits", {}).items()}
    return part


def _removed(ratio: float, done: float) -> float:
    return 1 - (1 - ratio) ** done


def _eased(limit: Limit, done: float) -> Limit:
    least = _removed(limit.min, done)
    # A share that is fixed stays so.
    return limit.model_copy(update={"min": least, "max": least if limit.min == limit.max else limit.max})
