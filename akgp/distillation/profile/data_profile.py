"""The profile of the data and the teacher, measured from the teacher's logits on held-out images.

It combines the measurements of `calibration`, `label_noise` and `classes`. What follows from them for the
loss is decided in `teacher_weight`. N: samples, C: classes.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from akgp.distillation.profile.calibration import (
    brier_score,
    calibration_error,
    calibration_temperature,
    information,
    surely_positive,
)
from akgp.distillation.profile.checks import check_classes, check_counts, checked
from akgp.distillation.profile.classes import IMBALANCED, class_weights, imbalance, overlap
from akgp.distillation.profile.label_noise import noise, noise_by_class, transition
from akgp.models.top1 import is_right
from akgp.params import Section

CLEAN = 0.05
"""Noise rate up to which labels count as right; see `noise_rate_low`."""
SUSPECT = 0.15
"""Noise rate of a class up to which its labels count as right; see `suspects`."""


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
        """Whether the share of wrong labels is surely large enough for a correction."""
        return self.noise_rate_low is not None and self.noise_rate_low > CLEAN

    @property
    def informative(self) -> bool:
        """Whether the teacher surely predicts labels better than their frequencies do."""
        return surely_positive(self.information, self.information_error)

    @property
    def suspects(self) -> list[int]:
        """The classes whose labels look wrong where the teacher is most confident, worst first."""
        lows = self.noise_rate_by_class_low
        return sorted((k for k, low in enumerate(lows) if low > SUSPECT), key=lambda k: -lows[k])

    @property
    def doubtful(self) -> bool:
        """Whether labels look wrong, at all or in some class."""
        return self.noise_rate is not None and (self.noisy or bool(self.suspects))

    def with_noise_of(self, other: DataProfile) -> DataProfile:
        """This profile with the label noise that another network measured."""
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
        return transition(rate, torch.tensor(self.confusion, dtype=torch.float64))

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
    """The profile of the data, from the teacher's logits on images it was not trained on.

    Where the imbalance exceeds 3, samples are weighted v_i ∝ 1/π_{y_i} in temperature, accuracy,
    calibration error and memorisation. Label temperature, noise rates and confusion are not: v goes by
    the *label* and would multiply each wrong label of a rare class (on 169 images of a clean 1:20 tail of
    the digits the noise rate read up to .31 with v, up to .06 without; true .30 read .55 and .34).

    The noise rate is None where the teacher does not predict labels better than the prior (by two standard
    errors), or where some class would be labelled as another one as often as itself: then wrong labels cannot
    be told from a bad teacher.

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
        check_classes(train_labels, classes, "train_labels")
    if train_counts is None:
        train_counts = (labels if train_labels is None else train_labels).bincount(minlength=classes)
    check_counts(train_counts, classes)
    labels = labels.cpu()
    weight = class_weights(labels, train_counts)

    temperature = calibration_temperature(logits, labels, weight)
    label_temperature = calibration_temperature(logits, labels)
    probability, unweighted = (logits / temperature).softmax(1), (logits / label_temperature).softmax(1)
    right = is_right(logits, labels).double()
    confidence, accuracy = logits.softmax(1).amax(1), float((weight * right).mean())
    gap = None
    if train_logits is not None:
        seen = _training_brier(train_logits, train_labels, train_counts, temperature)
        gap = seen - brier_score(probability, labels, weight)
    gain, error = information(unweighted, labels)
    rate, low, confusion = noise(unweighted, labels)
    rates = noise_by_class(unweighted, labels)
    off_diagonal = transition(rate, confusion).fill_diagonal_(0).amax(1)
    identified = surely_positive(gain, error) and bool((off_diagonal < 1 - rate).all())
    return DataProfile(
        samples=len(labels),
        temperature=temperature,
        label_temperature=label_temperature,
        accuracy=accuracy,
        ece=calibration_error(confidence, right, weight),
        overconfidence=float((weight * confidence).mean()) - accuracy,
        information=gain,
        information_error=error,
        noise_rate=rate if identified else None,
        noise_rate_low=low if identified else None,
        noise_rate_by_class=tuple(None if each is None else each[0] for each in rates),
        noise_rate_by_class_low=tuple(0.0 if each is None else each[1] for each in rates),
        confusion=tuple(map(tuple, confusion.tolist())),
        overlap=tuple(map(tuple, overlap(probability).tolist())),
        class_counts=tuple(train_counts.tolist()),
        imbalance=imbalance(train_counts),
        memorisation_gap=gap,
    )


def _training_brier(logits: Tensor, labels: Tensor | None, class_counts: Tensor, temperature: float) -> float:
    """The Brier score of the training images, by the temperature of the calibration images."""
    if labels is None:
        raise ValueError("train_logits need train_labels")
    if logits.shape[1:] != class_counts.shape:
        raise ValueError(f"train_logits must be [M, {len(class_counts)}], got {list(logits.shape)}")
    probability = (checked(logits, labels, "train_logits, train_labels") / temperature).softmax(1)
    labels = labels.cpu()
    return brier_score(probability, labels, class_weights(labels, class_counts))
