"""Corruptions (`data.regime`): a subset, a long tail or wrong labels, made on purpose to study their effect.

Functions of labels alone, which return the positions that are kept and the labels. Each draws from a random
stream that depends on `seed` and differs from that of the splits: with the same stream, all wrong
labels of a class would fall into one split.
"""

from __future__ import annotations

import numpy as np

from akgp.data.files import DataError
from akgp.params import Regime

SUBSET, TAIL, NOISE = 1, 2, 3  # streams of a seed
CIFAR10_FLIPS = {
    "truck": "automobile",
    "bird": "airplane",
    "deer": "horse",
    "cat": "dog",
    "dog": "cat",
}


def apply_corruption(
    labels: np.ndarray, classes: tuple[str, ...], regime: Regime, flips: dict[str, str] | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Apply `regime` to labels: first the subset, then the long tail, then the noise.

    Args:
        labels: [N] class indices.
        flips: for asymmetric noise, as in `flip_targets`.

    Returns:
        [M] positions kept, ascending, and [M] their labels, some of which may be wrong.

    Raises:
        DataError: fewer images than the subset, or so few that no label would change.
    """
    kept = np.arange(len(labels))
    if regime.subset is not None:
        if regime.subset > len(labels):
            raise DataError(
                f"data.regime.subset: {regime.subset} must be at most {len(labels)}, the images that are "
                "not in the test split"
            )
        kept = stratified_subset(labels, regime.subset, seed)
    if regime.imbalance > 1:
        kept = kept[long_tail(labels[kept], len(classes), regime.imbalance, seed)]
    true = noisy = labels[kept]
    if regime.label_noise and len(kept):
        if regime.noise == "symmetric":
            noisy = symmetric_noise(true, len(classes), regime.label_noise, seed)
        else:
            noisy = asymmetric_noise(true, flip_targets(classes, flips), regime.label_noise, seed)
        if (noisy == true).all():
            raise DataError(
                f"data.regime.label_noise: {regime.label_noise:g} must be higher, as it makes no label "
                f"wrong in any class (the largest has {np.bincount(true).max()} images)"
            )
    return kept, noisy


def stratified_subset(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Positions of exactly `count` of the labels, ascending, with each class's share kept.

    A class of n_k among N gets count·n_k/N, rounded down, or up where the remainder is among the
    largest (largest remainders; of equal ones the lower class).

    Args:
        labels: [N] class indices.
        count: from 0 to N.
    """
    random = np.random.RandomState([seed, SUBSET])  # NumPy promises that its stream never changes
    classes, sizes = np.unique(labels, return_counts=True)
    quota, remainder = np.divmod(sizes * count, len(labels))
    quota[np.argsort(-remainder, kind="stable")[: count - quota.sum()]] += 1
    return _first(labels, dict(zip(classes, quota, strict=True)), random)


def long_tail(labels: np.ndarray, classes: int, imbalance: float, seed: int) -> np.ndarray:
    """Positions kept, ascending, when class sizes fall exponentially in the classes' order.

    n_k = n_max · imbalance^(−k / (C − 1)) for k = 0 … C − 1, rounded down as in the code of the
    source (Cao et al. 2019, LDAM, there for equal classes). n_max is the size of a class if all are
    equal; else the largest number with which every class has as many images as it is to keep.

    Args:
        labels: [N] class indices.
        classes: C, two or more.
        imbalance: largest over smallest class, 1 or more.
    """
    random = np.random.RandomState([seed, TAIL])
    decay = float(imbalance) ** (-np.arange(classes) / (classes - 1))
    largest = (np.bincount(labels, minlength=classes) / decay).min()
    sizes = np.floor(largest * decay * (1 + 1e-9)).astype(int)  # 1e-9: an exact 100 may come out as 99.99…
    return _first(labels, dict(enumerate(sizes)), random)


def symmetric_noise(labels: np.ndarray, classes: int, rate: float, seed: int) -> np.ndarray:
    """`labels` [N] with the share `rate` wrong: drawn uniformly from the other classes.

    Of a class with n labels exactly round(rate · n) are changed, none of them to itself: `rate` is
    the share of wrong labels, not that of labels drawn again from all classes, of which 1 / C would
    stay right.

    Args:
        labels: [N] class indices.
        classes: C, two or more.
        rate: in [0, 1).
    """
    random = np.random.RandomState([seed, NOISE])
    wrong = _share(labels, rate, random)
    noisy = labels.copy()
    # A step of 1 to C − 1 around the circle of classes: uniform over the others, never the same class.
    noisy[wrong] = (labels[wrong] + random.randint(1, classes, len(wrong))) % classes
    return noisy


def asymmetric_noise(labels: np.ndarray, targets: np.ndarray, rate: float, seed: int) -> np.ndarray:
    """`labels` [N] with the share `rate` of each class flipped to its target class.

    Of a class with n labels exactly round(rate · n) are changed; a class whose target is itself keeps all
    labels, so that the share over all classes is lower than `rate`.

    Args:
        labels: [N] class indices.
        targets: [C] target class of each, as by `flip_targets`.
        rate: in [0, 1).
    """
    wrong = _share(labels, rate, np.random.RandomState([seed, NOISE]))
    noisy = labels.copy()
    noisy[wrong] = targets[labels[wrong]]
    return noisy


def flip_targets(classes: tuple[str, ...], flips: dict[str, str] | None = None) -> np.ndarray:
    """Target class of each class under asymmetric noise: indices [C].

    Args:
        flips: names, from → to, as CIFAR10_FLIPS (Patrini et al. 2017); other classes have themselves
            as target. None: the next class, for the last the first.
    """
    if flips is None:
        return np.roll(np.arange(len(classes)), -1)
    return np.array([classes.index(flips.get(name, name)) for name in classes])


def _first(labels: np.ndarray, counts: dict[int, int], random: np.random.RandomState) -> np.ndarray:
    """Positions of `counts` random labels of each class, ascending."""
    chosen = [random.permutation(np.flatnonzero(labels == label))[:count] for label, count in counts.items()]
    return np.sort(np.concatenate(chosen))


def _share(labels: np.ndarray, rate: float, random: np.random.RandomState) -> np.ndarray:
    """Positions of the share `rate` of each class's labels, drawn at random, ascending."""
    classes, sizes = np.unique(labels, return_counts=True)
    counts = {label: round(rate * int(size)) for label, size in zip(classes, sizes, strict=True)}
    return _first(labels, counts, random)
