"""How much accuracy the student's dense network loses by each layer, on validation images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from tqdm import tqdm

from akgp import artifacts
from akgp.data import BatchSource, read_summary
from akgp.evaluation import accuracy, predict_logits
from akgp.io.terminal import UnbrokenStderr
from akgp.pruning import Point, Sensitivity
from akgp.stages.normalization import read_source
from akgp.stages.pruning_evidence import evidence
from akgp.workspace import Task, require


@dataclass(frozen=True)
class Measured:
    """Top-1 (%) of the dense network, and of it with one group of layers cut, on so many images."""

    dense_top1: float
    images: int
    points: tuple[Point, ...]


def measure(task: Task, ratios: Sequence[float], images: int) -> Measured:
    """Cut each group of layers alone by each ratio, as `prune` in params.yaml says of all else.

    Args:
        images: of the validation split, at most; drawn by the seed.

    Raises:
        PruningError: as `Sensitivity`.
        StageError: no dense network or data yet.
    """
    params, workspace = task.params.prune, task.workspace
    require(workspace.data, workspace.dense(task.params.student))
    summary = read_summary(workspace.data)
    dense = artifacts.load(workspace.dense(task.params.student))
    source = read_source(task, "validation")
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(task.params.seed))
    chosen = source.take(order[:images])

    def judge(model: nn.Module) -> float:
        return top1(model, chosen, task.device)

    sensitivity = Sensitivity(
        dense, torch.zeros(1, summary.channels, *summary.image_size), ratios, judge,
        criterion=params.criterion, scope=params.scope, round_to=params.round_to, skip=params.skip,
        seed=task.params.seed, evidence=evidence(task, dense),
    )  # fmt: skip
    return Measured(judge(dense), len(chosen), tuple(_shown(sensitivity)))


def top1(model: nn.Module, source: BatchSource, device: torch.device) -> float:
    """Accuracy in %."""
    labels = torch.cat([batch.labels for batch in source.ordered(batch_size=256)])
    return accuracy(predict_logits(model, source, device=device), labels)


def _shown(sensitivity: Sensitivity) -> Iterator[Point]:
    """The points, with a progress bar."""
    yield from tqdm(
        sensitivity,
        desc="sensitivity",
        unit="network",
        file=UnbrokenStderr(),
        dynamic_ncols=True,
        leave=False,
    )
