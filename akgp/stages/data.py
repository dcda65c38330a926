"""data: read the source, split it, write the splits. Input and output only: no Ray job."""

from __future__ import annotations

from akgp import data
from akgp.stages.workspace import Task, replaced


def run(task: Task) -> None:
    with replaced(task.workspace.data) as new:
        data.prepare(task.params.data, task.params.seed, new)
