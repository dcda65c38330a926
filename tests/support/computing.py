"""Stages without Ray."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import torch

from akgp import params
from akgp.io.atomic import atomic_directory
from akgp.orchestration.worker import prepare
from akgp.workspace import Task, Workspace


def computed(root: Path, stage: str, network: str | None = None) -> Path:
    """Compute a stage in this process, as its one worker does but without Ray; the artifact, in its place."""
    workspace, threads = Workspace(root), torch.get_num_threads()
    task = Task(stage, params.load(root / "params.yaml"), root, network)
    places = {"prune": workspace.pruned, "distill": workspace.student, "quantize": workspace.int8}
    place = workspace.dense(network) if network else places[stage]
    try:
        prepare(task)
        with atomic_directory(place) as out:
            for _ in import_module(f"akgp.stages.{stage}").compute(task, out, None):
                pass
    finally:
        torch.set_num_threads(threads)
    return place
