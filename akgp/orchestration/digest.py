"""The digest that names a computation: of its parameters, its inputs and its code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from akgp.params import Params
from akgp.stages.source_code import ROOT, source_files
from akgp.workspace import Task

WORKERS = ("worker.py", "state_packing.py", "cross_fit.py")
"""Beside this file: they write the states from which a job is resumed, and set how a worker computes
(threads, cudnn). The rest of akgp.orchestration changes neither figures nor states."""


def digest(task: Task, keys: Iterable[str], inputs: Iterable[Path], code: Iterable[Path]) -> str:
    """The name of a computation: 16 hex digits over its params at `keys`, its input files and its code."""
    sha = hashlib.sha256(
        json.dumps([task.label, {key: parameter(task.params, key) for key in keys}]).encode()
    )
    for folder in inputs:
        for file in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
            if file.is_file():  # by its path below the input: a workspace may be moved
                _add(sha, file, str(file.relative_to(folder)))
    for file in code:
        _add(sha, file, file.name)
    return sha.hexdigest()[:16]


def code_of(*modules: str, root: Path = ROOT) -> list[Path]:
    """The files that these modules' results depend on: the modules, what they import, and WORKERS."""
    folder = root / Path(__file__).parent.relative_to(ROOT)
    return [*source_files(*modules, root=root), *(folder / name for name in WORKERS)]


def parameter(params: Params, key: str) -> Any:
    """The value at a dotted key, as plain mappings, lists and scalars."""
    node: Any = params.model_dump(mode="json")
    for part in key.split("."):
        node = node[part]
    return node


def _add(sha: Any, file: Path, name: str) -> None:
    # Each part has a fixed length or an end, so that no two lists of files give the same bytes.
    sha.update(f"{name}\0".encode())
    sha.update(hashlib.sha256(file.read_bytes()).digest())
