"""The workspace on disk: where artifacts lie, who may compute in it, how a result gets into place."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from akgp.params import Params

LOCK_SECONDS = 10  # an orphan of a killed run ends within about 4
ENDING_SECONDS = 60  # a stage whose DVC was killed stops its Ray first, on a busy machine slowly
STARTED_BY_DVC = "DVC_STAGE"  # a variable that it sets


class StageError(ValueError):
    """A stage cannot start or go on; the message says what to change."""


@dataclass(frozen=True)
class Workspace:
    """The folder that holds params.yaml and dvc.yaml; every path of the pipeline is named here."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data" / "prepared"

    @property
    def pruned(self) -> Path:
        return self.root / "models" / "pruned"

    @property
    def student(self) -> Path:
        return self.root / "models" / "student"

    @property
    def int8(self) -> Path:
        return self.root / "models" / "int8"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def network_files(self) -> Path:
        """Of each network a file, NAME.json: the digests of the user's own files that it is made of."""
        return self.root / "models" / "files"

    def dense(self, network: str) -> Path:
        return self.root / "models" / "dense" / network

    def folds(self, network: str) -> Path:
        """Of each fold a folder, named by its number: the network that was trained without it."""
        return self.root / "models" / "folds" / network


@dataclass(frozen=True)
class Task:
    """What one stage has to do: travels to the workers as it is."""

    stage: str
    params: Params
    root: Path
    network: str | None = None

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.root)

    @property
    def label(self) -> str:
        """Name of the stage as DVC spells it."""
        return f"{self.stage}@{self.network}" if self.network else self.stage


@contextlib.contextmanager
def held(workspace: Workspace, label: str) -> Iterator[None]:
    """Hold the workspace for one computation; the lock ends with the process, however it ends.

    A computation whose DVC was killed is ending: that is waited for. The present one ends likewise.

    Raises:
        StageError: another process holds the workspace; names it.
    """
    end_with_dvc()
    folder = workspace.root / ".akgp"
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / "holder.json"
    lock = FileLock(folder / "lock", timeout=0)
    deadline = time.monotonic() + ENDING_SECONDS
    while not lock.is_locked:
        try:
            lock.acquire()
        except Timeout:
            who = json.loads(holder.read_text(encoding="utf-8")) if holder.exists() else {}
            if not _is_ending(who) or time.monotonic() > deadline:
                raise StageError(
                    f"{workspace.root} is held by process {who.get('pid', '?')}, which computes "
                    f"{who.get('stage', '?')} since {who.get('since', '?')}: wait for it or end it"
                ) from None
            time.sleep(0.2)
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        parent = os.getppid() if STARTED_BY_DVC in os.environ else None
        write_json(holder, {"pid": os.getpid(), "dvc": parent, "stage": label, "since": since})
        yield
    finally:
        lock.release()


def end_with_dvc() -> None:
    """Let the system terminate this process when the DVC that has started it is killed (on Linux).

    Nobody would record what it computes, and the next `dvc repro` could not go on beside it.

    Raises:
        StageError: that DVC is gone already.
    """
    if STARTED_BY_DVC not in os.environ:
        return
    control, parent_death_signal = getattr(ctypes.CDLL(None), "prctl", None), 1  # prctl(2)
    if control is not None:
        control(parent_death_signal, signal.SIGTERM)
    if os.getsid(os.getppid()) != os.getsid(0):  # adopted by init
        raise StageError("the dvc that started this stage was killed; `dvc repro` starts it again")


def _is_ending(holder: dict[str, Any]) -> bool:
    """Whether the holder's DVC is gone, so that it has been told to end."""
    try:
        os.kill(holder["dvc"], 0)
    except ProcessLookupError:
        return True
    except (KeyError, TypeError, OSError):  # not started by DVC; or by somebody else's
        pass
    return False


@contextlib.contextmanager
def replaced(destination: Path) -> Iterator[Path]:
    """A new, empty folder that takes `destination`'s place once the block has ended well.

    Until then the old one stays as it is; a block that raises leaves nothing behind. Whenever the
    process is killed, the old folder or the new one is in place, whole: both change places in one
    step where the system can do that (Linux), and elsewhere the next call puts the old one back.
    """
    new, old = (destination.with_name(f".{destination.name}.{which}") for which in ("new", "old"))
    if old.exists() and not destination.exists():
        old.rename(destination)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
        if not destination.exists():
            new.rename(destination)
        elif not _exchanged(new, destination):
            destination.rename(old)
            new.rename(destination)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Let two folders of one file system change places in one step; False: this system cannot."""
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of renameat2(2)
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return rename is not None and rename(here, bytes(one), here, bytes(other), exchange) == 0


def write_json(file: Path, content: Any) -> None:
    """Write beside `file`, then move into place; keys keep their order."""
    beside = file.with_name(f".{file.name}.new")
    beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    beside.replace(file)


def require(*paths: Path) -> None:
    """Raise StageError unless every path exists."""
    for path in paths:
        if not path.exists():
            raise StageError(f"{path}: missing; `dvc repro` makes it")


def digest(task: Task, inputs: list[Path], keys: tuple[str, ...]) -> str:
    """Names a computation: 16 hex digits over its params, its input files and akgp's own code."""
    sha = hashlib.sha256(
        json.dumps([task.label, {key: parameter(task.params, key) for key in keys}]).encode()
    )
    code = Path(__file__).resolve().parents[1]
    for folder in (*inputs, code):
        for file in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
            if file.is_file() and (folder is not code or file.suffix == ".py"):
                sha.update(f"{file.relative_to(folder)}\0".encode())
                sha.update(hashlib.sha256(file.read_bytes()).digest())
    return sha.hexdigest()[:16]


def parameter(params: Params, key: str) -> Any:
    """The value at a dotted key, as plain mappings, lists and scalars."""
    node: Any = params.model_dump(mode="json")
    for part in key.split("."):
        node = node[part]
    return node
