"""The user's own files that dense networks are built from: modules, with what they import, and checkpoints.

DVC's graph cannot name them, since they are values of parameters. The stage `network_files` runs at every
`dvc repro` and writes a small file for each network, on which its training depends. Modules are read, never
run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from modulefinder import ModuleFinder
from pathlib import Path

from akgp.io.atomic import atomic_directory, write_json
from akgp.params import REMOTE, Network, Params
from akgp.workspace import StageError, Task, Workspace

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
            by_file = digests(network, task.root)
            if network.checkpoint and REMOTE.match(network.checkpoint):
                by_file[network.checkpoint] = _version(
                    network.checkpoint, before[name].get(network.checkpoint)
                )
            write_json(new / f"{name}.json", by_file)
            changed += [file for file in by_file if before[name].get(file) != by_file[file]]
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
            before, now = _read(folder / SOURCES), digests(network, root)
            if changed := sorted(file for file in {*before, *now} if before.get(file) != now.get(file)):
                raise StageError(
                    f"{changed[0]} has changed since {folder.relative_to(root)} was made of it: `dvc repro` "
                    "makes it again"
                )


def _modules(architecture: str, root: Path) -> list[Path]:
    """The workspace's files behind `module:function`: the module and all that it imports, at any depth.

    Installed modules and akgp are left out, as are unreadable files: building the network reports those.
    """
    module, separator, _ = architecture.partition(":")
    if not separator:
        return []
    places = [str(root), *(path for path in sys.path if Path(path).is_relative_to(root))]
    # The environment may lie in the workspace; its packages are installed ones all the same.
    places = [path for path in places if ".venv" not in Path(path).parts]
    finder = ModuleFinder(path=places, excludes=["akgp"])
    try:
        finder.import_hook(module)
    except (ImportError, SyntaxError, ValueError, OSError):
        log.debug("%s cannot be read whole", module)
    files = {Path(file) for each in finder.modules.values() if (file := getattr(each, "__file__", None))}
    direct = root.joinpath(*module.split(".")).with_suffix(
        ".py"
    )  # one that is not Python any more counts, too
    files |= {direct} if direct.is_file() else set()
    return sorted(file for file in files if file.is_relative_to(root) and ".venv" not in file.parts)


def _version(url: str, before: str | None) -> str:
    """The version of the object at `url`: its ETag, or another identifier of its file system.

    If the store does not answer, the object is taken to be unchanged: an outage must not retrain a network.

    Raises:
        StageError: it does not answer, and no version is known from before.
    """
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        filesystem.invalidate_cache()  # fsspec keeps listings for the life of the process
        etag = filesystem.info(path).get("ETag")
        return str(etag).strip('"') if etag else str(filesystem.ukey(path))
    except Exception as error:  # each file system has its own
        reason = " ".join(str(error).split()) or type(error).__name__
        if before is None:
            raise StageError(f"checkpoint: {url}: cannot be read ({reason})") from error
        log.warning("checkpoint: %s: cannot be read (%s); taken to be as it was", url, reason)
        return before


def _read(file: Path) -> dict[str, str]:
    try:
        content: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content
