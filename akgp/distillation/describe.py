"""The data's profile in words, for the report."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from akgp.distillation.profile.data_profile import DataProfile
from akgp.distillation.teacher_weight.answers import WeightEstimate


def sentence(profile: DataProfile, classes: tuple[str, ...]) -> str:
    """The profile of the data in words, such as 'labels look 18 % wrong, mostly cat↔dog; …'.

    Args:
        classes: their names, in the order of the logits.

    Raises:
        ValueError: more or fewer names than classes.
    """
    if len(classes) != profile.classes:
        raise ValueError(f"classes must be {profile.classes} names, got {len(classes)}")
    parts = (
        _labels(profile, classes),
        _teacher(profile),
        _alike(profile, classes),
        _balance(profile, classes),
    )
    return "; ".join(filter(None, parts))


def weight_sentence(estimate: WeightEstimate, *, branches: bool) -> str:
    """How w0 was measured, by branches or by answers, and its value."""
    by = "branches" if branches else "answers"
    how = "say nothing" if estimate.error is None else f"say {estimate.raw:.2f} ± {estimate.error:.2f}"
    return f"the teacher's weight w0 is measured as {estimate.weight:.2f} (the {by} {how})"


def shares_sentence(shares: Mapping[str, float]) -> str:
    """Each teacher's share of the teachers' weight, by name."""
    return "of the teachers' part " + ", ".join(f"{name} has {share:.0%}" for name, share in shares.items())


def _labels(profile: DataProfile, classes: tuple[str, ...]) -> str:
    if profile.noise_rate is None:
        return "the teacher says too little of the labels to tell which are wrong"
    if profile.noisy:
        return f"labels look {100 * profile.noise_rate:.0f} % wrong{_pairs(profile, classes)}"
    if not profile.suspects:
        return "labels look right"
    named = [_suspect(profile, k, classes) for k in profile.suspects[:3]]
    more = len(profile.suspects) - len(named)
    listed = ", ".join(named) + (f" and of {more} more" if more else "")
    return f"labels look right but for those of {listed} (wrong, or too alike for the teacher)"


def _suspect(profile: DataProfile, k: int, classes: tuple[str, ...]) -> str:
    row, rate = profile.confusion[k], profile.noise_rate_by_class[k]
    return f"{classes[k]} ({100 * (rate or 0):.0f} % otherwise, most of them {classes[row.index(max(row))]})"


def _pairs(profile: DataProfile, classes: tuple[str, ...]) -> str:
    """The pair of classes with half of all wrong labels, or the two with a fifth and more than usual."""
    wrong = profile.wrong_labels()
    # Both directions together; `least` is at least 2.5 times what each pair has where all are alike.
    shares = (wrong + wrong.T).triu(1) / wrong.sum()
    most = shares.flatten().topk(2)
    least = max(0.2, 5 / (profile.classes * (profile.classes - 1)))
    named = [
        _pair(wrong, place, classes)
        for share, place in zip(most.values.tolist(), most.indices.tolist(), strict=True)
        if share >= least
    ]
    if not named:
        return ""
    return f", mostly {named[0]}" if most.values[0] >= 0.5 else f", often {' and '.join(named)}"


def _pair(wrong: Tensor, place: int, classes: tuple[str, ...]) -> str:
    true, label = divmod(place, len(wrong))
    if wrong[true, label] < wrong[label, true]:
        true, label = label, true
    # One direction, unless the other has more than half as many.
    arrow = "↔" if wrong[label, true] > wrong[true, label] / 2 else "→"
    return f"{classes[true]}{arrow}{classes[label]}"


def _teacher(profile: DataProfile) -> str:
    points = round(100 * profile.overconfidence)
    trust = (
        f"{'over' if points > 0 else 'under'}-confident by {abs(points)} point{'s' * (abs(points) > 1)}"
        if points
        else "as confident as it is right"
    )
    return f"the teacher is {trust}{_memorisation(profile)}"


def _memorisation(profile: DataProfile) -> str:
    """Whether the teacher has memorised training labels.

    Where labels are noisy a smaller gap is enough: labels that cannot be predicted can only be memorised.
    """
    gap = profile.memorisation_gap or 0.0
    if profile.noisy and gap < -0.03:
        return " and has memorised training labels, wrong ones too (`folds` is for that)"
    return " and fits its training images better than others" if gap < -0.1 else ""


def _alike(profile: DataProfile, classes: tuple[str, ...]) -> str:
    """The two classes that overlap most, if that is a tenth or more and three times the usual."""
    overlap = torch.tensor(profile.overlap, dtype=torch.float64)
    mutual = ((overlap + overlap.T) / 2).fill_diagonal_(0)
    most = float(mutual.max())
    one, other = sorted(divmod(int(mutual.argmax()), profile.classes))
    usual = float(mutual.sum()) / (profile.classes * (profile.classes - 1))
    return f"{classes[one]} and {classes[other]} look alike" if most >= max(0.1, 3 * usual) else ""


def _balance(profile: DataProfile, classes: tuple[str, ...]) -> str:
    if profile.imbalance <= 1.5:
        return "classes are balanced"
    counts = profile.class_counts
    most, fewest = classes[counts.index(max(counts))], classes[counts.index(min(counts))]
    return f"{most} has {profile.imbalance:.3g} times the images of {fewest}"
