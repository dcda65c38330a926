"""What each stage that computes hands to Ray Train: what it reads, how long it goes on, where its results go.

What it computes is `compute` of the stage's own module. That is imported on the worker alone: the driver
needs no torch, which takes longer to import than most stages take to compute.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from akgp.io.atomic import atomic_directory
from akgp.orchestration.train import fit
from akgp.params.strategies import branch_epochs
from akgp.stages.network_files import sources
from akgp.stages.teaching import networks
from akgp.workspace import Task


def teacher(task: Task) -> None:
    assert task.network is not None
    network = task.params.networks[task.network]
    fit(
        task,
        "akgp.stages.teacher",
        keys=("seed", f"networks.{task.network}", "teacher"),
        inputs=[task.workspace.data, *sources(network, task.root)],
        steps=1 if network.checkpoint else task.params.teacher.epochs,
        destination=task.workspace.dense(task.network),
        parallel=True,
    )


def folds(task: Task) -> None:
    """Write a folder for each fold, or an empty one: earlier folds go.

    Without params.yaml's `folds` nothing is computed, and nothing that takes long is imported.
    """
    assert task.network is not None
    with atomic_directory(task.workspace.folds(task.network)) as new:
        if task.params.folds is not None:
            from akgp.orchestration.cross_fit import train_folds

            train_folds(task, task.params.folds, new)


def prune(task: Task) -> None:
    fit(
        task,
        "akgp.stages.prune",
        keys=("seed", "student", "prune"),
        inputs=[task.workspace.data / "summary.json", task.workspace.dense(task.params.student)],
        steps=1,
        destination=task.workspace.pruned,
    )
    print(removed(json.loads((task.workspace.pruned / "metrics.json").read_text(encoding="utf-8"))))


def removed(metrics: Mapping[str, float]) -> str:
    """What `prune` did in a line: `ratio` asks for what is removed, `macs` and `params` for what is kept."""
    macs, parameters = 1 - metrics["macs_reduction"], 1 - metrics["params_reduction"]
    return (
        f"prune: {metrics['filters_removed']:.1%} of the filters removed; kept: {macs:.1%} of the MACs, "
        f"{parameters:.1%} of the parameters"
    )


def distill(task: Task) -> None:
    workspace, params = task.workspace, task.params.distill
    fit(
        task,
        "akgp.stages.distill",
        keys=("seed", "teachers", "folds", "student", "distill"),
        inputs=[
            workspace.data,
            workspace.pruned,
            *sorted({workspace.dense(task.params.student), *networks(task)}),
        ],
        steps=params.training.epochs + (_branches(task) if params.measures_w0 else 0),
        destination=workspace.student,
        parallel=True,
    )


def quantize(task: Task) -> None:
    fit(
        task,
        "akgp.stages.quantize",
        keys=("seed", "quantize"),
        inputs=[task.workspace.data, task.workspace.student],
        steps=4,
        destination=task.workspace.int8,
    )


def evaluate(task: Task) -> None:
    workspace, written = task.workspace, task.root / ".akgp" / "reports"
    fit(
        task,
        "akgp.stages.evaluate",
        keys=("seed", "teachers", "student", "evaluate"),
        inputs=[
            workspace.data,
            workspace.pruned,
            workspace.student,
            workspace.int8,
            *sorted({workspace.dense(name) for name in (*task.params.teachers, task.params.student)}),
        ],
        steps=6,
        destination=written,
    )
    workspace.reports.mkdir(exist_ok=True)  # a user's own files there stay
    for file in written.iterdir():
        file.replace(workspace.reports / file.name)


def _branches(task: Task) -> int:
    """Epochs that measuring w0 adds."""
    return 2 * branch_epochs(task.params.distill.training.epochs)[1]
