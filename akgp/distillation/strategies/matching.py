"""Strategies that replace the divergence from one teacher by another measure: wttm, dist.

Several teachers count as one, by the mean of their probabilities. B: samples of a batch, C: classes; CE:
cross-entropy with the label at T = 1, where `training.label_smoothing` applies. `logit_std` standardises the
logits before they are divided by T, as for the other strategies; the papers do not.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from akgp.distillation.losses import divergence, log_softened, mean_teacher
from akgp.distillation.strategies.inputs import Loss, LossInputs


def wttm(inputs: LossInputs) -> Tensor:
    """CE + α·U(p_t)·KL(p_t,T ‖ p_s), with the student at T = 1 and U(p) = Σ_c p_c^(1/T).

    Weighted transformed teacher matching (Zheng & Yang 2024, Knowledge Distillation Based on Transformed
    Teacher Matching, section 4): only the teacher is softened, p_t,T being the power transform of p_t with
    exponent γ = 1/T, and a sample counts by its power sum U, from 1 for a sure teacher to C^(1 − γ) for one
    that knows nothing. α is the paper's β, chosen by network there: 4 at γ = 0.2 in the example of its code.
    """
    teacher_BC, temperature = mean_teacher(inputs.teachers_KBC), inputs.params.temperature
    standardise = inputs.params.logit_std
    log_student = log_softened(inputs.student_BC, 1.0, standardise)
    log_teacher = log_softened(teacher_BC, 1.0, standardise)
    power_sum = (log_teacher / temperature).exp().sum(1)
    taught = power_sum * divergence(log_student, inputs.softened(teacher_BC))
    return inputs.label_loss() + inputs.alpha * taught.mean()


def dist(inputs: LossInputs) -> Tensor:
    """CE + T²·(α·mean_i d(p_s,i· , p_t,i·) + β·mean_c d(p_s,·c , p_t,·c)), d = 1 − Pearson's correlation.

    DIST (Huang et al. 2022, Knowledge Distillation from a Stronger Teacher, eq. 8 to 10): student and teacher
    need only correlate, over the classes of each image and over the images of the batch for each class. α and
    β are its β and γ: 2 and 2 at T = 4 for CIFAR-100, 1 and 1 at T = 1 for ImageNet. The factor T² is its
    code's.
    """
    student_BC = inputs.softened(inputs.student_BC).exp()
    teacher_BC = inputs.softened(mean_teacher(inputs.teachers_KBC)).exp()
    within_images = _distance(student_BC, teacher_BC).mean()
    within_classes = _distance(student_BC.T, teacher_BC.T).mean()
    matched = inputs.alpha * within_images + inputs.beta * within_classes
    return inputs.label_loss() + inputs.params.temperature**2 * matched


def _distance(x: Tensor, y: Tensor) -> Tensor:
    """1 − Pearson's correlation over the last dimension; 1 where x or y is constant."""
    x, y = (each - each.mean(-1, keepdim=True) for each in (x, y))
    return 1 - F.cosine_similarity(x, y, dim=-1)


LOSSES: dict[str, Loss] = {"wttm": wttm, "dist": dist}
