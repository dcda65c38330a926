"""One trial: prune and distill in a temporary workspace.

Images are decoded, and teachers evaluated, once for all trials; the results are shared in Ray's object store.
So is the dense network's int8 graph, if latency is an objective.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import ray
import torch
from ray import ObjectRef, tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import Tensor

from akgp import artifacts
from akgp.distillation import DistillationData, compute_of, training_of
from akgp.evaluation.cost import count
from akgp.orchestration.failures import errors_in_one_line
from akgp.orchestration.train import result_of, trainer
from akgp.orchestration.worker import prepare, report, resumed
from akgp.params import with_values
from akgp.stages import distill, prune
from akgp.stages.inputs import read_distillation_data
from akgp.stages.normalization import summary_for
from akgp.stages.recovery_cost import recovery_compute
from akgp.stages.training_steps import ACCURACIES, best_epoch_metrics
from akgp.sweep.latency import compared, int8_graph
from akgp.workspace import Step, Task, Workspace

TOP1, BALANCED = (f"kept_{key}" for key in ACCURACIES)
"""Validation accuracies, %, of the epoch that a trial would keep so far; one of them is the objective."""
NUMBER, VALUES = "number", "values"
"""Keys of a trial's config: its number, from 0 in the order of creation, and its values by dotted names."""
DENSE_MACS = "dense_macs"
"""MACs of the student's dense network, in every report beside those of the trial's network."""
Files = dict[str, Tensor]
"""The files of a folder by name, their bytes as uint8 [bytes], which a checkpoint can hold."""
Result = TypeVar("Result")
PLACEMENT_GROUP = "placement_group"
"""Key under which a trial of several workers reports their placement group, so that it can be freed."""


@dataclass(frozen=True)
class Shared:
    """Data of all trials. macs: of the dense network; dense: its int8 graph, if latency is an objective."""

    data: DistillationData
    macs: int
    dense: bytes | None


def shared(task: Task) -> ObjectRef[Shared]:
    """A reference to the data that all trials share, made by one worker of the cluster."""
    return _by_one_worker(_read, task)


def _by_one_worker(compute: Callable[[Task], Result], task: Task) -> ObjectRef[Result]:
    def prepared(task: Task) -> Result:
        with errors_in_one_line(task, task.root), contextlib.chdir(task.root):
            prepare(task)
            return compute(task)

    wanted = task.params.ray
    # Outside of the trial's placement group, which holds its workers alone, or nothing at all.
    anywhere = PlacementGroupSchedulingStrategy(placement_group=None)
    remote = ray.remote(
        num_cpus=wanted.cpus_per_worker, num_gpus=wanted.gpus_per_worker, scheduling_strategy=anywhere
    )
    return remote(prepared).remote(task)


def _read(task: Task) -> Shared:
    data, dense = read_distillation_data(task), None
    network = artifacts.load(task.workspace.dense(task.params.student))
    macs = count(network, data.example_input).macs
    if task.params.sweep.against == "latency":
        dense = int8_graph(network, data.calibration, task.params)
    return Shared(data, macs, dense)


def trial(config: dict[str, Any], task: Task, common: list[ObjectRef[Shared]]) -> None:
    """The trainable of Ray Tune: prune and distill with the values of `config`.

    Its process may have run other trials (`reuse_actors`).

    Raises:
        ParamsError: the values are not valid together, which `draw` does not give.
    """
    (shared,) = common
    task = Task("sweep", with_values(task.params, config[VALUES]), task.root)
    if task.params.distill.training.compile:
        torch.compiler.reset()  # networks of earlier trials count towards its limit of recompilations
    workers = task.params.ray.workers
    if workers > 1:
        context, pruned = tune.get_context(), _by_one_worker(_pruned, task)
        with errors_in_one_line(task, task.root):
            ray.get(pruned)  # then the workers' room is free again
        job = trainer(
            task,
            partial(steps, shared=shared, pruned=pruned),
            context.get_trial_name(),
            context.get_storage().experiment_fs_path,
            workers,
            [_Epochs()],
        )
        result_of(job, task.label)
        return
    with (
        errors_in_one_line(task, task.root),
        contextlib.chdir(task.root),
        tempfile.TemporaryDirectory() as out,
    ):
        prepare(task)
        for step in steps(task, Path(out), resumed(tune), shared):
            report(tune, step)


def steps(
    task: Task, out: Path, state: dict[str, Any] | None, shared: ObjectRef[Shared],
    pruned: ObjectRef[Files] | None = None,
) -> Iterator[Step]:  # fmt: skip
    """Prune and distill in a workspace of the trial; each epoch's row has costs, TOP1 and BALANCED.

    What is measured differs from time to time: a latency, and with it the widths of a network that has to
    meet one. So both are kept in `state`, and several workers are given what one has pruned.

    Args:
        pruned: the files of the pruned network; None: it is pruned here.
    """
    with _trial_workspace(task) as own:
        own.workspace.student.mkdir(parents=True)
        files = state["pruned"] if state else ray.get(pruned) if pruned else _pruned(task)
        _write(files, own.workspace.pruned)
        common = ray.get(shared)
        latency = state["latency"] if state else _latency(own, common)
        costs = prune.size(own) | {DENSE_MACS: common.macs} | _compute(own, common.data) | latency
        costs |= _placement_group(task)
        training = training_of(task.params.distill, common.data.profile)
        folder, before = own.workspace.student, state["distill"] if state else None
        for step in distill.compute_with(own, common.data, folder, before):
            assert step.state is not None
            accuracies = best_epoch_metrics(step.state["history"], training.keep)
            yield Step(
                step.row | costs | {f"kept_{key}": figure for key, figure in accuracies.items()},
                {"latency": latency, "pruned": files, "distill": step.state},
            )


def _pruned(task: Task) -> Files:
    """What `prune` writes with the values of the trial."""
    with _trial_workspace(task) as own:
        folder = own.workspace.pruned
        folder.mkdir(parents=True)
        for _ in prune.compute(own, folder, None):
            pass
        return {
            file.name: torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
            for file in folder.iterdir()
        }


def _write(files: Files, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content.numpy().tobytes())


def _compute(task: Task, data: DistillationData) -> dict[str, float]:
    student = artifacts.load(task.workspace.pruned)
    return {"compute": compute_of(task.params.distill, student, data.example_input) + recovery_compute(task)}


def _latency(task: Task, common: Shared) -> dict[str, float]:
    """The latency as `compared` returns it, if it is an objective; measured once, as weights don't matter.

    Of several workers only the first measures; reports of the others are not used.
    """
    if common.dense is None or (torch.distributed.is_initialized() and torch.distributed.get_rank() > 0):
        return {}
    pruned, summary = artifacts.load(task.workspace.pruned), summary_for(task)
    graph = int8_graph(pruned, common.data.calibration, task.params)
    return compared(graph, common.dense, summary, task.params)


def _placement_group(task: Task) -> dict[str, str]:
    group = get_current_placement_group() if task.params.ray.workers > 1 else None
    return {PLACEMENT_GROUP: group.id.hex()} if group else {}


class _Epochs(TuneReportCallback):
    """Passes a job's epochs on to Tune, but not its last report, which has only the artifacts."""

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        if metrics and metrics[0]:
            super().after_report(run_context, metrics, checkpoint)


@contextlib.contextmanager
def _trial_workspace(task: Task) -> Iterator[Task]:
    """A temporary workspace with links to the images and networks of the sweep's."""
    with tempfile.TemporaryDirectory() as folder:
        of_trial, of_sweep = Workspace(Path(folder)), task.workspace
        for link, target in (
            (of_trial.data, of_sweep.data),
            (of_trial.all_dense, of_sweep.all_dense),
            (of_trial.all_folds, of_sweep.all_folds),
        ):
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(target)
        yield Task("sweep", task.params, of_trial.root)
