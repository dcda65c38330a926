"""Which image goes into which split. Positions only: no pixels, no files."""

from __future__ import annotations

import numpy as np


def stratified_split(labels: np.ndarray, shares: dict[str, float], seed: int) -> dict[str, np.ndarray]:
    """Positions of each split, ascending; disjoint, and together all.

    Of each class every split gets its share, rounded down or up; the images left by rounding
    down go to the splits that lack most so far, so that the splits' totals stay near their
    shares too. Which images of a class go where depends on `labels` and `seed` alone.

    Args:
        labels: [N] class indices.
        shares: of each split, above 0, summing to 1.
    """
    random = np.random.RandomState(seed)  # its stream is frozen: the same splits with every NumPy
    quota = np.array(list(shares.values()))
    lacking = np.zeros(len(shares))  # images by which a split is behind its share
    chosen: list[list[np.ndarray]] = [[] for _ in shares]
    for label in np.unique(labels):
        positions = random.permutation(np.flatnonzero(labels == label))
        exact = quota * len(positions)
        counts = np.floor(exact + 1e-9).astype(int)
        lacking += exact - counts
        behind = np.where(exact - counts > 1e-9, lacking, -np.inf)
        up = np.argsort(-behind, kind="stable")[: len(positions) - counts.sum()]
        counts[up] += 1
        lacking[up] -= 1
        for split, part in zip(chosen, np.split(positions, np.cumsum(counts)[:-1]), strict=True):
            split.append(part)
    return {name: np.sort(np.concatenate(parts)) for name, parts in zip(shares, chosen, strict=True)}
