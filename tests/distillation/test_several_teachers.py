from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from akgp import params
from akgp.data.batches import Batch
from akgp.distillation import (
    LearnedTeachers,
)
from akgp.distillation.strategies.inputs import LossInputs
from akgp.distillation.strategies.several_teachers import amtml_kd_loss
from tests.support.distillations import (
    Logits,
    distill,
    loop_divergence,
    loop_label_loss,
    loop_softened,
    loop_softmax,
    random_batch,
    several_teachers,
    trained_on,
)


def learner(given: params.Distill, count: int = 3, seed: int = 0) -> LearnedTeachers:
    """For teachers of which the k-th answers with `random_batch`'s of seed 10 + k."""
    torch.manual_seed(seed)
    guides = [lambda batch, k=k: random_batch(seed=10 + k)[1].double() for k in range(count)]
    objective = LearnedTeachers(guides, given, num_classes=4, prior=None).double()
    torch.nn.init.normal_(objective.common_C)
    return objective


def loop_learned(
    student: Logits,
    teachers: list[Logits],
    y: int,
    factors: list[Logits],
    common: Logits,
    given: params.Distill,
) -> float:
    """Liu et al. 2020: w_k = softmax_k(vᵀ(θ_k ⊙ a)), here with a = p_s; then KL of their mixture."""
    a = loop_softmax(student, 1)
    scores = [sum(v * t * p for v, t, p in zip(common, theta, a, strict=True)) for theta in factors]
    soft = [loop_softened(z, given) for z in teachers]
    mixture = [
        sum(w * p[c] for w, p in zip(loop_softmax(scores, 1), soft, strict=True)) for c in range(len(a))
    ]
    taught = loop_divergence(mixture, loop_softened(student, given))
    return loop_label_loss(student, y, given) + given.temperature**2 * taught


@pytest.mark.parametrize(
    "changes", [{}, {"logit_std": True}, {"training": {"label_smoothing": 0.1}}], ids=str
)
def test_learned_loss_is_its_formula(changes: dict[str, Any]) -> None:
    given = distill(strategy="amtml_kd", **changes)
    student, teachers, labels, _ = several_teachers(3)
    objective = learner(given)
    factors, common = objective.factors_KC.tolist(), objective.common_C.tolist()
    expected = [
        loop_learned(student[i].tolist(), teachers[:, i].tolist(), int(labels[i]), factors, common, given)
        for i in range(len(labels))
    ]
    loss = objective(Batch(torch.arange(7), torch.zeros(7), labels), student, 0.5)
    assert loss.shape == () and loss.item() == pytest.approx(sum(expected) / 7, rel=1e-6)


def test_learned_loss_teaches_student_and_weights() -> None:
    student, teachers, labels, _ = several_teachers(3)
    log_weights = torch.randn(7, 3, dtype=torch.float64).log_softmax(1)
    given = distill(strategy="amtml_kd", alpha=2.0)

    def loss(student: Tensor, log_weights: Tensor) -> Tensor:
        return amtml_kd_loss(LossInputs(student, teachers, labels, None, 0.0, given), log_weights)

    assert torch.autograd.gradcheck(loss, (student.requires_grad_(), log_weights.requires_grad_()))


def test_learned_weights_begin_equal_and_take_no_gradient_to_the_student() -> None:
    student, teachers, labels, _ = several_teachers(3)
    objective = learner(distill(strategy="amtml_kd"))
    student.requires_grad_()
    objective.log_weights(student).sum().backward()
    assert student.grad is None and objective.factors_KC.grad is not None
    torch.nn.init.zeros_(objective.common_C)
    loss = objective(Batch(torch.arange(7), torch.zeros(7), labels), student, 0.0)
    mixture = (teachers / 2).softmax(2).mean(0)
    divergence = F.kl_div((student / 2).log_softmax(1), mixture, reduction="batchmean")
    torch.testing.assert_close(loss, F.cross_entropy(student, labels) + 4 * divergence)


def test_learned_prior_shifts_the_students_logits() -> None:
    student, _, labels, _ = several_teachers(3)
    batch, prior = Batch(torch.arange(7), torch.zeros(7), labels), torch.rand(4, dtype=torch.float64).log()
    objective = learner(distill(strategy="amtml_kd", alpha=0.0))
    objective.prior = prior
    torch.testing.assert_close(objective(batch, student, 0.0), F.cross_entropy(student + prior, labels))


def test_learned_weights_find_the_better_teacher() -> None:
    """One teacher knows the labels, the other guesses."""
    noise = 4 * torch.randn(48, 3, generator=torch.Generator().manual_seed(5))
    guides = [lambda batch: noise[batch.index], lambda batch: 4.0 * F.one_hot(batch.labels, 3)]
    torch.manual_seed(0)
    objective = LearnedTeachers(guides, distill(strategy="amtml_kd"), num_classes=3, prior=None)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    trained_on(objective, model, epochs=20, learning_rate=0.05)
    with torch.no_grad():
        weights = objective.log_weights(4.0 * torch.eye(3)).exp()
    assert (weights[:, 1] > 0.7).all()


def test_learned_needs_several_teachers() -> None:
    with pytest.raises(ValueError, match=r"distill\.strategy 'amtml_kd' needs 2 teachers or more, got 1"):
        learner(distill(strategy="amtml_kd"), count=1)
