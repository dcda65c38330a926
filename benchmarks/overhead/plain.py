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
from akgp.workspace import Task, Workspace
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
    for task, destination in _tasks(params, Workspace(root)):
        begun, passed = _now(), Rounds()
        prepare(task)
        with atomic_directory(destination) as out:
            compute = import_module(f"akgp.stages.{task.stage}").compute
            for _ in rounds(compute(task, out, None), passed):
                pass
        taken[task.label] = _since(begun) | asdict(passed)
    return taken


def _tasks(params: parameters.Params, at: Workspace) -> list[tuple[Task, Path]]:
    """Each stage of one that computes, and where its artifacts go."""
    return [
        *((Task("teacher", params, at.root, name), at.dense(name)) for name in params.networks),
        (Task("prune", params, at.root), at.pruned),
        (Task("distill", params, at.root), at.student),
        (Task("quantize", params, at.root), at.int8),
        (Task("evaluate", params, at.root), at.reports),
    ]


def _now() -> tuple[float, float]:
    return time.perf_counter(), sum(os.times()[:4])


def _since(begun: tuple[float, float]) -> dict[str, Any]:
    seconds, cpu = _now()
    return {"seconds": seconds - begun[0], "cpu": cpu - begun[1]}


if __name__ == "__main__":
    write_json(Path(sys.argv[1]), run(Path.cwd()))
