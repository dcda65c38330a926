"""The folds of one teacher as Ray Tune trials: each a training of one worker, on all images but its fold.

As many run at a time as the cluster holds.
"""

from __future__ import annotations

import contextlib
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from akgp.io.atomic import write_json
from akgp.orchestration.cluster import download_inputs, make_readable
from akgp.orchestration.failures import raise_cause, told
from akgp.orchestration.progress import bar
from akgp.orchestration.session import session
from akgp.orchestration.train import job_name, remove, retry_lost_workers, storage_of
from akgp.orchestration.tune import one_worker, run_tuner
from akgp.orchestration.worker import ARTIFACT, prepare, run_compute
from akgp.stages.folds import check_classes, compute
from akgp.stages.network_files import SOURCES, digests
from akgp.stages.table import Stage
from akgp.workspace import StageError, Task, require

if TYPE_CHECKING:
    from ray.tune import Result


def train_folds(task: Task, stage: Stage, count: int, out: Path) -> None:
    """Train the networks of `count` folds; write each to a folder of `out` named by its number.

    Trainings that were killed are resumed from their last epoch when the same is asked for again, and those
    that had ended are not repeated.

    Raises:
        StageError: an input is missing; a class has fewer training images than there are folds;
            Ray, its resources or its storage can't be had; a worker died.
        ValueError: raised in the training of a fold; the others have been trained then, too.
    """
    assert task.network is not None
    inputs = stage.inputs(task)
    require(*inputs)
    check_classes(task, count)
    name, storage = job_name(task, stage, inputs), storage_of(task)
    with session(task.params.ray, workers=1):
        source = make_readable(task, inputs, f"{storage}/{name}")
        results = retry_lost_workers(lambda: _trained(task, stage, name, storage, source), task, workers=1)
        for k in range(count):
            _take(results.get(k), out / str(k), f"{task.label}, fold {k}")
    write_json(out / SOURCES, digests(task.params.networks[task.network], task.root))
    remove(f"{storage}/{name}")  # its checkpoints have served


def trial(config: dict[str, Any], task: Task, source: str | None) -> None:
    """One fold, as Ray Tune calls it."""
    from ray import tune

    with download_inputs(task, source) as here, told(task, here.root), contextlib.chdir(here.root):
        prepare(here)
        run_compute(here, partial(compute, fold=config["fold"]), tune, place=config["fold"])


def _trained(task: Task, stage: Stage, name: str, storage: str, source: str | None) -> dict[int, Result]:
    """The results of the folds that have begun; or raise what went wrong in one."""
    from ray import tune

    from akgp.orchestration.callbacks import Epochs

    trainable = tune.with_parameters(trial, task=task, source=source)
    assert task.params.folds is not None
    with bar(task, stage.steps(task)) as progress_file:
        Epochs.file, Epochs.epochs = progress_file, task.params.teacher.epochs
        results = run_tuner(
            tune.with_resources(trainable, one_worker(task.params.ray)),
            name,
            storage,
            space={"fold": tune.grid_search(list(range(task.params.folds)))},
            config=tune.TuneConfig(),
            callback=Epochs(),
            retry_failed=True,
        )
    for error in results.errors:
        raise_cause(task.label, error, [error])
    return {result.config["fold"]: result for result in results if result.config}


def _take(result: Result | None, destination: Path, label: str) -> None:
    """Copy the artifacts of a trial that has ended to `destination`."""
    if result is not None and result.checkpoint is not None:
        with result.checkpoint.as_directory() as folder:
            if (Path(folder) / ARTIFACT).is_dir():
                shutil.copytree(Path(folder) / ARTIFACT, destination)
                return
    raise StageError(f"{label}: was interrupted; `dvc repro` resumes from its last epoch")
