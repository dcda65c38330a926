"""`akgp sensitivity`: how much accuracy each layer costs when it alone is cut."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from akgp.cli.common import Json, say_json
from akgp.workspace import Task, Workspace

if TYPE_CHECKING:
    from akgp.params import Section
    from akgp.pruning import Point
    from akgp.stages.sensitivity import Judged, SensitivityResult

app = typer.Typer()
S = TypeVar("S", bound="Section")
HERE = Workspace(Path())
PLOT = Path("sensitivity.svg")
DRAWN = (".svg", ".png", ".pdf")


@app.command()
def sensitivity(
    network: Annotated[
        str | None,
        typer.Argument(
            help="without a workspace: a folder with model.json, cifar_resnet20, a name of torchvision's, or "
            "your module:function",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="of a network: folder of class folders, or of Parquet files")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="of a network: its checkpoint")] = None,
    size: Annotated[
        int | None,
        typer.Option(min=4, max=1024, help="of a network: pixels a side; if not given, as the images are"),
    ] = None,
    image_column: Annotated[
        str | None, typer.Option(help="of Parquet: as data.image_column; default: image")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="of Parquet: as data.label_column; default: label")
    ] = None,
    on_bad_rows: Annotated[
        str | None, typer.Option(help="of a network: as data.on_bad_rows; default: error")
    ] = None,
    gray: Annotated[bool, typer.Option("--gray", help="of a network: images of one channel")] = False,
    mean: Annotated[
        str | None,
        typer.Option(help="of a network: of each channel, such as .485,.456,.406; default: the images'"),
    ] = None,
    std: Annotated[str | None, typer.Option(help="of a network: likewise")] = None,
    criterion: Annotated[
        str | None, typer.Option(help="of a network: as prune.criterion, by weights; default: fpgm")
    ] = None,
    scope: Annotated[str | None, typer.Option(help="of a network: as prune.scope; default: inside")] = None,
    round_to: Annotated[int | None, typer.Option(help="of a network: as prune.round_to; default: 8")] = None,
    ratios: Annotated[str, typer.Option(help="shares of a layer's filters to remove")] = "0.25,0.5,0.75",
    images: Annotated[int, typer.Option(min=1, help="labelled images, at most")] = 1000,
    seconds: Annotated[float, typer.Option(min=0, help="after these no further one is begun")] = 600.0,
    plot: Annotated[
        Path | None,
        typer.Option(help="where the figure is written: .svg, .png or .pdf, with a .csv beside it"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove each residual block of a trained network alone, and cut each layer alone, without recovery, and
    measure its accuracy.

    In a workspace: the student's dense network on validation images, as params.yaml says; the test split is
    not read. With a network's name: that one, on images of --data, of their test split if they have one.
    """
    shares = sorted(set(_numbers("--ratios", ratios)))
    plot = _writable(plot or (PLOT if network else HERE.reports / PLOT))
    pruning = {"criterion": criterion, "scope": scope, "round_to": round_to}
    reading = {"image_column": image_column, "label_column": label_column, "on_bad_rows": on_bad_rows}
    if network is None:
        others = {"data": data, "weights": weights, "size": size, "gray": gray or None}
        _require_none(others | {"mean": mean, "std": std} | pruning | reading)
        measured = _of_workspace(shares, images, seconds)
    else:
        if data is None:
            raise typer.BadParameter("needs labelled images: --data FOLDER", param_hint="--data")
        judged = _judged(network, weights, data, size, gray, mean, std, _given(reading))
        measured = _of_network(judged, _given(pruning), shares, images, seconds)
    _show(measured, plot, as_json)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _require_none(options: Mapping[str, Any]) -> None:
    """Raise BadParameter if any is given: in a workspace params.yaml says all of it."""
    for name in _given(options):
        raise typer.BadParameter(
            "is for a network that is named; a workspace's is measured as params.yaml says",
            param_hint=f"--{name.replace('_', '-')}",
        )


def _of_workspace(shares: list[float], images: int, seconds: float) -> SensitivityResult:
    from akgp import params as parameters

    task = Task("sensitivity", parameters.load(Path("params.yaml")), Path().resolve())
    from akgp.stages.sensitivity import measure

    return measure(task, shares, images, seconds)


def _of_network(
    judged: Judged, pruning: Mapping[str, Any], shares: list[float], images: int, seconds: float
) -> SensitivityResult:
    from akgp.params import Prune
    from akgp.stages.sensitivity import measure_anywhere

    return measure_anywhere(judged, _section(Prune, {"ratio": 0.5, **pruning}), shares, images, seconds)


def _judged(
    network: str, weights: str | None, path: str, size: int | None, gray: bool, mean: str | None,
    std: str | None, reading: dict[str, str],
) -> Judged:  # fmt: skip
    from akgp.params import Data
    from akgp.stages.sensitivity import Judged, holds_tables

    source = "parquet" if holds_tables(path) else "image_folder"
    given = {"source": source, "path": path, "image_size": size, "color": "gray" if gray else "rgb"}
    given |= reading
    by_channel = [
        tuple(_numbers(option, text)) if text else None for option, text in (("--mean", mean), ("--std", std))
    ]
    return Judged(network, weights, _section(Data, given), *by_channel)


def _section(kind: type[S], given: dict[str, Any]) -> S:
    from akgp.params import ParamsError
    from akgp.params.validation import validated

    try:
        return validated(kind, given)
    except ParamsError as error:
        raise typer.BadParameter(str(error).splitlines()[0], param_hint="akgp sensitivity") from None


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(each) for each in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"must be numbers such as 0.25,0.5, got {text!r}", param_hint=option
        ) from None


def _writable(plot: Path) -> Path:
    """The file, after checking that a figure can be written there: before anything is measured."""
    if plot.suffix not in DRAWN:
        raise typer.BadParameter(f"must end in {', '.join(DRAWN)}, got {plot}", param_hint="--plot")
    plot.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(plot.parent, os.W_OK):
        raise typer.BadParameter(f"{plot.parent}: cannot be written", param_hint="--plot")
    return plot


def _show(measured: SensitivityResult, plot: Path, as_json: bool) -> None:
    from akgp.io.atomic import write_csv
    from akgp.reporting.sensitivity import blocks_table, figure, long_table, table

    rows = _rows(measured.points)
    figure(rows, measured.dense_top1).savefig(plot)
    write_csv(plot.with_suffix(".csv"), long_table(rows))
    done = len(measured.points) + len(measured.blocks)
    if as_json:
        blocks = [
            {"block": name, "top1": top1, "macs": macs} for name, (top1, macs) in measured.blocks.items()
        ]
        say_json(
            layers=rows, blocks=blocks, dense_top1=measured.dense_top1, images=measured.images,
            plot=str(plot), points=done, all_points=measured.all_points,
        )  # fmt: skip
        return
    if measured.blocks:
        typer.echo(blocks_table(measured.blocks) + "\n")
    typer.echo(table(rows, measured.dense_top1))
    typer.echo(f"{measured.images:,} images, without recovery; {plot}, {plot.with_suffix('.csv').name}")
    if done < measured.all_points:
        typer.echo(
            f"stopped by --seconds after {done} of {measured.all_points} networks: fewer --images or "
            "--ratios reach further"
        )


def _rows(points: tuple[Point, ...]) -> list[dict[str, Any]]:
    """A row a group of layers, named by its first."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for point in points:
        first, *others = point.layers
        row = {"layer": first, "cut_with": others, "dense_width": point.dense_width, "points": []}
        reached = {"ratio": point.ratio, "pruned_width": point.pruned_width, "top1": point.value}
        rows.setdefault(point.layers, row)["points"].append(reached)
    return list(rows.values())
