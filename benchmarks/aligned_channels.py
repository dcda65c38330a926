"""What channels of zeros gain in onnxruntime: each int8 file with them, against itself without.

    python -m benchmarks.aligned_channels

Random weights (seed 0), 10 classes, calibrated with noise; batch 1, one thread, the protocol of
`akgp.evaluation.latency`. A row is written as soon as it is measured, to the folder of
results/aligned-channels that is named for the processor's integer instructions; started again, the missing
ones are done.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
import torch
import typer

from akgp.evaluation import latency, speedup
from akgp.models import Spec, create
from akgp.params import Evaluate, Quantize
from akgp.pruning import prune
from akgp.quantization import aligned, export_onnx, quantize
from experiments.machine import kernels
from experiments.resumable import Row, complete, markdown

RESULTS = Path("results/aligned-channels")
NETWORKS = {
    "cifar_resnet20": 32, "resnet18": 64, "mobilenet_v2": 96, "mobilenet_v3_small": 64,
    "mobilenet_v3_large": 64, "mnasnet0_75": 64, "efficientnet_b0": 64, "regnet_y_400mf": 64,
}  # fmt: skip
"""Pixels of their images."""
SHARES = (1.0, 0.5)
ABOUT = """# Channels of zeros

`python -m benchmarks.aligned_channels`, see the head of that file: int8 files in onnxruntime with channels of
zeros, which its kernels take at once, and without; the logits are the same. *MACs kept*: by `prune.macs`. ×:
times as fast, median of the ratios within a round and 95 % interval. *same file*: of the file without zeros
when it is loaded a second time; the first file that a process loads is often the slowest, so that this much
of × may be no gain. {machines}, busy with other work. Networks of the plan: {done} of {planned}.

| network | pixels | MACs kept | without, ms | with, ms | × | same file | bytes more |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


@dataclass(frozen=True)
class Run:
    network: str
    share: float


def plan() -> Iterator[Run]:
    yield from (Run(network, share) for network in NETWORKS for share in SHARES)


def measured(run: Run) -> Row:
    pixels = NETWORKS[run.network]
    torch.manual_seed(0)
    noise = torch.randn(8, 3, pixels, pixels)
    model = create(Spec(run.network, 10, 3)).eval()
    if run.share < 1:
        model = prune(model, noise[:1], macs=run.share).model.eval()
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.onnx" for name in ("without", "again", "with")}
        export_onnx(model, noise[:1], Path(folder) / "float.onnx")
        quantize(Path(folder) / "float.onnx", noise, Quantize(), files["without"])
        graph = onnx.load(str(files["without"]))
        onnx.save(graph, str(files["again"]))
        onnx.save(aligned(graph), str(files["with"]))
        times = latency(files, (1, *noise.shape[1:]), Evaluate(), seed=0)
        sizes = {name: file.stat().st_size for name, file in files.items()}
    return {
        "without_ms": times["without"].median_ms,
        "with_ms": times["with"].median_ms,
        "gain": asdict(speedup(times["without"], times["with"])),
        "same": asdict(speedup(times["without"], times["again"])),
        "bytes": sizes["without"],
        "bytes_more": sizes["with"] - sizes["without"],
    }


def table(rows: list[Row]) -> str:
    """Markdown: a line for each network."""

    def ratio(known: dict[str, float]) -> str:
        return f"{known['median']:.2f} ({known['low']:.2f}–{known['high']:.2f})"

    lines = [
        f"| {row['network']} | {NETWORKS[row['network']]} | {row['share']} | {row['without_ms']:.3f} | "
        f"{row['with_ms']:.3f} | {ratio(row['gain'])} | {ratio(row['same'])} | "
        f"{row['bytes_more'] / row['bytes']:.1%} |"
        for row in rows
    ]
    return markdown(ABOUT, rows, plan(), lines)


def main() -> None:
    """Measure the networks that the table of this machine does not hold."""
    complete(RESULTS / kernels(), plan(), measured, table)


if __name__ == "__main__":
    typer.run(main)
