"""prune: remove filters of the student's dense network."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from akgp import artifacts
from akgp.budgets import Deployed, prune_by_params
from akgp.data import read_summary
from akgp.evaluation.cost import count
from akgp.io.atomic import write_csv, write_json
from akgp.models.bypassed import bypassed_names
from akgp.pruning import Pruned, layers_table
from akgp.reporting.layouts import dense_layouts
from akgp.stages.notices import NOTICES
from akgp.stages.pruning_evidence import evidence
from akgp.stages.pruning_schedule import announced, cut_and_recover
from akgp.stages.recovery_cost import RECOVERY, recovery_cost
from akgp.stages.training_steps import Row
from akgp.timed_search import watched
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
        return prune_by_params(params, network, example, task.params.seed, looked_at, deployed, after, done)

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


def size(task: Task) -> dict[str, int]:
    """params and macs of the pruned network."""
    summary = read_summary(task.workspace.data)
    example = torch.zeros(1, summary.channels, *summary.image_size)
    return vars(count(artifacts.load(task.workspace.pruned), example))
