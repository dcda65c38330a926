"""Strategies that weight one teacher within each batch: annealed, wsld, dkd.

Several teachers count as one, by the mean of their probabilities. B: samples of a batch, C: classes; CE:
cross-entropy with the label at T = 1, where `training.label_smoothing` applies to the student's own; KL and
soft cross-entropy: between logits divided by T, which are standardised first if `logit_std` is set.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from akgp.distillation.losses import divergence, mean_teacher
from akgp.distillation.strategies.inputs import Loss, LossInputs


def annealed(inputs: LossInputs) -> Tensor:
    """(1 − w)·CE + w·T²·KL(p_t ‖ p_s) with w = 1 − progress: from the teacher alone to the labels alone.

    Teacher annealing (Clark et al. 2019, BAM! Born-Again Multi-Task Networks, section "Teacher
    annealing"): the target is λ·y + (1 − λ)·p_t with λ rising linearly from 0 to 1 over training.
    At T = 1, the paper's, this is the same gradient; other T soften the teacher's part. `w0` is
    not used.
    """
    return inputs.mixed(1 - inputs.progress)


def wsld(inputs: LossInputs) -> Tensor:
    """CE_s + α·T²·(1 − exp(−CE_s / CE_t))·CE(p_t,T , p_s,T), in which the bracket gets no gradient.

    Weighted soft labels (Zhou et al. 2021, Rethinking Soft Labels for Knowledge Distillation: A
    Bias-Variance Tradeoff Perspective, definition of L_wsl): the teacher says less where the
    student already does better on the label than it. The losses in the bracket are at T = 1 and
    without label smoothing. The paper takes α = 2.5, T = 2. Departure: where CE_t is 0, its code
    adds 1e-7 to it, here the bracket is its limit.
    """
    teacher_BC = mean_teacher(inputs.teachers_KBC)
    of_student = F.cross_entropy(inputs.student_BC.detach(), inputs.labels_B, reduction="none")
    of_teacher = F.cross_entropy(teacher_BC, inputs.labels_B, reduction="none")
    # expm1 keeps the digits of a bracket near 0; the clamp avoids 0/0 where the teacher's loss is 0.
    bracket = -torch.expm1(-of_student / of_teacher.clamp_min(torch.finfo(of_teacher.dtype).tiny))
    log_student, log_teacher = inputs.softened(inputs.student_BC), inputs.softened(teacher_BC)
    soft = -(log_teacher.exp() * log_student).sum(1)
    return inputs.label_loss() + inputs.alpha * inputs.params.temperature**2 * (bracket * soft).mean()


def dkd(inputs: LossInputs) -> Tensor:
    """CE + T²·(α·TCKD + β·NCKD).

    Decoupled knowledge distillation (Zhao et al. 2022, eq. 7): with y the label, TCKD is the
    divergence between the pairs (p_y, 1 − p_y) of teacher and student, NCKD that between their
    distributions over the other classes, p_c / (1 − p_y). Ordinary distillation is α = 1 and
    β = 1 − p_t,y. The paper takes α = 1 and β = 8 for CIFAR, 0.5 for ImageNet, T = 4 and 1.
    Departure: its code raises the weight of the teacher's part over the first epochs.
    """
    given = inputs.labels_B[:, None]
    others = torch.arange(inputs.student_BC.shape[1] - 1, device=given.device).expand(len(given), -1)
    others = others + (others >= given)  # [B, C − 1]: every class but the label's
    pairs, rests = [], []
    for logits in (inputs.student_BC, mean_teacher(inputs.teachers_KBC)):
        log = inputs.softened(logits)
        rest = log.gather(1, others)
        pairs.append(torch.cat([log.gather(1, given), rest.logsumexp(1, keepdim=True)], 1))
        rests.append(rest.log_softmax(1))
    decoupled = inputs.alpha * divergence(*pairs) + inputs.beta * divergence(*rests)
    return inputs.label_loss() + inputs.params.temperature**2 * decoupled.mean()


LOSSES: dict[str, Loss] = {"annealed": annealed, "wsld": wsld, "dkd": dkd}
