"""Whether `prune.speedup` is met: targets on three networks, a row each.

    python -m benchmarks.latency_targets

A row is written as soon as it is measured, to the folder of results/latency that is named for the processor's
integer instructions; started again, the missing ones are done. Random weights (seed 0), 10 classes, `scope:
all`, onnxruntime, one thread. What was reached is timed once more afterwards, from the file loaded again:
`reached` alone would flatter, since the search ends with the first network near enough.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from akgp.budgets.latency import cut_and_measure
from akgp.deployment.width_times import WidthTimes
from akgp.models import Spec, create
from akgp.params import Prune
from akgp.pruning import Pruned, PruningError, prune
from akgp.runtimes import RUNTIMES
from experiments.machine import kernels
from experiments.resumable import Row, complete, markdown

TARGETS = {
    ("cifar_resnet20", 32): (1.05, 1.08, 1.1, 1.15, 1.2, 1.22, 1.25),
    ("resnet18", 64): (1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0),
    ("mobilenet_v3_small", 64): (1.05, 1.1, 1.15, 1.2, 1.25, 1.3),
}
"""Times as fast as the dense network's own int8 file, by network and pixels: how much faster that is than
float is the processor's affair."""
RESULTS = Path("results/latency")
PAGE = """# Targets of latency

`python -m benchmarks.latency_targets`: times as fast in int8 as the dense network in float32, asked by
`prune.speedup`, in onnxruntime, one thread; *int8*: what the dense network's own int8 file reaches.
*parts*: kernels that were not in the table yet; *cpu_s*: processor time of pruning, timing and that table,
without the dense network's export.

{machines}, busy.
Of {targets} targets {met} are met within 3 % by the pruned network's own file, and {again} when
that is loaded and timed again.

"""
WITHIN = 0.03
COLUMNS = (
    "network",
    "pixels",
    "int8",
    "asked",
    "predicted",
    "reached",
    "timed again",
    "off",
    "parts",
    "cpu_s",
)


@dataclass(frozen=True)
class Target:
    """A network, and how many times as fast as its dense int8 file it must be."""

    network: str
    pixels: int
    faster: float


def plan() -> Iterator[Target]:
    for network, targets in TARGETS.items():
        yield from (Target(*network, faster) for faster in targets)


@lru_cache(maxsize=1)
def prepared(network: str, pixels: int) -> tuple[nn.Module, Tensor, WidthTimes, Path]:
    """A network, an image, its times, and the folder that holds its files until the process ends."""
    torch.manual_seed(0)
    model, image = create(Spec(network, 10, 3)).eval(), torch.zeros(1, 3, pixels, pixels)
    folder = Path(tempfile.mkdtemp())
    times = WidthTimes(model, image.shape[1:], RUNTIMES["onnxruntime"], 1, folder)
    return model, image, times, folder


def measured(run: Target) -> Row:
    """The row of one target."""
    model, image, times, folder = prepared(run.network, run.pixels)
    int8 = times.float_ms / times.timed(folder / "dense.onnx")
    asked = round(int8 * run.faster, 2)
    parts, start = times.measured_parts, time.process_time()

    def cut(ms: float, latencies: Any) -> Pruned:
        return prune(model, image, latency_ms=ms, latencies=latencies, scope="all")

    try:
        pruned = cut_and_measure(cut, times, times.of, Prune(speedup=asked), times.float_ms)
    except PruningError as error:
        return {"asked": asked, "refused": str(error)}
    seconds, budget = time.process_time() - start, pruned.budget
    assert budget is not None and budget.predicted is not None
    again = times.float_ms / times.timed(folder / "pruned.onnx")
    return {
        "int8": round(int8, 3),
        "asked": asked,
        "predicted": round(budget.predicted, 3),
        "reached": round(budget.reached, 3),
        "timed again": round(again, 3),
        "off": f"{again / asked - 1:+.1%}",
        "parts": times.measured_parts - parts,
        "cpu_s": round(seconds, 1),
        "missed": budget.why or "",
    }


def table(rows: list[Row]) -> str:
    """The rows as Markdown, and how many are met."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + " --- |" * len(COLUMNS)]
    lines += [f"| {' | '.join(str(row.get(key, '')) for key in COLUMNS)} |" for row in rows]
    found = [row for row in rows if "reached" in row]
    met = [
        sum(abs(row[key] / row["asked"] - 1) <= WITHIN for row in found) for key in ("reached", "timed again")
    ]
    said = ((row, row.get("refused") or row.get("missed")) for row in rows)
    notes = [f"- {row['network']}, {row['asked']}: {why}" for row, why in said if why]
    lines += ["", *notes]
    return markdown(PAGE, rows, plan(), lines, targets=len(rows), met=met[0], again=met[1])


def main() -> None:
    complete(RESULTS / kernels(), plan(), measured, table)


if __name__ == "__main__":
    main()
