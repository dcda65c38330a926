"""Pruning by the section `prune` of params.yaml: by a ratio, or to a budget that is counted or measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from akgp.budgets.deployed import ALONE, Deployed
from akgp.budgets.device import prune_to_device
from akgp.models.inputs import Example
from akgp.params import SCHEDULED, Prune
from akgp.params.device import bytes_of
from akgp.pruning import Pruned, PruningError, Rules, partial_amount, prune, require_names, without_blocks
from akgp.pruning.evidence import Evidence
from akgp.runtimes import RUNTIMES
from akgp.timed_search import search

WITHOUT_BLOCKS = "; by then prune.bypass has removed its blocks"


def prune_by_params(
    params: Prune,
    model: nn.Module,
    example: Example,
    seed: int,
    looked_at: Evidence | None = None,
    deployed: Deployed = ALONE,
    after: Pruned | None = None,
    done: float = 1.0,
) -> Pruned:
    """Prune by the section `prune` of params.yaml, in one cut.

    Args:
        example: as `akgp.pruning.prune` takes it; images [N, C, H, W] where a file is measured.
        seed: of the criterion random.
        looked_at: what the criteria by images need.
        deployed: how the file will run whose latency is measured.
        after: of `prune.schedule`: the outcome of the cuts before.
        done: likewise: the share of the cuts that are made with this one.

    Raises:
        PruningError: as `prune`; or no file is so small or so fast, or the network takes more than images.
    """
    with search(params.time_limit):
        return _by_params(params, model, example, seed, looked_at, deployed, after, done)


def _by_params(
    params: Prune,
    model: nn.Module,
    example: Example,
    seed: int,
    looked_at: Evidence | None,
    deployed: Deployed,
    after: Pruned | None,
    done: float,
) -> Pruned:
    dense = model
    if params.bypass and after is None:
        after = without_blocks(model, example, params.bypass)
        model = after.model
        try:
            require_pruned_names(model, params)
        except PruningError as error:
            raise PruningError(f"{error}{WITHOUT_BLOCKS}") from None
    rules: dict[str, Any] = {"layers": params.layers, "limits": params.limits}

    def cut(**amount: Any) -> Pruned:
        return prune(
            model,
            example,
            criterion=params.criterion,
            scope=params.scope,
            round_to=params.round_to,
            skip=params.skip,
            seed=seed,
            evidence=looked_at,
            after=after,
            **rules | amount,
        )

    if done < 1:
        asked = {key: getattr(params, key) for key in SCHEDULED}
        asked["bytes"] = None if params.bytes is None else bytes_of(params.bytes)
        part = partial_amount(asked | rules, done, model, after)
        return cut(**asked | part, more_follow=True)
    return _explained(_by_amount(cut, model, dense, after, example, params, deployed), params)


def _by_amount(
    cut: Callable[..., Pruned],
    model: nn.Module,
    dense: nn.Module,
    after: Pruned | None,
    example: Example,
    params: Prune,
    deployed: Deployed,
) -> Pruned:
    """What `cut` makes of `model` by the amount in params.yaml, some of which are measured.

    Args:
        dense: `model`, or that with the blocks that are bypassed in it.
        after: as `prune`'s.
    """
    if params.device:
        from akgp.microcontroller.device import need_of  # and onnx with it

        images = _images(example)
        return prune_to_device(
            lambda ratio: cut(ratio=ratio), lambda smaller: need_of(smaller, images), params.device
        )
    if params.bytes is not None:
        from akgp.budgets.file_bytes import file_bytes, prune_to_file_bytes  # and onnx with it

        images = _images(example)
        return prune_to_file_bytes(
            lambda values: cut(bytes=values),
            partial(file_bytes, example=images, runtime=RUNTIMES[deployed.runtime]),
            model,
            bytes_of(params.bytes),
            after,
        )
    if params.latency_ms or params.speedup:
        from akgp.budgets.latency import prune_to_latency  # and onnx with it

        images = _images(example)
        return prune_to_latency(
            lambda ms, latencies: cut(latency_ms=ms, latencies=latencies),
            model, images, params, deployed, dense,
        )  # fmt: skip
    return cut(ratio=params.ratio, macs=params.macs, params=params.params)


def _explained(pruned: Pruned, params: Prune) -> Pruned:
    """With the reason that its budget is missed if that is the bypassed blocks, not the widths."""
    budget = pruned.budget
    whole = all(layer.pruned_width in (0, layer.dense_width) for layer in pruned.layers)
    if not (params.bypass and whole and budget and budget.why and budget.key in ("macs", "params")):
        return pruned
    if budget.reached >= budget.asked:
        return pruned
    return replace(pruned, budget=replace(budget, why="the bypassed blocks alone leave less"))


def _images(example: Example) -> Tensor:
    """The example of a network whose file is measured."""
    if not isinstance(example, Tensor):
        raise PruningError(
            "prune.device, bytes, latency_ms and speedup measure a file, which takes images alone"
        )
    return example


def require_pruned_names(model: nn.Module, params: Prune) -> None:
    """Raise PruningError if `model` does not have what `skip`, `layers` and `limits` name; nothing is run."""
    require_names(model, Rules(params.round_to, params.layers, params.limits), params.skip)
