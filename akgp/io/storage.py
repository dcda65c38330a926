"""Files where they lie, on a disk or in an object store: reached by fsspec, and waited for in an outage.

Credentials and endpoint of S3 come from the standard AWS variables and files (AWS_ENDPOINT_URL among
them), never from parameters.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from akgp.io.errors import first_line
from akgp.params import REMOTE

T = TypeVar("T")

log = logging.getLogger(__name__)

CLIENTS = ("aiobotocore", "aiohttp", "botocore")  # they raise errors of their own
UNANSWERED = ("ConnectTimeoutError", "EndpointConnectionError", "HTTPClientError")  # of botocore
OUTAGE_SECONDS = 120.0
LONGEST_WAIT = 15.0
S3 = {
    "config_kwargs": {"retries": {"max_attempts": 2}, "connect_timeout": 10},
    "max_concurrency": 1,  # of a file's parts: more would ask for its size first; files are read side by side
    "use_listings_cache": False,  # a notebook that uploads and prepares again sees the new files
}


def opened(path: str) -> tuple[Any, str]:
    """The fsspec file system of a path or URL, and the path there."""
    import fsspec

    filesystem_and_path: tuple[Any, str] = fsspec.core.url_to_fs(
        path, **(S3 if path.startswith("s3://") else {})
    )
    return filesystem_and_path


def retry_outage(path: str, call: Callable[[], T]) -> T:
    """What `call` gives; it is made again for OUTAGE_SECONDS while the store behind `path` doesn't answer.

    `call` must be one that may be repeated. The waits grow from 1 s to LONGEST_WAIT. What the store
    refuses is raised at once, as is everything on a disk.
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
    """Whether a file system raised it, not a mistake of ours."""
    return isinstance(error, (OSError, ImportError)) or _module(error) in CLIENTS


def unanswered(error: Exception) -> bool:
    """Whether the store may answer later: no connection, or one cut, or a server that calls itself broken."""
    return (
        isinstance(error, (ConnectionError, TimeoutError))
        or getattr(error, "errno", None) in (errno.EIO, errno.EREMOTEIO, errno.EBUSY)
        or _module(error) == "aiohttp"
        or any(each.__name__ in UNANSWERED for each in type(error).__mro__)
    )


def _module(error: Exception) -> str:
    return type(error).__module__.split(".")[0]
