"""What float layers buy where int8 loses: plans by sensitivity, against first and last layer in float.

`AKGP_CIFAR10=DIR python -m experiments.mixed_precision` quantizes the networks of `experiments.mobile` (seed
0; trained first if runs/mobile lacks their weights), by the extremes of all calibration images, which spoil
the second of them, with layers in float as each run says. Judged on the 10,000 training images of that
experiment on which nothing was trained or chosen. Writes results/mixed-precision/table.json and table.md
after each run; started again, it does those that are missing.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import typer
from torch import Tensor, nn

from akgp.data import IndexedSource
from akgp.evaluation import accuracy, latency, predict_logits, runtime_logits, speedup
from akgp.params import Evaluate, Precision, Quantize
from akgp.quantization import export_onnx, quantize
from akgp.quantization.layers import layers
from akgp.quantization.mixed import plan as planned
from akgp.quantization.ptq import prepare
from experiments import mobile
from experiments.resumable import Row, complete, markdown

RESULTS = Path("results/mixed-precision")
CALIBRATION = 512
CASES = (("mobilenet_v3_small", "minmax"), ("efficientnet_b0", "minmax"))
KEPT = ("nothing", "first and last", "agreement 0.95", "agreement 0.99", "everything")


@dataclass(frozen=True)
class Run:
    """kept: which layers stay in float; `agreement A`: as `quantize.agreement: A` chooses them."""

    network: str
    calibration: str
    kept: str


def plan() -> Iterator[Run]:
    for case in CASES:
        yield from (Run(*case, kept) for kept in KEPT)


@cache
def sources() -> tuple[IndexedSource, IndexedSource]:
    return mobile.sources()


@cache
def network(name: str) -> tuple[nn.Module, Tensor]:
    """The trained network, and its logits for the images on which all is judged."""
    model = mobile.trained(name, 0, *sources())
    return model, predict_logits(model, sources()[1], device="cpu")


def measured(run: Run) -> Row:
    """Top-1 and agreement with float, %, bytes, layers in float, × the float file's speed."""
    (model, floating), (images, judging) = network(run.network), sources()
    calibration = next(images.ordered(batch_size=CALIBRATION)).inputs
    with tempfile.TemporaryDirectory() as folder:
        source, file = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        with redirect_stdout(io.StringIO()):
            export_onnx(model, calibration[:1], source)
        params = Quantize.model_validate({"calibration": run.calibration})
        precision = _precision(run.kept, source, calibration, params)
        quantize(source, calibration, params.model_copy(update={"precision": precision}), file)
        logits = runtime_logits(file, judging, threads=1)
        shape = (1, *calibration.shape[1:])
        times = latency({"float": source, "this": file}, shape, Evaluate(rounds=20), seed=0)
        return {
            "layers": len(precision),
            "in_float": list(precision.values()).count("float"),
            "bytes": file.stat().st_size,
            "float_bytes": source.stat().st_size,
            "top1": accuracy(logits, judging.labels),
            "float_top1": accuracy(floating, judging.labels),
            "agreement": mobile.agreement(logits, floating),
            "speed": speedup(times["float"], times["this"]).median,
        }


def _precision(kept: str, source: Path, calibration: Tensor, params: Quantize) -> dict[str, Precision]:
    if kept.startswith("agreement"):
        asked = params.model_copy(update={"agreement": float(kept.split()[1])})
        return planned(source, calibration, asked).precision
    prepared = source.with_name("prepared.onnx")
    prepare(source, prepared)
    names = list(layers(onnx.load(str(prepared))))
    floats = {"nothing": [], "first and last": [names[0], names[-1]], "everything": names}[kept]
    chosen: dict[str, Precision] = dict.fromkeys(names, "int8")
    return chosen | dict.fromkeys(floats, "float")


ABOUT = """# What layers in float buy

`AKGP_CIFAR10=DIR python -m experiments.mixed_precision`, see the head of that file: mobile networks trained
from nothing on 10,000 images of CIFAR-10-J75 at 64×64, in int8 but for the layers that are kept in float,
judged on 10,000 other training images. *agreement A*: `quantize.agreement: A`, by {calibration} calibration
images. Agreement: share of the images that are classified as the float network does. × float: times the speed
of the float file, onnxruntime, batch 1, one thread, processor time, medians of 20 interleaved rounds.
{machines}. Runs of the plan: {done} of {planned}.

| network | ranges | in float | layers | bytes | of float's | top-1, % | float's, % | agreement, % | × float |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def table(rows: list[Row]) -> str:
    """Markdown: a run a line."""
    return markdown(ABOUT, rows, plan(), map(_line, rows), calibration=CALIBRATION)


def _line(row: dict[str, Any]) -> str:
    share = row["bytes"] / row["float_bytes"]
    cells = [
        row["network"], row["calibration"], row["kept"], f"{row['in_float']} of {row['layers']}",
        f"{row['bytes']:,}", f"{share:.2f}", f"{row['top1']:.2f}", f"{row['float_top1']:.2f}",
        f"{row['agreement']:.2f}", f"{row['speed']:.2f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measure the runs of the plan that results/mixed-precision/table.json does not hold."""
    complete(RESULTS, plan(), measured, table)


if __name__ == "__main__":
    typer.run(main)
