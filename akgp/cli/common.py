"""Options and output that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from akgp.cli.entry import complain
from akgp.io.terminal import as_json

Json = Annotated[bool, typer.Option("--json", help="one JSON document; see docs/reference/cli.md")]
ParamsFile = Annotated[Path, typer.Option("--params", help="the params file")]


def named(text: str) -> Path:
    """A path that is given; "" is an unset variable of a shell, not the working directory."""
    if not text:
        raise typer.BadParameter("must not be empty")
    return Path(text)


def note(text: str) -> None:
    """Print a remark about the output, if there is one, on standard error."""
    if text:
        complain(text)


def say_json(**content: Any) -> None:
    """Print one JSON document."""
    typer.echo(as_json(content))


def is_here(path: Path, place: Path) -> bool:
    """Whether `path` is `place`, a folder of the current workspace, or a file in it."""
    folder = path if path.is_dir() else path.parent
    return folder.resolve() == place.resolve()
