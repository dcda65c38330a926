"""One trial: prune and distill in a workspace of its own that borrows the data and the dense networks."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.util.placement_group import get_current_placement_group

from akgp.stages import distill, prune
from akgp.stages.ray import trainer
from akgp.stages.worker import Step, read_state, write_state
from akgp.stages.workspace import Task
from akgp.sweep.results import with_values

METRIC = "best_val_top1"
WORKERS = "placement_group"
"""Where a trial of several workers reports what holds them, so that it can be freed."""


def trial(config: dict[str, Any], task: Task) -> None:
    task = Task("sweep", with_values(task.params, config), task.root)
    workers = task.params.ray.workers
    if workers > 1:
        context = tune.get_context()
        trainer(
            task,
            steps,
            context.get_trial_name(),
            context.get_storage().experiment_fs_path,
            workers,
            [_Epochs()],
        ).fit()
        return
    torch.set_num_threads(task.params.ray.cpus_per_worker)
    checkpoint = tune.get_checkpoint()
    state = None
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state = read_state(Path(folder))
    with tempfile.TemporaryDirectory() as out:
        for step in steps(task, Path(out), state):
            with tempfile.TemporaryDirectory() as folder:
                assert step.state is not None
                write_state(step.state, Path(folder))
                tune.report(step.row, checkpoint=tune.Checkpoint.from_directory(folder))


def steps(task: Task, out: Path, state: dict[str, Any] | None) -> Iterator[Step]:
    """Prune and distill in the trial's own workspace; every epoch's row carries size and best so far."""
    with _borrowed(task) as trial:
        for folder in (trial.workspace.pruned, trial.workspace.student):
            folder.mkdir(parents=True)
        for _ in prune.compute(trial, trial.workspace.pruned, None):
            pass
        size = prune.size(trial) | _held(task)
        best_so_far = state["best"] if state else 0.0
        distilled = distill.compute(trial, trial.workspace.student, state["distill"] if state else None)
        for step in distilled:
            last = task.params.distill.training.keep == "last"
            best_so_far = step.row["val_top1"] if last else max(best_so_far, step.row["val_top1"])
            yield Step(step.row | size | {METRIC: best_so_far}, {"best": best_so_far, "distill": step.state})


def _held(task: Task) -> dict[str, str]:
    group = get_current_placement_group() if task.params.ray.workers > 1 else None
    return {WORKERS: group.id.hex()} if group else {}


class _Epochs(TuneReportCallback):
    """Passes a job's epochs on to Tune, but not its last report, which only carries the artifacts."""

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        if metrics and metrics[0]:
            super().after_report(run_context, metrics, checkpoint)


@contextlib.contextmanager
def _borrowed(task: Task) -> Iterator[Task]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "models").mkdir()
        (root / "data").mkdir()
        (root / "data" / "prepared").symlink_to(task.workspace.data)
        (root / "models" / "dense").symlink_to(task.root / "models" / "dense")
        yield Task("sweep", task.params, root)
