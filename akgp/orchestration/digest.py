"""The name of a computation: a digest of its parameters, its inputs and the code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from akgp.params import Params
from akgp.workspace import Task


def digest(task: Task, inputs: list[Path], keys: tuple[str, ...]) -> str:
    """Names a computation: 16 hex digits over its params, its input files and akgp's own code."""
    sha = hashlib.sha256(
        json.dumps([task.label, {key: parameter(task.params, key) for key in keys}]).encode()
    )
    code = Path(__file__).resolve().parents[1]
    for folder in (*inputs, code):
        for file in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
            if file.is_file() and (folder is not code or file.suffix == ".py"):
                sha.update(f"{file.relative_to(folder)}\0".encode())
                sha.update(hashlib.sha256(file.read_bytes()).digest())
    return sha.hexdigest()[:16]


def parameter(params: Params, key: str) -> Any:
    """The value at a dotted key, as plain mappings, lists and scalars."""
    node: Any = params.model_dump(mode="json")
    for part in key.split("."):
        node = node[part]
    return node
