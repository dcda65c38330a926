"""`akgp stage`, `report`, `predict` and `doctor`: the commands on a workspace."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from akgp.cli import entry
from akgp.cli.common import Json, is_here, note, say_json
from akgp.cli.entry import complain
from akgp.io.terminal import wrapped
from akgp.stages.table import STAGES
from akgp.workspace import METRICS, Workspace

app = typer.Typer()
HERE = Workspace(Path())

SUMMARIES = [f"{each.name}: {each.summary}" for each in STAGES.values()]
SINGLE = " and ".join(each.name for each in STAGES.values() if each.networks)
"""The stages that run for one network at a time."""


def _names_of_stages() -> list[str]:
    """For shell completion."""
    return list(STAGES)


@app.command(help="\n\n".join(["Run one stage; `dvc repro` calls this.", *SUMMARIES]))
def stage(
    name: Annotated[str, typer.Argument(help="one of those above", autocompletion=_names_of_stages)],
    network: Annotated[str | None, typer.Option(help=f"{SINGLE}: which of the networks")] = None,
) -> None:
    from akgp.orchestration.run import run_stage

    with entry.resumable():
        run_stage(name, network=network)


@app.command()
def report(
    folder: Annotated[Path, typer.Option("--reports", help="where evaluate wrote")] = HERE.reports,
    as_json: Json = False,
) -> None:
    """Print the table of the last evaluation, the report's file, and what went less well than it should."""
    from akgp import outdated_results
    from akgp.reporting.metrics import DETAILS, read_details, read_metrics
    from akgp.reporting.table import results

    rows = read_metrics(folder / METRICS)
    old = outdated_results.outdated(Path(), "evaluate") if is_here(folder, HERE.reports) else ""
    if as_json:
        details = read_details(folder / DETAILS)
        say_json(
            networks=rows,
            data=details.get("data"),
            warnings=details.get("warnings", []),
            outdated=old or None,
            report=str(folder / "index.html"),
        )
    else:
        typer.echo(results(folder))
        note(old)


@app.command()
def predict(
    images: Annotated[
        list[str],
        typer.Argument(help="image files, folders, patterns; - for standard input: an image, or names"),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="a model's file beside its preprocessing.json, or their folder; or releases "
            "(release.releases), or a place of releases, local or s3://, for the network in production"
        ),
    ] = str(HERE.int8),
    top: Annotated[int, typer.Option(min=1, help="classes shown for each image")] = 3,
    as_json: Json = False,
) -> None:
    """Classify images with the compressed network: the likeliest classes, in percent.

    A file that is no image is named on standard error; the others are classified, and the status is 1.
    """
    from akgp import outdated_results
    from akgp.deployment.image_files import image_files
    from akgp.deployment.predict import Classifier, Prediction, model_folder, predictions

    found: list[Prediction] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder, version = model_folder(model, Path(scratch))
        classify = Classifier(folder)
        if is_here(folder, HERE.int8):
            note(outdated_results.outdated(Path(), "quantize"))
        given = image_files(images, sys.stdin.buffer, Path(scratch))
        for line in given.notes():
            complain(line)
        for each in predictions(classify, given):
            found.append(each)
            if each.error:
                complain(each.error)
            elif not as_json:
                typer.echo(each.line(top))
    if as_json:
        say_json(
            model=model,
            release=version,
            predictions=[each.as_row(top) for each in found if not each.error],
            failed=[{"file": each.file, "error": each.error} for each in found if each.error],
        )
    raise typer.Exit(1 if any(each.error for each in found) else 0)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this machine and workspace: a line for each, with what to do about it."""
    from akgp import doctor as checks

    found = checks.examine(Path())
    if as_json:
        say_json(checks=[{**vars(check), "ok": not check.remedy} for check in found])
    else:
        for check in found:
            typer.echo(wrapped(check.line(), hanging=17))
    raise typer.Exit(1 if any(check.remedy for check in found) else 0)
