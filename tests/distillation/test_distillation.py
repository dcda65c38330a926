"""The distillation loss against loops, the characteristics against known truths, the weights against both."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from akgp import artifacts, params
from akgp.data import prepare, read_split, read_summary
from akgp.data.batches import Batch, IndexedSource
from akgp.distillation import (
    DataProfile,
    DistillationData,
    Ensemble,
    LearnedTeachers,
    SelfDistillation,
    calibration_temperature,
    distillation_loss,
    distillation_objective,
    estimate_w0,
    frozen_teacher,
    log_prior,
    profile_data,
    self_distillation_loss,
    sentence,
    stacked_weight,
    standardized,
    strategy_loss,
    teacher_weights,
    training_of,
    weighted_ensemble,
    weights_by_class,
    wrong_label_probability,
)
from akgp.distillation.profile.calibration import BINS
from akgp.distillation.profile.data_profile import CLEAN
from akgp.distillation.strategies import LOSSES, OBJECTIVES, TEACHER_WEIGHT
from akgp.distillation.strategies.inputs import LossInputs
from akgp.distillation.strategies.self_distillation import HINT
from akgp.distillation.strategies.several_teachers import amtml_kd_loss
from akgp.distillation.strategies.weighted import WEIGHTS
from akgp.evaluation import predict_logits
from akgp.evaluation.cost import count
from akgp.models import cifar_resnet
from akgp.params.strategies import STRATEGIES
from akgp.stages import distill as distill_stage
from akgp.stages.inputs import read_distillation_data
from akgp.training import evaluate, train
from akgp.workspace import Step, Task

NAMES = ("cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay", "kiwi", "lynx")


def random_batch(size: int = 7, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 3 * torch.randn(2, size, classes, generator=generator)
    labels = torch.randint(classes, (size,), generator=generator)
    return student, teacher, labels, torch.rand(size, generator=generator)


def distill(**changes: Any) -> params.Distill:
    return params.Distill.model_validate(changes)


# The loss


def loop_softmax(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(z / temperature) for z in logits]
    return [power / sum(powers) for power in powers]


def loop_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, weight: list[float], temperature: float
) -> float:
    """The formula in plain Python, double precision, sample by sample."""
    total = 0.0
    for z_s, z_t, y, w in zip(student.tolist(), teacher.tolist(), labels.tolist(), weight, strict=True):
        p_s, p_t = loop_softmax(z_s, temperature), loop_softmax(z_t, temperature)
        divergence = sum(t * math.log(t / s) for t, s in zip(p_t, p_s, strict=True))
        total += (1 - w) * -math.log(loop_softmax(z_s, 1)[y]) + w * temperature**2 * divergence
    return total / len(labels)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 20.0])
def test_loss_is_the_formula(temperature: float) -> None:
    student, teacher, labels, weight = random_batch()
    expected = loop_loss(student, teacher, labels, weight.tolist(), temperature)
    loss = distillation_loss(student, teacher, labels, teacher_weight=weight, temperature=temperature)
    assert loss.shape == () and loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    exact = distillation_loss(
        student.double(), teacher.double(), labels, teacher_weight=weight.double(), temperature=temperature
    )
    assert exact.item() == pytest.approx(expected, rel=1e-12)


def test_one_weight_for_all_is_the_same_weight_for_each() -> None:
    student, teacher, labels, _ = random_batch()
    for weight in (0.0, 0.3, 1.0, torch.tensor(0.3)):
        loss = distillation_loss(student, teacher, labels, teacher_weight=weight, temperature=3.0)
        each = torch.full((len(labels),), float(weight))
        assert loss == distillation_loss(student, teacher, labels, teacher_weight=each, temperature=3.0)


def test_ends_are_cross_entropy_and_softened_divergence() -> None:
    student, teacher, labels, _ = random_batch()
    only_labels = distillation_loss(student, teacher, labels, teacher_weight=0, temperature=4.0)
    torch.testing.assert_close(only_labels, F.cross_entropy(student, labels))
    only_teacher = distillation_loss(student, teacher, labels, teacher_weight=1, temperature=4.0)
    divergence = F.kl_div((student / 4).log_softmax(1), (teacher / 4).softmax(1), reduction="batchmean")
    torch.testing.assert_close(only_teacher, 16 * divergence)
    smoothed = distillation_loss(
        student, teacher, labels, teacher_weight=0, temperature=4.0, label_smoothing=0.1
    )
    torch.testing.assert_close(smoothed, F.cross_entropy(student, labels, label_smoothing=0.1))


def test_at_temperature_1_mixing_losses_is_mixing_targets() -> None:
    student, teacher, labels, weight = random_batch()
    student.requires_grad_()
    distillation_loss(student, teacher, labels, teacher_weight=weight, temperature=1.0).backward()
    w = weight[:, None]
    target = (1 - w) * F.one_hot(labels, 4) + w * teacher.softmax(1)
    torch.testing.assert_close(student.grad, (student.detach().softmax(1) - target) / len(labels))


def test_gradient_reaches_the_student_alone() -> None:
    student, teacher, labels, weight = (
        t.double() if t.is_floating_point() else t for t in random_batch(size=3)
    )
    for tensor in (student, teacher, weight):
        tensor.requires_grad_()

    def loss(logits: Tensor) -> Tensor:
        return distillation_loss(logits, teacher, labels, teacher_weight=weight, temperature=2.0)

    assert torch.autograd.gradcheck(loss, (student,))
    loss(student).backward()
    assert student.grad is not None and teacher.grad is None and weight.grad is None


def test_teacher_imitated_exactly_costs_nothing() -> None:
    _, teacher, labels, _ = random_batch()
    student = (teacher + 5.0).requires_grad_()  # logits have no zero point
    loss = distillation_loss(student, teacher, labels, teacher_weight=1.0, temperature=2.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(student.grad, torch.zeros_like(student), atol=1e-6, rtol=0)


def test_half_precision_is_computed_in_single() -> None:
    student, teacher, labels, weight = random_batch()
    student, teacher = student.bfloat16(), teacher.bfloat16()
    arguments: dict[str, Any] = {"teacher_weight": weight, "temperature": 2.0}
    expected = distillation_loss(student.float(), teacher.float(), labels, **arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = distillation_loss(student, teacher, labels, **arguments)
    assert loss.dtype == torch.float32 and loss == expected


def test_huge_logits_stay_finite() -> None:
    labels = torch.tensor([0, 1])
    student = torch.tensor([[1e4, -1e4], [1e4, -1e4]]).requires_grad_()
    loss = distillation_loss(student, -student.detach(), labels, teacher_weight=0.5, temperature=1.0)
    loss.backward()
    assert loss.isfinite() and student.grad is not None and student.grad.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student_logits": torch.zeros(2)}, r"student_logits must be \[B, C\] with B > 0, got \[2\]"),
        ({"student_logits": torch.zeros(0, 3)}, r"student_logits must be \[B, C\] with B > 0, got \[0, 3\]"),
        (
            {"teacher_logits": torch.zeros(2, 4)},
            r"must be \[2, 3\] like student_logits, got \[2, 4\]: .* classes",
        ),
        ({"labels": torch.tensor([0])}, r"labels must be int64 \[2\], got torch.int64 \[1\]"),
        ({"labels": torch.tensor([0.0, 1.0])}, r"labels must be int64 \[2\], got torch.float32"),
        ({"labels": torch.tensor([0, 3])}, r"labels must be in \[0, 3\), got 0 to 3"),
        ({"labels": torch.tensor([-1, 2])}, r"labels must be in \[0, 3\), got -1 to 2"),
        ({"temperature": 0.0}, "temperature must be a finite number above 0, got 0"),
        ({"temperature": math.inf}, "temperature must be a finite number above 0, got inf"),
        ({"temperature": math.nan}, "temperature must be a finite number above 0, got nan"),
        ({"teacher_weight": 1.2}, r"teacher_weight must be in \[0, 1\], got 1.2"),
        ({"teacher_weight": math.nan}, r"teacher_weight must be in \[0, 1\], got nan"),
        (
            {"teacher_weight": torch.tensor([0.5, -0.1])},
            r"teacher_weight must be in \[0, 1\], got -0.1 to 0.5",
        ),
        ({"teacher_weight": torch.full((2, 1), 0.5)}, r"number or one a sample \[2\], got \[2, 1\]"),
    ],
)
def test_loss_refuses(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "student_logits": torch.zeros(2, 3), "teacher_logits": torch.zeros(2, 3),
        "labels": torch.tensor([0, 1]), "teacher_weight": 0.5, "temperature": 2.0,
    } | changes  # fmt: skip
    positional = [arguments.pop(name) for name in ("student_logits", "teacher_logits", "labels")]
    with pytest.raises(ValueError, match=message):
        distillation_loss(*positional, **arguments)


def test_ensemble_is_the_mean_of_the_probabilities() -> None:
    networks = [torch.nn.Linear(5, 3) for _ in range(3)]
    inputs = torch.randn(4, 5)
    mean = sum(network(inputs).softmax(1) for network in networks) / 3
    torch.testing.assert_close(Ensemble(networks)(inputs).softmax(1), mean)
    with pytest.raises(ValueError, match="at least one network, got none"):
        Ensemble([])


# The characteristics


def world(
    *,
    samples: int = 4000,
    classes: int = 10,
    noise: float = 0.0,
    flips: bool | tuple[int, ...] = False,
    skill: float = 9.0,
    jitter: float = 0.0,
    counts: list[int] | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """A teacher's logits, labels of which `noise` are wrong, and which are.

    The teacher gives the true class the logit `skill` more, plus normal noise of size `jitter`.
    Wrong labels are the next class (`flips`), the class that `flips` names of each, itself for none, or any
    other.
    """
    generator = torch.Generator().manual_seed(seed)
    if counts is None:
        true = torch.randint(classes, (samples,), generator=generator)
    else:
        true = torch.arange(classes).repeat_interleave(torch.tensor(counts))
        samples = len(true)
    wrong = torch.rand(samples, generator=generator) < noise
    shift = torch.ones_like(true) if flips else torch.randint(1, classes, (samples,), generator=generator)
    other = torch.tensor(flips)[true] if isinstance(flips, tuple) else (true + shift) % classes
    labels = torch.where(wrong, other, true)
    wrong &= labels != true
    logits = skill * F.one_hot(true, classes) + jitter * torch.randn(samples, classes, generator=generator)
    return logits, labels, wrong


def negative_log_likelihood(logits: Tensor, labels: Tensor, temperature: float, weight: Tensor) -> float:
    losses = F.cross_entropy(logits.double() / temperature, labels, reduction="none")
    return float((weight * losses).sum() / weight.sum())


@pytest.mark.parametrize("weighted", [False, True])
def test_temperature_minimises_the_likelihood(weighted: bool) -> None:
    logits, labels, _ = world(samples=500, noise=0.2, jitter=2.0)
    weight = torch.rand(500) + 0.1 if weighted else torch.ones(500)
    found = calibration_temperature(logits, labels, weight)
    reference = minimize_scalar(
        lambda t: negative_log_likelihood(logits, labels, t, weight), bounds=(0.05, 100), method="bounded",
        options={"xatol": 1e-7},
    )  # fmt: skip
    assert found == pytest.approx(reference.x, rel=1e-4)
    assert calibration_temperature(30 * logits, labels, weight) == pytest.approx(30 * found, rel=1e-6)


def test_temperature_finds_the_truth() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20_000, 5, generator=generator)
    labels = torch.multinomial((logits / 2.5).softmax(1), 1, generator=generator)[:, 0]
    assert calibration_temperature(logits, labels) == pytest.approx(2.5, rel=0.03)


def test_temperature_without_an_optimum() -> None:
    labels = torch.arange(100) % 4
    perfect = 8.0 * F.one_hot(labels, 4)
    assert calibration_temperature(perfect, labels) == pytest.approx(8 / 100)
    assert calibration_temperature(-perfect, labels) == pytest.approx(8 * 100)
    assert calibration_temperature(torch.full((100, 4), 3.0), labels) == 1.0


def test_temperature_of_a_saturated_teacher_with_noise() -> None:
    """One-hot at 10⁴, right in 60 %: calibrated, its confidence is 60 %."""
    logits, labels, wrong = world(samples=1000, noise=0.4, skill=1e4)
    share = 1 - wrong.float().mean()
    temperature = calibration_temperature(logits, labels)
    assert (logits.double() / temperature).softmax(1).amax(1).mean() == pytest.approx(float(share), rel=1e-6)


def test_calibration_error_is_the_sum_over_bins() -> None:
    logits, labels, _ = world(samples=700, noise=0.3, skill=2.0, jitter=1.5)
    found = profile_data(logits, labels)
    probability = logits.double().softmax(1).numpy()
    confidence, right = probability.max(1), probability.argmax(1) == labels.numpy()
    expected = 0.0
    for index in range(BINS):
        inside = (confidence > index / BINS) & (confidence <= (index + 1) / BINS)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert found.ece == pytest.approx(expected, rel=1e-9)
    assert found.accuracy == pytest.approx(right.mean())
    assert found.overconfidence == pytest.approx(confidence.mean() - right.mean())


def test_memorisation_gap_is_negative_where_labels_are_memorised() -> None:
    logits, labels, _ = world(noise=0.4)
    memorised = 9.0 * F.one_hot(labels, 10)
    found = profile_data(logits, labels, train_logits=memorised, train_labels=labels)
    t = found.temperature
    brier = [
        float(((z / t).softmax(1) - F.one_hot(labels, 10)).square().sum(1).mean())
        for z in (memorised, logits)
    ]
    assert found.memorisation_gap == pytest.approx(brier[0] - brier[1], rel=1e-4)
    assert found.memorisation_gap is not None and found.memorisation_gap < -0.2
    honest = profile_data(logits, labels, train_logits=logits, train_labels=labels)
    assert honest.memorisation_gap == pytest.approx(0, abs=1e-12)
    assert profile_data(logits, labels).memorisation_gap is None


def test_imbalanced_classes_count_alike() -> None:
    """Weights do what repeating the images of rare classes would do."""
    logits, labels, _ = world(counts=[400, 100, 80], classes=3, skill=2.0, jitter=2.0, noise=0.1)
    labels = torch.arange(3).repeat_interleave(torch.tensor([400, 100, 80]))
    train_counts = torch.tensor([4000, 1000, 800])
    weighted = profile_data(
        logits, labels, train_logits=logits.flip(0), train_labels=labels, train_counts=train_counts
    )
    times = torch.tensor([1, 4, 5])[labels]
    repeated = profile_data(
        logits.repeat_interleave(times, 0), labels.repeat_interleave(times),
        train_counts=torch.full((3,), 2000),
        train_logits=logits.flip(0).repeat_interleave(times, 0), train_labels=labels.repeat_interleave(times),
    )  # fmt: skip
    assert weighted.imbalanced and weighted.imbalance == 5 and not repeated.imbalanced
    for name in ("temperature", "accuracy", "ece", "overconfidence", "memorisation_gap"):
        assert getattr(weighted, name) == pytest.approx(getattr(repeated, name), rel=1e-6), name
    mild = profile_data(logits, labels, train_counts=torch.tensor([3, 1, 1]))
    assert not mild.imbalanced and mild.accuracy != pytest.approx(weighted.accuracy)


def test_prior_comes_from_the_training_split() -> None:
    logits, labels, _ = world(samples=100, classes=3)
    train_labels = torch.tensor([0] * 6 + [1] * 2)
    found = profile_data(logits, labels, train_labels=train_labels)
    assert found.class_counts == (6, 2, 0) and found.imbalance == 6
    torch.testing.assert_close(found.prior(), torch.tensor([6, 2, 1], dtype=torch.float64) / 9)
    assert profile_data(logits, labels).class_counts == tuple(labels.bincount().tolist())


# Label noise: what is wrong is found, and nothing is found where nothing is wrong


def test_symmetric_noise_is_found() -> None:
    logits, labels, wrong = world(noise=0.4)
    found = profile_data(logits, labels)
    assert found.noise_rate == pytest.approx(0.4, abs=0.03)
    doubt = wrong_label_probability(found, logits, labels)
    assert roc_auc_score(wrong, doubt) > 0.99
    assert doubt[wrong].mean() > 0.9 and doubt[~wrong].mean() < 0.05
    assert doubt.mean() == pytest.approx(float(wrong.float().mean()), abs=0.03), "doubts are probabilities"


def test_symmetric_noise_is_found_by_an_imperfect_teacher() -> None:
    logits, labels, wrong = world(noise=0.4, skill=4.0, jitter=1.5, samples=6000)
    calibration, train = slice(0, 2000), slice(2000, None)
    found = profile_data(logits[calibration], labels[calibration])
    assert found.noise_rate is not None and 0.33 < found.noise_rate < 0.5, "reads .45 to .48 at worst"
    doubt = wrong_label_probability(found, logits[train], labels[train])
    assert roc_auc_score(wrong[train], doubt) > 0.9


def test_confused_pairs_are_found() -> None:
    logits, labels, wrong = world(noise=0.3, flips=True, skill=4.0, jitter=1.2)
    found = profile_data(logits, labels)
    confusion = torch.tensor(found.confusion)
    assert (confusion.argmax(1) == (torch.arange(10) + 1) % 10).all()
    torch.testing.assert_close(confusion.sum(1), torch.ones(10))
    assert confusion.diagonal().eq(0).all()
    transition = found.transition()
    assert transition.diagonal().eq(1 - found.noise_rate).all()  # type: ignore[operator]
    torch.testing.assert_close(transition.sum(1), torch.ones(10, dtype=torch.float64))
    assert roc_auc_score(wrong, wrong_label_probability(found, logits, labels)) > 0.95


def test_confusion_counts_the_most_confident_fifth_of_each_prediction() -> None:
    """Class 0 predicted ten times, so the surest two count: labels 1 and 0."""
    logits = torch.zeros(20, 3)
    logits[:10, 0] = torch.linspace(5, 1, 10)
    logits[10:, 1] = 2.0
    labels = torch.tensor([1, 0, 2, 2, 2, 2, 2, 2, 2, 2] + [1] * 10)
    smoothing = 10 / 2
    confusion = profile_data(logits, labels).confusion
    assert confusion[0] == pytest.approx((0, (1 + smoothing) / 11, smoothing / 11))
    assert confusion[1] == pytest.approx((0.5, 0, 0.5)) and confusion[2] == pytest.approx((0.5, 0.5, 0))


CAT_DOG = (1, 0, 2, 3, 4, 5, 6, 7, 8, 9)
LIKE_CIFAR10 = (1, 0, 2, 2, 4, 4, 6, 6, 8, 9)  # five classes, two of them each other


def trained_on_flips(logits: Tensor, noise: float, flips: tuple[int, ...]) -> Tensor:
    """Logits of a teacher that predicts given labels, as one trained on them does."""
    away = F.one_hot(torch.tensor(flips), 10).float()
    return (logits.softmax(1) @ ((1 - noise) * torch.eye(10) + noise * away)).clamp_min(1e-9).log()


@pytest.mark.parametrize("flips", [False, True], ids=["symmetric", "flips"])
def test_noise_is_what_cleanlab_finds(flips: bool) -> None:
    """cleanlab (Northcutt et al. 2021, Confident Learning) as an independent estimate of the same things.

    The teacher predicts given labels, as one trained on them does. Where labels are flipped in pairs, q
    ranks the wrong ones better than cleanlab's self-confidence, .999 against .973; under symmetric noise
    it ranks them as well, .997 against .998.
    """
    from cleanlab.count import compute_confident_joint, estimate_latent
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_self_confidence_for_each_label

    noise = 0.3 if flips else 0.4
    logits, labels, wrong = world(noise=noise, flips=flips, skill=4.0, jitter=1.2, samples=6000)
    away = torch.eye(10).roll(1, 1) if flips else (1 - torch.eye(10)) / 9
    logits = (logits.softmax(1) @ ((1 - noise) * torch.eye(10) + noise * away)).log()
    found = profile_data(logits, labels)
    doubt = wrong_label_probability(found, logits, labels)

    given, probability = labels.numpy(), (logits.double() / found.temperature).softmax(1).numpy()
    prior, label_given_true, _ = estimate_latent(compute_confident_joint(given, probability), given)
    share = float(wrong.float().mean())
    assert found.noise_rate == pytest.approx(share, abs=0.03)
    assert 1 - (label_given_true.diagonal() * prior).sum() == pytest.approx(share, abs=0.03)
    if flips:
        theirs = label_given_true.T * (1 - np.eye(10))
        assert (np.array(found.confusion).argmax(1) == theirs.argmax(1)).all()
    ranked = roc_auc_score(wrong, -get_self_confidence_for_each_label(given, probability))
    assert roc_auc_score(wrong, doubt) > ranked + (0.02 if flips else -0.002)
    assert ((doubt > 0.5).numpy() == find_label_issues(given, probability)).mean() > 0.92


@pytest.mark.parametrize("flips", [CAT_DOG, LIKE_CIFAR10], ids=["cat and dog", "five classes"])
@pytest.mark.parametrize("noise", [0.3, 0.45])
def test_noise_of_a_class_is_what_cleanlab_finds(flips: tuple[int, ...], noise: float) -> None:
    """Also where the surest answers of all are of other classes, and the rate over all reads nothing."""
    from cleanlab.count import compute_confident_joint, estimate_latent

    logits, labels, _ = world(noise=noise, flips=flips, skill=5.0, jitter=1.0, samples=40_000)
    logits = trained_on_flips(logits, noise, flips)
    found = profile_data(logits, labels)
    assert found.noise_rate == 0
    flipped = [k for k in range(10) if flips[k] != k]
    assert sorted(found.suspects) == flipped
    assert found.doubtful and not found.noisy
    given, probability = labels.numpy(), (logits.double() / found.temperature).softmax(1).numpy()
    _, label_given_true, _ = estimate_latent(compute_confident_joint(given, probability), given)
    theirs = 1 - label_given_true.diagonal()
    for k in range(10):
        truth = noise if k in flipped else 0.0
        assert found.noise_rate_by_class[k] == pytest.approx(truth, abs=0.1), NAMES[k]
        assert theirs[k] == pytest.approx(truth, abs=0.1), NAMES[k]
        if k in flipped:
            assert max(range(10), key=found.confusion[k].__getitem__) == flips[k]
    said = sentence(found, NAMES)
    assert said.startswith("labels look right but for those of ") and "most of them cat)" in said


def test_doubt_is_bayes_rule() -> None:
    logits, labels, _ = world(noise=0.4, skill=2.0, jitter=1.0, samples=800)
    found = profile_data(logits, labels)
    doubt = wrong_label_probability(found, logits[:50], labels[:50])
    transition = found.transition().numpy()
    for z, y, q in zip(logits[:50].double().numpy(), labels[:50].tolist(), doubt.tolist(), strict=True):
        powers = np.exp(z / found.temperature)
        clean = np.maximum(1e-3, np.linalg.inv(transition.T) @ (powers / powers.sum()))
        given = [clean[c] * transition[c, y] for c in range(10)]
        assert q == pytest.approx(1 - given[y] / sum(given), abs=1e-9)


@pytest.mark.parametrize(
    "arguments",
    [
        {"skill": 9.0},
        {"skill": 8.0, "jitter": 1.5},
        {"skill": 8.0, "jitter": 1.5, "counts": [1000, 600, 360, 220, 130, 80, 50, 40, 30, 20]},
    ],
    ids=["perfect", "imperfect", "long tail"],
)
def test_no_noise_no_doubt(arguments: dict[str, Any]) -> None:
    logits, labels, _ = world(**arguments)
    found = profile_data(logits, labels)
    assert found.noise_rate is not None and found.noise_rate <= CLEAN and not found.noisy
    assert not found.doubtful and sentence(found, NAMES).startswith("labels look right;")
    assert wrong_label_probability(found, logits, labels).eq(0).all()
    assert teacher_weights(distill(w0=0.6), found, logits, labels).eq(0.6).all()
    torch.testing.assert_close(found.transition(), torch.eye(10, dtype=torch.float64))


@pytest.mark.parametrize("counts", [[400] * 10, [800, 200], [1000, 50, 20]], ids=["even", "80:20", "tail"])
@pytest.mark.parametrize("teacher", ["constant", "prior", "random"])
def test_a_teacher_that_knows_nothing_casts_no_doubt(teacher: str, counts: list[int]) -> None:
    classes = len(counts)
    _, labels, _ = world(counts=counts, classes=classes)
    logits = {
        "constant": torch.zeros(len(labels), classes),
        "prior": torch.tensor(counts).log().expand(len(labels), -1),
        "random": torch.randn(len(labels), classes, generator=torch.Generator().manual_seed(1)),
    }[teacher]
    found = profile_data(logits, labels)
    assert found.noise_rate is None and found.information < 0.01
    assert wrong_label_probability(found, logits, labels).eq(0).all()
    assert "too little" in sentence(found, NAMES[:classes])
    assert not found.doubtful


def test_estimates_converge() -> None:
    """To the noise rate, the confusion and the temperature that are true, as images grow in number."""
    errors: dict[str, list[float]] = {"noise": [], "confusion": [], "temperature": []}
    for samples in (1000, 10_000, 100_000):
        logits, labels, _ = world(noise=0.3, flips=True, samples=samples)
        found = profile_data(logits, labels)
        errors["noise"].append(abs(found.noise_rate - 0.3))  # type: ignore[operator]
        next_class = torch.eye(10).roll(1, 1)
        errors["confusion"].append(float((torch.tensor(found.confusion) - next_class).abs().max()))
        generator = torch.Generator().manual_seed(1)
        drawn = 3 * torch.randn(samples, 10, generator=generator)
        told = torch.multinomial((drawn / 2.5).softmax(1), 1, generator=generator)[:, 0]
        errors["temperature"].append(abs(calibration_temperature(drawn, told) / 2.5 - 1))
    for name, (few, _, many) in errors.items():
        assert many < 0.02 and many < few, (name, errors[name])


def test_doubt_on_a_long_tail_is_a_probability() -> None:
    """Its temperature is not weighted by class: v goes by the label, which may be wrong."""
    counts = [2000, 1300, 850, 560, 370, 240, 160, 105, 70, 45]
    logits, labels, wrong = world(noise=0.2, skill=4.0, jitter=1.2, counts=counts)
    away = (1 - torch.eye(10)) / 9
    logits = (logits.softmax(1) @ (0.8 * torch.eye(10) + 0.2 * away)).log()
    found = profile_data(logits, labels)
    assert found.imbalanced and found.noisy and found.temperature != found.label_temperature
    doubt = wrong_label_probability(found, logits, labels)
    share = float(wrong.float().mean())
    weighted = found.model_copy(update={"label_temperature": found.temperature})
    assert doubt.mean() == pytest.approx(share, abs=0.04)
    assert wrong_label_probability(weighted, logits, labels).mean() < share - 0.06


def test_labels_as_often_wrong_as_right_cast_no_doubt() -> None:
    """55 % flipped to the next class: the flipped class would pass for the true one."""
    logits, labels, _ = world(noise=0.55, flips=True)
    assert profile_data(logits, labels).noise_rate is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z, y: profile_data(z[0], y), r"logits must be \[N, C\] with N ≥ 1 and C ≥ 2, got \[10\]"),
        (lambda z, y: profile_data(z[:, :1], y), r"C ≥ 2, got \[50, 1\]"),
        (lambda z, y: profile_data(z[:0], y[:0]), r"N ≥ 1 .* got \[0, 10\]"),
        (lambda z, y: profile_data(z, y[:9]), r"labels must be int64 \[50\], got torch.int64 \[9\]"),
        (lambda z, y: profile_data(z, y.float()), "labels must be int64"),
        (lambda z, y: profile_data(z[:, :5], y), r"labels must be in \[0, 5\), got 0 to 9"),
        (lambda z, y: profile_data(z / 0, y), "a logit is not finite; did the teacher's training diverge"),
        (lambda z, y: profile_data(z, y, train_logits=z), "train_logits need train_labels"),
        (
            lambda z, y: profile_data(z, y, train_logits=z, train_labels=y[:3]),
            r"train_logits, train_labels: labels",
        ),
        (
            lambda z, y: profile_data(z, y, train_labels=y - 1),
            r"train_labels: labels must be in \[0, 10\), got -1 to",
        ),
        (
            lambda z, y: profile_data(z, y, train_logits=z[:, :5], train_labels=y.clamp_max(4)),
            r"train_logits must be \[M, 10\], got \[50, 5\]",
        ),
        (lambda z, y: profile_data(z, y, train_counts=torch.ones(3)), r"train_counts must be int64 \[10\]"),
        (lambda z, y: profile_data(z, y, train_counts=torch.ones(10)), r"int64 \[10\] .* got torch.float32"),
        (lambda z, y: calibration_temperature(z / 0, y), "a logit is not finite"),
        (lambda z, y: calibration_temperature(z[:0], y[:0]), "N ≥ 1"),
        (lambda z, y: calibration_temperature(z, y + 1), r"labels must be in \[0, 10\)"),
        (lambda z, y: sentence(profile_data(z, y), ("a", "b")), "classes must be 10 names, got 2"),
    ],
)
def test_measure_refuses(call: Any, message: str) -> None:
    logits, labels, _ = world(samples=50)
    with pytest.raises(ValueError, match=message):
        call(logits, labels)


def test_overlap_is_the_mean_answer_by_class() -> None:
    logits, labels, _ = world(noise=0.0, skill=2.0, jitter=0.5)
    logits[:, 9] -= 100  # never answered
    found = profile_data(logits, labels)
    probability = (logits / found.temperature).softmax(1)
    for k in range(9):
        rows = [row for row in probability.tolist() if max(row) == row[k]]
        expected = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        assert found.overlap[k] == pytest.approx(expected, abs=1e-6)
    assert found.overlap[9] == (0,) * 9 + (1,)


def test_classes_that_look_alike_are_named() -> None:
    logits, labels, _ = world(noise=0.0, skill=6.0)
    cat_or_dog = labels < 2
    logits[cat_or_dog, :2] = logits[cat_or_dog, :2].mean(1, keepdim=True) + torch.randn(
        int(cat_or_dog.sum()), 2, generator=torch.Generator().manual_seed(0)
    ).to(logits.dtype)
    assert "; cat and dog look alike; " in sentence(profile_data(logits, labels), NAMES)
    assert "alike" not in sentence(profile_data(*world(noise=0.0, skill=2.0)[:2]), NAMES)


def test_characteristics_are_plain_data() -> None:
    logits, labels, _ = world(noise=0.3)
    found = profile_data(logits, labels, train_logits=logits, train_labels=labels)
    assert DataProfile.model_validate_json(found.model_dump_json()) == found
    assert found == profile_data(logits, labels, train_logits=logits, train_labels=labels), "deterministic"


def test_sentences() -> None:
    logits, labels, _ = world(noise=0.2, flips=True, skill=5.0)
    found = profile_data(logits, labels)
    rate = round(100 * found.noise_rate)  # type: ignore[operator]
    points = round(100 * found.overconfidence)
    assert sentence(found, NAMES) == (
        f"labels look {rate} % wrong; the teacher is over-confident by {points} points; classes are balanced"
    ), "ten pairs with a tenth each"
    both = [[0.0] * 10 for _ in range(10)]
    both[0][1], both[1][0] = 0.9, 0.8
    stated = found.model_copy(
        update={
            "noise_rate": 0.18, "confusion": tuple(map(tuple, both)), "overconfidence": 0.04,
            "class_counts": (50,) * 10, "imbalance": 1.0, "noise_rate_by_class": (0.9, 0.9, *(0.0,) * 8),
        }
    )  # fmt: skip
    assert sentence(stated, NAMES) == (
        "labels look 18 % wrong, mostly cat↔dog; the teacher is over-confident by 4 points; "
        "classes are balanced"
    )
    one_way = stated.model_copy(update={"noise_rate_by_class": (0.9, 0.2, *(0.0,) * 8)})
    assert ", mostly cat→dog; " in sentence(one_way, NAMES)
    both[2][3] = both[4][5] = both[6][7] = 1.0
    several = stated.model_copy(
        update={
            "noise_rate_by_class": (0.4, 0.4, 0.5, 0.0, 0.4, 0.0, 0.3, *(0.0,) * 3),
            "confusion": tuple(map(tuple, both)), "memorisation_gap": -0.05,
        }
    )  # fmt: skip
    assert ", often cat↔dog and eel→fox; " in sentence(several, NAMES)
    assert "memorised training labels, wrong ones too (`folds` is for that); " in sentence(several, NAMES)
    other = stated.model_copy(
        update={
            "noise_rate": 0.01, "noise_rate_low": 0.0, "noise_rate_by_class_low": (0.0,) * 10,
            "overconfidence": -0.01, "memorisation_gap": -0.3,
            "class_counts": (1230, *(200,) * 8, 100), "imbalance": 12.3,
        }
    )  # fmt: skip
    assert sentence(other, NAMES) == (
        "labels look right; the teacher is under-confident by 1 point and fits its training images better "
        "than others; cat has 12.3 times the images of lynx"
    )
    even = stated.model_copy(
        update={
            "confusion": tuple((1 / 9,) * 10 for _ in range(10)), "overconfidence": 0.0,
            "noise_rate_by_class": (0.18,) * 9 + (None,),
        }
    )  # fmt: skip
    assert sentence(even, NAMES) == (
        "labels look 18 % wrong; the teacher is as confident as it is right; classes are balanced"
    )


# The weights


def test_strategies() -> None:
    logits, labels, wrong = world(noise=0.4)
    found = profile_data(logits, labels)
    for strategy, expected in (("labels", 0.0), ("teacher", 1.0), ("fixed", 0.7)):
        weights = teacher_weights(distill(strategy=strategy, w0=0.7), found, logits, labels)
        assert weights.dtype == torch.float32 and weights.shape == labels.shape
        assert weights.eq(torch.tensor(expected)).all()
    weights = teacher_weights(distill(strategy="akgp", w0=0.7), found, logits, labels)
    doubt = wrong_label_probability(found, logits, labels)
    torch.testing.assert_close(weights.double(), 1 - 0.3 * (1 - doubt), atol=1e-6, rtol=0)
    assert (
        weights.min() >= 0.7 - 1e-6 and weights.max() <= 1 and weights[wrong].mean() > weights[~wrong].mean()
    )
    without = distill(strategy="akgp", w0=0.7, noise_posterior=False)
    assert teacher_weights(without, found, logits, labels).eq(torch.tensor(0.7)).all()
    alone = teacher_weights(distill(strategy="akgp", w0=0.0), found, logits, labels)
    torch.testing.assert_close(alone.double(), doubt, atol=1e-6, rtol=0)


def test_strategies_of_the_schema_are_all_there() -> None:
    assert {*LOSSES, *OBJECTIVES} == set(STRATEGIES) and not set(LOSSES) & set(OBJECTIVES)
    assert {*get_args(params.Distill.model_fields["strategy"].annotation)} == set(STRATEGIES)
    assert set(WEIGHTS) == {name for name, loss in LOSSES.items() if loss.__name__ == "weighted"}


@pytest.mark.parametrize("strategy", ["annealed", "wsld", "dkd", "ca_mkd", "amtml_kd", "self_distillation"])
def test_strategies_that_weigh_in_every_batch_have_no_weights_before(strategy: str) -> None:
    logits, labels, _ = world(samples=50)
    assert teacher_weights(distill(strategy=strategy), profile_data(logits, labels), logits, labels) is None


def test_weights_refuse_logits_of_other_classes() -> None:
    logits, labels, _ = world(samples=50)
    found = profile_data(logits, labels)
    with pytest.raises(
        ValueError, match=r"logits must be \[N, 10\] and labels \[N\], got \[50, 3\] and \[50\]"
    ):
        teacher_weights(distill(), found, logits[:, :3], labels)


@pytest.mark.parametrize(
    ("changes", "counts", "shifted"),
    [
        ({}, [90, 20, 10], True),
        ({}, [30, 20, 10], False),
        ({"logit_adjustment": "on"}, [30, 20, 10], True),
        ({"logit_adjustment": "off"}, [90, 20, 10], False),
        ({"strategy": "fixed"}, [90, 20, 10], False),
        ({"strategy": "labels", "logit_adjustment": "on"}, [90, 20, 10], True),
        ({"strategy": "dkd", "logit_adjustment": "on"}, [30, 20, 10], True),
    ],
)
def test_logits_are_adjusted_where_classes_are_imbalanced(
    changes: dict[str, Any], counts: list[int], shifted: bool
) -> None:
    logits, labels, _ = world(classes=3, samples=60)
    found = profile_data(logits, labels, train_counts=torch.tensor(counts))
    shift = log_prior(distill(**changes), found)
    assert (shift is not None) == shifted
    if shift is not None:
        torch.testing.assert_close(shift.exp(), torch.tensor(counts) / sum(counts))


def test_weights_by_class() -> None:
    weights, labels = torch.rand(200), torch.randint(3, (200,)) * 2  # classes 0, 2, 4 of 6
    rows = weights_by_class(weights, labels, 6)
    assert [row["class"] for row in rows] == [0, 2, 4] and sum(row["n"] for row in rows) == 200
    for row in rows:
        group = weights[labels == row["class"]].double().numpy()
        assert row["mean"] == pytest.approx(group.mean()) and row["n"] == len(group)
        assert (row["p10"], row["p90"]) == pytest.approx(tuple(np.quantile(group, [0.1, 0.9])))


# The strategies' losses, each against its paper's formula in plain Python, sample by sample

Logits = list[float]
Formula = Callable[[Logits, list[Logits], int, float, params.Distill], float]


def loop_logs(logits: Logits, temperature: float = 1.0) -> list[float]:
    """log softmax(z / T)."""
    return [math.log(p) for p in loop_softmax(logits, temperature)]


def loop_softened(logits: Logits, given: params.Distill) -> list[float]:
    """softmax(z / T), of Z-scores (Sun et al. 2024, algorithm 1) where `logit_std` is set."""
    if given.logit_std:
        mean = sum(logits) / len(logits)
        deviation = math.sqrt(sum((z - mean) ** 2 for z in logits) / len(logits))
        logits = [(z - mean) / deviation for z in logits]
    return loop_softmax(logits, given.temperature)


def loop_divergence(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def loop_label_loss(student: Logits, y: int, given: params.Distill) -> float:
    """(1 − ε)·−log p_y + ε/C·Σ_c −log p_c."""
    logs, share = loop_logs(student), given.training.label_smoothing
    return (1 - share) * -logs[y] - share * sum(logs) / len(logs)


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
    return loop_label_loss(student, y, given) + given.temperature**2 * (1.0 * target + given.beta * rest)


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
    "annealed": loop_weighted, "wsld": loop_wsld, "dkd": loop_dkd, "ca_mkd": loop_confidence,
}  # fmt: skip
PROGRESS = 0.3


def several_teachers(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Student, teachers' logits [K, B, C], labels, weights; double precision."""
    student, _, labels, weight = random_batch()
    teachers = torch.stack([random_batch(seed=10 + k)[1] for k in range(count)])
    return student.double(), teachers.double(), labels, weight.double()


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


@pytest.mark.parametrize("strategy", FORMULAS)
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
    for strategy, own in (("wsld", 2.5), ("ca_mkd", 1.0)):
        assert batch_loss(strategy, student, teachers, alpha=0.0) == of_labels
        taught = (batch_loss(strategy, student, teachers) - of_labels) / own
        torch.testing.assert_close(batch_loss(strategy, student, teachers, alpha=3.0), of_labels + 3 * taught)
    assert batch_loss("dkd", student, teachers, alpha=0.0, beta=0.0) == of_labels
    assert batch_loss("dkd", student, teachers) == batch_loss("dkd", student, teachers, alpha=1.0, beta=8.0)


def test_confidence_in_equal_teachers_is_equal() -> None:
    student, teachers, labels, _ = several_teachers(1)
    same = batch_loss("ca_mkd", student, teachers.expand(4, -1, -1))
    taught = distillation_loss(student, teachers[0], labels, teacher_weight=1, temperature=2.0)
    torch.testing.assert_close(same, F.cross_entropy(student, labels) + taught)


@pytest.mark.parametrize("strategy", sorted(set(FORMULAS) - {"labels"}))
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


@pytest.mark.parametrize("strategy", FORMULAS)
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
        ("annealed", (0, 2, 3), r"teacher_logits must be \[1, 2, 3\] for .* got \[0, 2, 3\]"),
        ("ca_mkd", (1, 2, 3), "distill.strategy 'ca_mkd' needs 2 teachers or more, got 1"),
        ("akgp", (1, 2, 3), "distill.strategy 'akgp' needs the teacher's weight of each sample"),
    ],
)
def test_strategies_refuse(strategy: str, teachers: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        strategy_loss(
            torch.zeros(2, 3), torch.zeros(teachers), torch.tensor([0, 1]), params=distill(strategy=strategy)
        )


# The objective


@pytest.mark.parametrize("strategy", FORMULAS)
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
    assert not any(p.requires_grad for teacher in teachers for p in teacher.parameters())


def silent(batch: Batch) -> Tensor:
    raise AssertionError("asked")


def test_objective_asks_no_teacher_that_has_no_weight() -> None:
    """`objective_of` passes none where all weights are 0."""
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
    networks = {name: {"architecture": "cifar_resnet20"} for name in ("one", "two")}
    tree = {"networks": networks, "teachers": ["one"], "student": "one"} | changes
    with pytest.raises(params.ParamsError) as error:
        params.validate(tree)
    assert str(error.value) == (
        f"{key}: {strategy!r} weighs teachers against each other: teachers must name two or more networks, "
        "got one"
    )
    params.validate(tree | {"teachers": ["one", "two"]})


# Learned weights of several teachers


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


def small_images(count: int, seed: int) -> IndexedSource:
    """Three classes told apart by brightness."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    pixels = torch.randint(0, 60, (count, 3, 8, 8), generator=generator)
    pixels = (pixels + 90 * labels[:, None, None, None]).to(torch.uint8)
    return IndexedSource(pixels, labels, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def trained_on(objective: Any, model: torch.nn.Module, **changes: Any) -> list[dict[str, float]]:
    training = {"epochs": 3, "batch_size": 16, "augment": {"crop_padding": 0, "flip": False}} | changes
    epochs = train(
        model, small_images(48, 0), small_images(24, 1), objective=objective, seed=1,
        params=params.Training.model_validate(training),
    )  # fmt: skip
    return [epoch.row for epoch in epochs]


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


# Self-distillation


def loop_self(
    student: Logits,
    features: list[float],
    heads: list[tuple[list[float], Logits]],
    y: int,
    given: params.Distill,
) -> float:
    """Zhang et al. 2019: CE(q_C) + Σ_i (1 − α)·CE(q_i) + α·KL(q_C ‖ q_i) + λ·‖F_i − F_C‖²."""
    total = loop_label_loss(student, y, given)
    for head_features, head in heads:
        taught = loop_divergence(loop_softened(student, given), loop_softened(head, given))
        total += (1 - 0.3) * loop_label_loss(head, y, given) + 0.3 * given.temperature**2 * taught
        total += HINT * sum((a - b) ** 2 for a, b in zip(head_features, features, strict=True))
    return total


@pytest.mark.parametrize(
    "changes", [{}, {"logit_std": True}, {"training": {"label_smoothing": 0.1}}], ids=str
)
def test_self_distillation_loss_is_its_formula(changes: dict[str, Any]) -> None:
    given = distill(strategy="self_distillation", **changes)
    student, others, labels, _ = several_teachers(2)
    features, *of_heads = torch.randn(3, 7, 5, dtype=torch.float64)
    heads = list(zip(of_heads, others, strict=True))
    expected = [
        loop_self(
            student[i].tolist(), features[i].tolist(), [(f[i].tolist(), z[i].tolist()) for f, z in heads],
            int(labels[i]), given,
        )
        for i in range(7)
    ]  # fmt: skip
    loss = self_distillation_loss(student, features, heads, labels, params=given)
    assert loss.shape == () and loss.item() == pytest.approx(sum(expected) / 7, rel=1e-6)


def test_the_deepest_classifier_learns_from_labels_alone() -> None:
    student, others, labels, _ = several_teachers(2)
    features, *of_heads = torch.randn(3, 7, 5, dtype=torch.float64)
    for tensor in (student, others, features, *of_heads):
        tensor.requires_grad_()
    heads = list(zip(of_heads, others, strict=True))
    self_distillation_loss(
        student, features, heads, labels, params=distill(strategy="self_distillation")
    ).backward()
    (expected,) = torch.autograd.grad(F.cross_entropy(student, labels), student)
    torch.testing.assert_close(student.grad, expected)
    assert features.grad is None and others.grad is not None
    assert all(tensor.grad is not None for tensor in of_heads)


def small_resnet() -> torch.nn.Module:
    torch.manual_seed(0)
    return cifar_resnet(8, (4, 8, 8), num_classes=3)


def self_taught(model: torch.nn.Module, **changes: Any) -> SelfDistillation:
    torch.manual_seed(1)
    return SelfDistillation(
        model, distill(strategy="self_distillation", **changes), torch.zeros(1, 3, 8, 8), prior=None
    )


def test_heads_read_the_feature_maps_of_the_training_pass() -> None:
    model = small_resnet().train()
    objective = self_taught(model)
    assert objective.map_shapes == [(4, 8, 8), (8, 4, 4)], "layer1 and layer2 of layer1, layer2, layer3"
    batch = Batch(torch.arange(6), torch.randn(6, 3, 8, 8), torch.arange(6) % 3)
    logits = model(batch.inputs)
    model.eval()(torch.randn(2, 3, 8, 8))  # validation in between is none of the heads' business
    loss = objective(batch, logits, 0.0)

    model.train()
    objective.remove_hooks()
    x = F.relu(model.bn1(model.conv1(batch.inputs)))
    maps = [model.layer1(x), model.layer2(model.layer1(x))]
    features = model.layer3(maps[1]).mean((2, 3))
    heads = [head(seen) for head, seen in zip(objective.heads, maps, strict=True)]
    expected = self_distillation_loss(logits, features, heads, batch.labels, params=objective.params)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad is not None for p in (*model.parameters(), *objective.parameters()))


def test_heads_where_they_are_named() -> None:
    objective = self_taught(small_resnet(), heads=("layer2.0.bn1",))
    assert objective.map_shapes == [(8, 4, 4)]


class Plain(torch.nn.Module):
    """No stages of a ResNet's names; one module called twice; a classifier that is a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 6, 3, 2), torch.nn.Conv2d(6, 6, 3, 2)
        self.act, self.last = torch.nn.ReLU(), torch.nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.second(self.act(self.first(x))))).mean((2, 3))


def test_heads_of_any_network() -> None:
    model = Plain()
    objective = self_taught(model, heads=("first",))
    assert trained_on(objective, model, epochs=2)[-1]["loss"] > 0


def features_only() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Softmax(1))


@pytest.mark.parametrize(
    ("model", "heads", "message"),
    [
        (Plain, (), r"distill.heads: the student has no stages layer1, .* \[B, C, H, W\], such as first$"),
        (Plain, ("act",), r"distill.heads: 'act' must be a module that is called once .* such as first$"),
        (small_resnet, ("layer9",), r"distill.heads: 'layer9' must be .*, such as layer1, layer2$"),
        (small_resnet, ("linear",), r"distill.heads: 'linear' must be .*, such as layer1, layer2$"),
        (features_only, (), r"distill.strategy 'self_distillation' needs .* got none that gives 144 of"),
    ],
)
def test_heads_that_cannot_be(
    model: Callable[[], torch.nn.Module], heads: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        self_taught(model(), heads=heads)


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "fp32", "channels_last": False},
        {"precision": "bf16", "ema": 0.9},
        {"precision": "fp32", "compile": True},
    ],
    ids=["plain", "bf16 and average", "compiled"],
)
def test_self_distillation_trains(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compiler(model, backend="eager"))
    model = small_resnet()
    objective = self_taught(model)
    rows = trained_on(objective, model, epochs=6, learning_rate=0.1, **changes)
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["val_top1"] > 60
    assert list(model.state_dict()) == list(small_resnet().state_dict())
    objective.remove_hooks()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.slow
def test_self_distillation_compiled_by_inductor_trains_alike() -> None:
    rows = []
    for compiled in (False, True):
        model = small_resnet()
        rows.append(trained_on(self_taught(model), model, compile=compiled, precision="fp32")[-1])
    assert rows[1]["loss"] == pytest.approx(rows[0]["loss"], rel=1e-3)


def test_self_distillation_prior_shifts_all_logits() -> None:
    model, prior = small_resnet().train(), torch.tensor([0.7, 0.2, 0.1]).log()
    objective = self_taught(model, alpha=0.0)
    batch = Batch(torch.arange(6), torch.randn(6, 3, 8, 8), torch.arange(6) % 3)
    losses = []
    for shift in (None, prior):
        objective.prior = shift
        losses.append(objective(batch, model(batch.inputs), 0.0))
    logits, maps = model(batch.inputs), objective._seen[:2]
    change = sum(
        F.cross_entropy(z + prior, batch.labels) - F.cross_entropy(z, batch.labels)
        for z in (logits, *(head(seen)[1] for head, seen in zip(objective.heads, maps, strict=True)))
    )
    torch.testing.assert_close(losses[1] - losses[0], change)


def test_alpha_of_self_is_a_share() -> None:
    with pytest.raises(
        ValueError, match=r"alpha must be in \[0, 1\] for strategy 'self_distillation', got 2.5"
    ):
        distill(strategy="self_distillation", alpha=2.5)
    assert distill(strategy="wsld", alpha=2.5).alpha == 2.5


# The stage


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared digits, two dense networks that know nothing, and a student."""
    root = tmp_path_factory.mktemp("workspace")
    (root / "data" / "prepared").mkdir(parents=True)
    prepare(params.Data(color="gray", splits=params.Splits(test=0.25)), 0, root / "data" / "prepared")
    for seed, folder in enumerate(("dense/one", "dense/two", "pruned")):
        torch.manual_seed(seed)
        (root / "models" / folder).mkdir(parents=True)
        artifacts.save(cifar_resnet(8, (4, 8, 8), in_channels=1), root / "models" / folder)
    return root


def stage_task(workspace: Path, **changes: Any) -> Task:
    networks = {name: {"architecture": "cifar_resnet20"} for name in ("one", "two")}
    epochs = changes.pop("epochs", 1)
    training = {"epochs": epochs, "batch_size": 256, "learning_rate": 0.2, "warmup_epochs": 0}
    training["precision"] = "fp32"
    teachers = changes.pop("teachers", ["one", "two"])
    tree = {
        "networks": networks, "teachers": teachers, "student": "one",
        "distill": {"training": training} | changes,
    }  # fmt: skip
    return Task(stage="distill", params=params.validate(tree), root=workspace)


def tailed(labels: Tensor) -> Tensor:
    """Positions of images of which class 0 has most, as in a long tail."""
    return ((labels == 0) | (torch.arange(len(labels)) % 4 == 0)).nonzero()[:, 0]


def distilled(workspace: Path, out: Path, strategy: str) -> dict[str, Any]:
    """The metrics that the stage's computation writes for a strategy, without Ray."""
    task = stage_task(workspace, strategy=strategy)
    steps = list(distill_stage.compute(task, out, None))
    assert [step.row["epoch"] for step in steps] == [1]
    return json.loads((out / "metrics.json").read_text())


def test_stage_with_learned_weights_says_whom_it_trusted(workspace: Path, tmp_path: Path) -> None:
    metrics = distilled(workspace, tmp_path, "amtml_kd")
    weights = metrics["teacher_weights"]
    assert list(weights) == ["one", "two"] and sum(weights.values()) == pytest.approx(1)
    assert weights["one"] != 0.5 and metrics["teacher_weight"] is None and metrics["compute"] == 1


def test_stage_with_self_distillation_leaves_a_plain_student(workspace: Path, tmp_path: Path) -> None:
    metrics = distilled(workspace, tmp_path, "self_distillation")
    student, before = artifacts.load(tmp_path), artifacts.load(workspace / "models" / "pruned")
    assert list(student.state_dict()) == list(before.state_dict())
    size = read_summary(workspace / "data" / "prepared").image_size
    # 1×1 to 8, 3×3 of stride 2, 1×1 to 8, the classifier: on maps of 4 and 8 channels
    heads = [
        4 * 8 * h * w + (9 * 8 * 8 + 8 * 8) * (h // 2) * (w // 2) + 80 + (channels - 4) * 8 * h * w
        for channels, (h, w) in ((4, size), (8, (size[0] // 2, size[1] // 2)))
    ]
    assert metrics["compute"] == pytest.approx(1 + sum(heads) / count(student, torch.zeros(1, 1, *size)).macs)
    assert "teacher_weights" not in metrics


def test_stage_with_other_strategies_charges_nothing(workspace: Path, tmp_path: Path) -> None:
    metrics = distilled(workspace, tmp_path, "fixed")
    assert metrics["compute"] == 1 and "teacher_weights" not in metrics


def test_stage_with_logit_adjustment_keeps_the_epoch_that_is_best_by_the_mean_over_classes(
    workspace: Path, tmp_path: Path
) -> None:
    """Of a validation split with a long tail. What else is asked for stays as it is."""
    data = read_distillation_data(task := stage_task(workspace, logit_adjustment="on", epochs=4))
    data = replace(data, validation=data.validation.take(tailed(data.validation.labels)))
    list(distill_stage.compute_with(task, data, tmp_path, None))
    metrics, history = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("metrics", "history")
    )
    found = evaluate(artifacts.load(tmp_path), data.validation)
    assert metrics["val_balanced_top1"] == max(row["val_balanced_top1"] for row in history)
    assert (metrics["val_top1"], metrics["val_balanced_top1"]) == pytest.approx(found[1:])
    for changes, keep, expected in (
        ({"logit_adjustment": "on"}, "best", "balanced"),
        ({"logit_adjustment": "on"}, "last", "last"),
        ({"logit_adjustment": "off"}, "best", "best"),
        ({"logit_adjustment": "off"}, "balanced", "balanced"),
    ):
        asked = distill(**changes, training=params.Training(keep=keep))
        assert training_of(asked, data.profile).keep == expected


def test_stage_measures_w0_and_goes_on_where_it_was_killed(workspace: Path, tmp_path: Path) -> None:
    task = stage_task(workspace, w0_from="branches", epochs=4)
    whole, again = tmp_path / "whole", tmp_path / "again"
    steps = [Step(step.row, copy.deepcopy(step.state)) for step in distill_stage.compute(task, whole, None)]
    metrics = json.loads((whole / "metrics.json").read_text())
    assert [step.row["epoch"] for step in steps] == [1, 2, 2, 2, 3, 4], (
        "a branch tells nothing of the student"
    )
    assert len(json.loads((whole / "history.json").read_text())) == 4
    assert metrics["compute"] == 1 + 2 * 1 / 4, "two branches of an epoch beside four"
    assert metrics["w0"]["weight"] == pytest.approx(metrics["teacher_weight"])
    sentence = json.loads((whole / "characteristics.json").read_text())["sentence"]
    assert (
        f"the teacher's weight w0 is measured as {metrics['w0']['weight']:.2f} (the branches say" in sentence
    )
    for killed in (2, 5):
        assert len(list(distill_stage.compute(task, again, steps[killed].state))) == 5 - killed
        assert json.loads((again / "metrics.json").read_text()) == metrics


def test_w0_is_measured_in_two_epochs_or_more_and_for_akgp_alone() -> None:
    short = params.Training(epochs=1, warmup_epochs=0)
    with pytest.raises(ValueError, match=r"w0_from: branches needs training\.epochs of 2 or more, got 1"):
        distill(w0_from="branches", training=short)
    assert distill(w0_from="branches", strategy="fixed", training=short).w0_source == "fixed"


def test_w0_follows_what_the_teachers_know_beyond_the_dense_network(workspace: Path, tmp_path: Path) -> None:
    """By their answers alone; a number that was given stays."""

    def metrics(**changes: Any) -> dict[str, Any]:
        list(distill_stage.compute(stage_task(workspace, **changes), tmp_path, None))
        return json.loads((tmp_path / "metrics.json").read_text())

    data, models = workspace / "data" / "prepared", workspace / "models" / "dense"
    summary = read_summary(data)
    calibration = IndexedSource.of(read_split(data, "calibration"), summary.mean, summary.std)
    dense, teacher = (
        predict_logits(artifacts.load(models / name), calibration, device="cpu") for name in ("one", "two")
    )
    counts = read_split(data, "train").labels.bincount()
    expected = stacked_weight(dense, teacher, calibration.labels, counts, 0.3)
    assert abs(expected.weight - 0.3) > 0.01
    found = metrics(teachers=["two"])
    assert found["w0"] == pytest.approx(vars(expected))
    assert found["teacher_weight"] == pytest.approx(expected.weight)
    sentence = json.loads((tmp_path / "characteristics.json").read_text())["sentence"]
    assert f"w0 is measured as {expected.weight:.2f} (the answers say {expected.raw:.2f} ±" in sentence
    trunk = metrics(teachers=["two"], w0_from="branches", epochs=2)["w0"]
    assert trunk["guess"] == pytest.approx(expected.weight), "the branches start from the answers"
    for changes, weight in (
        ({"w0": 0.4}, 0.4),
        ({"strategy": "fixed"}, 0.3),
    ):
        found = metrics(**{"teachers": ["two"]} | changes)
        assert "w0" not in found and found["teacher_weight"] == pytest.approx(weight)


def test_the_dense_network_as_its_own_teacher_weighs_nothing_if_it_knows_nothing(
    workspace: Path, tmp_path: Path
) -> None:
    """Untrained as it is here; one that knows the labels has the default."""
    task = stage_task(workspace, teachers=["one"])
    list(distill_stage.compute(task, tmp_path, None))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["w0"]["weight"] == metrics["teacher_weight"] == 0
    data = read_distillation_data(task)
    assert not data.taught.profile.informative
    knowing = profile_data(9.0 * F.one_hot(data.calibration.labels, 10), data.calibration.labels)
    taught = replace(data.taught, profile=knowing)
    assert estimate_w0(replace(data, taught=taught), task.params.distill) is None


def test_a_teacher_that_knows_more_than_the_dense_network_weighs_more(workspace: Path) -> None:
    """Taught the images or knowing nothing; on a long tail by what the students would answer."""
    task = stage_task(workspace, teachers=["two"])
    data = read_distillation_data(task)
    assert data.dense
    own = data.dense.held_out[0]
    knowing = 4 * F.one_hot(data.calibration.labels, 10) + own
    constant = torch.zeros_like(knowing)

    def weight(dense: Tensor, teacher: Tensor, counts: tuple[int, ...] = (100,) * 10) -> float:
        assert data.dense
        seen = data.taught.profile.model_copy(
            update={"class_counts": counts, "imbalance": max(counts) / min(counts)}
        )
        asked = replace(
            data,
            dense=replace(data.dense, held_out=dense[None]),
            taught=replace(data.taught, held_out=teacher[None], profile=seen),
        )
        found = estimate_w0(asked, task.params.distill)
        assert found
        return found[0].weight

    assert weight(own, knowing) > 0.95 and weight(knowing, constant) < 0.05
    tail = tuple(1000 // 2**k + 10 for k in range(10))
    prior = torch.tensor(tail).double()
    prior = (prior / prior.sum()).log()
    assert weight(knowing + prior, knowing, tail) < 0.05, "its student would lean to rare classes"
    assert weight(knowing, knowing + prior, tail) > 0.95


def test_of_several_teachers_those_that_know_nothing_are_not_asked(workspace: Path, tmp_path: Path) -> None:
    """The student is the one that the other teacher alone makes; who was trusted is told."""

    def recovered(data: DistillationData, **changes: Any) -> dict[str, Any]:
        list(distill_stage.compute_with(stage_task(workspace, **changes), data, tmp_path, None))
        return artifacts.load(tmp_path).state_dict()

    data = read_distillation_data(stage_task(workspace))
    assert data.dense
    known = F.one_hot(data.calibration.labels, 10) * torch.ones(())
    dense = replace(data.dense, held_out=known[None] + 2 * torch.randn(known.shape))
    taught = replace(data.taught, held_out=torch.stack([0 * known, 4 * known + torch.randn(known.shape)]))
    student = recovered(replace(data, dense=dense, taught=taught))
    metrics, told = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("metrics", "characteristics")
    )
    assert metrics["teacher_weights"] == {"one": 0, "two": 1}
    assert told["sentence"].endswith("; of the teachers' part one has 0%, two has 100%")
    w0 = metrics["w0"]["weight"]
    assert w0 == metrics["teacher_weight"] > 0.9
    alone = recovered(
        read_distillation_data(stage_task(workspace, teachers=["two"])), teachers=["two"], w0=w0
    )
    assert all(torch.equal(value, alone[name]) for name, value in student.items())


def test_a_copy_of_the_dense_network_says_nothing_of_itself(workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace, tmp_path / "root")
    models = tmp_path / "root" / "models" / "dense"
    shutil.rmtree(models / "two")
    shutil.copytree(models / "one", models / "two")
    task = replace(stage_task(workspace, teachers=["two"]), root=tmp_path / "root")
    list(distill_stage.compute(task, tmp_path, None))
    found = json.loads((tmp_path / "metrics.json").read_text())["w0"]
    assert found == {"weight": 0.3, "raw": 0.3, "error": None, "guess": 0.3}
    sentence = json.loads((tmp_path / "characteristics.json").read_text())["sentence"]
    assert "w0 is measured as 0.30 (the answers say nothing)" in sentence


def test_wrong_labels_are_found_by_whoever_knows_the_labels_better(workspace: Path) -> None:
    """Of teacher and dense network: swapping their parts changes who teaches, not who doubts."""
    given, read = stage_task(workspace).params, []
    for one, other in (("one", "two"), ("two", "one")):
        swapped = given.model_copy(update={"teachers": (one,), "student": other})
        read.append(read_distillation_data(Task("distill", swapped, workspace)))
    accuracies = [data.taught.profile.accuracy for data in read]
    assert accuracies[0] != accuracies[1]
    for data in read:
        assert data.noise_judge.profile.accuracy == max(accuracies)
        assert data.profile.noise_rate == data.noise_judge.profile.noise_rate
        assert data.profile.temperature == data.taught.profile.temperature
    assert torch.equal(read[0].noise_judge.logits, read[1].noise_judge.logits)
    assert not torch.equal(read[0].taught.logits, read[1].taught.logits)
