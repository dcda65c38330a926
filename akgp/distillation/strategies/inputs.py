"""The inputs of a strategy's loss or objective.

B: samples of a batch, C: classes, K: teachers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.distillation.losses import check_batch, distillation_loss, log_softened, mean_teacher
from akgp.distillation.teachers import TeacherFn
from akgp.params import Distill


@dataclass(frozen=True)
class LossInputs:
    """The logits of student and teachers for a batch, and the other inputs of a loss.

    student_BC, teachers_KBC: float32 or float64; the teachers' without gradients.
    labels_B: int64, in [0, C); see `losses.check_batch`.
    weight_B: the teacher's, in [0, 1], see `teacher_weights`; None where that is None.
    progress: share of the training that is done, in [0, 1].

    Raises:
        ValueError: a shape or a label is not as above, the batch is empty, or there are too few teachers.
    """

    student_BC: Tensor
    teachers_KBC: Tensor
    labels_B: Tensor
    weight_B: Tensor | None
    progress: float
    params: Distill
    labelled_B: Tensor | None = None
    """Whether an image's label counts: it does not where two images are mixed; None: for all."""

    def __post_init__(self) -> None:
        check_batch(self.student_BC, self.labels_B)
        expected = [max(len(self.teachers_KBC), 1), *self.student_BC.shape]
        if list(self.teachers_KBC.shape) != expected:
            raise ValueError(
                f"teacher_logits must be {expected} for student_logits {list(self.student_BC.shape)}, "
                f"got {list(self.teachers_KBC.shape)}"
            )
        check_teachers(self.params, len(self.teachers_KBC))

    @property
    def alpha(self) -> float:
        return self.params.alpha_or_default

    @property
    def beta(self) -> float:
        return self.params.beta_or_default

    def label_loss(self) -> Tensor:
        """The student's mean cross-entropy with the labels, smoothed as in training."""
        smoothing = self.params.training.label_smoothing
        if self.labelled_B is None:
            return F.cross_entropy(self.student_BC, self.labels_B, label_smoothing=smoothing)
        losses = F.cross_entropy(self.student_BC, self.labels_B, label_smoothing=smoothing, reduction="none")
        return (losses * self.labelled_B).mean()

    def softened(self, logits: Tensor) -> Tensor:
        """log p_T of logits [..., C]."""
        return log_softened(logits, self.params.temperature, self.params.logit_std)

    def mixed(self, weight: Tensor | float) -> Tensor:
        """The distillation loss with this weight of the teacher, one number or [B]; 1 for mixed images."""
        if self.labelled_B is not None:
            weight = torch.where(self.labelled_B, weight, 1.0)
        return distillation_loss(
            self.student_BC,
            mean_teacher(self.teachers_KBC),
            self.labels_B,
            teacher_weight=weight,
            temperature=self.params.temperature,
            label_smoothing=self.params.training.label_smoothing,
            logit_std=self.params.logit_std,
            largest_weight=self.params.facts.w0_max,
        )


Loss = Callable[[LossInputs], Tensor]
"""The loss of a batch, in nats a sample: a scalar."""


def check_teachers(params: Distill, count: int) -> None:
    """Raise ValueError if there are fewer teachers than the strategy needs."""
    needed = params.facts.teachers
    if count < needed:
        raise ValueError(f"distill.strategy {params.strategy!r} needs {needed} teachers or more, got {count}")


@dataclass(frozen=True)
class ObjectiveInputs:
    """The inputs of an objective with parameters of its own: student, teachers, facts about the data.

    example_input: [1, channels, H, W], of the images' size. num_classes: C.
    prior: [C], log class prior added to the student's logits in training; None: no shift.
    """

    student: nn.Module
    teachers: Sequence[TeacherFn]
    params: Distill
    example_input: Tensor
    num_classes: int
    prior: Tensor | None


OwnObjective = Callable[[ObjectiveInputs], nn.Module]
"""Makes the objective of a strategy that has parameters of its own; draws them from torch's generator."""
