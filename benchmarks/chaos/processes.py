"""Processes of a workspace, found by a variable in their environment, not by name: others' are left alone."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

MARKER = "AKGP_CHAOS"


@dataclass(frozen=True)
class Process:
    """A process as it was when it was looked at."""

    pid: int
    parent: int
    command: tuple[str, ...]

    @property
    def line(self) -> str:
        return " ".join(self.command)

    def kill(self) -> None:
        """By SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def marked(marker: str) -> list[Process]:
    """All living processes that were started with `marker` in their environment."""
    wanted, found = f"{MARKER}={marker}\0".encode(), []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError):
            if folder.name.isdigit() and wanted in (folder / "environ").read_bytes():
                state, parent = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[:2]
                command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if state != "Z":
                    found.append(Process(int(folder.name), int(parent), tuple(command)))
    return found


def below(pid: int, among: list[Process]) -> list[Process]:
    """Those of the processes that descend from `pid`."""
    parents, found = {pid}, []
    while fresh := [each for each in among if each.parent in parents and each not in found]:
        found += fresh
        parents = {each.pid for each in fresh}
    return found


def driver_of(process: Process) -> str | None:
    """Name of the stage whose driver the process is."""
    for word, following in zip(process.command, process.command[1:], strict=False):
        if word.endswith("/akgp") and following == "stage":
            return process.command[process.command.index("stage") + 1]
    return None


def left(marker: str, seconds: float) -> list[Process]:
    """The marked processes that are there still after `seconds`."""
    deadline = time.monotonic() + seconds
    while (found := marked(marker)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found
