"""Small files on a disk or in an object store, read whole and replaced at once.

Credentials and endpoint of S3 come from the standard AWS variables and files, never from parameters.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REMOTE_CLIENTS = ("aiobotocore", "aiohttp", "botocore")
S3 = {
    # Waits between attempts grow to 20 s: an outage of about a minute is waited for.
    "config_kwargs": {"retries": {"max_attempts": 10, "mode": "standard"}, "connect_timeout": 10},
    "use_listings_cache": False,
}


class ReleaseError(ValueError):
    """A release can't be made, read or put into production; the message names it and what to do."""


def read(path: str) -> bytes:
    """The content of the file.

    Raises:
        FileNotFoundError: there is none.
        ReleaseError: it can't be read.
    """
    with _named(path):
        filesystem, file = _filesystem(path)
        return bytes(filesystem.cat_file(file))


def write(path: str, content: bytes) -> None:
    """Replace the file: whoever reads it finds all of the old content or all of the new one.

    On a disk it is written beside and renamed when it is safe there; on S3 it is a single PUT.

    Raises:
        ReleaseError: it can't be written.
    """
    with _named(path):
        filesystem, file = _filesystem(path)
        if "file" not in filesystem.protocol:
            filesystem.pipe_file(file, content)
            return
        target = Path(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.new")
        with beside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(target)


def _filesystem(path: str) -> tuple[Any, str]:
    import fsspec

    found: tuple[Any, str] = fsspec.core.url_to_fs(path, **(S3 if path.startswith("s3://") else {}))
    return found


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """What a file system refuses, as one line that names `path`."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:  # fsspec's remote file systems raise what their client raises
        client = type(error).__module__.split(".")[0] in REMOTE_CLIENTS
        if client or isinstance(error, (OSError, ImportError)):
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise ReleaseError(f"{path}: {line}") from None
        raise
