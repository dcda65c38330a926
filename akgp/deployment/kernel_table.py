"""Milliseconds of a network's parts by kernel, shape and width: measured once on a machine, and kept.

The table is a file of the user's cache for each runtime, its version, processor and number of threads.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import torch
from filelock import FileLock
from onnx import helper

from akgp.data.cache import user_cache
from akgp.evaluation.latency import Block, clock
from akgp.io.atomic import atomic_file, write_json
from akgp.quantization.kernel_graphs import KernelGraph, Size
from akgp.runtimes import Runtime
from akgp.timed_search import counted, doing, ended

Timer = Callable[[Sequence[onnx.ModelProto]], list[list[float]]]
"""Times graphs against each other: in each round the milliseconds of one run of each."""
TOGETHER = 8
"""Graphs that are timed in the same rounds, beside the reference: few, so that a round is short."""
ROUNDS = 25
BLOCK_SECONDS = 0.0005
WARM_UP_SECONDS = 0.001
TIMING = 3
"""Raised whenever the same kernel is timed otherwise than before, so that no earlier table is read."""
REFERENCE = "reference"
MORE = "allow more, or start again, which continues from there"


class TimeLimitError(ValueError):
    """A limit of time ended the timing of kernels."""


def graph_timer(runtime: Runtime, threads: int) -> Timer:
    """Blocks of BLOCK_SECONDS in ROUNDS."""

    def timed(graphs: Sequence[onnx.ModelProto]) -> list[list[float]]:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as loaded:
            blocks = []
            for index, graph in enumerate(graphs):
                path = Path(folder) / f"{index}.onnx"
                onnx.save(graph, str(path))
                network = loaded.enter_context(closing(runtime.load(path, threads)))
                blocks.append(Block(network, _sample(graph), clock(runtime, threads), BLOCK_SECONDS))
                blocks[-1].warm_up(WARM_UP_SECONDS)
            return [[1000 * block.seconds(first=True) for block in blocks] for _ in range(ROUNDS)]

    return timed


def _sample(graph: onnx.ModelProto) -> np.ndarray:
    given = graph.graph.input[0].type.tensor_type
    kind = helper.tensor_dtype_to_np_dtype(given.elem_type)
    return np.ones([dim.dim_value for dim in given.shape.dim], kind)


def table_file(runtime: Runtime, threads: int) -> Path:
    """Where the table of this machine is kept."""
    has = torch.cpu.get_capabilities()
    machine = {"runtime": runtime.name, "version": runtime.version, "threads": threads, "processor": has}
    machine["timing"] = TIMING
    digest = hashlib.sha256(json.dumps(machine, sort_keys=True, default=str).encode()).hexdigest()
    return user_cache() / "kernels" / f"{runtime.name}-{digest[:16]}.json"


class KernelTable:
    """The times that are known, ms, by `KernelGraph.signature`; kept in `file`.

    What is timed at different moments is comparable: each time is the median of its ratios to a reference,
    the first part that was ever timed, in the same rounds.
    """

    def __init__(self, file: Path, timer: Timer) -> None:
        self._file, self._timer = file, timer
        self._reference = file.with_suffix(".onnx")
        self.times = self._known()

    def _known(self) -> dict[str, float]:
        if not (self._file.exists() and self._reference.exists()):
            return {}
        times: dict[str, float] = json.loads(self._file.read_text(encoding="utf-8"))
        return times

    def measure(self, wanted: Mapping[str, Callable[[], onnx.ModelProto]]) -> int:
        """Measure what is not known yet: signatures and how their graphs are made. Returns how many.

        One process of the machine at a time: it would disturb another's times, and lose what that has kept.

        Raises:
            TimeLimitError: the search has to end before all are known; those that are stay known.
        """
        if all(signature in self.times for signature in wanted):
            return 0
        self._file.parent.mkdir(parents=True, exist_ok=True)
        doing("waiting for another process to time kernels")
        with FileLock(self._file.with_suffix(".lock")):
            self.times = self._known()
            missing = [signature for signature in wanted if signature not in self.times]
            doing("timing kernels")
            self._measure(missing, wanted)
        return len(missing)

    def _measure(self, missing: list[str], wanted: Mapping[str, Callable[[], onnx.ModelProto]]) -> None:
        if not missing:
            return
        if REFERENCE not in self.times:
            reference = wanted[missing[0]]()
            with atomic_file(self._reference) as beside:
                onnx.save(reference, str(beside))
            self.times[REFERENCE] = min(time for (time,) in self._timer([reference]))
        reference = onnx.load(str(self._reference))
        try:
            for start in range(0, len(missing), TOGETHER):
                these = missing[start : start + TOGETHER]
                # Never before the first: with any limit each start comes nearer to the whole table.
                if start and (why := ended()):
                    done = f"{start} of {len(missing)} kernels were timed"
                    raise TimeLimitError(f"{why}: {done} and are kept; {MORE}")
                counted(start, len(missing), "kernels")
                rounds = np.array(self._timer([reference, *(wanted[signature]() for signature in these)]))
                ratios = np.median(rounds[:, 1:] / rounds[:, :1], axis=0)
                self.times |= dict(zip(these, (ratios * self.times[REFERENCE]).tolist(), strict=True))
        finally:  # interrupted, it keeps what is measured
            write_json(self._file, self.times)


@dataclass(frozen=True)
class Knots:
    """Sizes of a part that are measured; between them its time is taken to be linear."""

    entering: tuple[int, ...]
    filters: tuple[int, ...]

    def sizes(self) -> Iterator[Size]:
        return (Size(entering, filters) for entering in self.entering for filters in self.filters)


class KernelTime:
    """The time of one part as a function of its size, ms."""

    def __init__(self, graph: KernelGraph, knots: Knots, table: KernelTable) -> None:
        self._knots = knots
        if not graph.has_filters:
            self._knots = Knots(knots.entering, (0,))
        self._times = {size: table.times[graph.signature(size)] for size in self._knots.sizes()}
        self.at = lru_cache(maxsize=None)(self._at)

    def _at(self, size: Size) -> float:
        low, high, share = between(self._knots.entering, size.entering)
        rows = [self._along_filters(entering, size.filters) for entering in (low, high)]
        return rows[0] + share * (rows[1] - rows[0])

    def _along_filters(self, entering: int, filters: int) -> float:
        low, high, share = between(self._knots.filters, filters)
        first, last = self._times[Size(entering, low)], self._times[Size(entering, high)]
        return first + share * (last - first)


def between(knots: Sequence[int], value: int) -> tuple[int, int, float]:
    """The knots around a value, and how far it is from the first to the second; those at the ends beyond."""
    above = bisect_right(knots, value)
    if above == 0:
        return knots[0], knots[0], 0.0
    if above == len(knots):
        return knots[-1], knots[-1], 0.0
    low, high = knots[above - 1], knots[above]
    return low, high, (value - low) / (high - low)
