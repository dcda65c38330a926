"""folds: a teacher's networks for cross-fitting, each trained without one fold of the training images.

They are trained like the teacher. Importing this module needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from akgp.workspace import StageError, Step, Task


def compute(task: Task, out: Path, state: dict[str, Any] | None, fold: int) -> Iterator[Step]:
    """Train the network on all training images but those of `fold`; write it with history and metrics."""
    from akgp.distillation import folds
    from akgp.stages.normalization import read_source
    from akgp.stages.teacher import train_dense

    assert task.params.folds is not None
    source = read_source(task, "train", task.network)
    seen = folds(source.labels, task.params.folds, task.params.seed) != fold
    yield from train_dense(task, source.take(seen.nonzero()[:, 0]), out, state)


def check_classes(task: Task, count: int) -> None:
    """Raise StageError unless every class that has training images has one for each fold."""
    from akgp.data import read_summary

    summary = read_summary(task.workspace.data)
    for name, images in zip(summary.classes, summary.counts["train"], strict=True):
        if 0 < images < count:
            raise StageError(
                f"folds: got {count}, must be at most {images}, the training images of class {name!r}"
            )
