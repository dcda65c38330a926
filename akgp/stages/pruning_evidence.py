"""What the criterion of prune looks at: training images, and a loss on them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from akgp.data.batches import Batch, BatchSource
from akgp.distillation import Distillation, Teacher, ask_teachers, frozen_teacher
from akgp.distillation.strategies import TEACHER_WEIGHT
from akgp.models.copying import deep_copy
from akgp.params import Distill
from akgp.pruning.evidence import Curvature, Evidence, distillation_curvature
from akgp.pruning.group_criteria import BY_IMAGES
from akgp.stages.normalization import read_source
from akgp.training import Objective, cross_entropy
from akgp.workspace import Task

BATCH = 64


def evidence(task: Task, dense: nn.Module) -> Evidence | None:
    """What `prune.criterion` looks at; None for a criterion that needs no images."""
    criterion = task.params.prune.criterion
    if criterion not in BY_IMAGES:
        return None
    if criterion == "knowledge":
        return _distilled(task, dense)
    return _drawn(task, read_source(task, "train"), cross_entropy())


def evidence_of_noise(criterion: str, noise: Tensor, classes: int) -> Evidence | None:
    """The same of a network that is not trained yet, for a trial: its images [N, C, H, W], labels in turn."""
    if criterion not in BY_IMAGES:
        return None
    index = torch.arange(len(noise))
    batch = Batch(index, noise, index % classes, {TEACHER_WEIGHT: torch.full([len(noise)], 0.5)})
    return Evidence([batch], cross_entropy(), distillation_curvature(TEACHER_WEIGHT, 1.0))


def _distilled(task: Task, dense: nn.Module) -> Evidence:
    """The loss of the strategy akgp, taught by the student's own dense network.

    So that prune depends on no parameter of distill, all is at its default.
    """
    teacher, params = deep_copy(dense), Distill(logit_adjustment="off")
    splits = (read_source(task, split) for split in ("train", "validation", "calibration"))
    data = ask_teachers([Teacher([teacher])], None, *splits)
    run = Distillation(dense, data, params, teachers=[frozen_teacher(teacher)])
    curvature = distillation_curvature(TEACHER_WEIGHT, params.temperature)
    return _drawn(task, run.images(), run.objective(), curvature)


def _drawn(
    task: Task, source: BatchSource, objective: Objective, curvature: Curvature | None = None
) -> Evidence:
    """`prune.images` of the images."""
    # At random: the split is in the order of its source, which may be by class.
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(task.params.seed))
    chosen = source.take(order[: task.params.prune.images])
    return Evidence(list(chosen.ordered(batch_size=BATCH)), objective, curvature)
