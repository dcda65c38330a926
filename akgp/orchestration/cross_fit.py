"""Training of one teacher's folds as Ray Tune trials: one worker each, on all images but those of its fold.

As many run at a time as the cluster has room for.
"""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from akgp.io.atomic import write_json
from akgp.orchestration.capacity import worker_resources
from akgp.orchestration.checkpoints import require_writable
from akgp.orchestration.cluster import download_inputs, make_readable
from akgp.orchestration.failures import errors_in_one_line, raise_cause
from akgp.orchestration.progress import bar
from akgp.orchestration.session import session
from akgp.orchestration.train import copy_artifacts, job_name, retry_lost_workers, storage_of
from akgp.orchestration.tune import run_tuner
from akgp.orchestration.unchanged import require_unchanged
from akgp.orchestration.worker import ARTIFACT, prepare, run_compute
from akgp.stages.folds import check_classes, compute
from akgp.stages.network_files import SOURCES, digests
from akgp.stages.table import Stage
from akgp.workspace import StageError, Task, require

if TYPE_CHECKING:
    from ray.tune import Result


def train_folds(task: Task, stage: Stage, count: int, out: Path) -> str:
    """Train the networks of `count` folds; write each to a folder of `out` named by its number.

    Trainings that were killed are resumed from their last epoch when this is called again with the same
    parameters, inputs and code; finished ones are not repeated.

    Returns:
        The place of their checkpoints, to be removed once `out` is where it belongs.

    Raises:
        StageError: an input is missing; a class has fewer training images than there are folds;
            Ray, its resources or its storage are not available; a worker died; params.yaml was changed
            meanwhile.
        ValueError: raised in the training of a fold, after the others have been trained.
    """
    assert task.network is not None
    inputs = stage.inputs(task)
    require(*inputs)
    check_classes(task, count)
    name, storage = job_name(task, stage, inputs), storage_of(task)
    require_writable(storage)
    with session(task.params.ray, workers=1):
        source = make_readable(task, inputs, f"{storage}/{name}")
        results = retry_lost_workers(
            lambda: _fold_results(task, stage, name, storage, source), task, workers=1
        )
        require_unchanged(task, stage)
        for k in range(count):
            _copy_artifacts(results.get(k), out / str(k), f"{task.label}, fold {k}")
    write_json(out / SOURCES, digests(task.params.networks[task.network], task.root))
    return f"{storage}/{name}"


def trial(config: dict[str, Any], task: Task, source: str | None) -> None:
    """Train one fold; Ray Tune calls this in the trial's worker."""
    from ray import tune

    with (
        download_inputs(task, source) as here,
        errors_in_one_line(task, here.root),
        contextlib.chdir(here.root),
    ):
        prepare(here)
        run_compute(here, partial(compute, fold=config["fold"]), tune, place=config["fold"])


def _fold_results(task: Task, stage: Stage, name: str, storage: str, source: str | None) -> dict[int, Result]:
    """The results by fold, of those that have started; raise the error of the first that failed."""
    from ray import tune

    from akgp.orchestration.callbacks import Epochs

    trainable = tune.with_parameters(trial, task=task, source=source)
    assert task.params.folds is not None
    with bar(task, stage.steps(task)) as progress_file:
        # On the class: an instance would be pickled into Tune's state with a path that is gone on resuming.
        Epochs.file, Epochs.epochs = progress_file, task.params.teacher.epochs
        results = run_tuner(
            tune.with_resources(trainable, worker_resources(task.params.ray)),
            name,
            storage,
            space={"fold": tune.grid_search(list(range(task.params.folds)))},
            config=tune.TuneConfig(),
            callback=Epochs(),
            # A trial that failed by the loss of its node looks as one that raised: each gets another attempt.
            retry_failed=True,
        )
    for error in results.errors:
        raise_cause(task.label, error, [error])
    return {result.config["fold"]: result for result in results if result.config}


def _copy_artifacts(result: Result | None, destination: Path, label: str) -> None:
    """Copy the artifacts of a finished trial to `destination`."""
    if result is not None and result.checkpoint is not None:
        with result.checkpoint.as_directory() as folder:
            # Only the last checkpoint of a training holds artifacts: without them it did not finish.
            if (Path(folder) / ARTIFACT).is_dir():
                copy_artifacts(Path(folder) / ARTIFACT, destination)
                return
    raise StageError(f"{label}: was interrupted; `dvc repro` resumes from its last epoch")
