"""The function of a Ray Train worker: run a stage's computation, report its steps and save its state.

A computation is a generator, `compute(task, out, state)`: it yields `Step`s, fills the folder `out`
with its artifacts and ends. torch is imported by the functions that need it, since the driver imports this
module too and needs none.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from filelock import FileLock, Timeout

from akgp.orchestration.checkpoints import write_sums
from akgp.orchestration.cluster import download_inputs
from akgp.orchestration.failures import errors_in_one_line
from akgp.orchestration.workspace_lock import LOCK_SECONDS
from akgp.stages.notices import captured_warnings, with_notices
from akgp.workspace import StageError, Step, Task

STATE, ARTIFACT = "state.pt", "artifact"
WRITTEN = {"stage_done": True}

Compute = Callable[[Task, Path, dict[str, Any] | None], Iterator[Step]]


def work(config: dict[str, Any]) -> None:
    """Run one worker's part of a stage; Ray Train calls this."""
    import ray.train

    rank = ray.train.get_context().get_world_rank()
    sent: Task = config["task"]
    with (
        download_inputs(sent, config["source"]) as task,
        errors_in_one_line(sent, task.root),
        contextlib.chdir(task.root),
    ):
        prepare(task)
        run_compute(task, config["compute"], ray.train, place=rank, keep=rank == 0)


def prepare(task: Task) -> None:
    """Set up this process for the computations of `task`."""
    import torch

    if str(task.root) not in sys.path:
        sys.path.append(str(task.root))  # for a network of the user's own; last, so that it hides no package
    torch.set_num_threads(task.params.ray.cpus_per_worker)
    torch.backends.cudnn.deterministic = True  # same seed, same metrics, on a GPU too


def run_compute(task: Task, compute: Compute, api: ModuleType, *, place: int, keep: bool = True) -> None:
    """Report every step of `compute`, and its artifacts last; resume from an earlier run's last step.

    Args:
        api: ray.train or ray.tune, whichever runs this process.
        place: index of this worker among those that compute for the task at the same time, from 0.
        keep: report states and artifacts too, not only the rows.
    """
    with _worker_lock(task, place), tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / ARTIFACT
        out.mkdir()
        state = resumed(api)
        if state == WRITTEN:  # killed after the last report: its checkpoint holds the artifacts
            return
        reported = 0
        with captured_warnings() as warnings:
            for step in compute(task, out, state):
                row, reported = with_notices(step.row, warnings, reported), len(warnings)
                report(api, Step(row, step.state if keep else None))
        report(api, Step(with_notices({}, warnings, reported), WRITTEN if keep else None), out)


def resumed(api: ModuleType) -> dict[str, Any] | None:
    """The state of the last reported step, to resume from; None: start from the beginning."""
    checkpoint = api.get_checkpoint()
    if checkpoint is None:
        return None
    import torch

    from akgp.orchestration.state_packing import unpacked

    try:
        with checkpoint.as_directory() as folder:
            # weights_only: tensors and plain values, since a checkpoint on a shared store must run no code.
            loaded = torch.load(Path(folder) / STATE, map_location="cpu", weights_only=True)
    except FileNotFoundError:  # killed after a newer checkpoint replaced it, before Ray recorded that one
        return None
    state: dict[str, Any] = unpacked(*loaded)
    return state


def report(api: ModuleType, step: Step, out: Path | None = None) -> None:
    """Report a step: its row, and its state as a checkpoint together with the artifacts in `out`."""
    if step.state is None:
        api.report(step.row)
        return
    import torch

    from akgp.orchestration.state_packing import packed

    with tempfile.TemporaryDirectory() as folder:
        torch.save(packed(step.state), Path(folder) / STATE)
        if out is not None:
            shutil.copytree(out, Path(folder) / ARTIFACT)
        write_sums(Path(folder))
        api.report(step.row, checkpoint=api.Checkpoint.from_directory(folder))


@contextlib.contextmanager
def _worker_lock(task: Task, place: int) -> Iterator[None]:
    """Hold the lock of this place, so that an orphaned worker of a killed run has ended first.

    Workers outlive a killed driver by about 4 s and may write two more checkpoints in it (Ray 2.60). Where
    they share no disk with the workspace there is no lock.
    """
    folder = task.root / ".akgp"
    if not folder.is_dir():
        yield
        return
    lock = FileLock(folder / f"worker-{place}.lock", timeout=6 * LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise StageError(f"{folder}: a worker of an earlier run still computes; end it") from None
    try:
        yield
    finally:
        lock.release()
