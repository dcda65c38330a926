"""The pipeline without Ray and DVC: every stage's computation, one after the other in this process.

`python -m benchmarks.overhead.plain FILE` in a workspace; writes to FILE what each stage took.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from akgp import params as parameters
from akgp.io.atomic import atomic_directory, write_json
from akgp.stages.table import STAGES, Stage
from akgp.workspace import Task
from benchmarks.overhead.timed import Rounds, rounds


def run(root: Path) -> dict[str, dict[str, Any]]:
    """seconds, cpu (seconds of the processor) and rounds of each stage, and of importing torch as `start`."""
    params = parameters.load(root / "params.yaml")
    begun, taken = _now(), {}
    import torch  # noqa: F401

    from akgp.orchestration.worker import prepare
    from akgp.stages import data

    taken["start"] = _since(begun)
    begun = _now()
    data.run(Task("data", params, root))
    taken["data"] = _since(begun)
    for task, stage in _tasks(params, root):
        begun, passed = _now(), Rounds()
        prepare(task)
        with atomic_directory(stage.output(task)) as out:
            compute = import_module(stage.module).compute
            for _ in rounds(compute(task, out, None), passed):
                pass
        taken[task.label] = _since(begun) | asdict(passed)
    return taken


def _tasks(params: parameters.Params, root: Path) -> list[tuple[Task, Stage]]:
    """Each stage that is a job, for each of its networks."""
    return [
        (Task(stage.name, params, root, network), stage)
        for stage in STAGES.values()
        if stage.runs == "job"
        for network in stage.names_of_networks(params) or (None,)
    ]


def _now() -> tuple[float, float]:
    return time.perf_counter(), sum(os.times()[:4])


def _since(begun: tuple[float, float]) -> dict[str, Any]:
    seconds, cpu = _now()
    return {"seconds": seconds - begun[0], "cpu": cpu - begun[1]}


if __name__ == "__main__":
    write_json(Path(sys.argv[1]), run(Path.cwd()))
