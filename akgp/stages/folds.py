"""folds: for cross-fitting, a teacher's networks that have each not seen one fold of the training images.

They are trained as the teacher is, in `fold`. Without params.yaml's `folds` nothing is computed, and
nothing that takes long is imported.
"""

from __future__ import annotations

from akgp.stages.workspace import Task, replaced


def run(task: Task) -> None:
    """Write a folder for each fold, or an empty one: earlier folds go."""
    assert task.network is not None
    with replaced(task.workspace.folds(task.network)) as new:
        if task.params.folds is not None:
            from akgp.stages.fold import train_folds

            train_folds(task, task.params.folds, new)
