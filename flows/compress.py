"""The flow `compress`: a task for each stage of dvc.yaml, and the table of results as an artifact.

`python -m flows.compress` runs it here, without a Prefect server.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import State, Task, flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import TaskRun

from akgp import params, recipes
from akgp.cli import console, entry, home
from akgp.io.errors import first_line
from akgp.reporting.table import results
from akgp.workspace import GateError, Workspace
from flows.processes import CommandError, end_as_by_ctrl_c, run


def announce_retry(failed: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Print that a task is tried again, unless a gate has rejected what it made.

    As retry_condition_fn, it is called while retries are left.
    """
    error = state.result(raise_on_failure=False)
    if isinstance(error, CommandError) and error.stage_status == GateError.status:
        return False
    print(f"{task_run.name}: failed; tried again in {failed.retry_delay_seconds} s", file=sys.stderr)
    return True


@task(task_run_name="{name}", retry_condition_fn=announce_retry)
def stage(name: str, folder: Path) -> None:
    """Bring one stage of dvc.yaml, and what it depends on, up to date."""
    run(["dvc", "repro", name], folder)


@flow(name="compress")
def compress(
    recipe: str | None = None,
    folder: Path = Path(),
    retries: int = 1,
    retry_delay_seconds: float = 10,
    force: bool = False,
) -> str:
    """Run the whole pipeline; returns the table of the results.

    Args:
        recipe: name of a recipe to write params.yaml from first; None: params.yaml as it is.
        folder: the workspace, which holds dvc.yaml; by default the working directory.
        retries: how often a failed stage is tried again. It resumes from its last epoch.
        retry_delay_seconds: how long to wait before.
        force: let the recipe overwrite a params.yaml that has been edited.

    Raises:
        ParamsError: as `prepare`; before anything is computed.
        CommandError: a stage failed after all retries; has its name and last lines.
    """
    for name in prepare(folder, recipe, force):
        stage.with_options(retries=retries, retry_delay_seconds=retry_delay_seconds)(name, folder)
    table = results(Workspace(folder).reports)
    publish("compress", table)
    return table


def prepare(folder: Path, recipe: str | None = None, force: bool = False) -> list[str]:
    """Write params.yaml from the recipe, if there is one; returns the stages' names in dvc.yaml's order.

    Raises:
        ParamsError: dvc.yaml or params.yaml is not valid, or params.yaml lacks a section that DVC reads;
            or there is no such recipe, or params.yaml was edited and would be overwritten.
    """
    names = list(recipes.dvc_stages(folder / "dvc.yaml"))
    if recipe is not None:
        recipes.use(recipe, folder / "params.yaml", folder / recipes.FOLDER, force)
    params.load(folder / "params.yaml")
    recipes.require_complete(folder / "params.yaml")
    return names


def publish(key: str, text: str) -> None:
    """Publish aligned text as the flow's artifact."""
    create_markdown_artifact(f"```text\n{text.rstrip()}\n```\n", key=key)


def start(run_flow: Callable[[], str], recipe: str | None = None, force: bool = False) -> None:
    """Run a flow from the command line: print its result, or exit with one line of error and status 1.

    An interruption, SIGTERM included, ends all that was started, Prefect's server too: one line and
    status 130.
    """
    console.set_up()
    home.set_up(Path())
    end_as_by_ctrl_c()
    try:
        prepare(Path(), recipe, force)  # the flow does so too, but Prefect takes long to start it
        print(run_flow().rstrip())
    except (ValueError, CommandError) as error:
        sys.exit(f"akgp: {first_line(error)}")
    except KeyboardInterrupt:
        entry.complain("interrupted; run it again to resume")
        sys.exit(entry.INTERRUPTED)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.compress", description="Run the whole pipeline.")
    parser.add_argument("--recipe", help="write params.yaml from this recipe first")
    parser.add_argument("--force", action="store_true", help="overwrite a params.yaml that has been edited")
    given = parser.parse_args()
    start(lambda: compress(recipe=given.recipe, force=given.force), given.recipe, given.force)


if __name__ == "__main__":
    main()
