"""Small files on a disk or in an object store, read whole and replaced at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from akgp.io import storage
from akgp.io.atomic import atomic_file
from akgp.io.errors import first_line

LOCK_SECONDS = 60.0  # it is held for one read and one write
# S3's answers to a conditional PUT that came too late, and to two at the same moment.
CONFLICTS = ("PreconditionFailed", "ConditionalRequestConflict")


class ReleaseError(ValueError):
    """A release cannot be made, read or put into production; the message names it and the remedy."""


def read(path: str) -> bytes:
    """The content of the file.

    Raises:
        FileNotFoundError: there is none.
        ReleaseError: it can't be read.
    """
    with _named(path):
        filesystem, file = storage.opened(path)
        return bytes(storage.retry_outage(path, lambda: filesystem.cat_file(file)))


def write(path: str, content: bytes) -> None:
    """Replace the file: whoever reads it finds all of the old content or all of the new one.

    On a disk it is written beside and renamed when it is safe there; on S3 it is a single PUT.

    Raises:
        ReleaseError: it can't be written.
    """
    with _named(path):
        filesystem, file = storage.opened(path)
        if "file" in filesystem.protocol:
            _write_on_disk(Path(file), content)
        else:
            storage.retry_outage(path, lambda: filesystem.pipe_file(file, content))


def replace(path: str, old: bytes | None, new: bytes) -> bool:
    """Replace the file as `write` does if its content is still `old`; returns whether it was.

    Of two processes that replace the same content one succeeds: on a disk both take a lock, on S3 the
    PUT is conditional (If-Match, If-None-Match). A store that ignores these conditions leaves a gap
    between the comparison here and the PUT.

    Args:
        old: None: there is no file.

    Raises:
        ReleaseError: it can't be read or written.
    """
    with _named(path):
        filesystem, file = storage.opened(path)
        if "file" not in filesystem.protocol:
            return storage.retry_outage(path, lambda: _replace_on_s3(filesystem, file, old, new))
        target = Path(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock"), timeout=LOCK_SECONDS):
            if (target.read_bytes() if target.exists() else None) != old:
                return False
            _write_on_disk(target, new)
            return True


def _write_on_disk(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(target) as beside:
        beside.write_bytes(content)


def _replace_on_s3(filesystem: Any, file: str, old: bytes | None, new: bytes) -> bool:
    try:
        # The tag first: if the file changes before it is read, the content differs or the PUT is refused.
        tag = filesystem.info(file)["ETag"]
        present = filesystem.cat_file(file)
    except FileNotFoundError:
        tag = present = None
    if present != old:
        return bool(present == new)  # by an attempt of ours whose answer was lost
    try:
        filesystem.pipe_file(file, new, **({"IfMatch": tag} if tag else {"IfNoneMatch": "*"}))
    except OSError as error:
        answer = getattr(error.__cause__, "response", {})  # of botocore's ClientError, which s3fs translates
        if answer.get("Error", {}).get("Code") not in CONFLICTS:
            raise
        return bool(filesystem.cat_file(file) == new)  # botocore too may have repeated a PUT that had arrived
    return True


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Raise what a file system refuses as one line that names `path`."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:  # fsspec's remote file systems raise whatever their client raises
        if storage.refused(error):
            raise ReleaseError(f"{path}: {first_line(error)}") from None
        raise
