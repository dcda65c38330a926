"""The stages of the pipeline: each reads params.yaml, computes as a Ray Train job, writes artifacts.

`dvc.yaml` holds the graph; a stage neither knows nor starts another one.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from akgp import params as parameters
from akgp.stages import network_files
from akgp.stages.workspace import StageError, Task, Workspace, held

STAGES = ("data", "network_files", "teacher", "folds", "prune", "distill", "quantize", "evaluate")

__all__ = ["STAGES", "StageError", "run"]


def run(name: str, *, network: str | None = None, root: str | Path = ".") -> None:
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
    with held(workspace, task.label):
        _run(task)


def _run(task: Task) -> None:
    if task.stage in ("data", "network_files", "folds"):
        import_module(f"akgp.stages.{task.stage}").run(task)
    else:
        getattr(import_module("akgp.stages.jobs"), task.stage)(task)
