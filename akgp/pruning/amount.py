"""How much to remove: by one of several amounts; and what a budget, an amount to keep, came to."""

from __future__ import annotations

import math
from dataclasses import dataclass

from akgp.pruning.coupling.preparation import PruningError

LATENCY = "latency_ms"
MEANING = {
    "ratio": "the share of each layer's filters to remove",
    "macs": "the share of the MACs to keep",
    "params": "the share of the parameters to keep",
    LATENCY: "the milliseconds of the int8 file",
    "bytes": "the bytes of the int8 values to keep",
}
UNITS = {"macs": "MACs", "params": "parameters", "bytes": "bytes"}
"""What budgets count."""
TOLERANCE = 0.02
"""A budget is met if the cost differs from it by at most this share. Widths are multiples of `round_to`, so
few budgets can be met exactly."""
CLOSE = 0.005
"""Likewise, of bytes while widths are searched: a file must not be above its budget."""


@dataclass(frozen=True)
class Amount:
    """`key` is one of MEANING."""

    key: str
    value: float

    def __str__(self) -> str:
        return f"{self.key} {self.value:g} ({MEANING[self.key]})"


@dataclass(frozen=True)
class Reached:
    """What a budget came to, counted on the pruned network.

    Attributes:
        asked: the budget, in the unit of its parameter.
        reached: likewise.
        why: why no nearer one was reached; None if it is met within 2 %, a time within 3 %.
        predicted: of a time, before it was measured.
    """

    key: str
    asked: float
    reached: float
    why: str | None
    predicted: float | None = None

    def __str__(self) -> str:
        form = "{:,.0f}" if self.key == "bytes" else "{:.3g}"
        predicted = "" if self.predicted is None else f"{self.predicted:.3g} predicted, "
        asked = form.format(self.asked) if self.key == "bytes" else f"{self.asked:g}"
        line = f"prune.{self.key}: {asked} asked, {predicted}{form.format(self.reached)} reached"
        return f"{line}, the nearest: {self.why}" if self.why else line


def chosen(**amounts: float | None) -> Amount:
    """The one amount that is given.

    Raises:
        PruningError: none or several are given, or one out of its range.
    """
    given = {key: value for key, value in amounts.items() if value is not None}
    if len(given) != 1:
        raise PruningError(
            f"exactly one of {', '.join(amounts)} must be given, got {', '.join(given) or 'none'}"
        )
    ((key, value),) = given.items()
    start, end = ("[", 1) if key == "ratio" else ("(", 1 if key in ("macs", "params") else math.inf)
    if not is_number(value) or not (0 <= value < end if key == "ratio" else 0 < value < end):
        raise PruningError(f"{key} must be in {start}0, {end}), got {value!r}; it is {MEANING[key]}")
    return Amount(key, float(value))


def is_number(value: object) -> bool:
    """Whether it is an int or a float. A bool is an int, and False would pass as a ratio of 0."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
