"""Code and inputs for the machines of a cluster.

The code travels as Ray's `runtime_env`. With `ray.storage` in a directory, every node must see the
workspace at the driver's path. This is checked, so that a worker never reads another file of the same
name on its own disk. With an s3:// storage nothing needs to be shared: a job's inputs go through it.
A local Ray needs none of this.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from akgp.io.errors import first_line
from akgp.io.storage import opened
from akgp.orchestration.capacity import on_every_node
from akgp.params import REMOTE
from akgp.workspace import StageError, Task

PACKAGE = Path(__file__).resolve().parents[1]
# Folders of artifacts, which may be large: the user's modules are looked for elsewhere.
NO_CODE = {"data", "models", "runs", "reports", "sweeps", "releases", "dvc_plots", "node_modules"}


@contextlib.contextmanager
def runtime_env(variables: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The environment of a cluster's workers: this akgp, not the one of their image, and `variables`.

    Nothing else of the driver's environment travels: credentials are each node's own.
    """
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder) / "code"
        shutil.copytree(PACKAGE, code / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        # A folder of its own: Ray would upload the whole of the folder that it is given.
        yield {"working_dir": str(code), "env_vars": variables}


def make_readable(task: Task, inputs: list[Path], job: str) -> str | None:
    """Let every worker read `inputs`; return the URL from which it must download them, if any.

    Args:
        job: directory or URL of the job's checkpoints.

    Raises:
        StageError: a node does not see the workspace, or cannot reach the store.
    """
    params = task.params.ray
    if params.address is None:
        return None
    if not REMOTE.match(job):
        require_shared(task)
        return None
    url = f"{job}/inputs"
    upload_inputs(task.root, inputs, url)
    for node, refusal in on_every_node(_why_unreadable, url, params):
        if refusal is not None:
            raise StageError(
                f"ray.storage: node {node} cannot read {params.storage} ({refusal}): Ray must be started "
                "there with the AWS variables that reach it"
            )
    return url


def require_shared(task: Task) -> None:
    """Raise StageError unless every node that may compute for `task` sees the driver's workspace.

    A new file in the workspace, and one in `ray.storage` if that is a directory, must exist at the same path
    on every node.
    """
    params, tokens = task.params.ray, {}
    storage = [] if REMOTE.match(params.storage) else [task.root / params.storage]
    for folder in (task.root, *storage):
        folder.mkdir(parents=True, exist_ok=True)
        # A random name: a folder with the same path on a node's own disk does not hold it.
        tokens[folder] = folder / f".akgp-{uuid.uuid4().hex}"
    try:
        for token in tokens.values():
            token.touch()
        answers = on_every_node(_missing, list(map(str, tokens.values())), params)
    finally:
        for token in tokens.values():
            token.unlink(missing_ok=True)
    for node, answer in answers:
        for folder, token in tokens.items():
            if str(token) in answer:
                raise StageError(
                    f"ray.storage: node {node} does not see {folder} of {socket.gethostname()}: put "
                    "the workspace on a file system that all nodes mount at the same path (NFS, EFS, a "
                    "PersistentVolumeClaim), or set ray.storage to an s3:// prefix, through which the "
                    "inputs then travel"
                )


def upload_inputs(root: Path, inputs: list[Path], url: str) -> None:
    """Copy `inputs`, and the workspace's Python files (a network of the user's own), below `url`.

    Raises:
        StageError: an input lies outside of `root`, or the store cannot be written.
    """
    files = [file for path in inputs for file in (path.rglob("*") if path.is_dir() else [path])]
    outside = [file for file in files if not file.is_relative_to(root)]
    if outside:
        raise StageError(
            f"{outside[0]} lies outside the workspace {root}: a cluster's workers cannot read it; "
            "move it into the workspace, or to s3://"
        )
    chosen = sorted({file for file in files if file.is_file()} | set(_code(root)))
    with _named_errors(url, "written"):
        filesystem, path = opened(url)
        targets = [f"{path}/{file.relative_to(root)}" for file in chosen]
        filesystem.put([str(file) for file in chosen], targets)


@contextlib.contextmanager
def download_inputs(task: Task, url: str | None) -> Iterator[Task]:
    """Download the inputs below `url`; yield `task` with that folder as its workspace, in this block.

    Raises:
        StageError: this node cannot read the store.
    """
    if url is None:
        yield task
        return
    with tempfile.TemporaryDirectory(prefix="akgp-") as folder:
        with _named_errors(url, f"read on {socket.gethostname()}"):
            filesystem, path = opened(url)
            filesystem.get(f"{path}/", f"{folder}/", recursive=True)
        yield replace(task, root=Path(folder))


def _code(root: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(root):
        here = Path(folder)
        below[:] = [
            name
            for name in below
            if not name.startswith(".")
            and not (here == root and name in NO_CODE)
            and not (here / name / "pyvenv.cfg").exists()  # a virtual environment of any name
        ]
        yield from (here / name for name in files if name.endswith(".py"))


def _missing(paths: list[str]) -> list[str]:
    return [path for path in paths if not Path(path).exists()]


def _why_unreadable(url: str) -> str | None:
    """Why Ray cannot read `url` on this machine; None: it can.

    By pyarrow, with which Ray reaches its storage.
    """
    from pyarrow import fs

    try:
        filesystem, path = fs.FileSystem.from_uri(url)
        readable = filesystem.get_file_info(path).type != fs.FileType.NotFound
    except Exception as error:
        return first_line(error)
    return None if readable else "it is another store than the driver's"


@contextlib.contextmanager
def _named_errors(url: str, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each file system has its own
        raise StageError(
            f"ray.storage: {url} cannot be {what} ({first_line(error)}): each node needs the AWS variables"
        ) from error
