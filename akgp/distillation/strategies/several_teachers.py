"""Strategies that weight several teachers against each other for each sample: ca_mkd, amtml_kd.

B: samples of a batch, C: classes, K: teachers; CE and KL as in `in_batch`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.data.batches import Batch
from akgp.distillation.losses import at_least_float32, divergence
from akgp.distillation.strategies.inputs import (
    Loss,
    LossInputs,
    ObjectiveInputs,
    OwnObjective,
    check_teachers,
)
from akgp.distillation.teachers import TeacherFn
from akgp.params import Distill


def ca_mkd(inputs: LossInputs) -> Tensor:
    """CE_s + α·T²·Σ_k w_k·KL(p_k ‖ p_s) with w_k = (1 − softmax_k(CE_k)) / (K − 1), over K ≥ 2 teachers.

    CA-MKD (Zhang et al. 2022, Confidence-Aware Multi-Teacher Knowledge Distillation, the loss on
    logits): for each sample the teachers nearest to its label weigh most; the w_k sum to 1. The
    paper takes α = 1. Departures: its part on intermediate features is left out; KL stands for the
    cross-entropy with soft labels, which has the same gradient; its code divides by K once more.
    """
    teachers, samples, _ = inputs.teachers_KBC.shape
    of_teacher = F.cross_entropy(
        inputs.teachers_KBC.flatten(0, 1), inputs.labels_B.repeat(teachers), reduction="none"
    )
    share = (1 - of_teacher.view(teachers, samples).softmax(0)) / (teachers - 1)
    log_student = inputs.softened(inputs.student_BC).expand_as(inputs.teachers_KBC)
    guided = (share * divergence(log_student, inputs.softened(inputs.teachers_KBC))).sum(0)
    return inputs.label_loss() + inputs.alpha * inputs.params.temperature**2 * guided.mean()


class LearnedTeachers(nn.Module):
    """The objective of strategy `amtml_kd`: CE + α·T²·KL(Σ_k w_k p_k,T ‖ p_s,T), w by sample and learned.

    AMTML-KD (Liu, Zhang, Wang 2020, Adaptive Multi-Teacher Multi-level Knowledge Distillation, its
    integrated soft targets): every teacher has a latent factor θ_k, and with a_i a representation
    of sample i and v a vector for all of them

        w_ki = softmax_k(vᵀ(θ_k ⊙ a_i)).

    θ and v are learned by the same loss, that is, towards the mixture of teachers which is nearest
    to what the student makes of teachers and labels.

    Departures: a_i is the student's softmax at T = 1, without gradient, rather than its max-pooled
    last feature map, so that any network will do; v_c·θ_kc then is the trust in teacher k on class c.
    v begins at 0, so that all teachers count alike at first. θ and v are learned with the student
    from the first step on; in the authors' code they come first, with a penalty of 0.1·(‖θ‖² + ‖v‖²),
    where here `weight_decay` holds for θ. Their losses on intermediate features (the multi-group
    hints) and on angles are left out. α = 1 as in `ca_mkd`; their code has 0.3·CE and
    1.4·T²·KL / C, at T = 5.
    """

    def __init__(
        self, teachers: Sequence[TeacherFn], params: Distill, *, num_classes: int, prior: Tensor | None
    ) -> None:
        """As for `distillation_objective`; θ is drawn from torch's generator.

        Raises:
            ValueError: fewer than two teachers.
        """
        check_teachers(params, len(teachers))
        super().__init__()
        self.teachers, self.params, self.prior = teachers, params, prior
        self.factors_KC = nn.Parameter(torch.randn(len(teachers), num_classes))
        self.common_C = nn.Parameter(torch.zeros(num_classes))

    def log_weights(self, student_logits: Tensor) -> Tensor:
        """log w, [B, K], for the student's logits [B, C]; no gradient flows to them."""
        belief_BC = at_least_float32(student_logits).detach().softmax(1)
        return (belief_BC @ (self.common_C * self.factors_KC).T).log_softmax(1)

    def forward(self, batch: Batch, logits: Tensor, progress: float) -> Tensor:
        """The loss of a batch, in nats a sample: a scalar."""
        teachers_KBC = torch.stack([teacher(batch) for teacher in self.teachers])
        shifted = logits if self.prior is None else logits + self.prior
        inputs = LossInputs(shifted, teachers_KBC, batch.labels, None, progress, self.params)
        return amtml_kd_loss(inputs, self.log_weights(logits))


def amtml_kd_loss(inputs: LossInputs, log_weights: Tensor) -> Tensor:
    """CE + α·T²·KL(Σ_k w_k p_k,T ‖ p_s,T), see `LearnedTeachers`; the gradient flows to w too.

    Args:
        log_weights: log w, [B, K].
    """
    log_mixture = (log_weights.T[..., None] + inputs.softened(inputs.teachers_KBC)).logsumexp(0)
    teacher_loss = divergence(inputs.softened(inputs.student_BC), log_mixture).mean()
    return inputs.label_loss() + inputs.alpha * inputs.params.temperature**2 * teacher_loss


def _amtml_kd(inputs: ObjectiveInputs) -> LearnedTeachers:
    return LearnedTeachers(inputs.teachers, inputs.params, num_classes=inputs.num_classes, prior=inputs.prior)


LOSSES: dict[str, Loss] = {"ca_mkd": ca_mkd}
OBJECTIVES: dict[str, OwnObjective] = {"amtml_kd": _amtml_kd}
