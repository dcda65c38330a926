"""Measures exported networks, each in its own runtime: accuracy, agreement with the oracle, size, latency."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from akgp.data import IndexedSource
from akgp.deployment.agreement import Agreement, Oracle, compare, first_deviation
from akgp.deployment.targets import Int8File, Target, target_of
from akgp.evaluation import Ratio, accuracy, latency, runtime_logits, speedup
from akgp.params import Evaluate
from akgp.runtimes import Runtime


@dataclass(frozen=True)
class TargetMeasurement:
    """A network in a runtime.

    Attributes:
        bytes: of the file, and of those that belong to it.
        latency_ms: at batch 1, median.
        against_float: how many times as fast as the same operations in float32 in this runtime.
        against_dense: as the network before pruning, in float32 in this runtime; None: not known.
    """

    target: str
    runtime: str
    version: str
    top1: float
    agreement: Agreement
    bytes: int
    latency_ms: float
    against_float: Ratio
    against_dense: Ratio | None

    def as_row(self) -> dict[str, Any]:
        return asdict(self)


def differing(
    source: Int8File,
    expected: Oracle,
    images: IndexedSource,
    file: Path,
    runtime: Runtime,
    threads: int = 0,
    *,
    given: bool = False,
) -> tuple[Agreement, torch.Tensor]:
    """The agreement of a file in a runtime with the oracle, its first layer that differs, and its logits.

    Args:
        given: the file was not written here, and may be of another network.
    """
    logits = runtime_logits(file, images, threads=threads, runtime=runtime)
    agreement, positions = compare(expected.logits, logits)
    if not len(positions):
        return agreement, logits
    some, onnx = images.take(positions[:32]), file.suffix == ".onnx"
    if given and not onnx and not torch.equal(_written(source, runtime, some), logits[positions[:32]]):
        return replace(agreement, first=f"{file} is not what is written of {source.path} now"), logits
    inputs = next(some.ordered(batch_size=32)).inputs
    other = Int8File(file) if onnx and file.resolve() != source.path.resolve() else None
    return replace(agreement, first=first_deviation(source, runtime, inputs, other)), logits


def _written(source: Int8File, runtime: Runtime, images: IndexedSource) -> torch.Tensor:
    """The logits, in a runtime, of a file that is written of the source now."""
    with tempfile.TemporaryDirectory() as folder:
        file = target_of(runtime).write(source, Path(folder))
        return runtime_logits(file, images, threads=0, runtime=runtime)


def measure(
    source: Int8File,
    target: Target,
    file: Path,
    images: IndexedSource,
    expected: Oracle,
    params: Evaluate,
    seed: int,
    dense: Int8File | None = None,
) -> TargetMeasurement:
    """Run an exported file on all images and time it against its float twin and the dense network's.

    Args:
        source: the int8 file that it was written from; expected: its oracle's logits of `images`.
        dense: of the network before pruning, as `timing_twin` makes it.

    Raises:
        QuantizationError, GraphError: it cannot be written or run.
    """
    runtime = target.runtime
    agreement, logits = differing(source, expected, images, file, runtime, params.threads)
    shape = (1, *source.description.input.shape)
    with tempfile.TemporaryDirectory() as folder:
        files = {"int8": file}
        for name, network in (("float", source), ("dense", dense)):
            if network is not None:
                (Path(folder) / name).mkdir()
                files[name] = target.write(network, Path(folder) / name, "float")
        times = latency(files, shape, params, seed, runtime)
    return TargetMeasurement(
        target.name,
        runtime.name,
        runtime.version,
        accuracy(logits, images.labels),
        agreement,
        target.bytes(file),
        times["int8"].median_ms,
        speedup(times["float"], times["int8"], seed),
        speedup(times["dense"], times["int8"], seed) if dense else None,
    )
