from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from akgp.distillation import (
    DataProfile,
    calibration_temperature,
    profile_data,
    sentence,
    teacher_weights,
    wrong_label_probability,
)
from akgp.distillation.profile.calibration import BINS
from akgp.distillation.profile.data_profile import CLEAN
from tests.support.distillations import (
    distill,
    world,
)

NAMES = ("cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay", "kiwi", "lynx")


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
