"""Which layers write zeros where they lost filters, since something behind them needs the dense layout."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from akgp.io.terminal import first_of

NAMED = 3
"""Layers named for one reason, and reasons; of the others the number is said."""


def dense_layouts(rows: Iterable[Mapping[str, Any]]) -> str:
    """One line with the layers by reason; empty if there are none.

    Args:
        rows: of `akgp.pruning.layers_table`.
    """
    by_reason: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.get("layout"):
            by_reason[row["layout"]].append(row["name"])
    if not by_reason:
        return ""
    reasons = sorted(by_reason.items(), key=lambda each: -len(each[1]))
    parts = [f"{first_of(names, NAMED)} ({reason})" for reason, names in reasons[:NAMED]]
    if len(reasons) > NAMED:
        parts.append(f"{sum(len(names) for _, names in reasons[NAMED:])} more for other reasons")
    return f"zeros stay in place of the filters removed of {'; '.join(parts)}"
