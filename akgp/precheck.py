"""What params.yaml names, looked at before anything computes: files, stores, modules and checkpoints.

Quick checks look at this disk alone. The others import torch where a network of another kind than ours is
named, and ask the stores, each for a few seconds. Nothing is written; what the stages find out later, such as
damaged images, is not looked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from akgp.doctor import services
from akgp.params import REMOTE, Params
from akgp.runtimes import RUNTIMES, GraphError, require_installed


def quick(params: Params, root: Path) -> Iterator[str]:
    """A line for each thing on this disk that is not there, or cannot be used."""
    path = params.data.path
    if path:
        yield from _readable("data.path", root, path, folder=params.data.source == "image_folder")
    for name, network in params.networks.items():
        if network.checkpoint:
            yield from _readable(f"networks.{name}.checkpoint", root, network.checkpoint, file=True)
    needed = [("evaluate.targets", name) for name in params.evaluate.targets]
    for key, name in (*needed, ("deploy.runtime", params.deploy.runtime)):
        if name in RUNTIMES:  # onnx is no runtime's name, and needs none but onnxruntime
            try:
                require_installed(RUNTIMES[name])
            except GraphError as error:
                yield f"{key}: {error}"
    if params.evaluate.cores:
        from akgp.microcontroller.emulator import missing  # and torch with it

        if absent := missing():
            yield f"evaluate.cores: {', '.join(absent)}: not installed; see docs/how-to/microcontroller.md"
    for key, folder in (("ray.storage", params.ray.storage), ("release.releases", params.release.releases)):
        yield from _known(key, folder) if REMOTE.match(folder) else _writable(key, root / folder)


def thorough(params: Params, root: Path) -> Iterator[str]:
    """A line for each store that does not answer; if all do, for each network that cannot be built.

    Which networks are built, and what a checkpoint is compared with, is `network_check`'s.
    """
    from akgp.stages import network_check

    unanswered = False
    for name, address in services.addresses(params.model_dump()):
        if (check := services.s3(name, address)).remedy:
            unanswered = True
            yield f"{check.found}: {check.remedy}"
    for name, network in params.networks.items() if not unanswered else ():
        try:
            network_check.check(params.model_copy(update={"networks": {name: network}}), root)
        except ValueError as error:
            yield str(error)


def _known(key: str, address: str) -> Iterator[str]:
    """Whether the package that the store needs is there; that of S3 always is."""
    import fsspec

    scheme = address.partition("://")[0]
    try:
        if scheme != "s3":
            fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        yield f"{key}: {address}: {error}"


def _readable(key: str, root: Path, place: str, file: bool = False, folder: bool = False) -> Iterator[str]:
    path = root / place
    if REMOTE.match(place):
        yield from _known(key, place)
    elif not path.exists():
        yield f"{key}: {path}: no such file" + ("" if file else " or directory")
    elif file and not path.is_file():
        yield f"{key}: {path}: is a directory, must be a file"
    elif folder and not path.is_dir():
        yield f"{key}: {path}: is a file, must be a directory"
    elif not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        yield f"{key}: {path}: cannot be read (permission denied)"


def _writable(key: str, folder: Path) -> Iterator[str]:
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    if not existing.is_dir():
        yield f"{key}: {folder}: {existing} is a file, must be a directory"
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield f"{key}: {folder}: {existing} cannot be written (permission denied)"
