"""Whole residual blocks or more filters: accuracy and latency at equal MACs.

`AKGP_CIFAR10=DIR python -m experiments.blocks` trains every run of `plan` on one thread, seed by seed, and
writes results/blocks/table.json and table.md after each; started again, it does those that are missing.
Setting, dense networks and images are those of experiments.scope: cifar_resnet20 at 16×16, taught by its own
dense network, cut inside the blocks, judged on 10,000 other training images by the last epoch; no test split
is read. Latencies are those of the same networks at 32×32.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import typer
from torch import nn

from akgp.deployment.package import align
from akgp.evaluation import count, latency, speedup
from akgp.params import Evaluate, Quantize
from akgp.pruning import prune, without_blocks
from akgp.quantization import export_onnx, quantize
from akgp.runtimes import RUNTIMES
from akgp.training import train
from experiments.defaults import taught
from experiments.resumable import Row, complete, markdown, spread
from experiments.scope import EPOCHS, EXAMPLE, SEEDS, dense, settings, sources

RESULTS = Path("results/blocks")
SHARES = (0.5, 0.35)
BYPASSED = ("", "layer1.1", "layer1.1 layer1.2", "layer1.1 layer2.2", "layer2.2 layer3.2")
TIMED = (3, 32, 32)


@dataclass(frozen=True)
class Run:
    """macs: share of the dense MACs that is kept. bypassed: names of blocks."""

    seed: int
    macs: float
    bypassed: str


def plan() -> Iterator[Run]:
    yield from (Run(seed, macs, blocks) for seed in SEEDS for macs in SHARES for blocks in BYPASSED)


def measured(run: Run) -> Row:
    reference, dense_top1 = dense(run.seed)
    whole = without_blocks(reference, EXAMPLE, run.bypassed.split())
    # 4 at a third: the narrowest layers inside lose 12 of 16.
    round_to = 8 if run.macs == max(SHARES) else 4
    pruned = prune(whole.model, EXAMPLE, macs=run.macs, scope="inside", round_to=round_to, after=whole)
    epochs = train(
        pruned.model, *sources(run.seed), params=settings(EPOCHS), objective=taught(reference), seed=run.seed
    )
    top1 = [epoch.row["val_top1"] for epoch in epochs][-1]
    before, after = count(reference, EXAMPLE), count(pruned.model, EXAMPLE)
    return {
        "val_top1": top1,
        "dense_top1": dense_top1,
        "macs_share": round(after.macs / before.macs, 4),
        "params_share": round(after.params / before.params, 4),
        "speedup": round(_speedup(pruned.model, reference), 3),
    }


def _speedup(model: nn.Module, reference: nn.Module) -> float:
    """Times as fast as the dense network in float32 that the int8 file is."""
    noise = torch.randn(32, *TIMED, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.onnx" for name in ("dense", "student", "int8")}
        with redirect_stdout(io.StringIO()):
            export_onnx(reference, noise[:1], files["dense"])
            export_onnx(model.eval(), noise[:1], files["student"])
        quantize(files["student"], noise, Quantize(), files["int8"])
        align(files["int8"], RUNTIMES["onnxruntime"])
        times = latency(files, (1, *TIMED), Evaluate(), seed=0)
    return float(speedup(times["dense"], times["int8"]).median)


ABOUT = """# Whole blocks or more filters

`AKGP_CIFAR10=DIR python -m experiments.blocks`, see the head of that file: cifar_resnet20, 10,000 images of
CIFAR-10-J75 at 16×16, some residual blocks bypassed and filters inside the others removed, to equal MACs; 16
epochs taught by the dense network. Validation top-1 of the last epoch, %, what is lost against the dense
network and gained over no block bypassed, points; mean ± standard error over the seeds (how many).
Parameters as a share of the dense network's; × dense: times as fast as the dense network in float32 that the
int8 file is, at 32×32, batch 1, one thread, processor time, in onnxruntime.
{machines}. Runs of the plan: {done} of {planned}.

| MACs | bypassed | top-1 | lost | gained | params | × dense |
| --- | --- | --- | --- | --- | --- | --- |
"""


def table(rows: list[Row]) -> str:
    """Markdown: a line for each share and choice of blocks; what is gained is paired by seed and machine."""

    def pair(row: Row) -> tuple[Any, ...]:
        return row["seed"], row["macs"], row["machine"]

    plain = {pair(row): row["val_top1"] for row in rows if not row["bypassed"]}
    lines = []
    for macs in SHARES:
        for blocks in BYPASSED:
            runs = [row for row in rows if (row["macs"], row["bypassed"]) == (macs, blocks)]
            if not runs:
                continue
            gains = [row["val_top1"] - plain[pair(row)] for row in runs if pair(row) in plain]
            cells = [
                f"{macs:g}", blocks.replace(" ", ", ") or "none", spread([row["val_top1"] for row in runs]),
                spread([row["dense_top1"] - row["val_top1"] for row in runs]), spread(gains),
                f"{mean(row['params_share'] for row in runs):.3f}",
                f"{mean(row['speedup'] for row in runs):.2f}",
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return markdown(ABOUT, rows, plan(), lines)


def main() -> None:
    """Train the runs of the plan that results/blocks/table.json does not hold."""
    complete(RESULTS, plan(), measured, table)


if __name__ == "__main__":
    typer.run(main)
