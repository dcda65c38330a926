"""Latency of a trial's pruned network: its int8 graph in `deploy.runtime`, at batch 1.

On a busy machine, times measured minutes apart differ by up to a factor of two, far more than two
networks do. So each trial's network is timed in the same rounds as the student's dense network, and trials
are compared by the ratio of the two, which stays within 3 %.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from akgp.data import BatchSource, Summary
from akgp.deployment.package import align
from akgp.evaluation import latency, speedup
from akgp.params import Params
from akgp.quantization import export_onnx, quantize
from akgp.runtimes import RUNTIMES

IMAGES = 32
"""Few calibration images will do: the ranges of activations do not affect the latency."""
RELATIVE, DENSE_MS = "latency", "dense_latency_ms"


def int8_graph(network: nn.Module, images: BatchSource, params: Params) -> bytes:
    """The network as an int8 ONNX graph, quantized on the first of `images`.

    Raises:
        QuantizationError: the network cannot be exported.
    """
    inputs = next(images.ordered(batch_size=IMAGES)).inputs
    with tempfile.TemporaryDirectory() as folder:
        floating, integer = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        export_onnx(network, inputs, floating)
        quantize(floating, inputs, params.quantize, integer)
        align(integer, RUNTIMES[params.deploy.runtime])
        return integer.read_bytes()


def compared(graph: bytes, dense: bytes, summary: Summary, params: Params) -> dict[str, float]:
    """Time a graph together with the dense network's, by the protocol of `akgp.evaluation.latency`.

    Returns:
        RELATIVE: the graph's time as a share of the dense network's, the median over the rounds.
        DENSE_MS: the dense network's time, ms.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.onnx" for name in ("dense", "pruned")}
        files["dense"].write_bytes(dense)
        files["pruned"].write_bytes(graph)
        shape, runtime = (1, summary.channels, *summary.image_size), RUNTIMES[params.deploy.runtime]
        times = latency(files, shape, params.evaluate, params.seed, runtime)
    return {RELATIVE: speedup(times["pruned"], times["dense"]).median, DENSE_MS: times["dense"].median_ms}


def dense_latency_ms(trials: Sequence[Mapping[str, Any]]) -> float | None:
    """The dense network's latency, ms: the median over all trials' metrics; None if none measured it."""
    measured = [metrics[DENSE_MS] for metrics in trials if RELATIVE in metrics]
    return statistics.median(measured) if measured else None


def latencies_ms(trials: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """The latency of each trial from its metrics, ms; None if it measured none.

    It is the trial's share of the dense network's time, times `dense_latency_ms`. Networks with the same MACs
    and parameters differ in their weights alone: they get the median of their shares.
    """
    shares: dict[tuple[int, int], list[float]] = {}  # by (MACs, parameters)
    for metrics in trials:
        if RELATIVE in metrics:
            shares.setdefault((metrics["macs"], metrics["params"]), []).append(metrics[RELATIVE])
    dense_ms = dense_latency_ms(trials) or 0.0
    return [
        statistics.median(shares[metrics["macs"], metrics["params"]]) * dense_ms
        if RELATIVE in metrics
        else None
        for metrics in trials
    ]
