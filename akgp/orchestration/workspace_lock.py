"""One computation a workspace at a time: a lock that the system releases when its process ends."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from typing import Any

from filelock import FileLock, Timeout

from akgp.io.atomic import write_json
from akgp.io.processes import end_with_parent
from akgp.workspace import StageError, Workspace

LOCK_SECONDS = 10  # an orphan of a killed run ends within about 4
ENDING_SECONDS = 60  # a stage whose DVC was killed stops its Ray first, on a busy machine slowly
STARTED_BY_DVC = "DVC_STAGE"  # a variable that it sets


@contextlib.contextmanager
def workspace_lock(workspace: Workspace, label: str) -> Iterator[None]:
    """Hold the workspace for one computation; the lock ends with the process, however it ends.

    A computation whose DVC was killed is ending too (`end_with_dvc`): it is waited for.

    Raises:
        StageError: another process holds the workspace; the message names it.
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
    """Let the system terminate this process when the DVC that started it is killed (on Linux).

    Nothing would record its results in dvc.lock, and the next `dvc repro` could not compute beside it.

    Raises:
        StageError: that DVC has ended already.
    """
    if STARTED_BY_DVC not in os.environ:
        return
    end_with_parent()
    if os.getsid(os.getppid()) != os.getsid(0):  # its parent is init, since DVC had ended
        raise StageError("the dvc that started this stage was killed; `dvc repro` starts it again")


def _is_ending(holder: dict[str, Any]) -> bool:
    """Whether the holder's DVC has ended, so that the holder was sent a signal to end."""
    try:
        os.kill(holder["dvc"], 0)  # signal 0 only asks whether the process exists
    except ProcessLookupError:
        return True
    except (KeyError, TypeError, OSError):  # not started by DVC, or by that of another user
        pass
    return False
