"""The folds of one teacher as Ray Tune trials: each a training of one worker, on all images but its fold.

As many run at a time as the cluster holds.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from akgp.data import read_split, read_summary
from akgp.distillation import folds
from akgp.stages.bar import bar
from akgp.stages.cluster import brought, make_readable, nodes, require_room
from akgp.stages.failures import raise_cause, told
from akgp.stages.network_files import SOURCES, digests, sources
from akgp.stages.ray import job_name, lasting, remove, storage_of
from akgp.stages.session import session
from akgp.stages.teacher import train_dense
from akgp.stages.trials import one_worker, tuned
from akgp.stages.worker import ARTIFACT, Step, carry_out, prepare
from akgp.stages.workspace import StageError, Task, require, write_json

if TYPE_CHECKING:
    from ray.tune import Result

PARAMS = ("seed", "networks.{network}", "teacher", "folds")


def train_folds(task: Task, count: int, out: Path) -> None:
    """Train the networks of `count` folds; write each to a folder of `out` named by its number.

    Trainings that were killed go on from their last epoch when the same is asked for again, and those
    that had ended are not repeated.

    Raises:
        StageError: an input is missing; a class has fewer training images than there are folds;
            Ray, its resources or its storage can't be had; a worker died.
        ValueError: raised in the training of a fold; the others have been trained then, too.
    """
    assert task.network is not None
    network = task.params.networks[task.network]
    inputs = [task.workspace.data, *sources(network, task.root)]
    require(*inputs)
    _check_classes(task, count)
    name = job_name(task, inputs, tuple(key.format(network=task.network) for key in PARAMS))
    storage = storage_of(task)
    with session(task.params.ray, workers=1):
        require_room(nodes(), task.params.ray, workers=1)
        source = make_readable(task, inputs, f"{storage}/{name}")
        results = lasting(lambda: _trained(task, count, name, storage, source), task, workers=1)
        for k in range(count):
            _take(results.get(k), out / str(k), f"{task.label}, fold {k}")
    write_json(out / SOURCES, digests(network, task.root))
    remove(f"{storage}/{name}")  # its checkpoints have served


def compute(task: Task, out: Path, state: dict[str, Any] | None, fold: int) -> Iterator[Step]:
    """Train the network on all training images but those of `fold`; write it with history and metrics."""
    assert task.params.folds is not None
    images = read_split(task.workspace.data, "train")
    seen = folds(images.labels, task.params.folds, task.params.seed) != fold
    yield from train_dense(task, images.take(seen.nonzero()[:, 0]), out, state)


def trial(config: dict[str, Any], task: Task, source: str | None) -> None:
    """One fold, as Ray Tune calls it."""
    from ray import tune

    with brought(task, source) as here, told(task, here.root), contextlib.chdir(here.root):
        prepare(here)
        carry_out(here, partial(compute, fold=config["fold"]), tune, place=config["fold"])


def _trained(task: Task, count: int, name: str, storage: str, source: str | None) -> dict[int, Result]:
    """The results of the folds that have begun; or raise what went wrong in one."""
    from ray import tune

    from akgp.stages.progress import Epochs

    trainable = tune.with_parameters(trial, task=task, source=source)
    epochs = task.params.teacher.epochs
    with bar(task, count * epochs) as progress_file:
        Epochs.file, Epochs.epochs = progress_file, epochs
        results = tuned(
            tune.with_resources(trainable, one_worker(task.params.ray)),
            name,
            storage,
            space={"fold": tune.grid_search(list(range(count)))},
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


def _check_classes(task: Task, count: int) -> None:
    """Raise StageError unless every class that has training images has one for each fold."""
    summary = read_summary(task.workspace.data)
    for name, images in zip(summary.classes, summary.counts["train"], strict=True):
        if 0 < images < count:
            raise StageError(
                f"folds: got {count}, must be at most {images}, the training images of class {name!r}"
            )
