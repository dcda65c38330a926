"""The rounds of trainings as Ray Train jobs: of each, what it computes and what reporting it costs.

`python -m benchmarks.overhead.jobs FILE EPOCHS STAGE…` in a workspace; writes to FILE the rounds of each.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from akgp import params as parameters
from akgp.io.atomic import write_json
from akgp.orchestration.train import fit
from akgp.stages.table import STAGES
from akgp.workspace import Task
from benchmarks.overhead import timed


def run(root: Path, epochs: int, stages: list[str]) -> dict[str, dict[str, Any]]:
    """The rounds of each stage, by its label; what the stage reads must be there, except for the images."""
    tree = parameters.load(root / "params.yaml").model_dump(mode="json")
    for training in (tree["teacher"], tree["distill"]["training"]):
        training["epochs"] = epochs
    params = parameters.validate(tree)
    if not (root / "data" / "prepared").exists():
        from akgp.stages import data

        data.run(Task("data", params, root))
    taken = {}
    for stage in stages:
        task = Task(stage, params, root, params.student if stage == "teacher" else None)
        job = replace(
            STAGES[stage],
            module=timed.__name__,
            keys=("seed",),
            inputs=lambda task: [],
            output=lambda task: task.root / "timed" / task.stage,
            steps=lambda task: epochs,
            parallel=False,
            check=None,
        )
        fit(task, job)
        taken[task.label] = json.loads((job.output(task) / timed.FILE).read_text(encoding="utf-8"))
    return taken


if __name__ == "__main__":
    write_json(Path(sys.argv[1]), run(Path.cwd(), int(sys.argv[2]), sys.argv[3:]))
