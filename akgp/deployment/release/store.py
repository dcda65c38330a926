"""The place of the releases, a directory or an s3:// prefix:

    current.json    which release is in production, and every one that has been
    VERSION/        a release: model.onnx, preprocessing.json, metrics.json; never changed

A release is written whole before current.json names it, and current.json is replaced at once: whoever
reads it finds the old network or the new one. A directory that it does not name is left over
from an interrupted promotion, or one that another came before; it was never in production and may be deleted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from akgp import __version__
from akgp.deployment.package import FILES, PREPROCESSING
from akgp.deployment.release.files import ReleaseError, read, replace, write
from akgp.deployment.release.records import DamagedError, Pointer, Record, ReleaseCandidate, as_json, parsed
from akgp.params import REMOTE, Params

POINTER, RECORD = "current.json", "metrics.json"
SHORT = 12  # hex digits of a network's digest in its version
TIME = "%Y%m%dT%H%M%SZ"  # UTC, in a version


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
    _, history = _nonempty(where)
    version = version or history[-1]
    if version not in history:
        raise ReleaseError(f"release {version!r}: not found, must be one of {', '.join(releases(where))}")
    record = parsed(Record, f"{where}/{version}/{RECORD}", _read_or_damaged(f"{where}/{version}/{RECORD}"))
    if record.version != version or not version.endswith(_short(record.sha256)):
        raise DamagedError(f"{where}/{version}/{RECORD}: damaged: it is of another release")
    return record


def source(where: str, version: str) -> str | None:
    """The source of the data that a release was trained on; None: not recorded, by earlier versions."""
    path = f"{where}/{version}/{PREPROCESSING}"
    try:
        data_source = json.loads(_read_or_damaged(path))["source"]
    except ValueError:
        raise DamagedError(f"{path}: damaged: not valid JSON") from None
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
            raise DamagedError(
                f"{where}/{version}/{name}: damaged: its SHA-256 is {digest[:SHORT]}…, "
                f"must be {record.sha256[name][:SHORT]}…"
            )
    return network


def fetch(where: str, folder: Path) -> str:
    """Copy the files of the release in production into a folder; returns its version."""
    version = _nonempty(where)[1][-1]
    for name, content in load(where, version).files.items():
        (folder / name).write_bytes(content)
    return version


def promote(where: str, network: ReleaseCandidate, production: str | None) -> str:
    """Put a network into production; returns its version.

    Args:
        production: version that it was compared with, None: the place was empty.

    Raises:
        ReleaseError: it has been released before, or another release has come into production.
    """
    pointer, history = _pointer(where)
    if before := known(where, network):
        raise ReleaseError(f"this network has been released as {before}; see `akgp release rollback`")
    if (history[-1] if history else None) != production:
        raise _overtaken(where)
    # By time, so that names sort; by digest, so that the same network is recognised.
    version = f"{datetime.now(UTC):{TIME}}-{_short(network.sha256)}"
    # The pointer last: until it names the release, nobody reads what is written here.
    _write_release(where, version, network)
    _move_pointer(where, pointer, [*history, version])
    return version


def repair(where: str, version: str, network: ReleaseCandidate) -> None:
    """Write the files of a damaged release again, from the same network; its figures are those of now."""
    assert version.endswith(_short(network.sha256))
    _write_release(where, version, network)


def rollback(where: str, version: str | None = None) -> str:
    """Put a release that was there before into production again; returns its version.

    Args:
        version: which; None: the one that the present one replaced when it was new.

    Raises:
        ReleaseError: there is none, it is in production already, it is damaged, or another one has come into
            production meanwhile.
    """
    pointer, history = _nonempty(where)
    if version is None:
        promoted = history.index(history[-1])  # later entries of the present one are rollbacks to it
        if promoted == 0:
            raise ReleaseError(f"release {history[-1]} is the first: there is none before it")
        version = history[promoted - 1]
    load(where, version)  # a damaged release must not come into production
    if version == history[-1]:
        raise ReleaseError(f"release {version} is in production already")
    _move_pointer(where, pointer, [*history, version])
    return version


def _pointer(where: str) -> tuple[bytes | None, list[str]]:
    """The content of current.json, None: there is none; and its history, the present version last."""
    path = f"{where}/{POINTER}"
    try:
        content = read(path)
    except FileNotFoundError:
        return None, []
    pointer = parsed(Pointer, path, content)
    if pointer.history[-1:] != (pointer.version,):
        raise DamagedError(f"{path}: damaged: its history must end with its version")
    return content, list(pointer.history)


def _history(where: str) -> list[str]:
    """Versions in the order in which they came into production, the present one last."""
    return _pointer(where)[1]


def _nonempty(where: str) -> tuple[bytes | None, list[str]]:
    """As `_pointer`; raise ReleaseError if there is none."""
    content, history = _pointer(where)
    if history:
        return content, history
    raise ReleaseError(f"{where}: no releases here; `akgp release promote` makes the first")


def _overtaken(where: str) -> ReleaseError:
    return ReleaseError(
        f"{where}: {current(where)} has come into production meanwhile; run the command again"
    )


def _move_pointer(where: str, before: bytes | None, history: list[str]) -> None:
    """Write current.json, unless its content is another one than when it was read.

    Raises:
        ReleaseError: it is.
    """
    pointer = Pointer(version=history[-1], history=tuple(history))
    if not replace(f"{where}/{POINTER}", before, as_json(pointer)):
        raise _overtaken(where)


def _write_release(where: str, version: str, network: ReleaseCandidate) -> None:
    """Write the files of a release, its record last."""
    for name, content in network.files.items():
        write(f"{where}/{version}/{name}", content)
    released = datetime.strptime(version.partition("-")[0], TIME)
    record = Record(
        version=version,
        released=f"{released:%Y-%m-%d %H:%M:%S} UTC",
        akgp=__version__,
        int8=dict(network.row),
        test_digest=network.test_digest,
        sha256=network.sha256,
    )
    write(f"{where}/{version}/{RECORD}", as_json(record))


def _short(sha256: Mapping[str, str]) -> str:
    """The end of a version: digest of the network's digests."""
    return hashlib.sha256("".join(sha256.get(name, "") for name in FILES).encode()).hexdigest()[:SHORT]


def _read_or_damaged(path: str) -> bytes:
    try:
        return read(path)
    except FileNotFoundError:
        raise DamagedError(f"{path}: missing: the release is damaged") from None
