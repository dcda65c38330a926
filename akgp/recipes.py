"""Recipes: files in `recipes/` with parameters, all of them or only those that differ from the defaults."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from akgp import params
from akgp.io.atomic import atomic_file
from akgp.orchestration.workspace_lock import workspace_lock
from akgp.params.yaml_text import TextError, parse
from akgp.workspace import Workspace

FOLDER = Path("recipes")


def available(folder: Path = FOLDER) -> dict[str, Path]:
    """Name and file of every recipe, by name.

    Raises:
        ParamsError: there are none.
    """
    recipes = {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    if not recipes:
        raise params.ParamsError(f"{folder}: no recipes here; run akgp in the project's folder")
    return recipes


def description(file: Path) -> str:
    """The comment in the file's first line; empty if there is none."""
    with file.open(encoding="utf-8") as lines:
        first = lines.readline().strip()
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def text(name: str, folder: Path = FOLDER) -> str:
    """The recipe as a complete params.yaml.

    Raises:
        ParamsError: no such recipe, or it is not valid.
    """
    recipes = available(folder)
    if name not in recipes:
        raise params.ParamsError(f"recipe {name!r}: not found, must be one of {', '.join(recipes)}")
    return params.dump(params.load(recipes[name]))


def use(name: str, file: Path, folder: Path = FOLDER, force: bool = False) -> None:
    """Write the recipe as `file`; on an error `file` stays as it is.

    Raises:
        ParamsError, StageError: as `text`, or as `write`.
    """
    write(text(name, folder), file, f"akgp recipe use {name}", folder, force=force)


def write(content: str, file: Path, command: str, folder: Path = FOLDER, *, force: bool = False) -> None:
    """Write a params file atomically, and record its digest, by which a later edit is recognised.

    Args:
        command: what the user called, for the message.
        force: overwrite a file that has been edited.

    Raises:
        ParamsError: `file` has been edited: it is neither what was last written here nor a recipe.
        StageError: a stage or a sweep computes in its folder, by the parameters that it holds.
    """
    record = file.with_name(".akgp") / "params.sha256"
    if not force and _is_edited(file, record, folder):
        raise params.ParamsError(
            f"{file}: has been edited, and would be lost; keep it as a recipe (cp {file} "
            f"{folder}/NAME.yaml), or overwrite it: {command} --force"
        )
    with workspace_lock(Workspace(file.parent.resolve()), command):
        with atomic_file(file) as beside:
            beside.write_text(content, encoding="utf-8")
        with atomic_file(record) as beside:
            beside.write_text(_digest(content.encode()) + "\n", encoding="ascii")


def require_complete(file: Path) -> None:
    """Raise ParamsError unless the params file has every section that dvc.yaml beside it names.

    A parameter that is left out has a default, but DVC does not know it. A dvc.yaml that is not valid is
    refused, too.
    """
    graph = file.parent / "dvc.yaml"
    stages = dvc_stages(graph) if graph.exists() else {}
    read = {str(key).partition(".")[0]: None for stage in stages.values() for key in stage.get("params", [])}
    tree = params.read_yaml(file)
    if missing := [key for key in read if key not in tree]:
        raise params.ParamsError(
            f"{file}: {', '.join(missing)}: missing, and DVC reads what a stage depends on from this file "
            "alone: `akgp recipe use` writes a complete one"
        )


def dvc_stages(graph: Path) -> dict[str, dict[str, Any]]:
    """The stages of a dvc.yaml by name, in its order. What they hold is checked by DVC.

    Raises:
        ParamsError: there is no such file, or no stage can be read from it.
    """
    try:
        tree = parse(graph.read_bytes())
    except FileNotFoundError:
        raise params.ParamsError(f"{graph}: no such file; run this in the project's folder") from None
    except OSError as error:
        raise params.ParamsError(f"{graph}: cannot be read ({error.strerror})") from None
    except TextError as error:
        raise params.ParamsError(f"{graph}: {error}") from None
    stages = tree.get("stages") if isinstance(tree, dict) else None
    if not isinstance(stages, dict) or not stages:
        raise params.ParamsError(f"{graph}: no stages; it must map `stages` to one or more, by name")
    for name, stage in stages.items():
        if not isinstance(stage, dict) or not isinstance(stage.get("params", []), list):
            raise params.ParamsError(f"{graph}: stages.{name}: must be a mapping, and its params a list")
    return stages


def _is_edited(file: Path, record: Path, folder: Path) -> bool:
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return False
    if record.exists() and record.read_text(encoding="ascii").strip() == _digest(content):
        return False
    # Without the record, as in a new clone, a file that equals a recipe has nothing to lose either.
    for recipe in folder.glob("*.yaml"):
        try:
            if text(recipe.stem, folder).encode() == content:
                return False
        except params.ParamsError:  # a recipe that is not valid has written nothing
            continue
    return True


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
