"""How long networks take for one image, timed against each other in the runtime."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from akgp.params import Evaluate
from akgp.runtimes.onnxruntime import guarded, session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


BLOCK_SECONDS = 0.01
"""A timed block repeats the network for at least this long."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Latency:
    """Time of one inference at batch 1, ms: median over the rounds and its 95 % interval.

    rounds_ms: the mean of each round's block, in the order of the rounds, which all networks share.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    rounds_ms: tuple[float, ...]


@dataclass(frozen=True)
class Ratio:
    """How many times faster one network is than another: median over rounds, 95 % interval."""

    median: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`faster`, `slower`, or `no verdict` where the interval contains 1."""
        if self.low <= 1 <= self.high:
            return "no verdict"
        return "faster" if self.low > 1 else "slower"


def latency(
    paths: Mapping[str, Path], input_shape: Sequence[int], params: Evaluate, seed: int
) -> dict[str, Latency]:
    """Time ONNX graphs against each other in onnxruntime, in this process.

    Each network is warmed up for `params.warmup_seconds`. In each of `params.rounds` rounds every
    network is timed once, in a new random order, for a block of at least 10 ms. With one thread
    the thread's CPU time is taken, which other processes on the machine disturb less; with more
    threads wall time. Waiting threads sleep instead of spinning.

    Args:
        paths: ONNX file of each network.
        input_shape: of one inference, (1, channels, H, W).
        seed: of the input, the order and the bootstrap.

    Returns:
        For each network the median over the rounds, and a 95 % percentile bootstrap of it.
    """
    generator = np.random.default_rng(seed)
    sample = generator.standard_normal(tuple(input_shape), dtype=np.float32)
    clock = time.thread_time if params.threads == 1 else time.perf_counter
    blocks = {
        name: _Block(session(path, threads=params.threads), sample, clock) for name, path in paths.items()
    }
    for name, block in blocks.items():
        with guarded(f"{paths[name]}: onnxruntime cannot run it"):
            block.warm_up(params.warmup_seconds)
    times: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(params.rounds):
        for name in generator.permutation(list(paths)):
            times[name].append(1000 * blocks[name].seconds())
    return {
        name: Latency(*_median_interval(np.array(rounds), generator), tuple(rounds))
        for name, rounds in times.items()
    }


def speedup(slow: Latency, fast: Latency, seed: int = 0) -> Ratio:
    """How many times faster `fast` is than `slow`: median of the rounds' ratios, and a 95 % interval.

    Raises:
        ValueError: they were not timed in the same rounds.
    """
    if len(slow.rounds_ms) != len(fast.rounds_ms):
        raise ValueError(
            f"both must be timed in the same rounds, got {len(slow.rounds_ms)} and {len(fast.rounds_ms)}"
        )
    ratios = np.array(slow.rounds_ms) / np.array(fast.rounds_ms)
    return Ratio(*_median_interval(ratios, np.random.default_rng(seed)))


class _Block:
    """A network ready to be timed."""

    def __init__(
        self, session: InferenceSession, sample: NDArray[np.float32], clock: Callable[[], float]
    ) -> None:
        self.session, self.clock, self.repeats = session, clock, 1
        self.feed = {session.get_inputs()[0].name: sample}

    def warm_up(self, seconds: float) -> None:
        """Run for `seconds` of wall time, then settle how many repeats fill a block."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            self.seconds()
        while (spent := self.repeats * self.seconds()) < BLOCK_SECONDS:
            wanted = self.repeats * 1.2 * BLOCK_SECONDS / max(spent, 1e-6)
            self.repeats = max(self.repeats + 1, math.ceil(wanted))

    def seconds(self) -> float:
        """Mean time of one inference over a block."""
        start = self.clock()
        for _ in range(self.repeats):
            self.session.run(None, self.feed)
        return (self.clock() - start) / self.repeats


def _median_interval(
    values: NDArray[np.float64], generator: np.random.Generator
) -> tuple[float, float, float]:
    medians = np.median(generator.choice(values, (RESAMPLES, len(values))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(np.median(values)), float(low), float(high)
