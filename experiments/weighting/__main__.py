"""The command: `python -m experiments.weighting run`, then `test`, then `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from experiments.weighting.design import DESIGNS, Design

RUNS, RESULTS = Path("runs/weighting"), Path("results/weighting")
app = typer.Typer(help="Every strategy against every fixed weight.", no_args_is_help=True)
Name = Annotated[
    Literal["grid", "long", "full"],
    typer.Option(
        "--design",
        help="grid: all strategies; long: at equal compute and twice the schedule; full: at full scale.",
    ),
]


def root(design: Design) -> Path:
    """Where this design's networks lie; another design's are not resumed."""
    return (RUNS / design.digest).resolve()


def results(name: str) -> Path:
    return RESULTS if name == "grid" else RESULTS / name


@app.command()
def run(
    name: Name = "grid",
    processes: Annotated[
        int | None, typer.Option(help="So many trials at a time without Ray, where it is not installed.")
    ] = None,
) -> None:
    """Train all teachers and students; again after a kill, it resumes."""
    from experiments.weighting.running import run, run_alone

    design = DESIGNS[name]
    root(design).mkdir(parents=True, exist_ok=True)
    if processes:
        run_alone(design, root(design), processes)
    else:
        run(design, root(design))


@app.command()
def test(
    name: Name = "grid",
    partial: Annotated[bool, typer.Option(help="Without the cells that are not trained yet.")] = False,
    processes: Annotated[int, typer.Option(help="Cells at a time.")] = 1,
) -> None:
    """Open the test split: results/weighting/trials.parquet, a row a student."""
    from experiments.weighting.testing import test, write

    design = DESIGNS[name]
    write(test(design, root(design), partial, processes), design, results(name) / "trials.parquet")


@app.command()
def report(name: Name = "grid") -> None:
    """Tables and plots from trials.parquet."""
    import pandas as pd

    from experiments.weighting.reporting import Results, plots, tables

    found = Results(pd.read_parquet(results(name) / "trials.parquet"), DESIGNS[name])
    (results(name) / "tables.md").write_text(tables(found), encoding="utf-8")
    plots(found, results(name))


if __name__ == "__main__":
    app()
