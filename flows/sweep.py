"""The flow `sweep`: search parameters with `akgp sweep run`, and publish the best trials."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task

from akgp import params, recipes
from akgp.stages.table import STAGES
from flows.compress import announce_retry, publish, stage, start
from flows.processes import run


@task(retries=1, retry_delay_seconds=10, retry_condition_fn=announce_retry)
def search(folder: Path) -> None:
    """Run all trials; interrupted ones are resumed where they stopped."""
    run(["akgp.cli", "sweep", "run"], folder)


@flow(name="sweep")
def sweep(best: int = 5, folder: Path = Path()) -> str:
    """Search the space given in params.yaml; returns the table of the `best` trials.

    Raises:
        ParamsError: params.yaml is not valid, or lacks a section that DVC reads.
        CommandError: the search failed; has its last lines.
    """
    params.load(folder / "params.yaml")
    recipes.require_complete(folder / "params.yaml")
    for each in STAGES.values():
        if each.networks:  # all trials share the networks and the data
            stage(each.name, folder)
    search(folder)
    table = run(["akgp.cli", "sweep", "best", str(best)], folder)
    publish("sweep", table)
    return table


if __name__ == "__main__":
    start(sweep)
