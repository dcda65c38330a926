"""Recipes: files in `recipes/` that hold a parameter set, whole or only what differs from the defaults."""

from __future__ import annotations

from pathlib import Path

from akgp import params
from akgp.yaml_text import parse

FOLDER = Path("recipes")


def available(folder: Path = FOLDER) -> dict[str, Path]:
    """Name and file of every recipe, by name.

    Raises:
        ParamsError: there are none.
    """
    found = {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    if not found:
        raise params.ParamsError(f"{folder}: no recipes here; run akgp in the project's folder")
    return found


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
    found = available(folder)
    if name not in found:
        raise params.ParamsError(f"recipe {name!r}: not found, must be one of {', '.join(found)}")
    return params.dump(params.load(found[name]))


def use(name: str, file: Path, folder: Path = FOLDER) -> None:
    """Write the recipe beside `file` and move it into place; on an error `file` stays as it is.

    Raises:
        ParamsError: as `text`.
    """
    content = text(name, folder)
    beside = file.with_name(f".{file.name}.new")
    beside.write_text(content, encoding="utf-8")
    beside.replace(file)


def require_complete(file: Path) -> None:
    """Raise ParamsError unless the params file holds all that dvc.yaml beside it reads of it.

    A parameter that is left out has a default, but DVC does not know it.
    """
    graph = file.parent / "dvc.yaml"
    stages = (parse(graph.read_bytes()) or {}).get("stages", {}) if graph.exists() else {}
    read = {str(key).partition(".")[0]: None for stage in stages.values() for key in stage.get("params", [])}
    tree = parse(file.read_bytes())
    if missing := [key for key in read if key not in tree]:
        raise params.ParamsError(
            f"{file}: {', '.join(missing)}: missing, and DVC reads what a stage depends on from this file "
            "alone: `akgp recipe use` writes a complete one"
        )
