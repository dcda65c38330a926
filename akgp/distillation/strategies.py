"""The loss of a batch by strategy: what each one makes of the teachers, the labels and the weights.

A strategy's loss is a function of (student, teachers, labels, weight, progress, params); `LOSSES`
names them. Those that mix label and teacher by a weight known before training get it from
`weighting`; the others weigh in every batch. All but `confidence` see several teachers as one,
by the mean of their probabilities. B: samples of a batch, C: classes, K: teachers; CE: cross-entropy
with the label at T = 1, where `training.label_smoothing` applies to the student's own; KL and soft
cross-entropy: between logits divided by T, which are standardised before if `logit_std` is set.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from akgp.distillation.losses import (
    at_least_float32,
    distillation_loss,
    divergence,
    log_softened,
    mean_teacher,
)
from akgp.distillation.weighting import WEIGHTS
from akgp.params import Distill

Loss = Callable[[Tensor, Tensor, Tensor, Tensor | None, float, Distill], Tensor]

ALPHA = {"wsld": 2.5, "dkd": 1.0, "confidence": 1.0}
"""The papers' own `alpha`."""


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
        labels: int64 [B], in [0, C).
        weight: [B], the teacher's, see `weighting.teacher_weights`; None where that is None.
        progress: share of the training that is done, in [0, 1].

    Returns:
        A scalar.

    Raises:
        ValueError: a shape is not as above, a weight is missing, or there are too few teachers.
    """
    expected = [max(len(teacher_logits), 1), *student_logits.shape]
    if list(teacher_logits.shape) != expected:
        raise ValueError(
            f"teacher_logits must be {expected} for student_logits {list(student_logits.shape)}, "
            f"got {list(teacher_logits.shape)}"
        )
    if params.strategy in WEIGHTS and weight is None:
        raise ValueError(f"distill.strategy {params.strategy!r} needs the teacher's weight of each sample")
    if params.strategy == "confidence" and len(teacher_logits) < 2:
        raise ValueError("distill.strategy 'confidence' needs two teachers or more, got 1")
    student, teachers = at_least_float32(student_logits), at_least_float32(teacher_logits.detach())
    with torch.autocast(student.device.type, enabled=False):
        return LOSSES[params.strategy](student, teachers, labels, weight, progress, params)


def weighted(
    student_BC: Tensor,
    teachers_KBC: Tensor,
    labels_B: Tensor,
    weight_B: Tensor | None,
    progress: float,
    params: Distill,
) -> Tensor:
    """(1 − w)·CE + w·T²·KL(p_t ‖ p_s), w by sample and fixed before training."""
    assert weight_B is not None
    return _mixed(student_BC, teachers_KBC, labels_B, weight_B, params)


def annealed(
    student_BC: Tensor,
    teachers_KBC: Tensor,
    labels_B: Tensor,
    weight_B: Tensor | None,
    progress: float,
    params: Distill,
) -> Tensor:
    """(1 − w)·CE + w·T²·KL(p_t ‖ p_s) with w = 1 − progress: from the teacher alone to the labels alone.

    Teacher annealing (Clark et al. 2019, BAM! Born-Again Multi-Task Networks, section "Teacher
    annealing"): the target is λ·y + (1 − λ)·p_t with λ rising linearly from 0 to 1 over training.
    At T = 1, the paper's, this is the same gradient; other T soften the teacher's part. `w0` has
    no say.
    """
    return _mixed(student_BC, teachers_KBC, labels_B, 1 - progress, params)


def wsld(
    student_BC: Tensor,
    teachers_KBC: Tensor,
    labels_B: Tensor,
    weight_B: Tensor | None,
    progress: float,
    params: Distill,
) -> Tensor:
    """CE_s + α·T²·(1 − exp(−CE_s / CE_t))·CE(p_t,T , p_s,T), in which the bracket gets no gradient.

    Weighted soft labels (Zhou et al. 2021, Rethinking Soft Labels for Knowledge Distillation: A
    Bias-Variance Tradeoff Perspective, definition of L_wsl): the teacher says less where the
    student already does better on the label than it. The losses in the bracket are at T = 1 and
    without label smoothing. The paper takes α = 2.5, T = 2. Departure: where CE_t is 0, its code
    adds 1e-7 to it, here the bracket is its limit.
    """
    teacher_BC = mean_teacher(teachers_KBC)
    label_loss = F.cross_entropy(student_BC, labels_B, label_smoothing=params.training.label_smoothing)
    of_student = F.cross_entropy(student_BC.detach(), labels_B, reduction="none")
    of_teacher = F.cross_entropy(teacher_BC, labels_B, reduction="none")
    bracket = -torch.expm1(-of_student / of_teacher.clamp_min(torch.finfo(of_teacher.dtype).tiny))
    log_student, log_teacher = _softened(student_BC, params), _softened(teacher_BC, params)
    soft = -(log_teacher.exp() * log_student).sum(1)
    return label_loss + _alpha(params) * params.temperature**2 * (bracket * soft).mean()


def dkd(
    student_BC: Tensor,
    teachers_KBC: Tensor,
    labels_B: Tensor,
    weight_B: Tensor | None,
    progress: float,
    params: Distill,
) -> Tensor:
    """CE + T²·(α·TCKD + β·NCKD).

    Decoupled knowledge distillation (Zhao et al. 2022, eq. 7): with y the label, TCKD is the
    divergence between the pairs (p_y, 1 − p_y) of teacher and student, NCKD that between their
    distributions over the other classes, p_c / (1 − p_y). Ordinary distillation is α = 1 and
    β = 1 − p_t,y. The paper takes α = 1 and β = 8 for CIFAR, 0.5 for ImageNet, T = 4 and 1.
    Departure: its code raises the weight of the teacher's part over the first epochs.
    """
    given = labels_B[:, None]
    others = torch.arange(student_BC.shape[1] - 1, device=given.device).expand(len(given), -1)
    others = others + (others >= given)  # [B, C − 1]: every class but the label's
    pairs, rests = [], []
    for logits in (student_BC, mean_teacher(teachers_KBC)):
        log = _softened(logits, params)
        rest = log.gather(1, others)
        pairs.append(torch.cat([log.gather(1, given), rest.logsumexp(1, keepdim=True)], 1))
        rests.append(rest.log_softmax(1))
    decoupled = _alpha(params) * divergence(*pairs) + params.beta * divergence(*rests)
    label_loss = F.cross_entropy(student_BC, labels_B, label_smoothing=params.training.label_smoothing)
    return label_loss + params.temperature**2 * decoupled.mean()


def confidence(
    student_BC: Tensor,
    teachers_KBC: Tensor,
    labels_B: Tensor,
    weight_B: Tensor | None,
    progress: float,
    params: Distill,
) -> Tensor:
    """CE_s + α·T²·Σ_k w_k·KL(p_k ‖ p_s) with w_k = (1 − softmax_k(CE_k)) / (K − 1), over K ≥ 2 teachers.

    CA-MKD (Zhang et al. 2022, Confidence-Aware Multi-Teacher Knowledge Distillation, the loss on
    logits): for each sample the teachers nearest to its label weigh most; the w_k sum to 1. The
    paper takes α = 1. Departures: its part on intermediate features is left out; KL stands for the
    cross-entropy with soft labels, which has the same gradient; its code divides by K once more.
    """
    teachers, samples, _ = teachers_KBC.shape
    of_teacher = F.cross_entropy(teachers_KBC.flatten(0, 1), labels_B.repeat(teachers), reduction="none")
    share = (1 - of_teacher.view(teachers, samples).softmax(0)) / (teachers - 1)
    log_student = _softened(student_BC, params).expand_as(teachers_KBC)
    guided = (share * divergence(log_student, _softened(teachers_KBC, params))).sum(0)
    label_loss = F.cross_entropy(student_BC, labels_B, label_smoothing=params.training.label_smoothing)
    return label_loss + _alpha(params) * params.temperature**2 * guided.mean()


def _mixed(
    student_BC: Tensor, teachers_KBC: Tensor, labels_B: Tensor, weight: Tensor | float, params: Distill
) -> Tensor:
    return distillation_loss(
        student_BC,
        mean_teacher(teachers_KBC),
        labels_B,
        teacher_weight=weight,
        temperature=params.temperature,
        label_smoothing=params.training.label_smoothing,
        logit_std=params.logit_std,
    )


def _softened(logits: Tensor, params: Distill) -> Tensor:
    return log_softened(logits, params.temperature, params.logit_std)


def _alpha(params: Distill) -> float:
    return ALPHA[params.strategy] if params.alpha is None else params.alpha


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
