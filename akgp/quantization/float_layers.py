"""Which layers stay in float: those that gain most for what they cost, under budgets.

The question of HAQ (Wang et al. 2019), answered greedily. Of each layer it is measured what it changes if it
alone stays in float: how much nearer predictions come to the float network's, and how much longer an image
takes. Then one after another stays in float if the budgets of bytes and of time allow it, until as many
images as asked for are classified as float does. Of a whole plan bytes and time are measured, not summed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from akgp.params import Quantize
from akgp.params.device import bytes_of
from akgp.quantization.checking import QuantizationError
from akgp.quantization.trials import Table, TrialMeasurement, Trials

log = logging.getLogger(__name__)

MORE_BYTES = 3
"""Of a weight in float beyond its one in int8."""
TOLERANCE = 0.03
"""A time is met if it is longer than what was asked by at most this share: so much varies from run to run."""


@dataclass(frozen=True)
class Alone:
    """What one layer in float changes.

    gain: fall of the mean KL(float ‖ int8), nats.
    ms: that an image takes longer, below 0 if float is faster; None: no budget asks for it.
    """

    gain: float
    ms: float | None


def with_floats(
    trials: Trials, table: Table, params: Quantize
) -> tuple[Table, TrialMeasurement, dict[str, Alone]]:
    """The table with more layers in float, what is measured of it, and of each layer alone.

    Layers of `params.precision` keep what it says. Nothing is measured of single layers where the first table
    already agrees as often as asked for, within its budgets.

    Raises:
        QuantizationError: no plan has so few bytes, or takes so little time.
    """
    budgets = _Budgets(params)
    now = trials.measured(table)
    alone: dict[str, Alone] = {}
    if not budgets.done(now):
        alone = _alone(trials, table, params)
        for name in _ordered(alone, trials.weights):
            if budgets.done(now):
                break
            if not budgets.promising(now, alone[name], trials.weights[name]):
                continue
            tried = trials.measured({**table, name: "float"})
            if budgets.allowed(tried, now):
                table, now = {**table, name: "float"}, tried
    budgets.require(now)
    if params.agreement is not None and now.agreement < params.agreement:
        log.warning(
            "quantize.agreement: %g asked, %.4g reached: the other budgets and quantize.precision leave no "
            "more layers in float",
            params.agreement,
            now.agreement,
        )
    return table, now, alone


class _Budgets:
    def __init__(self, params: Quantize) -> None:
        self._agreement, self._ms = params.agreement, params.latency_ms
        self._bytes = None if params.bytes is None else bytes_of(params.bytes)

    def done(self, now: TrialMeasurement) -> bool:
        """Whether predictions agree as asked for and the time is met; never without such a wish."""
        agrees = self._agreement is not None and now.agreement >= self._agreement
        return agrees and self._in_time(now)

    def promising(self, now: TrialMeasurement, layer: Alone, weights: int) -> bool:
        """Whether it is worth quantizing the network with this layer in float as well."""
        faster = layer.ms is not None and layer.ms < 0
        if not self._in_time(now) and not faster:
            return False
        if layer.gain <= 0 and self._agreement is None and self._in_time(now):
            return False
        if self._bytes is not None and (now.bytes or 0) + MORE_BYTES * weights > self._bytes:
            return False
        return faster or self._ms is None or (now.ms or 0.0) + (layer.ms or 0.0) <= self._ms

    def allowed(self, tried: TrialMeasurement, now: TrialMeasurement) -> bool:
        """Whether a plan is within the budgets, or nearer to that of time than the one before."""
        if self._bytes is not None and (tried.bytes or 0) > self._bytes:
            return False
        return self._ms is None or (tried.ms or 0.0) <= max(self._ms, _before(now, self._ms))

    def require(self, now: TrialMeasurement) -> None:
        if self._bytes is not None and now.bytes is not None and now.bytes > self._bytes:
            raise QuantizationError(
                f"quantize.bytes: {self._bytes:,} asked, but the file has {now.bytes:,} with no other layer "
                "in float than those of quantize.precision: ask for more, or prune more"
            )
        if self._ms is not None and now.ms is not None and now.ms > self._ms * (1 + TOLERANCE):
            raise QuantizationError(
                f"quantize.latency_ms: {self._ms:g} asked, but the fastest plan that was timed takes "
                f"{now.ms:.3g} ms: ask for more, or prune by prune.latency_ms"
            )

    def _in_time(self, now: TrialMeasurement) -> bool:
        return self._ms is None or (now.ms or 0.0) <= self._ms


def _before(now: TrialMeasurement, asked: float) -> float:
    """What a slow plan took: a plan that is still too slow is taken if it is faster than that."""
    return now.ms if now.ms is not None and now.ms > asked else 0.0


def _alone(trials: Trials, table: Table, params: Quantize) -> dict[str, Alone]:
    before = trials.divergence(trials.quantize(table))
    before_ms = trials.milliseconds() if params.latency_ms is not None else None
    found = {}
    for name in (each for each in trials.weights if each not in trials.named):
        gain = before - trials.divergence(trials.quantize({**table, name: "float"}))
        found[name] = Alone(gain, None if before_ms is None else trials.milliseconds() - before_ms)
    return found


def _ordered(alone: dict[str, Alone], weights: dict[str, int]) -> Iterator[str]:
    """First layers that float makes faster, most of all first; then by gain for each ms, or each weight."""

    def key(name: str) -> tuple[bool, float]:
        layer = alone[name]
        if layer.ms is None:
            return True, -layer.gain / weights[name]
        return layer.ms >= 0, -layer.gain / layer.ms if layer.ms > 0 else layer.ms

    return iter(sorted(alone, key=key))
