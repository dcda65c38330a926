"""Whether compression made a network slower, and the layers to blame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from akgp.evaluation import Latency, Ratio, speedup
from akgp.quantization.layer_times import layer_times
from akgp.runtimes import RUNTIMES, Runtime

PAIRS = (("int8", "student", "its own float network"), ("student", "dense", "the dense network"))
"""A network, one that it must not be slower than, and what that one is to it."""
AGAINST = {"against_float": "its own float network", "against_dense": "the dense network"}
"""Likewise of the int8 network in other runtimes."""
TOLERANCE = 0.03
"""The ratio of two networks' times varies by so much from process to process; within one its interval is
narrower."""
NAMED = 3
"""Layers that are named, those that lose most first."""


def slowdowns(
    times: Mapping[str, Latency],
    files: Mapping[str, Path],
    shape: Sequence[int],
    threads: int,
    seed: int,
    runtime: Runtime,
) -> Iterator[str]:
    """A sentence for each of PAIRS whose first network is slower, beyond the interval and TOLERANCE.

    Args:
        times: of the networks in `runtime`, timed in the same rounds.
        files: their ONNX files.
        shape: of one inference, (1, channels, H, W).

    Raises:
        GraphError: the runtime cannot run a file.
    """
    for name, other, called in PAIRS:
        ratio = speedup(times[other], times[name], seed)
        if not is_slower(ratio):
            continue
        sentence = f"{name} is {said(ratio)} as fast as {called}"
        if runtime is RUNTIMES["onnxruntime"]:  # others do not say what their layers take
            layers = (layer_times(files[each], shape, threads) for each in (name, other))
            yield f"{sentence}: most is lost in {blamed(*layers)}"
        else:
            yield f"{sentence} in {runtime.name}"


def is_slower(ratio: Ratio) -> bool:
    """Whether a network that is `ratio` times as fast as another counts as slower."""
    return ratio.high < 1 - TOLERANCE


def said(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) times"


def blamed(slow: Mapping[str, float], fast: Mapping[str, float]) -> str:
    """The layers that take longest beyond the faster network's, with both times, ms."""
    lost = {layer: time - fast.get(layer, 0.0) for layer, time in slow.items()}
    worst = sorted((layer for layer in lost if lost[layer] > 0), key=lambda layer: -lost[layer])[:NAMED]
    named = (f"{layer} ({slow[layer]:.3f} ms, there {fast.get(layer, 0.0):.3f})" for layer in worst)
    return ", ".join(named) or "no single layer"


def target_slowdowns(rows: Sequence[Mapping[str, Any]], runtime: Runtime) -> Iterator[str]:
    """The same for the int8 network in other runtimes than that of `slowdowns`.

    Args:
        rows: see akgp.reporting.targets.
    """
    for row in rows:
        if row["runtime"] == runtime.name:
            continue
        for key, called in AGAINST.items():
            ratio = Ratio(**row[key]) if row[key] else None
            if ratio and is_slower(ratio):
                yield f"int8 is {said(ratio)} as fast as {called} in {row['runtime']}"
