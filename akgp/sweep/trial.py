"""One trial: prune and distill in a workspace of its own; all trials share what the teachers say.

The images are decoded, and the teachers asked, once: what comes of it lies in Ray's object store. So does
the dense network's int8 graph, where latency is an objective.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray import ObjectRef, tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.util.placement_group import get_current_placement_group

from akgp import artifacts
from akgp.distillation import DistillationData, compute_of, training_of
from akgp.evaluation.cost import count
from akgp.orchestration.failures import told
from akgp.orchestration.train import result_of, trainer
from akgp.orchestration.worker import prepare, report, resumed
from akgp.params import with_values
from akgp.stages import distill, prune
from akgp.stages.inputs import read_distillation_data
from akgp.stages.normalization import summary_for
from akgp.stages.training_steps import ACCURACIES, best_epoch_metrics
from akgp.sweep.latency import compared, int8_graph
from akgp.workspace import Step, Task

TOP1, BALANCED = (f"kept_{key}" for key in ACCURACIES)
"""Validation accuracies of the network that a trial would keep so far, %: one of them is the objective."""
NUMBER, VALUES = "number", "values"
"""A trial's config: its number, counted from 0 in the order of creation, and its values by dotted names."""
DENSE_MACS = "dense_macs"
"""Of the student's dense network, in every report, beside those of the trial's own."""
WORKERS = "placement_group"
"""Where a trial of several workers reports what holds them, so that it can be freed."""


@dataclass(frozen=True)
class Shared:
    """What all trials read; of the dense network its MACs and, if latency counts, its int8 graph."""

    data: DistillationData
    macs: int
    dense: bytes | None


def shared(task: Task) -> ObjectRef[Shared]:
    """What all trials share, made by one worker of the cluster."""
    ray_params = task.params.ray
    resources = {"num_cpus": ray_params.cpus_per_worker, "num_gpus": ray_params.gpus_per_worker}
    return ray.remote(**resources)(_shared).remote(task)


def _shared(task: Task) -> Shared:
    with told(task, task.root), contextlib.chdir(task.root):
        prepare(task)
        return _read(task)


def _read(task: Task) -> Shared:
    data, dense = read_distillation_data(task), None
    network = artifacts.load(task.workspace.dense(task.params.student))
    macs = count(network, data.example_input).macs
    if task.params.sweep.against == "latency":
        dense = int8_graph(network, data.calibration, task.params)
    return Shared(data, macs, dense)


def trial(config: dict[str, Any], task: Task, common: list[ObjectRef[Shared]]) -> None:
    """Prune and distill with these values, as Ray Tune calls it; its process may have run other trials.

    Raises:
        ParamsError: the values are not valid together, which `draw` does not give.
    """
    (shared,) = common
    task = Task("sweep", with_values(task.params, config[VALUES]), task.root)
    if task.params.distill.training.compile:
        torch.compiler.reset()  # networks of earlier trials count towards a limit of recompilations
    workers = task.params.ray.workers
    if workers > 1:
        context = tune.get_context()
        job = trainer(
            task,
            partial(steps, shared=shared),
            context.get_trial_name(),
            context.get_storage().experiment_fs_path,
            workers,
            [_Epochs()],
        )
        result_of(job, task.label)
        return
    with told(task, task.root), contextlib.chdir(task.root), tempfile.TemporaryDirectory() as out:
        prepare(task)
        for step in steps(task, Path(out), resumed(tune), shared):
            report(tune, step)


def steps(task: Task, out: Path, state: dict[str, Any] | None, shared: ObjectRef[Shared]) -> Iterator[Step]:
    """Prune and distill in the trial's own workspace; every epoch's row carries costs, TOP1 and BALANCED."""
    with _borrowed(task) as trial:
        for folder in (trial.workspace.pruned, trial.workspace.student):
            folder.mkdir(parents=True)
        for _ in prune.compute(trial, trial.workspace.pruned, None):
            pass
        common = ray.get(shared)
        latency = state["latency"] if state else _latency(trial, common)
        costs = prune.size(trial) | {DENSE_MACS: common.macs} | _compute(trial, common.data) | latency
        costs |= _held(task)
        training = training_of(task.params.distill, common.data.profile)
        folder, before = trial.workspace.student, state["distill"] if state else None
        for step in distill.compute_with(trial, common.data, folder, before):
            assert step.state is not None
            accuracies = best_epoch_metrics(step.state["history"], training.keep)
            yield Step(
                step.row | costs | {f"kept_{key}": figure for key, figure in accuracies.items()},
                {"latency": latency, "distill": step.state},
            )


def _compute(task: Task, data: DistillationData) -> dict[str, float]:
    student = artifacts.load(task.workspace.pruned)
    return {"compute": compute_of(task.params.distill, student, data.example_input)}


def _latency(task: Task, common: Shared) -> dict[str, float]:
    """As `compared` returns it, where it is an objective: it depends on the widths, not on the weights.

    Of several workers the first one measures: what the others report is not used.
    """
    if common.dense is None or (torch.distributed.is_initialized() and torch.distributed.get_rank() > 0):
        return {}
    pruned, summary = artifacts.load(task.workspace.pruned), summary_for(task)
    graph = int8_graph(pruned, common.data.calibration, task.params)
    return compared(graph, common.dense, summary, task.params)


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
