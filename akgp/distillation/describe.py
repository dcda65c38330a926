"""The data's profile in words, for the user who looks at it."""

from __future__ import annotations

import torch
from torch import Tensor

from akgp.distillation.profile.data_profile import DataProfile


def sentence(found: DataProfile, classes: tuple[str, ...]) -> str:
    """The characteristics in words, such as 'labels look 18 % wrong, mostly cat↔dog; …'.

    Args:
        classes: their names, in the order of the logits.

    Raises:
        ValueError: more or fewer names than classes.
    """
    if len(classes) != found.classes:
        raise ValueError(f"classes must be {found.classes} names, got {len(classes)}")
    said = (_labels(found, classes), _teacher(found), _alike(found, classes), _balance(found, classes))
    return "; ".join(filter(None, said))


def _labels(found: DataProfile, classes: tuple[str, ...]) -> str:
    if found.noise_rate is None:
        return "the teacher says too little of the labels to tell which are wrong"
    if found.noisy:
        return f"labels look {100 * found.noise_rate:.0f} % wrong{_pairs(found, classes)}"
    if not found.suspects:
        return "labels look right"
    named = [_suspect(found, k, classes) for k in found.suspects[:3]]
    more = len(found.suspects) - len(named)
    listed = ", ".join(named) + (f" and of {more} more" if more else "")
    return f"labels look right but for those of {listed} (wrong, or too alike for the teacher)"


def _suspect(found: DataProfile, k: int, classes: tuple[str, ...]) -> str:
    row, rate = found.confusion[k], found.noise_rate_by_class[k]
    return f"{classes[k]} ({100 * (rate or 0):.0f} % otherwise, most of them {classes[row.index(max(row))]})"


def _pairs(found: DataProfile, classes: tuple[str, ...]) -> str:
    """The pair of classes with half of all wrong labels, or the two with a fifth and more than usual."""
    wrong = found.wrong_labels()
    shares = (wrong + wrong.T).triu(1) / wrong.sum()
    most = shares.flatten().topk(2)
    least = max(0.2, 5 / (found.classes * (found.classes - 1)))
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
    arrow = "↔" if wrong[label, true] > wrong[true, label] / 2 else "→"
    return f"{classes[true]}{arrow}{classes[label]}"


def _teacher(found: DataProfile) -> str:
    points = round(100 * found.overconfidence)
    trust = (
        f"{'over' if points > 0 else 'under'}-confident by {abs(points)} point{'s' * (abs(points) > 1)}"
        if points
        else "as confident as it is right"
    )
    return f"the teacher is {trust}{_memory(found)}"


def _memory(found: DataProfile) -> str:
    """Where labels are noisy a smaller gap tells: what nobody can predict can only be memorised."""
    gap = found.memorisation_gap or 0.0
    if found.noisy and gap < -0.03:
        return " and has memorised training labels, wrong ones too (`folds` is for that)"
    return " and fits its training images better than others" if gap < -0.1 else ""


def _alike(found: DataProfile, classes: tuple[str, ...]) -> str:
    """The two classes that overlap most, if that is a tenth or more and three times the usual."""
    overlap = torch.tensor(found.overlap, dtype=torch.float64)
    mutual = ((overlap + overlap.T) / 2).fill_diagonal_(0)
    most = float(mutual.max())
    one, other = sorted(divmod(int(mutual.argmax()), found.classes))
    usual = float(mutual.sum()) / (found.classes * (found.classes - 1))
    return f"{classes[one]} and {classes[other]} look alike" if most >= max(0.1, 3 * usual) else ""


def _balance(found: DataProfile, classes: tuple[str, ...]) -> str:
    if found.imbalance <= 1.5:
        return "classes are balanced"
    counts = found.class_counts
    most, fewest = classes[counts.index(max(counts))], classes[counts.index(min(counts))]
    return f"{most} has {found.imbalance:.3g} times the images of {fewest}"
