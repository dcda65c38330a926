"""The folders of the networks that teach, which distill reads. Importing this module needs no torch."""

from __future__ import annotations

from pathlib import Path

from akgp.workspace import StageError, Task, require


def networks_by_teacher(task: Task) -> list[list[Path]]:
    """For each teacher the folders of its networks: those of its folds, or its one dense network.

    Raises:
        StageError: a teacher has another number of folds than params.yaml sets.
    """
    count, workspace = task.params.folds, task.workspace
    if count is None:
        return [[workspace.dense(name)] for name in task.params.teachers]
    for folder in map(workspace.folds, task.params.teachers):
        require(folder)
        if (existing := sum(each.is_dir() for each in folder.iterdir())) != count:
            raise StageError(
                f"{folder}: of {existing} folds, params.yaml asks for {count}; `dvc repro` makes them"
            )
    return [[workspace.folds(name) / str(k) for k in range(count)] for name in task.params.teachers]


def networks(task: Task) -> list[Path]:
    """The folders of all networks that teach.

    Raises:
        StageError: as `networks_by_teacher`.
    """
    return [folder for folders in networks_by_teacher(task) for folder in folders]
