"""`akgp sweep`: search parameters, show the best trials, and apply one to params.yaml."""

from __future__ import annotations

from typing import Annotated

import typer

from akgp.cli import entry
from akgp.cli.common import Json, note, say_json
from akgp.io.terminal import wrapped

app = typer.Typer(help="Search parameters of prune and distill.", no_args_is_help=True, rich_markup_mode=None)


@app.command("run")
def sweep_run(
    trials: Annotated[
        int | None, typer.Option(min=1, help="extend the sweep to so many in all; by default sweep.trials")
    ] = None,
) -> None:
    """Search: every trial prunes, distills and is judged on the validation split.

    A sweep that was interrupted is resumed.
    """
    from akgp import sweep

    with entry.resumable():
        found = sweep.run(trials=trials)
    typer.echo(sweep.table(found))
    for trial in found:
        if trial.error:
            typer.echo(wrapped(f"trial {trial.number} failed: {trial.error}", hanging=4), err=True)
    raise typer.Exit(0 if any(trial.status == "finished" for trial in found) else 1)


@app.command("best")
def sweep_best(
    count: Annotated[int, typer.Argument(min=1, help="how many")] = 10, as_json: Json = False
) -> None:
    """Show the best finished trials.

    They are ranked by validation accuracy; if sweep.against names a second objective, those on the Pareto
    front come first.
    """
    from akgp import sweep

    trials, old = sweep.best(count), sweep.outdated()
    if as_json:
        front = sweep.pareto_front(trials)
        say_json(trials=[vars(trial) | {"front": trial in front} for trial in trials], outdated=old or None)
    else:
        typer.echo(sweep.table(trials))
        note(old)


@app.command("apply")
def sweep_apply(
    number: Annotated[int, typer.Argument(min=0, help="the trial's number")],
    force: Annotated[bool, typer.Option("--force", help="although the file has been edited")] = False,
) -> None:
    """Write a trial's parameters as params.yaml, for `dvc repro`.

    A params.yaml that was edited since the sweep is kept, unless --force is given.
    """
    from akgp import sweep

    sweep.apply(number, force=force)
    typer.echo(f"params.yaml: trial {number}; `make repro` runs it")
