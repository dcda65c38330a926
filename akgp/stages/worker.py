"""What runs in a Ray Train worker: a stage's computation, its steps reported, its state kept.

A computation is a generator, `compute(task, out, state)`: it yields `Step`s, fills the folder `out`
with its artifacts and ends.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from akgp.stages.workspace import LOCK_SECONDS, StageError, Task

STATE, ARTIFACT = "state.pt", "artifact"
WRITTEN = {"stage_done": True}


@dataclass(frozen=True)
class Step:
    """What a computation yields when a part of it is done: metrics, and a state to go on from."""

    row: dict[str, Any]
    state: dict[str, Any] | None = None


Compute = Callable[[Task, Path, dict[str, Any] | None], Iterator[Step]]


def device(task: Task) -> torch.device:
    """Where a worker computes: its own GPU, or the processor."""
    return torch.device("cuda" if task.params.ray.gpus_per_worker else "cpu")


def work(config: dict[str, Any]) -> None:
    """One worker's part of a stage, as Ray Train calls it."""
    import ray.train

    task, compute = config["task"], config["compute"]
    context = ray.train.get_context()
    rank = context.get_world_rank()
    if str(task.root) not in sys.path:
        sys.path.append(str(task.root))  # a network of the user's own
    torch.set_num_threads(task.params.ray.cpus_per_worker)
    torch.backends.cudnn.deterministic = True  # same seed, same metrics, on a GPU too
    with _worker_lock(task, rank), tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / ARTIFACT
        out.mkdir()
        state = _resumed()
        if state == WRITTEN:
            return
        for step in compute(task, out, state):
            _report(step, rank)
        _report(Step({}, WRITTEN), rank, out)


def _resumed() -> dict[str, Any] | None:
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return read_state(Path(folder))


def read_state(folder: Path) -> dict[str, Any]:
    """The state that `write_state` wrote; nothing but tensors and plain values is loaded."""
    return torch.load(folder / STATE, map_location="cpu", weights_only=True)


def write_state(state: dict[str, Any], folder: Path) -> None:
    torch.save(state, folder / STATE)


def _report(step: Step, rank: int, out: Path | None = None) -> None:
    import ray.train
    from ray.train import Checkpoint

    if step.state is None or rank != 0:
        ray.train.report(step.row)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_state(step.state, Path(folder))
        if out is not None:
            shutil.copytree(out, Path(folder) / ARTIFACT)
        ray.train.report(step.row, checkpoint=Checkpoint.from_directory(folder))


@contextlib.contextmanager
def _worker_lock(task: Task, rank: int) -> Iterator[None]:
    """Wait for the orphaned worker of a killed run, where it shares this disk."""
    folder = task.root / ".akgp"
    if not folder.is_dir():
        yield
        return
    lock = FileLock(folder / f"worker-{rank}.lock", timeout=6 * LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise StageError(f"{folder}: a worker of an earlier run still computes; end it") from None
    try:
        yield
    finally:
        lock.release()
