"""folds: for cross-fitting, a teacher's networks that have each not seen one fold of the training images.

They are trained as the teacher is, in `fold`. Without params.yaml's `folds` nothing is computed, and
nothing that takes long is imported.
"""

from __future__ import annotations

from pathlib import Path

from akgp.stages.workspace import StageError, Task, replaced, require


def run(task: Task) -> None:
    """Write a folder for each fold, or an empty one: earlier folds go."""
    assert task.network is not None
    with replaced(task.workspace.folds(task.network)) as new:
        if task.params.folds is not None:
            from akgp.stages.fold import train_folds

            train_folds(task, task.params.folds, new)


def networks(task: Task) -> list[list[Path]]:
    """Of each teacher the folders of the networks that teach: its folds', or its one dense network's.

    Raises:
        StageError: a teacher's folds are not those that params.yaml asks for.
    """
    count, workspace = task.params.folds, task.workspace
    if count is None:
        return [[workspace.dense(name)] for name in task.params.teachers]
    for folder in map(workspace.folds, task.params.teachers):
        require(folder)
        if (found := sum(each.is_dir() for each in folder.iterdir())) != count:
            raise StageError(
                f"{folder}: of {found} folds, params.yaml asks for {count}; `dvc repro` makes them"
            )
    return [[workspace.folds(name) / str(k) for k in range(count)] for name in task.params.teachers]
