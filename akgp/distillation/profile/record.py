"""The data's profile as written to disk, in a size that does not grow with the square of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from akgp.distillation.profile.data_profile import DataProfile

MATRIX_CLASSES = 48
"""For more classes than this only the largest entries of the matrices are written."""
PAIRS = 50


def recorded(measured: DataProfile, classes: Sequence[str]) -> dict[str, Any]:
    """All fields by name; for many classes `confusion` and `overlap` are None.

    Then `confusion_pairs` and `overlap_pairs` are their largest entries off the diagonal: rows of class (of
    the matrix' row), other (of its column) and share, largest first.

    Args:
        classes: their names, in the order of the logits.
    """
    matrices = ("confusion", "overlap")
    if measured.classes <= MATRIX_CLASSES:
        return measured.model_dump(mode="json")
    fields = measured.model_dump(mode="json", exclude=set(matrices))
    pairs = {f"{name}_pairs": _largest(getattr(measured, name), classes) for name in matrices}
    return fields | dict.fromkeys(matrices) | pairs


def _largest(matrix: Sequence[Sequence[float]], classes: Sequence[str]) -> list[dict[str, Any]]:
    shares = torch.tensor(matrix, dtype=torch.float64).fill_diagonal_(0)
    most = shares.flatten().topk(PAIRS)
    return [
        {"class": classes[place // len(classes)], "other": classes[place % len(classes)], "share": share}
        for share, place in zip(most.values.tolist(), most.indices.tolist(), strict=True)
    ]
