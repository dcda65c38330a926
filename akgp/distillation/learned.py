"""Several teachers, each sample's trust in them learned together with the student.

B: samples of a batch, C: classes, K: teachers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from akgp.data.batches import Batch
from akgp.distillation.losses import at_least_float32, divergence
from akgp.distillation.objective import TeacherFn
from akgp.distillation.strategies import LossInputs
from akgp.params import Distill


class LearnedTeachers(nn.Module):
    """The objective of strategy `learned`: CE + α·T²·KL(Σ_k w_k p_k,T ‖ p_s,T), w by sample and learned.

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
    hints) and on angles are left out. α = 1 as in `confidence`; their code has 0.3·CE and
    1.4·T²·KL / C, at T = 5.
    """

    def __init__(
        self, guides: Sequence[TeacherFn], params: Distill, *, num_classes: int, prior: Tensor | None
    ) -> None:
        """As for `objective.guided`; θ is drawn from torch's generator.

        Raises:
            ValueError: fewer than two teachers.
        """
        if len(guides) < 2:
            raise ValueError(f"distill.strategy 'learned' needs two teachers or more, got {len(guides)}")
        super().__init__()
        self.guides, self.params, self.prior = guides, params, prior
        self.factors_KC = nn.Parameter(torch.randn(len(guides), num_classes))
        self.common_C = nn.Parameter(torch.zeros(num_classes))

    def log_weights(self, student_logits: Tensor) -> Tensor:
        """log w, [B, K], for the student's logits [B, C]; no gradient flows to them."""
        belief_BC = at_least_float32(student_logits).detach().softmax(1)
        return (belief_BC @ (self.common_C * self.factors_KC).T).log_softmax(1)

    def forward(self, batch: Batch, logits: Tensor, progress: float) -> Tensor:
        """The loss of a batch, in nats a sample: a scalar."""
        teachers_KBC = torch.stack([guide(batch) for guide in self.guides])
        shifted = logits if self.prior is None else logits + self.prior
        answers = LossInputs(shifted, teachers_KBC, batch.labels, None, progress, self.params)
        return learned_loss(answers, self.log_weights(logits))


def learned_loss(answers: LossInputs, log_weights: Tensor) -> Tensor:
    """CE + α·T²·KL(Σ_k w_k p_k,T ‖ p_s,T), see `LearnedTeachers`; the gradient flows to w too.

    Args:
        log_weights: log w, [B, K].
    """
    log_mixture = (log_weights.T[..., None] + answers.softened(answers.teachers_KBC)).logsumexp(0)
    taught = divergence(answers.softened(answers.student_BC), log_mixture).mean()
    return answers.label_loss() + answers.alpha * answers.params.temperature**2 * taught
