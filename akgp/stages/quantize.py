"""quantize: the student as a static int8 ONNX graph."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from akgp import artifacts
from akgp.deployment import package
from akgp.deployment.file_measures import file_measures
from akgp.evaluation import runtime_logits
from akgp.io.atomic import write_csv, write_json
from akgp.models.top1 import is_right
from akgp.params import Download, Precision, Quantize
from akgp.params.device import bytes_of
from akgp.quantization import (
    Judgement,
    Measures,
    Plan,
    agreement,
    average_ranges,
    convolution_kernels,
    correct_biases,
    equalize,
    export_onnx,
    plan,
    quantize,
    require_finite,
    verify,
)
from akgp.runtimes import RUNTIMES
from akgp.stages import qat
from akgp.stages.normalization import read_source, summary_for
from akgp.workspace import METRICS, Step, Task

PLAN, TO_EDIT, COMPARISON = "precision.csv", "precision.yaml", "qat.csv"
PLANNED = "planned"
"""In the state of quantization-aware training: the student's plan."""
AVERAGED = "averaged_ranges"
BUDGETS = ("agreement", "bytes", "latency_ms", "download")
BESIDE_INT8: tuple[Precision, ...] = ("float", "int4")


@dataclass(frozen=True)
class Candidate:
    """An int8 file that may be shipped. improvement: for the metrics, what came of what was tried."""

    file: Path
    planned: Plan
    improvement: dict[str, float]


def compute(task: Task, out: Path, state: dict[str, Any] | None) -> Iterator[Step]:
    """Export, calibrate, quantize and verify; write the graph, its preprocessing and kernel counts.

    With `quantize.qat` also train on, and write how the candidates compare.
    """
    params = task.params.quantize
    summary = summary_for(task)
    calibration = read_source(task, "calibration")
    # At random: the split is in the order of its source, which may be by class.
    order = torch.randperm(len(calibration), generator=torch.Generator().manual_seed(task.params.seed))
    chosen = calibration.take(order[: params.images])
    inputs = next(chosen.ordered(batch_size=len(chosen))).inputs  # all as one batch
    # On validation: the test split is evaluate's alone.
    validation = read_source(task, "validation")
    runtime, threads = RUNTIMES[task.params.deploy.runtime], task.params.ray.cpus_per_worker
    model_file = out / package.MODEL
    with tempfile.TemporaryDirectory() as folder:
        candidates = yield from _candidates(task, inputs, Path(folder), state)
        right = {}
        for name, each in candidates.items():
            logits = runtime_logits(each.file, validation, threads=threads, runtime=runtime)
            right[name] = is_right(logits, validation.labels)
        rows = qat.compared(right)
        best = candidates[qat.shipped(rows)]
        shutil.copyfile(best.file, model_file)
    package.align(model_file, runtime)
    verified = verify(model_file, inputs)
    yield Step({"done": "verify"})
    kernels = convolution_kernels(model_file)
    top1 = {row["network"]: row["val_top1"] for row in rows}
    metrics = {
        "val_top1": top1[qat.shipped(rows)],
        "integer_convolutions": kernels.integer,
        "floating_convolutions": kernels.floating,
        "verified_images": verified.images,
        "floating_operations": sum(verified.floating.values()),
    } | best.improvement
    more: dict[str, Any] = {"floating_kinds": dict(verified.floating)}
    if params.qat is not None:
        more["qat"] = {"shipped": qat.shipped(rows), "val_top1": top1}
        write_csv(out / COMPARISON, rows)
    write_csv(out / PLAN, [each.as_row() for each in best.planned.layers])
    (out / TO_EDIT).write_text(best.planned.as_yaml(), encoding="utf-8")
    package.complete(out, summary, params.license)
    write_json(out / METRICS, metrics | more)
    yield Step(metrics)


def _candidates(
    task: Task, inputs: Tensor, folder: Path, state: dict[str, Any] | None
) -> Generator[Step, None, dict[str, Candidate]]:
    """The student's int8 file; with `quantize.qat` also those of the networks that were trained on."""
    import onnx

    params = task.params.quantize
    student = artifacts.load(task.workspace.student)
    require_finite(student, inputs)
    measures = _measures(task)
    # A budget of time would give a training that is resumed another plan, and other names to its scales.
    known = Plan.of(state[PLANNED]) if state else None
    own = yield from _candidate(student, inputs, params, measures, folder / qat.STUDENT, known=known)
    made = {qat.STUDENT: own}
    if params.qat is None:
        return made
    # What QAT trains with is shipped as it is: the same layers in float, the same ranges, nothing corrected.
    learned = params.model_copy(
        update={
            "precision": own.planned.precision,
            "calibration": _calibration(bool(own.improvement.get(AVERAGED)))
            if params.calibration == "auto"
            else params.calibration,
            **dict.fromkeys(BUDGETS),
            "equalization": False,
            "bias_correction": False,
        }
    )
    ranges = folder / "ranges.json"
    start = yield from _candidate(student, inputs, learned, measures, folder / "start", ranges)
    kept = {PLANNED: own.planned.as_record()}
    networks = yield from qat.train_on(task, onnx.load(str(start.file)), state, kept)
    for name, used, given in ((qat.CONTROL, params, None), (qat.QAT, learned, ranges)):
        made[name] = yield from _candidate(networks[name], inputs, used, measures, folder / name, given)
    return made


def _measures(task: Task) -> Measures:
    runtime, threads = RUNTIMES[task.params.deploy.runtime], task.params.evaluate.threads
    return file_measures(summary_for(task), task.params.quantize.license, runtime, threads)


def _candidate(
    network: nn.Module, inputs: Tensor, params: Quantize, measures: Measures, folder: Path,
    ranges: Path | None = None, known: Plan | None = None,
) -> Generator[Step, None, Candidate]:  # fmt: skip
    """Quantize a network in a folder of its own.

    Args:
        ranges: as `quantize` takes it.
        known: the plan, where it has been made.
    """
    folder.mkdir()
    floating, file = folder / "float.onnx", folder / package.MODEL
    export_onnx(network, torch.zeros_like(inputs[:1]), floating)
    yield Step({"done": "export"})
    quantize(floating, inputs, params, file, ranges=ranges)
    yield Step({"done": "quantize"})
    return Candidate(file, *_improved(floating, inputs, params, measures, file, known))


def _calibration(averaged: bool) -> str:
    """What `calibration: auto` has come to."""
    return "averaged" if averaged else "minmax"


def _improved(
    floating: Path, inputs: Tensor, params: Quantize, measures: Measures, model_file: Path, known: Plan | None
) -> tuple[Plan, dict[str, float]]:
    """Choose ranges, equalise, give each layer its precision, correct biases, as far as params.yaml asks for.

    In both files.

    Returns:
        The precision of each layer; and for the metrics what came of each.
    """
    judgements: dict[str, Judgement | None] = {}
    if params.calibration == "auto":
        judgements[AVERAGED] = averaged = average_ranges(floating, inputs, params, model_file)
        params = params.model_copy(
            update={"calibration": _calibration(averaged is not None and averaged.kept)}
        )
    if params.equalization:
        judgements["equalization"] = equalize(floating, inputs, params, model_file)
    planned = known or plan(floating, inputs, params, measures)
    if planned.agreement is not None:
        params = params.model_copy(update={"precision": planned.precision})
        quantize(floating, inputs, params, model_file)
    if params.bias_correction:
        planned, judgements["bias_correction"] = _corrected(
            floating, inputs, params, measures, model_file, planned
        )
    metrics = {f"{each}_layers": float(planned.count(each)) for each in BESIDE_INT8}
    if planned.agreement is not None:
        metrics["agreement"] = planned.agreement
    for name, judgement in judgements.items():
        if judgement:
            metrics |= {name: float(judgement.kept)}
            metrics |= {f"{name}_divergence_before": judgement.before, f"{name}_divergence": judgement.after}
    return planned, metrics


def _corrected(
    floating: Path, inputs: Tensor, params: Quantize, measures: Measures, model_file: Path, planned: Plan
) -> tuple[Plan, Judgement | None]:
    """Correct biases, but not at the cost of what was asked for: closer predictions may agree less often."""
    before = model_file.read_bytes()
    judgement = correct_biases(floating, inputs, model_file)
    if planned.agreement is None or judgement is None or not judgement.kept:
        return planned, judgement
    download = params.download or Download(agreement=1.0)
    asked = params.agreement or download.agreement or 0.0
    reached = agreement(floating, inputs, params, model_file)
    too_large = download.bytes is not None and measures.packed(model_file) > bytes_of(download.bytes)
    if too_large or reached < min(asked, planned.agreement):
        model_file.write_bytes(before)
        return planned, replace(judgement, kept=False)
    return replace(planned, agreement=reached), judgement
