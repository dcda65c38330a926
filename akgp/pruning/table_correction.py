"""What the parts of a table take in whole networks, learned from the networks that were timed.

In a network a kernel takes another time than alone: it meets other caches, and some are fused. By a straight
line all are off by the same share; what remains is laid to the parts in proportion to their times (ridge
regression: Hoerl and Kennard, Technometrics 12, 1970).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

PART_ERROR = 0.3
"""By what share a part's time in a network differs from the line (standard deviation)."""
TIMING_ERROR = 0.01
"""By what share two timings of a network differ, likewise."""

Parts = Mapping[str, float]
"""Name of each part of a network -> its time by the table, ms."""


class CorrectedTable:
    """Milliseconds of a network: overhead + slope · Σ factor · part, with a factor near 1 for each part."""

    def __init__(self, parts: Sequence[Parts], measured_ms: Sequence[float]) -> None:
        """Fit to two networks or more; the first two give slope and overhead.

        Args:
            parts: of each network, alike named.
        """
        table = torch.tensor([list(each.values()) for each in parts], dtype=torch.float64)
        measured, total = torch.tensor(measured_ms, dtype=torch.float64), table.sum(1)
        apart = total[1] - total[0]
        slope = (measured[1] - measured[0]) / apart if apart else torch.tensor(0.0)
        self._overhead = float(measured[0] - slope * total[0])
        expected = slope * table * PART_ERROR
        covariance = expected @ expected.T + torch.diag((TIMING_ERROR * measured) ** 2)
        left = measured - self._overhead - slope * total
        factors = 1 + PART_ERROR * expected.T @ torch.linalg.solve(covariance, left)
        self._rates = dict(zip(parts[0], (slope * factors).tolist(), strict=True))

    def of(self, parts: Parts) -> float:
        return self._overhead + sum(self._rates[name] * ms for name, ms in parts.items())
