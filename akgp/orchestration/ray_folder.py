"""The folder for a local Ray's sockets and logs: writable, and with a path short enough for sockets."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from akgp.workspace import StageError

log = logging.getLogger(__name__)

LONGEST = (107 if sys.platform.startswith("linux") else 103) - len(
    "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1234"
)
"""Bytes of a folder's path. The system limits a socket's whole path: sun_path has 108 bytes on Linux, 104 on
macOS, with the final zero."""
NEEDED = 64 * 2**20
"""Bytes that must be free."""


def ray_folder(asked: str | None = None, others: Iterable[str] = ("/tmp", "/var/tmp", "/dev/shm")) -> str:
    """RAY_TMPDIR or TMPDIR, in Ray's own order, if it is usable; else the first of `others` that is.

    Raises:
        StageError: none of them is usable.
    """
    asked = asked or os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or None
    refusals: list[str] = []
    for folder in dict.fromkeys([*([asked] if asked else []), *others]):
        refusal = _refusal(folder)
        if refusal is None:
            if refusals and folder != asked and asked:
                log.warning("%s: Ray uses %s/ray", refusals[0], folder)
            return f"{folder.rstrip('/')}/ray"
        refusals.append(refusal)
    raise StageError(f"TMPDIR: no folder for Ray's sockets: {'; '.join(refusals)}")


def _refusal(folder: str) -> str | None:
    """Why Ray could not use the folder; None: it can."""
    if (length := len(os.fsencode(folder.rstrip("/")))) > LONGEST:
        return f"{folder}: a path of {length} bytes, {LONGEST} are the most for Ray's sockets"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x" * 4096)  # a full disk still lets an empty file be created
        free = os.statvfs(folder)
    except OSError as error:
        return f"{folder}: {error.strerror or error}"
    if (room := free.f_bavail * free.f_frsize) < NEEDED:
        return f"{folder}: {room / 2**20:.0f} MiB free, {NEEDED / 2**20:.0f} are needed"
    return None if Path(folder).is_absolute() else f"{folder}: not an absolute path"
