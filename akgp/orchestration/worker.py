"""What runs in a Ray Train worker: a stage's computation, its steps reported, its state kept.

A computation is a generator, `compute(task, out, state)`: it yields `Step`s, fills the folder `out`
with its artifacts and ends. torch is imported by the functions that need it: a driver, which imports
this module too, does without.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from akgp.orchestration.checkpoints import write_sums
from akgp.orchestration.cluster import download_inputs
from akgp.orchestration.failures import told
from akgp.orchestration.workspace_lock import LOCK_SECONDS
from akgp.stages.notices import noticed, with_notices
from akgp.workspace import StageError, Step, Task

if TYPE_CHECKING:
    pass

STATE, ARTIFACT = "state.pt", "artifact"
WRITTEN = {"stage_done": True}


Compute = Callable[[Task, Path, dict[str, Any] | None], Iterator[Step]]


def work(config: dict[str, Any]) -> None:
    """One worker's part of a stage, as Ray Train calls it."""
    import ray.train

    rank = ray.train.get_context().get_world_rank()
    asked: Task = config["task"]
    with (
        download_inputs(asked, config["source"]) as task,
        told(asked, task.root),
        contextlib.chdir(task.root),
    ):
        prepare(task)
        run_compute(task, config["compute"], ray.train, place=rank, keep=rank == 0)


def prepare(task: Task) -> None:
    """Set up this process for the computations of `task`."""
    import torch

    if str(task.root) not in sys.path:
        sys.path.append(str(task.root))  # a network of the user's own
    torch.set_num_threads(task.params.ray.cpus_per_worker)
    torch.backends.cudnn.deterministic = True  # same seed, same metrics, on a GPU too


def run_compute(task: Task, compute: Compute, api: ModuleType, *, place: int, keep: bool = True) -> None:
    """Report every step of `compute`, and its artifacts last; resume from an earlier run's last step.

    Args:
        api: ray.train or ray.tune, whichever runs this process.
        place: of this worker among those that compute for the task at the same time, from 0.
        keep: report states and artifacts too, not the rows alone.
    """
    with _worker_lock(task, place), tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / ARTIFACT
        out.mkdir()
        state = resumed(api)
        if state == WRITTEN:
            return
        told = 0
        with noticed() as said:
            for step in compute(task, out, state):
                row, told = with_notices(step.row, said, told), len(said)
                report(api, Step(row, step.state if keep else None))
        report(api, Step(with_notices({}, said, told), WRITTEN if keep else None), out)


def resumed(api: ModuleType) -> dict[str, Any] | None:
    """The state to resume from, of the last step that was reported; None: from the start."""
    checkpoint = api.get_checkpoint()
    if checkpoint is None:
        return None
    import torch

    from akgp.orchestration.state_packing import unpacked

    try:
        with checkpoint.as_directory() as folder:
            # Nothing but tensors and plain values is loaded.
            loaded = torch.load(Path(folder) / STATE, map_location="cpu", weights_only=True)
    except FileNotFoundError:  # killed when a newer checkpoint had replaced it, which Ray did not note yet
        return None
    state: dict[str, Any] = unpacked(*loaded)
    return state


def report(api: ModuleType, step: Step, out: Path | None = None) -> None:
    """Report a step: its row, its state as a checkpoint, and beside that the artifacts in `out`."""
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
    """Wait for the orphaned worker of a killed run, where it shares this disk."""
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
