"""The table of stages, which commands, jobs and flows read; dvc.yaml is tested against it.

A stage neither knows nor starts another one: DVC decides which of them have to run. Importing this module
needs neither torch nor Ray, nor the schema of params.yaml.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from akgp.params import Params
    from akgp.workspace import Task

Runs = Literal["here", "job", "folds"]
"""`run(task)` of its module in this process; or `compute` as a Ray Train job; or that once for each fold."""


def _one(task: Task) -> int:
    return 1


@dataclass(frozen=True)
class Stage:
    """A stage; its functions are given the task.

    summary: what it does, as dvc.yaml says it.
    module: holds what it runs.
    keys: the parameters that it depends on, dotted; `{network}` is the task's.
    inputs: files and folders of the workspace that it reads.
    output: the folder that it replaces; with `files` it writes these into it and leaves others there.
    steps: how many `Step`s to expect, for the progress bar.
    parallel: by all of `ray.workers`; otherwise by one.
    networks: the parameter whose networks it runs for, one at a time; None: for all of them at once.
    check: a module whose `check(task)` is called on a worker before a new job computes. It refuses what later
        stages could not work with, gives what to tell the user, and changes nothing that is computed.
    gate: a module whose `require(task)` is called once the output is in place, and fails the stage where that
        is not as it should be.
    """

    name: str
    summary: str
    module: str
    keys: tuple[str, ...]
    inputs: Callable[[Task], list[Path]]
    output: Callable[[Task], Path]
    files: tuple[str, ...] = ()
    runs: Runs = "job"
    steps: Callable[[Task], int] = _one
    parallel: bool = False
    networks: Literal["networks", "teachers"] | None = None
    check: str | None = None
    gate: str | None = None

    def names_of_networks(self, params: Params) -> tuple[str, ...]:
        """The networks that it runs for, one at a time; none if it is not for single ones."""
        return tuple(getattr(params, self.networks)) if self.networks else ()

    def keys_of(self, task: Task) -> tuple[str, ...]:
        """`keys` of the task's network; and how many workers share a batch, where several do."""
        workers = ("ray.workers",) if self.parallel else ()  # a run of two workers is not resumed by one
        return tuple(key.format(network=task.network) for key in (*self.keys, *workers))


def _data_inputs(task: Task) -> list[Path]:
    from akgp.stages.network_files import ENVIRONMENT

    return [task.workspace.network_files / ENVIRONMENT]


def _dense_inputs(task: Task) -> list[Path]:
    """The images, and the user's own files that the network is made of."""
    from akgp.stages.network_files import sources

    return [task.workspace.data, *sources(task.params.networks[_network(task)], task.root)]


def _dense_steps(task: Task) -> int:
    return 1 if task.params.networks[_network(task)].trained else task.params.teacher.epochs


def _network(task: Task) -> str:
    assert task.network is not None
    return task.network


def _prune_steps(task: Task) -> int:
    """The cut, and the epochs between several."""
    schedule = task.params.prune.schedule
    return 1 + (schedule.epochs if schedule else 0)


def _distill_inputs(task: Task) -> list[Path]:
    from akgp.stages import teaching

    workspace = task.workspace
    dense = {workspace.dense(task.params.student), *teaching.networks(task)}
    return [workspace.data, workspace.pruned, *sorted(dense)]


def _distill_steps(task: Task) -> int:
    """The training's epochs, and those of the branches by which w0 is measured."""
    return task.params.distill.epochs


def _quantize_inputs(task: Task) -> list[Path]:
    """With `quantize.qat` also those of distill but the pruned network: it is trained in the same way."""
    workspace = task.workspace
    if task.params.quantize.qat is None:
        return [workspace.data, workspace.student]
    return [*(path for path in _distill_inputs(task) if path != workspace.pruned), workspace.student]


def _quantize_steps(task: Task) -> int:
    """Two to quantize a network, and two at the end; with `quantize.qat` it is four, two of them trained."""
    qat = task.params.quantize.qat
    return 4 if qat is None else 4 * 2 + 2 * qat.epochs + 2


def _evaluate_inputs(task: Task) -> list[Path]:
    workspace, params = task.workspace, task.params
    dense = {workspace.dense(name) for name in (*params.teachers, params.student)}
    return [workspace.data, workspace.pruned, workspace.student, workspace.int8, *sorted(dense)]


STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            "data",
            "read the images, split them",
            module="akgp.stages.data",
            keys=("seed", "data"),
            inputs=_data_inputs,
            output=lambda task: task.workspace.data,
            runs="here",
        ),
        Stage(
            "network_files",
            "note what DVC cannot see: the user's own modules and checkpoints of networks, and AKGP_CIFAR10",
            module="akgp.stages.network_files",
            keys=(),
            inputs=lambda task: [],
            output=lambda task: task.workspace.network_files,
            runs="here",
        ),
        Stage(
            "teacher",
            "train the dense networks, or take trained ones",
            module="akgp.stages.teacher",
            keys=("seed", "networks.{network}", "teacher"),
            inputs=_dense_inputs,
            output=lambda task: task.workspace.dense(_network(task)),
            steps=_dense_steps,
            parallel=True,
            networks="networks",
            check="akgp.stages.dry_run",
        ),
        Stage(
            "folds",
            "for cross-fitting (params.yaml, folds), of each teacher networks that have not seen a part of "
            "the images",
            module="akgp.stages.folds",
            keys=("seed", "networks.{network}", "teacher", "folds"),
            inputs=_dense_inputs,
            output=lambda task: task.workspace.folds(_network(task)),
            runs="folds",
            steps=lambda task: (task.params.folds or 0) * task.params.teacher.epochs,
            networks="teachers",
        ),
        Stage(
            "prune",
            "remove filters of the student's dense network",
            module="akgp.stages.prune",
            keys=("seed", "student", "prune", "deploy", "evaluate.threads", "quantize.precision"),
            inputs=lambda task: [task.workspace.data, task.workspace.dense(task.params.student)],
            output=lambda task: task.workspace.pruned,
            steps=_prune_steps,
        ),
        Stage(
            "distill",
            "recover the pruned student from its teachers and the labels",
            module="akgp.stages.distill",
            keys=("seed", "teachers", "folds", "student", "distill"),
            inputs=_distill_inputs,
            output=lambda task: task.workspace.student,
            steps=_distill_steps,
            parallel=True,
        ),
        Stage(
            "quantize",
            "the student as a static int8 ONNX graph",
            module="akgp.stages.quantize",
            keys=(
                "seed",
                "teachers",
                "folds",
                "student",
                "distill",
                "quantize",
                "deploy",
                "evaluate.threads",
            ),
            inputs=_quantize_inputs,
            output=lambda task: task.workspace.int8,
            steps=_quantize_steps,
        ),
        Stage(
            "evaluate",
            "measure every network on the test split, write the report",
            module="akgp.stages.evaluate",
            keys=("seed", "teachers", "student", "evaluate", "deploy"),
            inputs=_evaluate_inputs,
            output=lambda task: task.workspace.reports,
            files=("metrics.json", "details.json", "index.html"),
            steps=lambda task: 6,
            gate="akgp.stages.speed_gate",
        ),
    )
}
"""In the order in which they need each other."""
