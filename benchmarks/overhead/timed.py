"""A stage's computation, timed from step to step: what its loop takes, and what lies between two rounds.

Between two rounds its caller reports the step: as a Ray Train job it writes the state, its digests and the
checkpoint; the plain loop does nothing. `akgp.orchestration.train.fit` takes this module for the stage's own
one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from akgp.io.atomic import write_json
from akgp.workspace import Step, Task

FILE = "rounds.json"


@dataclass
class Rounds:
    """loop: seconds of each round, up to its step; between: from the step until the next round begins."""

    loop: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)


def rounds(steps: Iterator[Step], taken: Rounds) -> Iterator[Step]:
    """The same steps; what they took is added to `taken`."""
    start = time.perf_counter()
    for step in steps:
        stop = time.perf_counter()
        yield step
        start, began = time.perf_counter(), start
        taken.loop.append(stop - began)
        taken.between.append(start - stop)


def compute(task: Task, out: Path, state: dict[str, Any] | None) -> Iterator[Step]:
    """The computation of the stage that the task names; writes FILE beside its artifacts."""
    taken = Rounds()
    yield from rounds(import_module(f"akgp.stages.{task.stage}").compute(task, out, state), taken)
    write_json(out / FILE, asdict(taken))
