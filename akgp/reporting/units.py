"""Numbers as text: three digits and a prefix, milliseconds and their interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def number(value: float) -> str:
    """Three significant digits and a prefix, ready for a unit: 271962 is "272 k", 12 is "12 "."""
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g} "


def latency(row: Mapping[str, Any]) -> str:
    """Milliseconds with their interval, as far as known."""
    if "latency_ms" not in row:
        return "not measured"
    interval = ""
    if "latency_low_ms" in row and "latency_high_ms" in row:
        interval = f" ({row['latency_low_ms']:.3f}–{row['latency_high_ms']:.3f})"
    return f"{row['latency_ms']:.3f} ms{interval}"
