"""Run one stage of a workspace: checked, under the workspace's lock, where params.yaml says.

A stage neither knows nor starts another one; `dvc.yaml` holds the graph.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from akgp import params as parameters
from akgp.orchestration import jobs
from akgp.orchestration.workspace_lock import workspace_lock
from akgp.stages import network_files
from akgp.workspace import StageError, Task, Workspace

STAGES = ("data", "network_files", "teacher", "folds", "prune", "distill", "quantize", "evaluate")


def run_stage(name: str, *, network: str | None = None, root: str | Path = ".") -> None:
    """Run one stage of the workspace `root` and move its artifacts into place.

    Args:
        name: one of STAGES.
        network: which of params.yaml's networks, for the stages teacher and folds; needed there unless
            there is only one.

    Raises:
        StageError: no such stage or network, another computation holds the workspace, an input
            is missing, or the resources asked for don't exist.
        ValueError: of any layer below, for what it cannot work with.
    """
    workspace = Workspace(Path(root).resolve())
    if name not in STAGES:
        raise StageError(f"stage: got {name!r}, must be one of {', '.join(STAGES)}")
    params = parameters.load(workspace.root / "params.yaml")
    networks = {"teacher": tuple(params.networks), "folds": params.teachers}.get(name)
    if networks is None and network is not None:
        raise StageError(f"--network is for the stages teacher and folds, not {name!r}")
    if networks is not None and network is None and len(networks) == 1:
        (network,) = networks
    if networks is not None and network not in networks:
        raise StageError(f"--network: got {network!r}, must be one of {', '.join(networks)}")
    task = Task(stage=name, params=params, root=workspace.root, network=network)
    if name not in ("data", "network_files", "teacher", "folds"):
        network_files.check(params, workspace.root)
    with workspace_lock(workspace, task.label):
        _run(task)


def _run(task: Task) -> None:
    if task.stage in ("data", "network_files"):
        import_module(f"akgp.stages.{task.stage}").run(task)
    else:
        getattr(jobs, task.stage)(task)
