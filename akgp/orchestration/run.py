"""Run one stage of a workspace: validated, under the workspace's lock, on the Ray that params.yaml names.

akgp.stages.table describes each stage. A stage neither knows nor starts another one; `dvc.yaml` holds the
graph.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from akgp import params as parameters
from akgp.io.atomic import atomic_directory
from akgp.orchestration.checkpoints import discard
from akgp.orchestration.train import fit
from akgp.orchestration.unchanged import require_unchanged
from akgp.orchestration.workspace_lock import workspace_lock
from akgp.stages import network_files
from akgp.stages.table import STAGES, Stage
from akgp.workspace import StageError, Task, Workspace


def run_stage(name: str, *, network: str | None = None, root: str | Path = ".") -> None:
    """Run one stage of the workspace `root` and move its artifacts into place.

    Args:
        name: one of STAGES.
        network: the name of one of params.yaml's networks, for a stage that runs for one at a time; may be
            left out there if there is only one.

    Raises:
        StageError: no such stage or network, another computation holds the workspace, an input
            is missing, the requested resources do not exist, or params.yaml was changed meanwhile.
        ValueError: raised by a layer below, about the input.
    """
    workspace = Workspace(Path(root).resolve())
    if name not in STAGES:
        raise StageError(f"stage: got {name!r}, must be one of {', '.join(STAGES)}")
    stage, params = STAGES[name], parameters.load(workspace.root / "params.yaml")
    task = Task(name, params, workspace.root, _network(stage, params, network))
    # Stages after the dense networks read them finished: a file of the user's that has changed since, which
    # `dvc repro` would notice, must not go unnoticed when a stage is run by hand.
    if stage.runs == "job" and not stage.networks:
        network_files.check(params, workspace.root)
    with workspace_lock(workspace, task.label):
        RUN[stage.runs](task, stage)
        require_unchanged(task, stage)  # for all stages, as late as can be: DVC reads the file next


def _network(stage: Stage, params: parameters.Params, asked: str | None) -> str | None:
    """The network for which the stage is to run.

    Raises:
        StageError: there is none of that name, or the stage is not for a single one.
    """
    names = stage.names_of_networks(params)
    if not names and asked is not None:
        single = " and ".join(each.name for each in STAGES.values() if each.networks)
        raise StageError(f"--network is for the stages {single}, not {stage.name!r}")
    if asked is None and len(names) == 1:
        return names[0]
    if names and asked not in names:
        raise StageError(f"--network: got {asked!r}, must be one of {', '.join(names)}")
    return asked


def _here(task: Task, stage: Stage) -> None:
    import_module(stage.module).run(task)


def _folds(task: Task, stage: Stage) -> None:
    """Train the folds into a folder each; earlier folds are removed.

    Without params.yaml's `folds` the output is an empty folder, since DVC requires one; then nothing is
    computed and Ray is not imported.
    """
    checkpoints = None
    with atomic_directory(stage.output(task)) as new:
        if task.params.folds is not None:
            from akgp.orchestration.cross_fit import train_folds

            checkpoints = train_folds(task, stage, task.params.folds, new)
    if checkpoints:
        discard(checkpoints)


RUN = {"here": _here, "job": fit, "folds": _folds}
"""How a stage is run, by `Stage.runs`."""
