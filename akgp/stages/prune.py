"""prune: remove filters of the student's dense network."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from akgp import artifacts
from akgp.data import read_summary
from akgp.evaluation.cost import count
from akgp.io.atomic import write_csv, write_json
from akgp.io.search import search
from akgp.models.bypassed import bypassed_names
from akgp.models.inputs import Example
from akgp.params import SCHEDULED, Prune
from akgp.params.device import bytes_of
from akgp.pruning import Pruned, PruningError, layers_table, partial_amount, prune, without_blocks
from akgp.pruning.evidence import Evidence
from akgp.reporting.layouts import dense_layouts
from akgp.runtimes import RUNTIMES
from akgp.stages.deployed import ALONE, Deployed
from akgp.stages.device_budget import fitted
from akgp.stages.module_names import WITHOUT_BLOCKS, limits_of, require_pruned_names
from akgp.stages.notices import NOTICES
from akgp.stages.pruning_evidence import evidence
from akgp.stages.pruning_schedule import announced, cut_and_recover
from akgp.stages.recovery_cost import RECOVERY, recovery_cost
from akgp.stages.training_steps import Row
from akgp.stages.watching import watched
from akgp.workspace import METRICS, Step, Task

SILENT_SECONDS = 30.0
"""After which a line says what a cut is doing, and after each as many more."""


def compute(task: Task, out: Path, state: dict[str, Any] | None) -> Iterator[Step]:
    """Prune; write the smaller network, its per-layer table, the reductions and what a budget came to.

    With `prune.schedule` there is a `Step` for each epoch between the cuts too, and history.json has them.
    """
    params, workspace = task.params.prune, task.workspace
    summary = read_summary(workspace.data)
    dense = artifacts.load(workspace.dense(task.params.student))
    example = torch.zeros(1, summary.channels, *summary.image_size)
    deployed = Deployed.of(task.params)
    looked_at = evidence(task, dense)

    def cut(network: nn.Module, after: Pruned | None = None, done: float = 1.0) -> Pruned:
        return pruned_as(params, network, example, task.params.seed, looked_at, deployed, after, done)

    rows: list[Row] = []
    if params.schedule is None:
        pruned = yield from _with_progress(lambda: cut(dense))
    else:
        pruned, rows = yield from cut_and_recover(task, params.schedule, dense, example, cut, state)
    before, after = count(dense, example), count(pruned.model, example)
    dense_filters = sum(layer.dense_width for layer in pruned.layers)
    kept_filters = sum(layer.pruned_width for layer in pruned.layers)
    metrics = {
        "filters_removed": 1 - kept_filters / dense_filters,
        "macs_reduction": 1 - after.macs / before.macs,
        "params_reduction": 1 - after.params / before.params,
    }
    artifacts.save(pruned.model, out)
    table = layers_table(pruned)
    write_csv(out / "layers.csv", table)
    budget = pruned.budget
    missed = [str(budget)] if budget and budget.why else []
    more: dict[str, Any] = {"budget": vars(budget), "warnings": missed} if budget else {}
    lines = [removed(metrics)]
    if bypassed := bypassed_names(pruned.model):
        lines.append(f"prune: without the blocks {', '.join(bypassed)}")
    if params.schedule:
        more[RECOVERY] = recovery_cost(rows, after.macs)
        lines.append(announced(params.schedule, more[RECOVERY]))
        write_json(out / "history.json", rows)
    write_json(out / METRICS, metrics | more)
    layouts = [f"prune: {line}"] if (line := dense_layouts(table)) else []
    yield Step(metrics | {NOTICES: [*lines, *layouts, *missed]})


def _with_progress(compute: Callable[[], Pruned]) -> Generator[Step, None, Pruned]:
    """What `compute` gives; of one that takes long, a line of what it is doing now and then."""
    running = watched(compute, SILENT_SECONDS)
    while True:
        try:
            line = next(running)
        except StopIteration as end:
            pruned: Pruned = end.value
            return pruned
        yield Step({NOTICES: [f"prune: {line}"]})


def removed(metrics: Mapping[str, float]) -> str:
    """What was removed and kept, in a line: `ratio` is a share to remove, `macs` and `params` to keep."""
    macs, parameters = 1 - metrics["macs_reduction"], 1 - metrics["params_reduction"]
    return (
        f"prune: {metrics['filters_removed']:.1%} of the filters removed; kept: {macs:.1%} of the MACs, "
        f"{parameters:.1%} of the parameters"
    )


def pruned_as(
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
        looked_at: see `akgp.stages.pruning_evidence`.
        deployed: how the file will run whose latency is measured.
        after: of `prune.schedule`: the outcome of the cuts before.
        done: likewise: the share of the cuts that are made with this one.
    """
    with search(params.time_limit):
        return _pruned_as(params, model, example, seed, looked_at, deployed, after, done)


def _pruned_as(
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
    rules: dict[str, Any] = {"layers": params.layers, "limits": limits_of(params)}

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
        return fitted(lambda ratio: cut(ratio=ratio), lambda smaller: need_of(smaller, images), params.device)
    if params.bytes is not None:
        from akgp.stages.file_budget import below, file_bytes  # and onnx with it

        images = _images(example)
        return below(
            lambda values: cut(bytes=values),
            partial(file_bytes, example=images, runtime=RUNTIMES[deployed.runtime]),
            model,
            bytes_of(params.bytes),
            after,
        )
    if params.latency_ms or params.speedup:
        from akgp.stages.latency_budget import in_time  # and onnx with it

        images = _images(example)
        return in_time(
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
    return replace(pruned, budget=replace(budget, why="the bypassed blocks alone leave less"))


def _images(example: Example) -> Tensor:
    """The example of a network whose file is measured."""
    if not isinstance(example, Tensor):
        raise PruningError(
            "prune.device, bytes, latency_ms and speedup measure a file, which takes images alone"
        )
    return example


def size(task: Task) -> dict[str, int]:
    """params and macs of the pruned network."""
    summary = read_summary(task.workspace.data)
    example = torch.zeros(1, summary.channels, *summary.image_size)
    return vars(count(artifacts.load(task.workspace.pruned), example))
