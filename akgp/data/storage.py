"""Files where they lie, on a disk or in an object store: listed, read, opened as Parquet.

Addresses are paths or URLs of fsspec, such as s3://. Credentials and endpoint of S3 come from the
standard AWS variables and files (AWS_ENDPOINT_URL among them), never from parameters.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

REMOTE_CLIENTS = ("aiobotocore", "aiohttp", "botocore")


class DataError(ValueError):
    """The images or labels can't be used; the message names file and row."""


def list_files(path: str) -> list[str]:
    """Files below `path`, relative to it, sorted; the one name "" if `path` is a file itself.

    Raises:
        DataError: there are none, or `path` can't be reached.
    """
    with _named(path):
        filesystem, root = _filesystem(path)
        files = filesystem.find(root)
    if not files:
        raise DataError(f"{path}: no such directory, or nothing in it")
    return sorted(file[len(root.rstrip("/")) + 1 :] for file in files)


def read_files(paths: Sequence[str]) -> list[bytes | DataError]:
    """What the files hold, read side by side where they are remote; an error for each that isn't there.

    Raises:
        DataError: a file that is there can't be read.
    """
    places: dict[str, tuple[Any, str]] = {}
    for path in paths:
        with _named(path):
            places[path] = _filesystem(path)
    found: dict[str, bytes | DataError] = {}
    for filesystem in dict.fromkeys(filesystem for filesystem, _ in places.values()):
        here = {path: file for path, (owner, file) in places.items() if owner == filesystem}
        with _named(next(iter(here))):
            # Not `cat`: it takes brackets in a file's name for a pattern.
            contents = filesystem.cat_ranges(list(here.values()), None, None, on_error="return")
        for path, content in zip(here, contents, strict=True):
            if isinstance(content, (FileNotFoundError, IsADirectoryError)):
                found[path] = DataError(f"{path}: no such file")
            elif isinstance(content, Exception):
                with _named(path):
                    raise content
            else:
                found[path] = bytes(content)
    return [found[path] for path in paths]


@contextlib.contextmanager
def parquet_file(path: str, *, verify: bool = False) -> Iterator[Any]:
    """An open pyarrow.parquet.ParquetFile; `verify` checks the checksums of what is read.

    Raises:
        DataError: it can't be read, now or inside the `with` block, or is no Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _named(path):
        filesystem, file = _filesystem(path)
        try:
            with (
                filesystem.open(file, "rb") as stream,
                pq.ParquetFile(stream, page_checksum_verification=verify) as parquet,
            ):
                yield parquet
        except pa.ArrowInvalid as error:
            raise DataError(f"{path}: no Parquet file, or a damaged one ({_line(error)})") from None


def _filesystem(path: str) -> tuple[Any, str]:
    import fsspec

    options: dict[str, Any] = {}
    if path.startswith("s3://"):
        options = {
            "config_kwargs": {"retries": {"max_attempts": 4}, "connect_timeout": 10},
            "use_listings_cache": False,  # a notebook that uploads and prepares again sees the new files
        }
    return fsspec.core.url_to_fs(path, **options)


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """What a file system refuses, as one line that names `path`."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file or directory") from None
    except ImportError as error:
        raise DataError(f"{path}: can't be read ({_line(error)}); akgp[pipeline] brings s3fs") from None
    except Exception as error:  # fsspec's remote file systems raise what their client raises
        if isinstance(error, OSError) or type(error).__module__.split(".")[0] in REMOTE_CLIENTS:
            raise DataError(f"{path}: can't be read ({_line(error)})") from None
        raise


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
