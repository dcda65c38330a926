"""The place of the releases, a directory or an s3:// prefix:

    current.json    which release is in production, and every one that has been
    VERSION/        a release: model.onnx, preprocessing.json, metrics.json; never changed

A release is written whole before current.json names it, and current.json is replaced at once: whoever
reads it finds the old network or the new one. A directory that it does not name is left over
from an interrupted promotion; it was never in production and may be deleted. Only one process at a time may
promote.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from akgp import __version__
from akgp.deployment.package import FILES, PREPROCESSING
from akgp.deployment.release.files import ReleaseError, read, write
from akgp.params import REMOTE, Params, Section

POINTER, RECORD = "current.json", "metrics.json"
SHORT = 12  # hex digits of a network's digest in its version
Read = TypeVar("Read", bound=Section)


@dataclass(frozen=True)
class ReleaseCandidate:
    """A network to be released.

    Attributes:
        files: content of each of FILES.
        row: its row of reports/metrics.json: top1 (%), bytes, latency_ms and others.
        test_digest: of the test images it was measured on.
    """

    files: Mapping[str, bytes]
    row: Mapping[str, Any]
    test_digest: str

    @property
    def sha256(self) -> dict[str, str]:
        return {name: hashlib.sha256(self.files[name]).hexdigest() for name in FILES}


class Record(Section):
    """metrics.json of a release."""

    version: str
    released: str  # UTC
    akgp: str  # the version of this package
    int8: dict[str, Any]  # Network.row
    test_digest: str
    sha256: dict[str, str]  # of each of FILES


class Pointer(Section):
    """current.json: the release in production, and every one that has been, the present one last."""

    version: str
    history: tuple[str, ...]


def place(root: Path, params: Params) -> str:
    """Where the workspace's releases lie."""
    where = params.release.releases
    return where if REMOTE.match(where) else str(root / where)


def current(where: str) -> str | None:
    """Version of the release in production; None before the first one.

    Raises:
        ReleaseError: current.json is damaged or can't be read; as in all functions here.
    """
    history = _history(where)
    return history[-1] if history else None


def releases(where: str) -> list[str]:
    """Versions of all that are or were in production, oldest first."""
    return list(dict.fromkeys(_history(where)))


def known(where: str, network: ReleaseCandidate) -> str | None:
    """Version under which this very network has been released, if it has."""
    return next((version for version in releases(where) if version.endswith(_short(network.sha256))), None)


def show(where: str, version: str | None = None) -> Record:
    """The record of a release, by default of the one in production.

    Raises:
        ReleaseError: there is no such release, or its metrics.json is damaged.
    """
    history = _nonempty_history(where)
    version = version or history[-1]
    if version not in history:
        raise ReleaseError(f"release {version!r}: not found, must be one of {', '.join(releases(where))}")
    record = _parsed(Record, f"{where}/{version}/{RECORD}", _read_or_damaged(f"{where}/{version}/{RECORD}"))
    if record.version != version or not version.endswith(_short(record.sha256)):
        raise ReleaseError(f"{where}/{version}/{RECORD}: damaged: it is of another release")
    return record


def source(where: str, version: str) -> str | None:
    """The source of the data that a release was trained on; None: not recorded, by earlier versions."""
    path = f"{where}/{version}/{PREPROCESSING}"
    try:
        data_source = json.loads(_read_or_damaged(path))["source"]
    except ValueError:
        raise ReleaseError(f"{path}: damaged: not valid JSON") from None
    except (KeyError, TypeError):
        return None
    return str(data_source)


def load(where: str, version: str) -> ReleaseCandidate:
    """A release, after comparing its files with the digests recorded when it was made.

    Raises:
        ReleaseError: there is no such release, or a file of it is missing or damaged.
    """
    record = show(where, version)
    files = {name: _read_or_damaged(f"{where}/{version}/{name}") for name in FILES}
    network = ReleaseCandidate(files, record.int8, record.test_digest)
    for name, digest in network.sha256.items():
        if digest != record.sha256[name]:
            raise ReleaseError(
                f"{where}/{version}/{name}: damaged: its SHA-256 is {digest[:SHORT]}…, "
                f"must be {record.sha256[name][:SHORT]}…"
            )
    return network


def fetch(where: str, folder: Path) -> str:
    """Copy the files of the release in production into a folder; returns its version."""
    version = _nonempty_history(where)[-1]
    for name, content in load(where, version).files.items():
        (folder / name).write_bytes(content)
    return version


def promote(where: str, network: ReleaseCandidate) -> str:
    """Put a network into production; returns its version.

    Raises:
        ReleaseError: it has been released before.
    """
    history = _history(where)
    if before := known(where, network):
        raise ReleaseError(f"this network has been released as {before}; see `akgp release rollback`")
    now = datetime.now(UTC)
    # By time, so that names sort; by digest, so that the same network is recognised.
    version = f"{now:%Y%m%dT%H%M%SZ}-{_short(network.sha256)}"
    for name, content in network.files.items():
        write(f"{where}/{version}/{name}", content)
    record = Record(
        version=version,
        released=f"{now:%Y-%m-%d %H:%M:%S} UTC",
        akgp=__version__,
        int8=dict(network.row),
        test_digest=network.test_digest,
        sha256=network.sha256,
    )
    # The pointer last: until it names the release, nobody reads what is written here.
    _write_json(f"{where}/{version}/{RECORD}", record)
    _write_pointer(where, [*history, version])
    return version


def rollback(where: str, version: str | None = None) -> str:
    """Put a release that was there before into production again; returns its version.

    Args:
        version: which; None: the one that the present one replaced when it was new.

    Raises:
        ReleaseError: there is none, it is in production already, or it is damaged.
    """
    history = _nonempty_history(where)
    if version is None:
        promoted = history.index(history[-1])  # later entries of the present one are rollbacks to it
        if promoted == 0:
            raise ReleaseError(f"release {history[-1]} is the first: there is none before it")
        version = history[promoted - 1]
    load(where, version)  # a damaged release must not come into production
    if version == history[-1]:
        raise ReleaseError(f"release {version} is in production already")
    _write_pointer(where, [*history, version])
    return version


def _history(where: str) -> list[str]:
    """Versions in the order in which they came into production, the present one last."""
    path = f"{where}/{POINTER}"
    try:
        pointer = _parsed(Pointer, path, read(path))
    except FileNotFoundError:
        return []
    if pointer.history[-1:] != (pointer.version,):
        raise ReleaseError(f"{path}: damaged: its history must end with its version")
    return list(pointer.history)


def _nonempty_history(where: str) -> list[str]:
    """The history; raise ReleaseError if it is empty."""
    if history := _history(where):
        return history
    raise ReleaseError(f"{where}: no releases here; `akgp release promote` makes the first")


def _write_pointer(where: str, history: list[str]) -> None:
    _write_json(f"{where}/{POINTER}", Pointer(version=history[-1], history=tuple(history)))


def _short(sha256: Mapping[str, str]) -> str:
    """The end of a version: digest of the network's digests."""
    return hashlib.sha256("".join(sha256.get(name, "") for name in FILES).encode()).hexdigest()[:SHORT]


def _write_json(path: str, content: Section) -> None:
    write(path, (json.dumps(content.model_dump(mode="json"), indent=2) + "\n").encode())


def _parsed(model: type[Read], path: str, content: bytes) -> Read:
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise ReleaseError(f"{path}: damaged: {key + ': ' if key else ''}{first['msg']}") from None


def _read_or_damaged(path: str) -> bytes:
    try:
        return read(path)
    except FileNotFoundError:
        raise ReleaseError(f"{path}: missing: the release is damaged") from None
