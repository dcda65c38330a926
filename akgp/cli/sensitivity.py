"""`akgp sensitivity`: how much accuracy each layer costs when it alone is cut."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from akgp.cli.common import Json, say_json
from akgp.workspace import Task, Workspace

if TYPE_CHECKING:
    from akgp.pruning import Point

app = typer.Typer()
HERE = Workspace(Path())


@app.command()
def sensitivity(
    ratios: Annotated[str, typer.Option(help="shares of a layer's filters to remove")] = "0.25,0.5,0.75",
    images: Annotated[int, typer.Option(min=1, help="validation images, at most")] = 1000,
    plot: Annotated[Path, typer.Option(help="where the figure is written: .svg, .png or .pdf")] = HERE.reports
    / "sensitivity.svg",
    as_json: Json = False,
) -> None:
    """Cut each layer of the student's dense network alone, without recovery, and measure its accuracy.

    Layers that lose the same filters are cut together. Criterion, scope, round_to and skip are params.yaml's.
    The test split is not read.
    """
    from akgp import params as parameters
    from akgp.reporting.sensitivity import figure, table

    shares = _shares(ratios)
    task = Task("sensitivity", parameters.load(Path("params.yaml")), Path().resolve())
    from akgp.stages.sensitivity import measure

    measured = measure(task, shares, images)
    rows = _rows(measured.points)
    plot.parent.mkdir(parents=True, exist_ok=True)
    figure(rows, measured.dense_top1).savefig(plot)
    if as_json:
        say_json(layers=rows, dense_top1=measured.dense_top1, images=measured.images, plot=str(plot))
    else:
        typer.echo(table(rows, measured.dense_top1))
        typer.echo(f"{measured.images:,} validation images, without recovery; {plot}")


def _shares(text: str) -> list[float]:
    try:
        return sorted({float(each) for each in text.split(",")})
    except ValueError:
        raise typer.BadParameter(
            f"must be numbers in (0, 1) such as 0.25,0.5, got {text!r}", param_hint="--ratios"
        ) from None


def _rows(points: tuple[Point, ...]) -> list[dict[str, Any]]:
    """A row a group of layers, named by its first."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for point in points:
        first, *others = point.layers
        row = {"layer": first, "cut_with": others, "dense_width": point.dense_width, "points": []}
        reached = {"ratio": point.ratio, "pruned_width": point.pruned_width, "top1": point.value}
        rows.setdefault(point.layers, row)["points"].append(reached)
    return list(rows.values())
