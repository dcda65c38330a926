"""Small files on a disk or in an object store, read whole and replaced at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from akgp.io import storage
from akgp.io.atomic import atomic_file
from akgp.io.errors import first_line


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
        if "file" not in filesystem.protocol:
            storage.retry_outage(path, lambda: filesystem.pipe_file(file, content))
            return
        target = Path(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as beside:
            beside.write_bytes(content)


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
