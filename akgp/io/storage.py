"""Access to file systems and object stores by fsspec, with retries during an outage.

Credentials and endpoint of S3 come from the standard AWS variables and files (AWS_ENDPOINT_URL among
them), never from parameters.
"""

from __future__ import annotations

import errno
import logging
import os
import time
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from akgp.io.errors import first_line
from akgp.params import REMOTE

T = TypeVar("T")

log = logging.getLogger(__name__)

CLIENTS = ("aiobotocore", "aiohttp", "botocore")  # S3 clients, whose errors are not OSErrors
UNANSWERED = ("ConnectTimeoutError", "EndpointConnectionError", "HTTPClientError")  # of botocore
OUTAGE_SECONDS = 120.0  # how long a store is tried again
LONGEST_WAIT = 15.0  # seconds between two attempts
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")  # the first that is set counts
S3 = {
    # Few and short attempts by botocore itself, as `retry_outage` repeats the call and says so.
    "config_kwargs": {"retries": {"max_attempts": 2}, "connect_timeout": 10},
    "max_concurrency": 1,  # parts of a file: more would request its size first; files are read concurrently
    "use_listings_cache": False,  # a notebook that uploads files and prepares again must see them
}


def opened(path: str) -> tuple[Any, str]:
    """The fsspec file system of a path or URL, and the path there.

    Raises:
        ValueError: see `require_endpoint`.
        OSError: there is no such kind of store.
        ImportError: its package is not installed.
    """
    import fsspec

    require_endpoint(path)
    if not REMOTE.match(path):  # whose names may hold "::", by which fsspec chains file systems
        disk = fsspec.filesystem("file")
        return disk, disk._strip_protocol(path)
    try:
        filesystem, file = fsspec.core.url_to_fs(path, **(S3 if path.startswith("s3://") else {}))
    except ValueError as error:
        raise OSError(first_line(error)) from error
    return filesystem, file


def unknown(path: str) -> str | None:
    """Why no file system opens `path`: there is none of this kind, or its package is not installed."""
    import fsspec

    try:
        fsspec.get_filesystem_class(path.partition("://")[0] if REMOTE.match(path) else "file")
    except (ValueError, ImportError) as error:
        return first_line(error)
    return None


def require_endpoint(path: str) -> None:
    """Raise ValueError if `path` is in S3 whose endpoint has no scheme: clients do not name the variable."""
    name = next((each for each in ENDPOINTS if os.environ.get(each)), None)
    if path.startswith("s3://") and name and not os.environ[name].startswith(("http://", "https://")):
        raise ValueError(f"{name}: got {os.environ[name]!r}, must begin with http:// or https://")


def retry_outage(path: str, call: Callable[[], T]) -> T:
    """The result of `call`, which is repeated for OUTAGE_SECONDS while the store of `path` doesn't answer.

    `call` must be repeatable. The waits grow from 1 s to LONGEST_WAIT. An error that is an answer, such as a
    refusal, is raised at once, and so is any error on a disk.
    """
    wait, end = 1.0, None
    while True:
        try:
            return call()
        except Exception as error:  # each file system raises what its client raises
            end = end or time.monotonic() + OUTAGE_SECONDS
            if not (REMOTE.match(path) and unanswered(error)) or time.monotonic() + wait > end:
                raise
            log.warning("%s: %s; tried again in %.0f s", path, first_line(error), wait)
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)


def refused(error: Exception) -> bool:
    """Whether an error comes from a file system, not from a bug in the calling code."""
    return isinstance(error, (OSError, ImportError)) or _module(error) in CLIENTS or _raised_by_client(error)


def unanswered(error: Exception) -> bool:
    """Whether the store may answer later: no connection, an interrupted one, or a server error (5xx)."""
    return (
        isinstance(error, (ConnectionError, TimeoutError))
        # s3fs turns the error codes of a server that is busy or broken into these.
        or getattr(error, "errno", None) in (errno.EIO, errno.EREMOTEIO, errno.EBUSY)
        or (_module(error) == "aiohttp" and getattr(error, "status", 500) >= 500)
        or any(each.__name__ in UNANSWERED for each in type(error).__mro__)
    )


def _module(error: Exception) -> str:
    return type(error).__module__.split(".")[0]


def _raised_by_client(error: Exception) -> bool:
    """Whether an S3 client refused a setting: of a wrong address in its files it raises a ValueError."""
    return isinstance(error, ValueError) and any(
        frame.f_globals.get("__name__", "").split(".")[0] in CLIENTS
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )
