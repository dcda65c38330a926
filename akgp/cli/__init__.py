"""The command `akgp`: it parses arguments and calls the library; errors about the input are one line.

Each group of commands is a module here; `console`, `home` and `entry` serve all of them. A command imports
what it needs when it runs, so that `akgp --help` and `akgp params check` stay quick. What the commands do is
written elsewhere.
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from akgp.cli import (
    console,
    deploy,
    download,
    entry,
    export,
    home,
    params,
    prune,
    recipe,
    release,
    sensitivity,
    sweep,
    workspace,
)

app = typer.Typer(
    help="Compress an image classifier: prune, distill, quantize.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(workspace.app)
app.add_typer(deploy.app)
app.add_typer(download.app)
app.add_typer(export.app)
app.add_typer(prune.app)
app.add_typer(sensitivity.app)
app.add_typer(params.app, name="params")
app.add_typer(recipe.app, name="recipe")
app.add_typer(sweep.app, name="sweep")
app.add_typer(release.app, name="release")


def _version(wanted: bool) -> None:
    if wanted:
        from akgp import __version__

        typer.echo(f"akgp {__version__}")
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command; see `entry.run` for how it ends."""
    # First: it may start the interpreter again, and nothing should have been done by then.
    console.set_up()
    home.set_up(Path())
    logging.basicConfig(level=logging.WARNING, format="akgp: %(message)s")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # of third parties: ours go through logging
    entry.run(lambda: app(prog_name="akgp"))
