"""The folder of a network that a command names: of the pipeline, or of the releases the one in production."""

from __future__ import annotations

from pathlib import Path

from akgp import params
from akgp.deployment.release import ReleaseError, current, load, place
from akgp.deployment.release.store import POINTER

CONFIGURED = "releases"
"""Stands for the place that nightly.releases names."""


def model_folder(model: str, scratch: Path) -> tuple[Path, str | None]:
    """A folder of model.onnx and preprocessing.json, and the version if it is a release.

    Args:
        model: such a folder; or a place of releases, local or s3://, whose current.json is followed;
            CONFIGURED, unless there is such a folder here, for that of params.yaml.
        scratch: receives the release's files, after they have been compared with their digests.

    Raises:
        ReleaseError: no release is in production there, or it is damaged; ParamsError: of params.yaml.
    """
    where = model
    if model == CONFIGURED and not (Path(model) / POINTER).exists():
        where = place(Path(), params.load())
    if not params.REMOTE.match(where) and not (Path(where) / POINTER).exists():
        if model != CONFIGURED:
            return Path(where), None
        raise ReleaseError(f"{where}: no releases here; `akgp release promote` makes the first")
    version = current(where)
    if version is None:
        raise ReleaseError(f"{where}: no releases here; `akgp release promote` makes the first")
    for name, content in load(where, version).files.items():
        (scratch / name).write_bytes(content)
    return scratch, version
