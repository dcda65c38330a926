"""The characteristics as they are kept on disk: no larger than the classes are many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from akgp.distillation.profile.data_profile import DataProfile

MATRIX_CLASSES = 48
"""Of more classes than this not the matrices are kept, but their largest entries."""
PAIRS = 50


def recorded(found: DataProfile, classes: Sequence[str]) -> dict[str, Any]:
    """All fields by name; of many classes `confusion` and `overlap` are None.

    Then `confusion_pairs` and `overlap_pairs` are their largest entries off the diagonal: rows of class (of
    the matrix' row), other (of its column) and share, largest first.

    Args:
        classes: their names, in the order of the logits.
    """
    matrices = ("confusion", "overlap")
    if found.classes <= MATRIX_CLASSES:
        return found.model_dump(mode="json")
    kept = found.model_dump(mode="json", exclude=set(matrices))
    pairs = {f"{name}_pairs": _largest(getattr(found, name), classes) for name in matrices}
    return kept | dict.fromkeys(matrices) | pairs


def _largest(matrix: Sequence[Sequence[float]], classes: Sequence[str]) -> list[dict[str, Any]]:
    shares = torch.tensor(matrix, dtype=torch.float64).fill_diagonal_(0)
    most = shares.flatten().topk(PAIRS)
    return [
        {"class": classes[place // len(classes)], "other": classes[place % len(classes)], "share": share}
        for share, place in zip(most.values.tolist(), most.indices.tolist(), strict=True)
    ]
