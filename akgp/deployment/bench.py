"""Times network files against each other: one process, pinned, interleaved, with an A/A pair beside them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from akgp.evaluation import Latency, Ratio, latency, speedup
from akgp.io.terminal import aligned, wrapped
from akgp.params import Evaluate
from akgp.runtimes import RUNTIMES, GraphError, Runtime, require_installed, runtime_for
from akgp.runtimes.onnx_file import one_input

AGAIN = "A/A"
"""Name of the first file, loaded a second time: what its ratio shows is the measurement's own error."""


@dataclass(frozen=True)
class Timed:
    """A file in a runtime. ratio: how many times as fast as the first one."""

    name: str
    runtime: str
    latency: Latency
    ratio: Ratio

    @property
    def verdict(self) -> str:
        """Whether it is faster or slower; empty for the first file against itself, which is neither."""
        return "" if self.name == AGAIN else self.ratio.verdict


def bench(
    files: Sequence[Path],
    runtimes: Sequence[str],
    shape: Sequence[int],
    params: Evaluate,
    seed: int,
    names: Sequence[str] | None = None,
) -> list[Timed]:
    """Time every file in every runtime that loads it; the first is compared with the others and with itself.

    Args:
        runtimes: names; none: for each file the runtime of its kind.
        shape: of an image, (channels, H, W).
        names: of the files, in the result; None: their paths.

    Raises:
        GraphError: a runtime is not installed, or cannot load or run a file.
    """
    entries = list(_entries(files, runtimes, names or list(map(str, files))))
    for _, _, runtime in entries:
        require_installed(runtime)
    entries.insert(1, (AGAIN, *entries[0][1:]))
    keys = [f"{index}" for index in range(len(entries))]
    files_by_key = {key: file for key, (_, file, _) in zip(keys, entries, strict=True)}
    runtimes_by_key = {key: runtime for key, (_, _, runtime) in zip(keys, entries, strict=True)}
    with pinned(params.threads):
        times = latency(files_by_key, (1, *shape), params, seed, runtimes_by_key)
    return [
        Timed(name, runtime.name, times[key], speedup(times["0"], times[key], seed))
        for key, (name, _, runtime) in zip(keys, entries, strict=True)
    ]


def _entries(
    files: Sequence[Path], runtimes: Sequence[str], names: Sequence[str]
) -> Iterator[tuple[str, Path, Runtime]]:
    for name in runtimes:
        if name not in RUNTIMES:
            raise GraphError(f"runtime {name!r}: must be one of {', '.join(RUNTIMES)}")
    for name, file in zip(names, files, strict=True):
        chosen = [RUNTIMES[name] for name in runtimes if file.suffix in RUNTIMES[name].suffixes]
        if runtimes and not chosen:
            raise GraphError(f"{file}: none of {', '.join(runtimes)} loads files of this kind")
        for runtime in chosen or [runtime_for(file)]:
            yield name, file, runtime


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Let this process run on its last `threads` cores only, where the system can do so."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[-threads:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def image_shape(file: Path) -> tuple[int, ...]:
    """The sizes of an image that a file takes, (channels, H, W).

    Raises:
        GraphError: it cannot be read, its runtime is not installed, or it leaves them open.
    """
    if file.suffix == ".onnx":
        return one_input(file)
    runtime = runtime_for(file)
    require_installed(runtime)
    with closing(runtime.load(file, threads=1)) as network:
        return network.image_shape


def table(rows: Sequence[Timed], params: Evaluate) -> str:
    """A line for each file, and how it was measured."""
    lines = [["", "runtime", "ms (95 %)", "× the first (95 %)", ""]]
    for row in rows:
        time, ratio = row.latency, row.ratio
        cells = ["", ""]
        if row is not rows[0]:
            cells = [f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})", row.verdict]
        milliseconds = f"{time.median_ms:.3f} ({time.low_ms:.3f}–{time.high_ms:.3f})"
        lines.append([row.name, row.runtime, milliseconds, *cells])
    clock = "CPU time" if params.threads == 1 else "wall time"
    note = (
        f"Batch 1, {params.threads} thread(s), {clock}, medians of {params.rounds} rounds, "
        f"interleaved at random. "
        f"{AGAIN}: the first file loaded a second time, whose ratio is the error of measurement."
    )
    return f"{aligned(lines, left=frozenset({0, 1, 4}))}\n{wrapped(note)}"
