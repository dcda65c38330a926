"""The loss of each strategy, from the teachers, the labels and the weights.

All else about a strategy, its record, is in `akgp.params.strategies` under the same name. Each family of
strategies is a module here, with its losses in `LOSSES` and those with parameters of their own in
`OBJECTIVES`.
 N: training images, B: samples of a batch, C: classes, K: teachers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from akgp.data.batches import Batch
from akgp.distillation.losses import at_least_float32
from akgp.distillation.profile.data_profile import DataProfile
from akgp.distillation.strategies import in_batch, matching, self_distillation, several_teachers, weighted
from akgp.distillation.strategies.inputs import Loss, LossInputs, OwnObjective, check_teachers
from akgp.distillation.teacher_weight.per_sample import check_fit
from akgp.distillation.teachers import TeacherFn
from akgp.params import Distill

LOSSES: dict[str, Loss] = weighted.LOSSES | in_batch.LOSSES | matching.LOSSES | several_teachers.LOSSES
OBJECTIVES: dict[str, OwnObjective] = several_teachers.OBJECTIVES | self_distillation.OBJECTIVES


def teacher_weights(params: Distill, profile: DataProfile, logits: Tensor, labels: Tensor) -> Tensor | None:
    """The teacher's weight w of every training sample by `params.strategy`; 1 − w is the label's.

    Args:
        profile: of the network by which wrong labels are detected: the teacher, or one that knows the labels
            better.
        logits: [N, C], the same network's.
        labels: int64 [N], in [0, C), as given, wrong ones included.

    Returns:
        float32 [N] in [0, 1] (`fixed`: up to 2), on the labels' device. None where the strategy has no
        weight before training: it weighs in every batch.

    Raises:
        ValueError: logits and labels do not fit each other or the profile, or a logit is not finite.
    """
    check_fit(profile, logits, labels)
    if params.strategy not in weighted.WEIGHTS:
        return None
    weights = weighted.WEIGHTS[params.strategy](params, profile, logits, labels)
    return weights.clamp(0, params.facts.w0_max).to(labels.device, torch.float32)


TEACHER_WEIGHT = "teacher_weight"
"""The column of a batch that holds the teacher's weight of each image, [B], see `teacher_weights`."""


def distillation_objective(
    teachers: Sequence[TeacherFn], params: Distill, *, prior: Tensor | None
) -> Callable[[Batch, Tensor, float], Tensor]:
    """The objective of a strategy in LOSSES: (batch, student's logits [B, C], progress in [0, 1]) -> loss.

    The loss is a scalar, in nats a sample, without a gradient to the teachers. It is computed in float32, or
    float64 where a logit is; also under autocast. The teacher's weight of each image comes with the batch, as
    the column TEACHER_WEIGHT; strategies that weigh in every batch need none, see `teacher_weights`. Images
    that are mixed of two have no label: the teacher alone teaches them (Beyer et al. 2022).

    Args:
        teachers: none where no image's weight is above 0.
        prior: [C], log class prior added to the student's logits in training; None: no shift.

    Raises:
        ValueError: the strategy has parameters of its own, see OBJECTIVES, or needs more teachers. By the
            objective: as `LossInputs`, or a weight is missing or out of range.
    """
    if params.strategy not in LOSSES:
        raise ValueError(
            f"distill.strategy must be one of {', '.join(LOSSES)}, got {params.strategy!r}, "
            "which has parameters of its own and is an objective"
        )
    if params.strategy not in weighted.WEIGHTS:
        check_teachers(params, len(teachers))
    loss = LOSSES[params.strategy]

    def objective(batch: Batch, logits: Tensor, progress: float) -> Tensor:
        answers = (
            torch.stack([teacher(batch) for teacher in teachers])
            if teachers
            else torch.zeros_like(logits)[None]
        )
        student = at_least_float32(logits if prior is None else logits + prior)
        taught, weight = at_least_float32(answers.detach()), batch.columns.get(TEACHER_WEIGHT)
        labelled = None if batch.mixed is None else batch.mixed.share == 1
        with torch.autocast(student.device.type, enabled=False):
            return loss(LossInputs(student, taught, batch.labels, weight, progress, params, labelled))

    return objective
