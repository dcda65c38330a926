"""What Linux, by prctl(2), does with a process whose parent ends; on other systems nothing happens."""

from __future__ import annotations

import ctypes
import signal

PARENT_DEATH_SIGNAL, CHILD_SUBREAPER = 1, 36


def end_with_parent() -> bool:
    """Let the system terminate this process when the one that started it is killed; False: it cannot."""
    return _prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM)


def adopt_orphans(wanted: bool) -> None:
    """Whether processes below this one become its own children when their parent ends."""
    _prctl(CHILD_SUBREAPER, int(wanted))


def _prctl(option: int, argument: int) -> bool:
    control = getattr(ctypes.CDLL(None), "prctl", None)
    return control is not None and control(option, argument) == 0
