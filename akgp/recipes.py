"""Recipes: files in `recipes/` with parameters, all of them or only those that differ from the defaults."""

from __future__ import annotations

import hashlib
from pathlib import Path

from akgp import params
from akgp.io.atomic import atomic_file
from akgp.orchestration.workspace_lock import workspace_lock
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
    tree = params.read_yaml(file)
    sections = _sections(graph) if graph.exists() else []
    if missing := [key for key in sections if key not in tree]:
        raise params.ParamsError(
            f"{file}: {', '.join(missing)}: missing, and DVC reads what a stage depends on from this file "
            "alone: `akgp recipe use` writes a complete one"
        )


def _sections(graph: Path) -> list[str]:
    """The sections of params.yaml on which the stages of a dvc.yaml depend."""
    tree = params.read_yaml(graph) or {}
    try:
        keys = [key for stage in tree.get("stages", {}).values() for key in stage.get("params", [])]
    except (AttributeError, TypeError):
        raise params.ParamsError(f"{graph}: `stages` must be a mapping of mappings") from None
    return list(dict.fromkeys(str(key).partition(".")[0] for key in keys))


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
