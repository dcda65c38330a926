"""Draws the splits, stratified by class: positions only, no pixels or files."""

from __future__ import annotations

import numpy as np


def stratified_split(labels: np.ndarray, shares: dict[str, float], seed: int) -> dict[str, np.ndarray]:
    """Positions of each split, ascending; the splits are disjoint and cover all labels.

    Every split gets its share of each class, rounded down or up: images left over by rounding down
    go to the splits that are furthest behind so far, so that the totals of the splits stay near
    their shares too. The result depends on `labels`, `shares` and `seed` alone.

    Args:
        labels: [N] class indices.
        shares: of each split, above 0, summing to 1.
    """
    random = np.random.RandomState(seed)  # frozen stream: the same splits with every NumPy version
    quota = np.array(list(shares.values()))
    lacking = np.zeros(len(shares))  # images by which a split is behind its share
    chosen: list[list[np.ndarray]] = [[] for _ in shares]
    for label in np.unique(labels):
        positions = random.permutation(np.flatnonzero(labels == label))
        exact = quota * len(positions)
        # 1e-9: 0.1 · 30 may come out below 3.
        counts = np.floor(exact + 1e-9).astype(int)
        lacking += exact - counts
        behind = np.where(exact - counts > 1e-9, lacking, -np.inf)
        # Only a split whose share was rounded down may be rounded up.
        up = np.argsort(-behind, kind="stable")[: len(positions) - counts.sum()]
        counts[up] += 1
        lacking[up] -= 1
        for split, part in zip(chosen, np.split(positions, np.cumsum(counts)[:-1]), strict=True):
            split.append(part)
    return {name: np.sort(np.concatenate(parts)) for name, parts in zip(shares, chosen, strict=True)}
