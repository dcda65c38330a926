"""The user's own files that dense networks are built from: modules, with what they import, and checkpoints.

DVC's graph cannot name them, since they are values of parameters. The stage `network_files` runs at every
`dvc repro` and writes a small file for each network, on which its training depends. Modules are read, never
run. A further file has the variable of the environment that says where images are, on which `data` depends.
"""

from __future__ import annotations

import ast
import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from akgp.io.atomic import atomic_directory, write_json
from akgp.io.errors import message_or_type
from akgp.io.storage import opened
from akgp.params import CIFAR10_VARIABLE, REMOTE, Network, Params
from akgp.workspace import StageError, Task, Workspace

ENVIRONMENT = ".environment.json"
"""The file beside those of the networks with the value of AKGP_CIFAR10, where that counts."""
SOURCES = "sources.json"
"""The file beside a finished network with the digests of the local files that it was built from."""

log = logging.getLogger(__name__)


def run(task: Task) -> None:
    """Write the digests of every network's files, and the ETag of a checkpoint in object storage."""
    folder = task.workspace.network_files
    before = {name: _read(folder / f"{name}.json") for name in task.params.networks}
    changed = []
    with atomic_directory(folder) as new:
        for name, network in task.params.networks.items():
            by_file = _named_digests(name, network, task.root)
            if network.checkpoint and REMOTE.match(network.checkpoint):
                by_file[network.checkpoint] = _version(
                    name, network.checkpoint, before[name].get(network.checkpoint)
                )
            write_json(new / f"{name}.json", by_file)
            changed += [file for file in by_file if before[name].get(file) != by_file[file]]
        counts = task.params.data.source == "cifar10" and task.params.data.path is None
        write_json(new / ENVIRONMENT, {CIFAR10_VARIABLE: os.environ.get(CIFAR10_VARIABLE)} if counts else {})
    print("files of networks:", f"{', '.join(changed)} changed" if changed else "up to date")


def located(checkpoint: str, root: Path) -> str:
    """The URL of a checkpoint, or its path; a relative path is taken from the workspace."""
    return checkpoint if REMOTE.match(checkpoint) else str(root / checkpoint)


def sources(network: Network, root: Path) -> list[Path]:
    """The local files that the network is built from.

    Raises:
        StageError: the checkpoint does not exist.
    """
    files = _modules(network.architecture, root)
    if network.checkpoint and not REMOTE.match(network.checkpoint):
        file = Path(located(network.checkpoint, root))
        if not file.is_file():
            raise StageError(f"checkpoint: {file}: no such file")
        files.append(file)
    return files


def digests(network: Network, root: Path) -> dict[str, str]:
    """SHA-256 of each of `sources`, by its path relative to the workspace."""
    by_file = {}
    for file in sources(network, root):
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        by_file[str(file.relative_to(root) if file.is_relative_to(root) else file)] = digest
    return by_file


def _named_digests(name: str, network: Network, root: Path) -> dict[str, str]:
    try:
        return digests(network, root)
    except StageError as error:
        raise StageError(f"networks.{name}.{error}") from None


def check(params: Params, root: Path) -> None:
    """Raise StageError if a finished network was built from files that have changed since."""
    workspace = Workspace(root)
    for name, network in params.networks.items():
        made = [workspace.dense(name)]
        if params.folds and name in params.teachers:
            made.append(workspace.folds(name))
        for folder in made:
            if not (folder / SOURCES).exists():
                continue
            before, now = _read(folder / SOURCES), _named_digests(name, network, root)
            if changed := sorted(file for file in {*before, *now} if before.get(file) != now.get(file)):
                raise StageError(
                    f"{changed[0]} has changed since {folder.relative_to(root)} was made of it: `dvc repro` "
                    "makes it again"
                )


def _modules(architecture: str, root: Path) -> list[Path]:
    """The workspace's files behind `module:function`: the module and all that it imports, at any depth.

    Installed modules and akgp are left out; of an unreadable file only itself is known, and building the
    network reports it.
    """
    module, separator, _ = architecture.partition(":")
    # Of an environment within the workspace the packages are installed ones all the same.
    below = [Path(path) for path in sys.path if Path(path).is_relative_to(root)]
    places = [root, *(path for path in below if not path.is_relative_to(sys.prefix))]
    left, seen, files = [module] if separator else [], set[str](), set[Path]()
    while left:
        name = left.pop()
        if name and name not in seen and name.partition(".")[0] != "akgp":
            seen.add(name)
            left.append(name.rpartition(".")[0])  # importing a module runs its packages too
            if file := _file(name, places):
                files.add(file)
                left += _imported(file, name)
    return sorted(files)


def _file(name: str, places: Sequence[Path]) -> Path | None:
    """The file of a module by its dotted name; None if it is installed, or a folder without `__init__.py`."""
    paths = [place.joinpath(*name.split(".")) for place in places]
    candidates = [
        each for path in paths for each in (path / "__init__.py", path.with_name(f"{path.name}.py"))
    ]
    return next(filter(Path.is_file, candidates), None)


def _imported(file: Path, name: str) -> Iterator[str]:
    """Dotted names that the file of a module imports anywhere in it, some of which may be no modules."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):
        log.debug("%s cannot be read", file)
        return
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


def _version(name: str, url: str, before: str | None) -> str:
    """The version of the object at `url`: its ETag, or another identifier of its file system.

    If the store does not answer, the object is taken to be unchanged: an outage must not retrain a network.

    Raises:
        StageError: it does not answer, and no version is known from before.
    """
    try:
        filesystem, path = opened(url)
        filesystem.invalidate_cache()  # fsspec keeps listings for the life of the process
        etag = filesystem.info(path).get("ETag")
        return str(etag).strip('"') if etag else str(filesystem.ukey(path))
    except Exception as error:  # each file system has its own
        reason = message_or_type(error)
        if before is None:
            raise StageError(f"networks.{name}.checkpoint: {url}: cannot be read ({reason})") from error
        log.warning(
            "networks.%s.checkpoint: %s: cannot be read (%s); taken to be as it was", name, url, reason
        )
        return before


def _read(file: Path) -> dict[str, str]:
    try:
        content: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content
