"""`akgp params`: checks of params.yaml before anything computes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from akgp.cli.common import ParamsFile

app = typer.Typer(help="Look at params.yaml.", no_args_is_help=True, rich_markup_mode=None)


@app.command("check")
def params_check(
    file: ParamsFile = Path("params.yaml"),
    quiet: Annotated[bool, typer.Option("--quiet", help="say nothing if it is valid")] = False,
) -> None:
    """Validate the whole file, and look at what it names; one line for each thing wrong, or without effect.

    Files and folders on this disk are always looked at. Without --quiet also stores (s3://) are asked, each
    for a few seconds, and networks of your own, of torchvision and of checkpoints are built.
    """
    from akgp import params, precheck, recipes

    checked = params.load(file)
    recipes.require_complete(file)
    problems = list(precheck.quick(checked, Path()))
    if not quiet and not problems:
        problems = list(precheck.thorough(checked, Path().resolve()))
    if problems:
        raise params.ParamsError("\n".join(f"{file}: {problem}" for problem in problems))
    if not quiet:
        teachers = ", ".join(checked.teachers)
        typer.echo(
            f"{file}: valid; data {checked.data.source}, teachers {teachers}, student {checked.student}"
        )
        for line in params.without_effect(checked):
            typer.echo(f"{file}: {line}")
