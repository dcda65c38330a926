from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from akgp import params
from akgp.data.batches import Batch
from akgp.data.mixing import Mixed
from akgp.distillation import (
    distillation_loss,
    distillation_objective,
    frozen_teacher,
    profile_data,
    standardized,
    teacher_weights,
    weighted_ensemble,
)
from akgp.distillation.strategies import TEACHER_WEIGHT
from akgp.distillation.strategies.weighted import WEIGHTS
from akgp.params.strategies import STRATEGIES
from tests.support.distillations import (
    Logits,
    distill,
    loop_divergence,
    loop_label_loss,
    loop_logs,
    loop_softened,
    loop_softmax,
    several_teachers,
)
from tests.support.losses import strategy_loss

Formula = Callable[[Logits, list[Logits], int, float, params.Distill], float]


def loop_mean_teacher(teachers: list[Logits]) -> Logits:
    """Logits of the mean probability; one teacher's own."""
    if len(teachers) == 1:
        return teachers[0]
    each = [loop_softmax(z, 1) for z in teachers]
    return [math.log(sum(p[c] for p in each) / len(each)) for c in range(len(each[0]))]


def loop_weighted(student: Logits, teachers: list[Logits], y: int, w: float, given: params.Distill) -> float:
    p_t, p_s = loop_softened(loop_mean_teacher(teachers), given), loop_softened(student, given)
    taught = given.temperature**2 * loop_divergence(p_t, p_s)
    return (1 - w) * loop_label_loss(student, y, given) + w * taught


def loop_wsld(student: Logits, teachers: list[Logits], y: int, w: float, given: params.Distill) -> float:
    """Zhou et al. 2021: CE_s + α·T²·(1 − exp(−CE_s / CE_t))·Σ_c −p_t,T log p_s,T."""
    teacher = loop_mean_teacher(teachers)
    ce_s, ce_t = -loop_logs(student)[y], -loop_logs(teacher)[y]
    p_t, p_s = loop_softened(teacher, given), loop_softened(student, given)
    soft = -sum(a * math.log(b) for a, b in zip(p_t, p_s, strict=True))
    bracket = 1 - math.exp(-ce_s / ce_t)
    return loop_label_loss(student, y, given) + 2.5 * given.temperature**2 * bracket * soft


def loop_dkd(student: Logits, teachers: list[Logits], y: int, w: float, given: params.Distill) -> float:
    """Zhao et al. 2022, eq. 7: α·KL(b_t ‖ b_s) + β·KL(p̂_t ‖ p̂_s), times T², beside CE."""
    p_t, p_s = loop_softened(loop_mean_teacher(teachers), given), loop_softened(student, given)
    target = loop_divergence([p_t[y], 1 - p_t[y]], [p_s[y], 1 - p_s[y]])
    other = [c for c in range(len(p_t)) if c != y]
    rest = loop_divergence([p_t[c] / (1 - p_t[y]) for c in other], [p_s[c] / (1 - p_s[y]) for c in other])
    return loop_label_loss(student, y, given) + given.temperature**2 * (1.0 * target + 8.0 * rest)


def loop_wttm(student: Logits, teachers: list[Logits], y: int, w: float, given: params.Distill) -> float:
    """Zheng & Yang 2024: CE + β·Σ_c p_c^γ·KL(p^γ / Σ p^γ ‖ q), γ = 1/T, q and p at T = 1."""
    one = given.model_copy(update={"temperature": 1.0})
    p, q = loop_softened(loop_mean_teacher(teachers), one), loop_softened(student, one)
    powers = [each ** (1 / given.temperature) for each in p]
    transformed = [each / sum(powers) for each in powers]
    return loop_label_loss(student, y, given) + 4.0 * sum(powers) * loop_divergence(transformed, q)


def loop_confidence(
    student: Logits, teachers: list[Logits], y: int, w: float, given: params.Distill
) -> float:
    """Zhang et al. 2022: w_k = 1/(K − 1)·(1 − exp(CE_k) / Σ_j exp(CE_j))."""
    powers = [math.exp(-loop_logs(z)[y]) for z in teachers]
    total = 0.0
    for z, power in zip(teachers, powers, strict=True):
        weight = (1 - power / sum(powers)) / (len(teachers) - 1)
        total += weight * loop_divergence(loop_softened(z, given), loop_softened(student, given))
    return loop_label_loss(student, y, given) + given.temperature**2 * total


FORMULAS: dict[str, Formula] = {
    "labels": loop_weighted, "teacher": loop_weighted, "fixed": loop_weighted, "akgp": loop_weighted,
    "annealed": loop_weighted, "wsld": loop_wsld, "dkd": loop_dkd, "wttm": loop_wttm,
    "ca_mkd": loop_confidence,
}  # fmt: skip
TESTED = (*FORMULAS, "dist")
"""dist compares the images of a batch, so that it has no formula for one of them."""


PROGRESS = 0.3


def batch_loss(strategy: str, student: Tensor, teachers: Tensor, **changes: Any) -> Tensor:
    _, _, labels, weight = several_teachers(1)
    given = distill(strategy=strategy, **changes)
    known = weight if strategy in WEIGHTS else None
    return strategy_loss(student, teachers, labels, params=given, weight=known, progress=PROGRESS)


@pytest.mark.parametrize(
    "changes", [{}, {"logit_std": True}, {"training": {"label_smoothing": 0.1}}], ids=str
)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("strategy", FORMULAS)
def test_losses_are_their_formulas(
    strategy: str, count: int, temperature: float, changes: dict[str, Any]
) -> None:
    if strategy == "ca_mkd":
        count += 1
    student, teachers, labels, weight = several_teachers(count)
    given = distill(strategy=strategy, temperature=temperature, **changes)
    weights = [1 - PROGRESS] * len(labels) if strategy == "annealed" else weight.tolist()
    expected = [
        FORMULAS[strategy](student[i].tolist(), teachers[:, i].tolist(), int(labels[i]), weights[i], given)
        for i in range(len(labels))
    ]
    loss = batch_loss(strategy, student, teachers, temperature=temperature, **changes)
    assert loss.shape == () and loss.dtype == torch.float64
    assert loss.item() == pytest.approx(sum(expected) / len(expected), rel=1e-6 if given.logit_std else 1e-12)
    single = batch_loss(strategy, student.float(), teachers.float(), temperature=temperature, **changes)
    assert single.dtype == torch.float32 and single.item() == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("count", "temperature"), [(1, 1.0), (3, 4.0)])
def test_dist_is_its_formula(count: int, temperature: float, smoothing: float) -> None:
    """Huang et al. 2022, eq. 8 to 10, with numpy's correlation coefficients."""
    student, teachers, labels, _ = several_teachers(count)
    given = distill(
        strategy="dist", temperature=temperature, alpha=1.5, training={"label_smoothing": smoothing}
    )
    rows = range(len(labels))
    teacher = [loop_mean_teacher(teachers[:, i].tolist()) for i in rows]
    p_t = np.array([loop_softened(each, given) for each in teacher])
    p_s = np.array([loop_softened(student[i].tolist(), given) for i in rows])

    def distance(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)]))

    matched = 1.5 * distance(p_s, p_t) + 2.0 * distance(p_s.T, p_t.T)
    of_labels = np.mean([loop_label_loss(student[i].tolist(), int(labels[i]), given) for i in rows])
    loss = strategy_loss(student, teachers, labels, params=given)
    assert loss.item() == pytest.approx(of_labels + temperature**2 * matched, rel=1e-6)


def test_dist_of_constant_answers_has_no_correlation_and_no_gradient() -> None:
    """Neither of equal logits, nor within the one image of a batch of one."""
    student, teachers, labels = torch.zeros(1, 3, requires_grad=True), torch.zeros(1, 1, 3), torch.tensor([0])
    loss = strategy_loss(student, teachers, labels, params=distill(strategy="dist", temperature=1.0))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3) + 2 + 2)
    torch.testing.assert_close(student.grad, torch.tensor([[-2 / 3, 1 / 3, 1 / 3]]))


def test_fixed_above_1_learns_against_the_label() -> None:
    student, teachers, labels, _ = several_teachers(1)
    given, weight = distill(strategy="fixed", w0=1.4), torch.full((7,), 1.4, dtype=torch.float64)
    of_label, of_teacher = (
        distillation_loss(student, teachers[0], labels, teacher_weight=w, temperature=2.0) for w in (0, 1)
    )
    loss = strategy_loss(student, teachers, labels, params=given, weight=weight)
    torch.testing.assert_close(loss, 1.4 * of_teacher - 0.4 * of_label)
    profile = profile_data(teachers[0], labels)
    assert teacher_weights(given, profile, teachers[0], labels).eq(torch.tensor(1.4)).all()
    with pytest.raises(ValueError, match=r"teacher_weight must be in \[0, 2\], got 2.1 to 2.1"):
        strategy_loss(student, teachers, labels, params=given, weight=weight * 1.5)


@pytest.mark.parametrize("strategy", TESTED)
def test_strategies_teach_the_student_alone(strategy: str) -> None:
    student, teachers, _, _ = several_teachers(2)
    student.requires_grad_()
    teachers.requires_grad_()
    batch_loss(strategy, student, teachers).backward()
    assert student.grad is not None and student.grad.abs().sum() > 0 and teachers.grad is None
    gradient = student.grad
    again = student.detach().clone().requires_grad_()
    batch_loss(strategy, again, teachers).backward()
    assert torch.equal(again.grad, gradient), "deterministic"


def test_weights_known_before_training_give_the_distillation_loss_bit_for_bit() -> None:
    student, teachers, labels, weight = several_teachers(1)
    for strategy in WEIGHTS:
        expected = distillation_loss(student, teachers[0], labels, teacher_weight=weight, temperature=2.0)
        assert batch_loss(strategy, student, teachers) == expected


def test_annealing_goes_from_the_teacher_to_the_labels() -> None:
    student, teachers, labels, _ = several_teachers(1)
    for progress, weight in ((0.0, 1.0), (0.25, 0.75), (1.0, 0.0)):
        loss = strategy_loss(
            student, teachers, labels, params=distill(strategy="annealed"), progress=progress
        )
        expected = distillation_loss(student, teachers[0], labels, teacher_weight=weight, temperature=2.0)
        assert loss == expected


def test_wsld_gives_its_weight_no_gradient() -> None:
    student, teachers, labels, _ = several_teachers(1)
    student.requires_grad_()
    batch_loss("wsld", student, teachers).backward()
    losses = [F.cross_entropy(z.detach(), labels, reduction="none") for z in (student, teachers[0])]
    bracket = (1 - (-losses[0] / losses[1]).exp())[:, None]
    soft = [(z.detach() / 2).softmax(1) for z in (student, teachers[0])]
    of_labels = student.detach().softmax(1) - F.one_hot(labels, 4)
    expected = (of_labels + 2.5 * 2 * bracket * (soft[0] - soft[1])) / len(labels)
    torch.testing.assert_close(student.grad, expected)


def test_wsld_trusts_a_teacher_that_is_surely_right() -> None:
    """Its loss on the label is 0 in floating point: the weight is 1, not NaN."""
    teacher = torch.tensor([[200.0, 0.0]])
    student = torch.zeros(1, 2, requires_grad=True)
    loss = strategy_loss(student, teacher[None], torch.tensor([0]), params=distill(strategy="wsld"))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2) * (1 + 2.5 * 4))
    assert student.grad is not None and student.grad.isfinite().all()


def test_dkd_without_decoupling_is_the_softened_divergence() -> None:
    """Zhao et al. 2022, eq. 6: KD = TCKD + (1 − p_t,y)·NCKD."""
    student, teachers, labels, _ = several_teachers(1)
    for i, y in enumerate(labels.tolist()):
        one = (student[i : i + 1], teachers[:, i : i + 1], labels[i : i + 1])
        share = 1 - (teachers[0, i] / 2).softmax(0)[y].item()
        loss = strategy_loss(*one, params=distill(strategy="dkd", alpha=1.0, beta=share))
        taught = distillation_loss(one[0], one[1][0], one[2], teacher_weight=1, temperature=2.0)
        assert loss.item() == pytest.approx((F.cross_entropy(one[0], one[2]) + taught).item(), rel=1e-9)


def test_alpha_and_beta_scale_the_teachers_part() -> None:
    student, teachers, labels, _ = several_teachers(2)
    of_labels = F.cross_entropy(student, labels)
    for strategy, own in (("wsld", 2.5), ("wttm", 4.0), ("ca_mkd", 1.0)):
        assert batch_loss(strategy, student, teachers, alpha=0.0) == of_labels
        taught = (batch_loss(strategy, student, teachers) - of_labels) / own
        torch.testing.assert_close(batch_loss(strategy, student, teachers, alpha=3.0), of_labels + 3 * taught)
    assert batch_loss("dkd", student, teachers, alpha=0.0, beta=0.0) == of_labels
    assert batch_loss("dist", student, teachers, alpha=0.0, beta=0.0) == of_labels
    for strategy, alpha, beta in (("dkd", 1.0, 8.0), ("dist", 2.0, 2.0)):
        given = batch_loss(strategy, student, teachers, alpha=alpha, beta=beta)
        assert batch_loss(strategy, student, teachers) == given


def test_confidence_in_equal_teachers_is_equal() -> None:
    student, teachers, labels, _ = several_teachers(1)
    same = batch_loss("ca_mkd", student, teachers.expand(4, -1, -1))
    taught = distillation_loss(student, teachers[0], labels, teacher_weight=1, temperature=2.0)
    torch.testing.assert_close(same, F.cross_entropy(student, labels) + taught)


@pytest.mark.parametrize("strategy", sorted(set(TESTED) - {"labels"}))
def test_standardised_logits_have_no_scale(strategy: str) -> None:
    """Only the part on the labels tells a student from one whose logits are a multiple."""
    student, teachers, labels, _ = several_teachers(2)
    changes: dict[str, Any] = {"strategy": strategy, "logit_std": True, "alpha": 1.0}
    ones = torch.ones(len(labels)) if strategy in WEIGHTS else None

    def taught(logits: Tensor) -> Tensor:
        loss = strategy_loss(logits, teachers, labels, params=distill(**changes), weight=ones)
        return loss if strategy in (*WEIGHTS, "annealed") else loss - F.cross_entropy(logits, labels)

    if strategy != "wsld":  # its weight follows the losses at T = 1
        torch.testing.assert_close(taught(3 * student + 1), taught(student), rtol=1e-5, atol=1e-6)
    scores = standardized(student)
    torch.testing.assert_close(scores.mean(1), torch.zeros(7, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(scores.std(1, correction=0), torch.ones(7, dtype=torch.float64))


def test_standardising_equal_logits_gives_zeros_and_finite_gradients() -> None:
    logits = torch.full((2, 5), 3.0, requires_grad=True)
    scores = standardized(logits)
    scores.log_softmax(1)[:, 0].sum().backward()
    assert scores.eq(0).all() and logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize("strategy", TESTED)
def test_huge_logits_stay_finite_for_every_strategy(strategy: str) -> None:
    student = torch.tensor([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0]], requires_grad=True)
    teachers = torch.stack([-student.detach(), student.detach()])
    known = torch.tensor([0.5, 0.5]) if strategy in WEIGHTS else None
    given = distill(strategy=strategy, temperature=1.0)
    loss = strategy_loss(student, teachers, torch.tensor([0, 1]), params=given, weight=known)
    loss.backward()
    assert loss.isfinite() and student.grad is not None and student.grad.isfinite().all()


@pytest.mark.parametrize(
    ("strategy", "teachers", "message"),
    [
        ("dkd", (2, 3), r"teacher_logits must be \[2, 2, 3\] for student_logits \[2, 3\], got \[2, 3\]"),
        ("wsld", (1, 2, 4), r"teacher_logits must be \[1, 2, 3\] for .* got \[1, 2, 4\]"),
        ("annealed", (0, 2, 3), "distill.strategy 'annealed' needs 1 teachers or more, got 0"),
        ("ca_mkd", (1, 2, 3), "distill.strategy 'ca_mkd' needs 2 teachers or more, got 1"),
        ("akgp", (1, 2, 3), "distill.strategy 'akgp' needs the teacher's weight of each sample"),
    ],
)
def test_strategies_refuse(strategy: str, teachers: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        strategy_loss(
            torch.zeros(2, 3), torch.zeros(teachers), torch.tensor([0, 1]), params=distill(strategy=strategy)
        )


@pytest.mark.parametrize("strategy", TESTED)
def test_objective_is_the_loss_of_what_the_networks_say(strategy: str) -> None:
    torch.manual_seed(0)
    teachers = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4)) for _ in range(2)]
    columns = {TEACHER_WEIGHT: torch.rand(3)} if strategy in WEIGHTS else {}
    batch = Batch(torch.tensor([5, 0, 2]), torch.randn(3, 3, 2, 2), torch.tensor([0, 3, 1]), columns)
    logits, prior = torch.randn(3, 4), torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    given = distill(strategy=strategy)
    objective = distillation_objective([frozen_teacher(teacher) for teacher in teachers], given, prior=prior)
    said = torch.stack([teacher(batch.inputs) for teacher in teachers])
    expected = strategy_loss(
        logits + prior, said, batch.labels, params=given, progress=0.4,
        weight=columns.get(TEACHER_WEIGHT),
    )  # fmt: skip
    assert objective(batch, logits, 0.4) == expected
    # A teacher is left as it was: it may be pruned, and its copy trained.
    assert all(p.requires_grad for teacher in teachers for p in teacher.parameters())
    assert not torch.stack([frozen_teacher(teacher)(batch) for teacher in teachers]).requires_grad


@pytest.mark.parametrize("strategy", sorted(name for name, each in STRATEGIES.items() if each.mixes))
def test_mixed_images_are_labelled_by_the_teacher_alone(strategy: str) -> None:
    """Their labels make no difference, and those of the others do; the images themselves count alike."""
    student, teachers, labels, weight = several_teachers(1)
    given = distill(strategy=strategy, training={"augment": {"mixup": 0.2}})
    columns = {TEACHER_WEIGHT: weight} if strategy in WEIGHTS else {}
    objective = distillation_objective([lambda batch: teachers[0]], given, prior=None)

    def loss(labels: Tensor, share: float) -> float:
        shares = torch.tensor([share] * 3 + [1.0] * 4)
        images, mixed = torch.zeros(7, 1, 2, 2), Mixed(labels.roll(1), shares)
        return objective(Batch(torch.arange(7), images, labels, columns, mixed), student, 0.25).item()

    others = torch.cat([(labels[:3] + 1) % 4, labels[3:]])
    assert loss(labels, 0.4) == loss(others, 0.4)
    assert loss(labels, 1.0) != loss(others, 1.0) and loss(labels, 0.4) != loss((labels + 1) % 4, 0.4)
    if strategy == "annealed":
        weights = torch.tensor([1.0] * 3 + [0.75] * 4)
        expected = distillation_loss(student, teachers[0], labels, teacher_weight=weights, temperature=2.0)
        assert loss(labels, 0.4) == pytest.approx(expected.item(), rel=1e-12)


def silent(batch: Batch) -> Tensor:
    raise AssertionError("asked")


def test_objective_asks_no_teacher_that_has_no_weight() -> None:
    """`Distillation.objective` passes none where all weights are 0."""
    columns = {TEACHER_WEIGHT: torch.zeros(2)}
    batch = Batch(torch.arange(2), torch.zeros(2, 1, 2, 2), torch.tensor([0, 1]), columns)
    given = distill(strategy="labels")
    objective = distillation_objective([], given, prior=None)
    logits = torch.randn(2, 3)
    assert objective(batch, logits, 0.0) == F.cross_entropy(logits, batch.labels)


def test_teachers_together_say_the_weighted_mean_of_their_probabilities() -> None:
    torch.manual_seed(0)
    one, two = torch.randn(2, 3, 4)
    batch = Batch(torch.arange(3), torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 2]))
    said = weighted_ensemble([lambda _: one, silent, lambda _: two], torch.tensor([0.25, 0.0, 0.75]))(batch)
    torch.testing.assert_close(said.softmax(1), 0.25 * one.softmax(1) + 0.75 * two.softmax(1))


@pytest.mark.parametrize("strategy", ["ca_mkd", "amtml_kd"])
@pytest.mark.parametrize("swept", [False, True])
def test_teachers_weighed_against_each_other_must_be_several(strategy: str, swept: bool) -> None:
    key = "sweep.space: distill.strategy" if swept else "distill.strategy"
    changes: dict[str, Any] = (
        {"sweep": {"space": {"distill.strategy": {"choices": ["akgp", strategy]}}}}
        if swept
        else {"distill": {"strategy": strategy}}
    )
    networks = {"one": {"architecture": "cifar_resnet20"}, "two": {"architecture": "cifar_resnet8"}}
    tree = {"networks": networks, "teachers": ["one"], "student": "one"} | changes
    with pytest.raises(params.ParamsError) as error:
        params.validate(tree)
    assert str(error.value) == (
        f"{key}: {strategy!r} weighs teachers against each other: teachers must name two or more networks, "
        "got one"
    )
    params.validate(tree | {"teachers": ["one", "two"]})
