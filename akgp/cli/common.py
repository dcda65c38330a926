"""What several commands share: options, and how they say something."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from akgp.cli.entry import complain
from akgp.io.terminal import as_json

Json = Annotated[bool, typer.Option("--json", help="one JSON document; see docs/reference/cli.md")]
ParamsFile = Annotated[Path, typer.Option("--params", help="the params file")]


def note(text: str) -> None:
    """Say on standard error what is worth knowing of the output, if anything."""
    if text:
        complain(text)


def say_json(**content: Any) -> None:
    """Print one JSON document."""
    typer.echo(as_json(content))


def is_here(folder: Path, place: str) -> bool:
    """Whether `folder` is this workspace's own."""
    return folder.resolve() == Path(place).resolve()
