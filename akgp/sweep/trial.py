"""One trial: prune and distill in a workspace of its own; all trials share one lesson.

The images are decoded, and the teachers asked, once: what comes of it lies in Ray's object store.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray import ObjectRef, tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.util.placement_group import get_current_placement_group

from akgp.stages import distill, prune
from akgp.stages.lesson import Lesson, read_lesson
from akgp.stages.ray import trainer
from akgp.stages.worker import Step, prepare, report, resumed
from akgp.stages.workspace import Task
from akgp.sweep.results import with_values

METRIC = "best_val_top1"
WORKERS = "placement_group"
"""Where a trial of several workers reports what holds them, so that it can be freed."""


def shared_lesson(task: Task) -> ObjectRef[Lesson]:
    """The lesson of all trials, read by one worker of the cluster."""
    ray_params = task.params.ray
    resources = {"num_cpus": ray_params.cpus_per_worker, "num_gpus": ray_params.gpus_per_worker}
    return ray.remote(**resources)(_lesson).remote(task)


def _lesson(task: Task) -> Lesson:
    prepare(task)
    return read_lesson(task)


def trial(config: dict[str, Any], task: Task, lessons: list[ObjectRef[Lesson]]) -> None:
    """Prune and distill with these values, as Ray Tune calls it; its process may have run other trials.

    Raises:
        ParamsError: the values are not valid together.
    """
    # How long the next trial waits for a stopped one to leave the process; after that it fails.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "60"
    (lesson,) = lessons
    task = Task("sweep", with_values(task.params, config), task.root)
    if task.params.distill.training.compile:
        torch.compiler.reset()  # networks of earlier trials count towards a limit of recompilations
    workers = task.params.ray.workers
    if workers > 1:
        context = tune.get_context()
        trainer(
            task,
            partial(steps, lesson=lesson),
            context.get_trial_name(),
            context.get_storage().experiment_fs_path,
            workers,
            [_Epochs()],
        ).fit()
        return
    prepare(task)
    with tempfile.TemporaryDirectory() as out:
        for step in steps(task, Path(out), resumed(tune), lesson):
            report(tune, step)


def steps(task: Task, out: Path, state: dict[str, Any] | None, lesson: ObjectRef[Lesson]) -> Iterator[Step]:
    """Prune and distill in the trial's own workspace; every epoch's row carries size and best so far."""
    with _borrowed(task) as trial:
        for folder in (trial.workspace.pruned, trial.workspace.student):
            folder.mkdir(parents=True)
        for _ in prune.compute(trial, trial.workspace.pruned, None):
            pass
        size = prune.size(trial) | _held(task)
        best_so_far = state["best"] if state else 0.0
        folder, before = trial.workspace.student, state["distill"] if state else None
        for step in distill.recover(trial, ray.get(lesson), folder, before):
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
        for networks in ("dense", "folds"):
            (root / "models" / networks).symlink_to(task.root / "models" / networks)
        yield Task("sweep", task.params, root)
