"""The loss of a batch by strategy: what each one makes of the teachers, the labels and the weights.

A strategy's loss is a function of `LossInputs`; `LOSSES` names them. Those that mix label and teacher
by a weight known before training get it from `weighting`; the others weigh in every batch. All but
`confidence` see several teachers as one, by the mean of their probabilities. Two strategies have
parameters of their own and are objectives elsewhere: `learned` and `self_distillation`. B: samples of
a batch, C: classes, K: teachers; CE: cross-entropy with the label at T = 1, where
`training.label_smoothing` applies to the student's own; KL and soft cross-entropy: between logits
divided by T, which are standardised before if `logit_std` is set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from akgp.distillation.losses import (
    at_least_float32,
    check_batch,
    distillation_loss,
    divergence,
    log_softened,
    mean_teacher,
)
from akgp.distillation.teacher_weight.per_sample import WEIGHTS
from akgp.params import Distill

ALPHA = {"wsld": 2.5, "dkd": 1.0, "confidence": 1.0, "learned": 1.0, "self": 0.3}
"""The papers' own `alpha`, or their code's."""


@dataclass(frozen=True)
class LossInputs:
    """What student and teachers say of a batch, and what a loss is made of besides; see `strategy_loss`.

    Raises:
        ValueError: a shape, a label, the weight or the number of teachers is not as it says there.
    """

    student_BC: Tensor
    teachers_KBC: Tensor
    labels_B: Tensor
    weight_B: Tensor | None
    progress: float
    params: Distill

    def __post_init__(self) -> None:
        check_batch(self.student_BC, self.labels_B)
        expected = [max(len(self.teachers_KBC), 1), *self.student_BC.shape]
        if list(self.teachers_KBC.shape) != expected:
            raise ValueError(
                f"teacher_logits must be {expected} for student_logits {list(self.student_BC.shape)}, "
                f"got {list(self.teachers_KBC.shape)}"
            )
        strategy = self.params.strategy
        if strategy in WEIGHTS and self.weight_B is None:
            raise ValueError(f"distill.strategy {strategy!r} needs the teacher's weight of each sample")
        if strategy == "confidence" and len(self.teachers_KBC) < 2:
            raise ValueError("distill.strategy 'confidence' needs two teachers or more, got 1")

    @property
    def alpha(self) -> float:
        return ALPHA[self.params.strategy] if self.params.alpha is None else self.params.alpha

    def label_loss(self) -> Tensor:
        """The student's mean cross-entropy with the labels, smoothed as in training."""
        smoothing = self.params.training.label_smoothing
        return F.cross_entropy(self.student_BC, self.labels_B, label_smoothing=smoothing)

    def softened(self, logits: Tensor) -> Tensor:
        """log p_T of logits [..., C]."""
        return log_softened(logits, self.params.temperature, self.params.logit_std)

    def mixed(self, weight: Tensor | float) -> Tensor:
        """The distillation loss with this weight of the teacher, one number or [B]."""
        return distillation_loss(
            self.student_BC,
            mean_teacher(self.teachers_KBC),
            self.labels_B,
            teacher_weight=weight,
            temperature=self.params.temperature,
            label_smoothing=self.params.training.label_smoothing,
            logit_std=self.params.logit_std,
        )


Loss = Callable[[LossInputs], Tensor]


def strategy_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    params: Distill,
    weight: Tensor | None = None,
    progress: float = 0.0,
) -> Tensor:
    """The loss of a batch by `params.strategy`, in nats a sample; no gradient flows to the teachers.

    Computed in float32, or float64 where a logit is; also under autocast.

    Args:
        student_logits: [B, C].
        teacher_logits: [K, B, C], of each teacher.
        labels: int64 [B], in [0, C); see `losses.check_batch`.
        weight: [B], the teacher's, see `weighting.teacher_weights`; None where that is None.
        progress: share of the training that is done, in [0, 1].

    Returns:
        A scalar.

    Raises:
        ValueError: a shape, a label or a weight is not as above, the batch is empty, a weight is missing,
            there are too few teachers, or the strategy is an objective elsewhere: learned and self.
    """
    if params.strategy not in LOSSES:
        raise ValueError(
            f"distill.strategy must be one of {', '.join(LOSSES)}, got {params.strategy!r}: "
            "the objective of learned is LearnedTeachers, that of self SelfDistillation"
        )
    student, teachers = at_least_float32(student_logits), at_least_float32(teacher_logits.detach())
    with torch.autocast(student.device.type, enabled=False):
        return LOSSES[params.strategy](LossInputs(student, teachers, labels, weight, progress, params))


def weighted(answers: LossInputs) -> Tensor:
    """(1 − w)·CE + w·T²·KL(p_t ‖ p_s), w by sample and fixed before training."""
    assert answers.weight_B is not None
    return answers.mixed(answers.weight_B)


def annealed(answers: LossInputs) -> Tensor:
    """(1 − w)·CE + w·T²·KL(p_t ‖ p_s) with w = 1 − progress: from the teacher alone to the labels alone.

    Teacher annealing (Clark et al. 2019, BAM! Born-Again Multi-Task Networks, section "Teacher
    annealing"): the target is λ·y + (1 − λ)·p_t with λ rising linearly from 0 to 1 over training.
    At T = 1, the paper's, this is the same gradient; other T soften the teacher's part. `w0` has
    no say.
    """
    return answers.mixed(1 - answers.progress)


def wsld(answers: LossInputs) -> Tensor:
    """CE_s + α·T²·(1 − exp(−CE_s / CE_t))·CE(p_t,T , p_s,T), in which the bracket gets no gradient.

    Weighted soft labels (Zhou et al. 2021, Rethinking Soft Labels for Knowledge Distillation: A
    Bias-Variance Tradeoff Perspective, definition of L_wsl): the teacher says less where the
    student already does better on the label than it. The losses in the bracket are at T = 1 and
    without label smoothing. The paper takes α = 2.5, T = 2. Departure: where CE_t is 0, its code
    adds 1e-7 to it, here the bracket is its limit.
    """
    teacher_BC = mean_teacher(answers.teachers_KBC)
    of_student = F.cross_entropy(answers.student_BC.detach(), answers.labels_B, reduction="none")
    of_teacher = F.cross_entropy(teacher_BC, answers.labels_B, reduction="none")
    bracket = -torch.expm1(-of_student / of_teacher.clamp_min(torch.finfo(of_teacher.dtype).tiny))
    log_student, log_teacher = answers.softened(answers.student_BC), answers.softened(teacher_BC)
    soft = -(log_teacher.exp() * log_student).sum(1)
    return answers.label_loss() + answers.alpha * answers.params.temperature**2 * (bracket * soft).mean()


def dkd(answers: LossInputs) -> Tensor:
    """CE + T²·(α·TCKD + β·NCKD).

    Decoupled knowledge distillation (Zhao et al. 2022, eq. 7): with y the label, TCKD is the
    divergence between the pairs (p_y, 1 − p_y) of teacher and student, NCKD that between their
    distributions over the other classes, p_c / (1 − p_y). Ordinary distillation is α = 1 and
    β = 1 − p_t,y. The paper takes α = 1 and β = 8 for CIFAR, 0.5 for ImageNet, T = 4 and 1.
    Departure: its code raises the weight of the teacher's part over the first epochs.
    """
    given = answers.labels_B[:, None]
    others = torch.arange(answers.student_BC.shape[1] - 1, device=given.device).expand(len(given), -1)
    others = others + (others >= given)  # [B, C − 1]: every class but the label's
    pairs, rests = [], []
    for logits in (answers.student_BC, mean_teacher(answers.teachers_KBC)):
        log = answers.softened(logits)
        rest = log.gather(1, others)
        pairs.append(torch.cat([log.gather(1, given), rest.logsumexp(1, keepdim=True)], 1))
        rests.append(rest.log_softmax(1))
    decoupled = answers.alpha * divergence(*pairs) + answers.params.beta * divergence(*rests)
    return answers.label_loss() + answers.params.temperature**2 * decoupled.mean()


def confidence(answers: LossInputs) -> Tensor:
    """CE_s + α·T²·Σ_k w_k·KL(p_k ‖ p_s) with w_k = (1 − softmax_k(CE_k)) / (K − 1), over K ≥ 2 teachers.

    CA-MKD (Zhang et al. 2022, Confidence-Aware Multi-Teacher Knowledge Distillation, the loss on
    logits): for each sample the teachers nearest to its label weigh most; the w_k sum to 1. The
    paper takes α = 1. Departures: its part on intermediate features is left out; KL stands for the
    cross-entropy with soft labels, which has the same gradient; its code divides by K once more.
    """
    teachers, samples, _ = answers.teachers_KBC.shape
    of_teacher = F.cross_entropy(
        answers.teachers_KBC.flatten(0, 1), answers.labels_B.repeat(teachers), reduction="none"
    )
    share = (1 - of_teacher.view(teachers, samples).softmax(0)) / (teachers - 1)
    log_student = answers.softened(answers.student_BC).expand_as(answers.teachers_KBC)
    guided = (share * divergence(log_student, answers.softened(answers.teachers_KBC))).sum(0)
    return answers.label_loss() + answers.alpha * answers.params.temperature**2 * guided.mean()


LOSSES: dict[str, Loss] = {
    "labels": weighted,
    "teacher": weighted,
    "fixed": weighted,
    "annealed": annealed,
    "wsld": wsld,
    "dkd": dkd,
    "confidence": confidence,
    "akgp": weighted,
}
