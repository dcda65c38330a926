"""The files of a user's that a dense network is made of: her module's, and a checkpoint on this disk.

DVC's graph does not name them, so it sees no change in them; here it is seen. An object behind a
URL is taken to be immutable.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from pathlib import Path

from akgp.params import REMOTE, Network, Params
from akgp.stages.workspace import StageError, Workspace

SOURCES = "sources.json"


def located(checkpoint: str, root: Path) -> str:
    """A checkpoint's URL, or its path; a relative one starts at the workspace."""
    return checkpoint if REMOTE.match(checkpoint) else str(root / checkpoint)


def sources(network: Network, root: Path) -> list[Path]:
    """The local files that the network is made of.

    Raises:
        StageError: the checkpoint does not exist.
    """
    found = [file for file in [_module_file(network.architecture, root)] if file]
    if network.checkpoint and not REMOTE.match(network.checkpoint):
        file = Path(located(network.checkpoint, root))
        if not file.is_file():
            raise StageError(f"checkpoint: {file}: no such file")
        found.append(file)
    return found


def digests(network: Network, root: Path) -> dict[str, str]:
    """SHA-256 of each of `sources`, by path from the workspace."""
    return {
        str(file.relative_to(root) if file.is_relative_to(root) else file): hashlib.sha256(
            file.read_bytes()
        ).hexdigest()
        for file in sources(network, root)
    }


def check(params: Params, root: Path) -> None:
    """Raise StageError if a finished network was made of files that have changed since."""
    workspace = Workspace(root)
    for name, network in params.networks.items():
        made = {"teacher": workspace.dense(name)}
        if params.folds and name in params.teachers:
            made["folds"] = workspace.folds(name)
        for stage, folder in made.items():
            record = folder / SOURCES
            if not record.exists():
                continue
            before, now = json.loads(record.read_text(encoding="utf-8")), digests(network, root)
            if changed := sorted(file for file in {*before, *now} if before.get(file) != now.get(file)):
                raise StageError(
                    f"{changed[0]} has changed since the network {name!r} was made of it: "
                    f"`dvc repro --force --single-item {stage}@{name}` makes it anew"
                )


def _module_file(architecture: str, root: Path) -> Path | None:
    """The file of `module:function`, if it lies in the workspace."""
    module, separator, _ = architecture.partition(":")
    if not separator:
        return None
    if str(root) not in sys.path:
        sys.path.append(str(root))
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # building the network will say so
        return None
    file = Path(spec.origin) if spec and spec.origin and spec.has_location else None
    return file if file and file.is_relative_to(root) and ".venv" not in file.parts else None
