"""What the data and the teacher are like, measured from the teacher's logits on held-out images.

Measured here: calibration temperature, calibration error, label noise and which classes it
confuses, which classes overlap, class balance, memorisation. What follows from them for the loss
is decided in `weighting`. N: samples, C: classes.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from akgp.params import Section

IMBALANCED = 3.0
"""Ratio of the largest to the smallest class above which classes are balanced by weights."""
CLEAN = 0.05
"""Noise rate up to which labels count as right; see `noise_rate_low`."""
SUSPECT = 0.15
"""Noise rate of a class up to which its labels count as right; see `suspects`."""
BINS = 15
"""Bins of the calibration error."""


class DataProfile(Section):
    """Measured on the calibration split; rates and errors are shares in [0, 1]."""

    samples: int = Field(description="images they were measured on")
    temperature: float = Field(description="τ: the teacher's logits divided by it are calibrated")
    label_temperature: float = Field(
        description="τ on the labels as frequent as they are, by which wrong ones are found"
    )
    accuracy: float = Field(description="of the teacher")
    ece: float = Field(description="expected calibration error of the teacher as it is, 15 equal bins")
    overconfidence: float = Field(description="mean confidence of the teacher as it is, minus its accuracy")
    information: float = Field(description="nats that the teacher tells of a label, beyond the class prior")
    information_error: float = Field(description="its standard error")
    noise_rate: float | None = Field(
        description="η: share of wrong labels; reads high (.45 for .40). None: this teacher cannot tell"
    )
    noise_rate_low: float | None = Field(
        description="lower end of η's 90 % interval (Wilson's); above .05 labels are corrected"
    )
    noise_rate_by_class: tuple[float | None, ...] = Field(
        description="of what the teacher is surest to be of a class, the share with another label: wrong, or "
        "too alike for it. None: too few answers to tell"
    )
    noise_rate_by_class_low: tuple[float, ...] = Field(
        description="lower ends of their 99 % intervals (Wilson's); above .15 a class is suspect"
    )
    confusion: tuple[tuple[float, ...], ...] = Field(
        description="S: row = true class, column = label, if the label is wrong; rows sum to 1"
    )
    overlap: tuple[tuple[float, ...], ...] = Field(
        description="row = class that the calibrated teacher answers, column = its mean probability of each; "
        "rows sum to 1; of a class never answered, the identity's"
    )
    class_counts: tuple[int, ...] = Field(description="training images of each class")
    imbalance: float = Field(description="largest class / smallest class, in training images")
    memorisation_gap: float | None = Field(
        description="Brier score on training minus on calibration images; negative: the teacher fits its "
        "training labels, wrong ones included. None: not measured"
    )

    @property
    def classes(self) -> int:
        return len(self.class_counts)

    @property
    def imbalanced(self) -> bool:
        return self.imbalance > IMBALANCED

    @property
    def noisy(self) -> bool:
        """Whether labels are surely wrong often enough for a correction."""
        return self.noise_rate_low is not None and self.noise_rate_low > CLEAN

    @property
    def informative(self) -> bool:
        """Whether the teacher surely tells more of labels than their frequencies do."""
        return _surely(self.information, self.information_error)

    @property
    def suspects(self) -> list[int]:
        """The classes of which labels look wrong where the teacher is surest, worst first."""
        lows = self.noise_rate_by_class_low
        return sorted((k for k, low in enumerate(lows) if low > SUSPECT), key=lambda k: -lows[k])

    @property
    def doubtful(self) -> bool:
        """Whether labels look wrong, at all or in some class."""
        return self.noise_rate is not None and (self.noisy or bool(self.suspects))

    def with_noise_of(self, other: DataProfile) -> DataProfile:
        """These, but with the label noise that was measured by another network."""
        fields = (
            "noise_rate", "noise_rate_low", "noise_rate_by_class", "noise_rate_by_class_low", "confusion",
            "label_temperature",
        )  # fmt: skip
        return self.model_copy(update={name: getattr(other, name) for name in fields})

    def prior(self) -> Tensor:
        """π: class frequencies in training, float64 [C]; a class without an image counts as one."""
        counts = torch.tensor(self.class_counts, dtype=torch.float64).clamp_min(1)
        return counts / counts.sum()

    def transition(self) -> Tensor:
        """T: probability of label j given true class k, float64 [k = C, j = C].

        T_kk = 1 − η, T_kj = η·S_kj. The identity where labels are not `noisy`.
        """
        rate = self.noise_rate if self.noise_rate is not None and self.noisy else 0.0
        return _transition(rate, torch.tensor(self.confusion, dtype=torch.float64))

    def wrong_labels(self) -> Tensor:
        """Share of the images that are of class k and wrongly labelled j, float64 [k = C, j = C]."""
        common = self.noise_rate or 0.0
        rates = [common if rate is None else rate for rate in self.noise_rate_by_class]
        share = self.prior() * torch.tensor(rates, dtype=torch.float64)
        return share[:, None] * torch.tensor(self.confusion, dtype=torch.float64)


def profile_data(
    logits: Tensor,
    labels: Tensor,
    *,
    train_logits: Tensor | None = None,
    train_labels: Tensor | None = None,
    train_counts: Tensor | None = None,
) -> DataProfile:
    """The characteristics of the data, from the teacher's logits on images it was not trained on.

    Where the imbalance exceeds 3, samples are weighted v_i ∝ 1/π_{y_i} in temperature, accuracy,
    calibration error and memorisation. Label temperature, noise rates and confusion are not: v goes by
    the *label* and would multiply each wrong label of a rare class (on 169 images of a clean 1:20 tail of
    the digits the noise rate read up to .31 with v, up to .06 without; true .30 read .55 and .34).

    - temperature: minimises the negative log-likelihood (Guo et al. 2017, section 4.2).
    - ece, 15 bins of equal width, on the uncalibrated teacher (Guo et al. 2017, eq. 3).
    - noise_rate: 1 − accuracy on the most confident tenth. None where the teacher does not tell
      labels better than the prior does (by two standard errors), or where some class would be
      labelled another one as often as itself: wrong labels and a bad teacher then look alike.
    - noise_rate_by_class: the same of what is predicted k, by class k; None where that are fewer than 3.
    - confusion: labels other than k among the most confident fifth of what is predicted k, plus
      10/(C − 1) each, normalised.
    - overlap: mean of the calibrated probabilities over the images that the teacher takes for k.
    - memorisation_gap: Brier scores Σ_c (p_c − [y = c])² of the calibrated teacher, in [0, 2].

    Args:
        logits: [N, C], of the calibration split.
        labels: int64 [N].
        train_logits: [M, C], of the training split, un-augmented.
        train_labels: int64 [M].
        train_counts: int64 [C], training images of each class; by default from `train_labels`,
            without those from `labels`.

    Raises:
        ValueError: a shape or a range is not as above, or a logit is not finite.
    """
    logits = checked(logits, labels, "logits, labels")
    classes = logits.shape[1]
    if train_labels is not None:
        _check_classes(train_labels, classes, "train_labels")
    if train_counts is None:
        train_counts = (labels if train_labels is None else train_labels).bincount(minlength=classes)
    if (
        train_counts.shape != (classes,)
        or train_counts.dtype != torch.int64
        or bool((train_counts < 0).any())
    ):
        raise ValueError(
            f"train_counts must be int64 [{classes}] and not negative, got {train_counts.dtype} "
            f"{train_counts.tolist()}"
        )
    labels = labels.cpu()
    weight = class_weights(labels, train_counts)

    temperature = calibration_temperature(logits, labels, weight)
    label_temperature = calibration_temperature(logits, labels)
    probability, unweighted = (logits / temperature).softmax(1), (logits / label_temperature).softmax(1)
    right = (logits.argmax(1) == labels).double()
    confidence = logits.softmax(1).amax(1)
    gap = None
    if train_logits is not None:
        if train_labels is None:
            raise ValueError("train_logits need train_labels")
        if train_logits.shape[1:] != logits.shape[1:]:
            raise ValueError(f"train_logits must be [M, {classes}], got {list(train_logits.shape)}")
        seen = (checked(train_logits, train_labels, "train_logits, train_labels") / temperature).softmax(1)
        train_labels = train_labels.cpu()
        seen_weight = class_weights(train_labels, train_counts)
        gap = _brier(seen, train_labels, seen_weight) - _brier(probability, labels, weight)
    information, error = _information(unweighted, labels)
    rate, low, confusion = _noise(unweighted, labels)
    rates = _noise_by_class(unweighted, labels)
    off_diagonal = _transition(rate, confusion).fill_diagonal_(0).amax(1)
    identified = _surely(information, error) and bool((off_diagonal < 1 - rate).all())
    accuracy = float((weight * right).mean())
    return DataProfile(
        samples=len(labels),
        temperature=temperature,
        label_temperature=label_temperature,
        accuracy=accuracy,
        ece=_calibration_error(confidence, right, weight),
        overconfidence=float((weight * confidence).mean()) - accuracy,
        information=information,
        information_error=error,
        noise_rate=rate if identified else None,
        noise_rate_low=low if identified else None,
        noise_rate_by_class=tuple(None if found is None else found[0] for found in rates),
        noise_rate_by_class_low=tuple(0.0 if found is None else found[1] for found in rates),
        confusion=tuple(map(tuple, confusion.tolist())),
        overlap=tuple(map(tuple, _overlap(probability).tolist())),
        class_counts=tuple(train_counts.tolist()),
        imbalance=_imbalance(train_counts),
        memorisation_gap=gap,
    )


def class_weights(labels: Tensor, class_counts: Tensor) -> Tensor:
    """v_i ∝ 1/π_{y_i}, of mean 1, where the imbalance exceeds 3, else 1; float64 [N].

    Args:
        labels: int64 [N].
        class_counts: int64 [C], training images of each class; a class without one counts as one.
    """
    if _imbalance(class_counts) <= IMBALANCED:
        return torch.ones(len(labels), dtype=torch.float64)
    weight = class_counts.cpu().double().clamp_min(1).reciprocal()[labels.cpu()]
    return weight / weight.mean()


def _imbalance(class_counts: Tensor) -> float:
    counts = class_counts.clamp_min(1)
    return float(counts.max() / counts.min())


def calibration_temperature(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> float:
    """The τ > 0 that minimises the mean of v_i · −log softmax(z_i/τ)_{y_i}.

    The loss is convex in 1/τ, so the root of its derivative is found (Brent's method). It is
    sought within a factor of 100 around s, the mean range of the logits of a sample: a teacher
    that is never wrong has no finite optimum and gets s/100, one that knows nothing at most 100·s,
    one whose logits are constant over the classes 1.

    Args:
        logits: [N, C].
        labels: int64 [N].
        weight: v, [N]; None: all alike.

    Raises:
        ValueError: a shape or a range is not as above, or a logit is not finite.
    """
    from scipy.optimize import brentq

    logits, labels = checked(logits, labels, "logits, labels"), labels.cpu()
    logits = logits - logits.amax(1, keepdim=True)
    weight = torch.ones(len(labels), dtype=torch.float64) if weight is None else weight.double()
    given = logits.gather(1, labels[:, None])[:, 0]
    scale = float(-logits.amin(1).mean())
    if scale == 0:
        return 1.0

    def slope(log_inverse: float) -> float:
        """Derivative of the loss by 1/τ."""
        probability = (logits * math.exp(log_inverse)).softmax(1)
        return float((weight * ((probability * logits).sum(1) - given)).mean())

    low, high = -math.log(100 * scale), -math.log(scale / 100)
    if slope(low) >= 0:
        return math.exp(-low)
    if slope(high) <= 0:
        return math.exp(-high)
    return math.exp(-brentq(slope, low, high))


def _noise(probability_NC: Tensor, labels_N: Tensor) -> tuple[float, float, Tensor]:
    """η̂, its lower end and the confusion S [C, C], see `profile_data`.

    Samples of equal confidence go together.
    """
    classes = probability_NC.shape[1]
    confidence, predicted = probability_NC.max(1)
    rate, low = _error_rate((predicted != labels_N)[_most_confident(confidence, 10)], 0.9)
    counts = torch.zeros(classes, classes, dtype=torch.float64)
    for k in range(classes):
        of_class = predicted == k
        if of_class.any():
            sure = _most_confident(confidence[of_class], 5)
            counts[k] = labels_N[of_class][sure].bincount(minlength=classes)
    counts = (counts + 10 / (classes - 1)).fill_diagonal_(0)
    return rate, low, counts / counts.sum(1, keepdim=True)


def _noise_by_class(probability_NC: Tensor, labels_N: Tensor) -> list[tuple[float, float] | None]:
    """η̂_k and its lower end of each class."""
    confidence, predicted = probability_NC.max(1)

    def of_class(k: int) -> tuple[float, float] | None:
        answered = predicted == k
        if not answered.any():
            return None
        wrong = labels_N[answered][_most_confident(confidence[answered], 10)] != k
        return _error_rate(wrong, 0.99) if len(wrong) >= 3 else None

    return [of_class(k) for k in range(probability_NC.shape[1])]


def _error_rate(wrong_N: Tensor, level: float) -> tuple[float, float]:
    """Share of wrong ones, and the lower end of its interval (Wilson 1927)."""
    from scipy.stats import binomtest

    test = binomtest(int(wrong_N.sum()), len(wrong_N))
    return float(test.statistic), float(test.proportion_ci(level, method="wilson").low)


def _overlap(probability_NC: Tensor) -> Tensor:
    """Mean probabilities of the samples by their most probable class, [C, C]."""
    classes, answer_N = probability_NC.shape[1], probability_NC.argmax(1)
    counts = answer_N.bincount(minlength=classes)[:, None]
    total = torch.zeros(classes, classes, dtype=torch.float64).index_add_(0, answer_N, probability_NC)
    return torch.where(counts > 0, total / counts.clamp_min(1), torch.eye(classes, dtype=torch.float64))


def _most_confident(confidence_N: Tensor, part: int) -> Tensor:
    """Mask of the most confident 1/`part` of the samples, at least one."""
    return confidence_N >= confidence_N.topk(math.ceil(len(confidence_N) / part)).values[-1]


def _transition(rate: float, confusion_CC: Tensor) -> Tensor:
    return rate * confusion_CC + (1 - rate) * torch.eye(len(confusion_CC), dtype=confusion_CC.dtype)


def _information(probability_NC: Tensor, labels_N: Tensor) -> tuple[float, float]:
    """Mean of log p_y − log π_y, π being the frequencies of these labels, and its standard error."""
    frequency = labels_N.bincount(minlength=probability_NC.shape[1]).double() / len(labels_N)
    told = probability_NC.gather(1, labels_N[:, None])[:, 0].clamp_min(torch.finfo(torch.float64).tiny)
    gain = told.log() - frequency[labels_N].log()
    return float(gain.mean()), float(gain.std(correction=0)) / math.sqrt(len(gain))


def _surely(information: float, error: float) -> bool:
    """Whether information is above zero by two standard errors."""
    return information > 2 * error


def _calibration_error(confidence_N: Tensor, right_N: Tensor, weight_N: Tensor) -> float:
    """Σ_bins |Σ v·(right − confidence)| / N over `BINS` bins (i/15, (i + 1)/15] of confidence."""
    bins = (confidence_N * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, weight_N * (right_N - confidence_N))
    return float(gaps.abs().sum()) / len(right_N)


def _brier(probability_NC: Tensor, labels_N: Tensor, weight_N: Tensor) -> float:
    error_NC = probability_NC.clone()
    error_NC[torch.arange(len(labels_N)), labels_N] -= 1
    return float((weight_N * error_NC.square_().sum(1)).mean())


def checked(logits: Tensor, labels: Tensor, names: str) -> Tensor:
    """The logits in float64 on the CPU."""
    if logits.ndim != 2 or not len(logits) or logits.shape[1] < 2:
        raise ValueError(f"{names}: logits must be [N, C] with N ≥ 1 and C ≥ 2, got {list(logits.shape)}")
    if labels.shape != logits.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            f"{names}: labels must be int64 [{len(logits)}], got {labels.dtype} {list(labels.shape)}"
        )
    _check_classes(labels, logits.shape[1], names)
    if not logits.isfinite().all():
        raise ValueError(f"{names}: a logit is not finite; did the teacher's training diverge?")
    return logits.detach().cpu().double()


def _check_classes(labels: Tensor, classes: int, names: str) -> None:
    if labels.dtype != torch.int64:
        raise ValueError(f"{names}: labels must be int64, got {labels.dtype}")
    if not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"{names}: labels must be in [0, {classes}), got {labels.min()} to {labels.max()}")
