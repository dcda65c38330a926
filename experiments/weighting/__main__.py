"""The command: `python -m experiments.weighting run`, then `test`, then `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.weighting.design import common_digest

RUNS, RESULTS = Path("runs/weighting"), Path("results/weighting")
app = typer.Typer(help="Every strategy against every fixed weight.", no_args_is_help=True)


def folder() -> Path:
    """Where this design's networks lie; another design's are not gone on with."""
    return (RUNS / common_digest()).resolve()


@app.command()
def run() -> None:
    """Train all teachers and students; again after a kill, it goes on."""
    from experiments.weighting.running import run

    folder().mkdir(parents=True, exist_ok=True)
    run(folder())


@app.command()
def test(
    partial: Annotated[bool, typer.Option(help="Without the cells that are not trained yet.")] = False,
) -> None:
    """Open the test split: results/weighting/trials.parquet, a row a student."""
    from experiments.weighting.testing import test, write

    write(test(folder(), partial), RESULTS / "trials.parquet")


@app.command()
def report() -> None:
    """Tables and plots from trials.parquet."""
    import pandas as pd

    from experiments.weighting.reporting import Results, plots, tables

    results = Results(pd.read_parquet(RESULTS / "trials.parquet"))
    (RESULTS / "tables.md").write_text(tables(results))
    plots(results, RESULTS)


if __name__ == "__main__":
    app()
