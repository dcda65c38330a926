"""Checkpoints on disk or in object storage, with the digests of their files: damaged ones are not used.

Also whether that storage takes any: Ray would not name the parameter.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from akgp.io.errors import first_line
from akgp.io.storage import opened, require_endpoint, retry_outage
from akgp.workspace import StageError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

log = logging.getLogger(__name__)

SUMS = "SHA256SUMS"  # `sha256sum -c` checks a checkpoint by hand


def write_sums(folder: Path) -> None:
    """Write the digests of all files in `folder`, in the format of sha256sum."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(folder)}" for file in files]
    (folder / SUMS).write_text("\n".join(lines) + "\n", encoding="utf-8")


def require_writable(place: str) -> None:
    """Raise StageError unless a file can be written to `ray.storage`; a directory is made if need be.

    By pyarrow, with which Ray reaches its storage: other clients make a bucket that is not there.

    Args:
        place: an absolute path or a URL.
    """
    from pyarrow import fs

    try:
        require_endpoint(place)
        filesystem, folder = fs.FileSystem.from_uri(place)
        filesystem.create_dir(folder)
        probe = f"{folder}/.akgp-{uuid.uuid4().hex}"
        filesystem.open_output_stream(probe).close()
        filesystem.delete_file(probe)
    except (OSError, ValueError) as error:
        raise StageError(f"ray.storage: {place}: cannot be written ({first_line(error)})") from error


def remove(path: str) -> None:
    """Remove a folder, on disk or in object storage: this one alone, whatever its name.

    By pyarrow: to fsspec a name may be a pattern, or a chain of file systems.
    """
    from pyarrow import fs

    filesystem, folder = fs.FileSystem.from_uri(path)
    filesystem.delete_dir(folder)


def discard(path: str) -> None:
    """Remove checkpoints that have served; a store that does not let them is only warned of."""
    try:
        retry_outage(path, lambda: remove(path))
    except (OSError, ValueError) as error:
        log.warning("%s: has served, but cannot be removed (%s)", path, first_line(error))


def drop_damaged(path: str) -> None:
    """Remove the checkpoints below `path` whose files differ from what was written.

    A training whose last checkpoint is removed starts again from its first epoch.

    Args:
        path: a directory or a URL, which need not exist.
    """
    filesystem, root = opened(path)
    # Not by a pattern, which brackets in the folder's own name would be part of.
    for sums in [file for file in filesystem.find(root) if PurePosixPath(file).name == SUMS]:
        folder = str(PurePosixPath(sums).parent)
        wrong = _wrong(filesystem, folder, filesystem.cat_file(sums).decode())
        if wrong is not None:
            log.warning("%s/%s is damaged: this checkpoint is not used", folder, wrong)
            for file in filesystem.find(folder):
                filesystem.rm_file(file)


def last_checkpoint(path: str) -> str | None:
    """The name of the newest whole checkpoint of a run, after `drop_damaged`; None if there is none."""
    filesystem, root = opened(path)
    files = [PurePosixPath(file) for file in filesystem.find(root)]
    # Ray names them by the time.
    return max((file.parent.name for file in files if file.name == SUMS), default=None)


def _wrong(filesystem: AbstractFileSystem, folder: str, sums: str) -> str | None:
    """The first file that is missing or has another digest."""
    for line in sums.splitlines():
        digest, _, name = line.partition("  ")
        file = f"{folder}/{name}"
        if not filesystem.exists(file) or hashlib.sha256(filesystem.cat_file(file)).hexdigest() != digest:
            return name
    return None
