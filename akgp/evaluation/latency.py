"""Latency of networks for one image, timed against each other in a runtime."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from akgp.params import Evaluate
from akgp.runtimes import LoadedNetwork, Runtime, runtime_for

BLOCK_SECONDS = 0.01
"""A timed block repeats the network for at least this long."""
RESAMPLES = 2000  # of the bootstrap; an interval's ends are each the 50th from outside


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
    paths: Mapping[str, Path],
    input_shape: Sequence[int],
    params: Evaluate,
    seed: int,
    runtime: Runtime | Mapping[str, Runtime] | None = None,
) -> dict[str, Latency]:
    """Time networks against each other in a runtime, in this process; loading them is not timed.

    Each network is warmed up for `params.warmup_seconds`. In each of `params.rounds` rounds every
    network is timed once, in a new random order, for a block of at least 10 ms. With one thread
    CPU time is taken, which other processes on the machine disturb less: the thread's own or, of a
    runtime that computes in another, the process's. With more threads wall time is. Waiting
    threads sleep instead of spinning.

    Args:
        paths: file of each network.
        input_shape: of one inference, (1, channels, H, W).
        seed: of the input, the order and the bootstrap.
        runtime: for all networks, or by their names; None, and of others: the one for the file's kind.

    Returns:
        For each network the median over the rounds, and a 95 % percentile bootstrap of it.

    Raises:
        GraphError: a runtime cannot load or run a file.
    """
    generator = np.random.default_rng(seed)
    sample = generator.standard_normal(tuple(input_shape), dtype=np.float32)
    times: dict[str, list[float]] = {name: [] for name in paths}
    with ExitStack() as loaded:
        blocks = {}
        for name, path in paths.items():
            given = runtime.get(name) if isinstance(runtime, Mapping) else runtime
            one = given or runtime_for(path)
            network = loaded.enter_context(closing(one.load(path, params.threads)))
            blocks[name] = Block(network, sample, clock(one, params.threads))
        for block in blocks.values():
            block.warm_up(params.warmup_seconds)
        for _ in range(params.rounds):
            # In a new order each round: no network always follows the same one, with its cache.
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


class Block:
    """A network ready to be timed, in blocks of at least `least` seconds."""

    def __init__(
        self,
        network: LoadedNetwork,
        sample: NDArray[Any],
        clock: Callable[[], float],
        least: float = BLOCK_SECONDS,
    ) -> None:
        self.network, self.sample, self.clock, self.least, self.repeats = network, sample, clock, least, 1

    def warm_up(self, seconds: float) -> None:
        """Run for `seconds` of wall time, then determine how many repeats fill a block."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            self.seconds()
        while (spent := self.repeats * self.seconds()) < self.least:
            # A fifth more than needed, so that the next attempt mostly succeeds.
            wanted = self.repeats * 1.2 * self.least / max(spent, 1e-6)
            self.repeats = max(self.repeats + 1, math.ceil(wanted))

    def seconds(self, *, first: bool = False) -> float:
        """Mean time of one inference over a block; `first`: after one that is not timed, and fills caches."""
        if first:
            self.network.run(self.sample)
        start = self.clock()
        for _ in range(self.repeats):
            self.network.run(self.sample)
        return (self.clock() - start) / self.repeats


def clock(runtime: Runtime, threads: int) -> Callable[[], float]:
    """The clock, in seconds, by which a runtime's inferences are timed."""
    if threads != 1:
        return time.perf_counter
    return time.thread_time if runtime.computes_in_caller else time.process_time


def _median_interval(
    values: NDArray[np.float64], generator: np.random.Generator
) -> tuple[float, float, float]:
    medians = np.median(generator.choice(values, (RESAMPLES, len(values))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(np.median(values)), float(low), float(high)
