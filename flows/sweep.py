"""The flow `sweep`: search parameters with `akgp sweep run`, and publish the best trials."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Annotated

from prefect import flow, task
from pydantic import Field

from akgp.stages.table import STAGES
from flows.compress import announce_retry, prepare, publish, stage, start
from flows.processes import run


@task(retries=1, retry_delay_seconds=10, retry_condition_fn=announce_retry)
def search(folder: Path) -> None:
    """Run all trials; interrupted ones are resumed where they stopped."""
    run(["akgp.cli", "sweep", "run"], folder)


@flow(name="sweep")
def sweep(best: Annotated[int, Field(ge=1)] = 5, folder: Path = Path()) -> str:
    """Search the space given in params.yaml; returns the table of the `best` trials.

    Raises:
        ParamsError: as `prepare`; before anything is computed.
        CommandError: the search failed; has its last lines.
    """
    prepare(folder)
    for each in STAGES.values():
        if each.networks:  # all trials share the networks and the data
            stage(each.name, folder)
    search(folder)
    table = run(["akgp.cli", "sweep", "best", str(best)], folder)
    publish("sweep", table)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m flows.sweep",
        description="Search the space given in params.yaml; print the best trials.",
    )
    parser.add_argument(
        "--best", type=int, default=5, metavar="N", help="how many trials to print; default: 5"
    )
    best = parser.parse_args().best
    if best < 1:
        parser.error(f"argument --best: got {best}, must be 1 or more")
    start(lambda: sweep(best=best))


if __name__ == "__main__":
    main()
