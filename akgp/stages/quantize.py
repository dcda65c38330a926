"""quantize: the student as a static int8 ONNX graph."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from akgp import artifacts
from akgp.deployment import package
from akgp.evaluation import accuracy, runtime_logits
from akgp.io.atomic import write_csv, write_json
from akgp.params import Quantize
from akgp.quantization import (
    Judgement,
    Plan,
    convolution_kernels,
    correct_biases,
    equalize,
    export_onnx,
    plan,
    quantize,
    require_finite,
    verify,
)
from akgp.stages.normalization import read_source, summary_for
from akgp.workspace import METRICS, Step, Task

PLAN = "precision.csv"


def compute(task: Task, out: Path, state: dict[str, Any] | None) -> Iterator[Step]:
    """Export, calibrate, quantize and verify; write the graph, its preprocessing and kernel counts."""
    params, workspace = task.params.quantize, task.workspace
    summary = summary_for(task)
    calibration = read_source(task, "calibration")
    # At random: the split is in the order of its source, which may be by class.
    order = torch.randperm(len(calibration), generator=torch.Generator().manual_seed(task.params.seed))
    chosen = calibration.take(order[: params.images])
    model_file = out / package.MODEL
    with tempfile.TemporaryDirectory() as folder:
        floating = Path(folder) / "float.onnx"
        example = torch.zeros(1, summary.channels, *summary.image_size)
        student = artifacts.load(workspace.student)
        inputs = next(chosen.ordered(batch_size=len(chosen))).inputs  # all as one batch
        require_finite(student, inputs)
        export_onnx(student, example, floating)
        yield Step({"done": "export"})
        quantize(floating, inputs, params, model_file)
        yield Step({"done": "quantize"})
        planned, improvement = _improved(floating, inputs, params, model_file)
    verified = verify(model_file, inputs)
    yield Step({"done": "verify"})
    # On validation: the test split is evaluate's alone.
    validation = read_source(task, "validation")
    logits = runtime_logits(model_file, validation, threads=task.params.ray.cpus_per_worker)
    kernels = convolution_kernels(model_file)
    metrics = {
        "val_top1": accuracy(logits, validation.labels),
        "integer_convolutions": kernels.integer,
        "floating_convolutions": kernels.floating,
        "verified_images": verified.images,
        "floating_operations": sum(verified.floating.values()),
    } | improvement
    write_csv(out / PLAN, [each.as_row() for each in planned.layers])
    package.complete(out, summary, params.license)
    write_json(out / METRICS, metrics | {"floating_kinds": dict(verified.floating)})
    yield Step(metrics)


def _improved(
    floating: Path, inputs: Tensor, params: Quantize, model_file: Path
) -> tuple[Plan, dict[str, float]]:
    """Equalise, keep layers in float, correct biases, as far as params.yaml asks for, in both files.

    Returns:
        The precision of each layer; and for the metrics what came of each.
    """
    judgements: dict[str, Judgement | None] = {}
    if params.equalization:
        judgements["equalization"] = equalize(floating, inputs, params, model_file)
    planned = plan(floating, inputs, params)
    if planned.agreement is not None:
        params = params.model_copy(update={"float_layers": planned.float_layers})
        quantize(floating, inputs, params, model_file)
    if params.bias_correction:
        judgements["bias_correction"] = correct_biases(floating, inputs, model_file)
    metrics = {"float_layers": float(len(planned.float_layers))}
    if planned.agreement is not None:
        metrics["agreement"] = planned.agreement
    for name, judgement in judgements.items():
        if judgement:
            metrics |= {name: float(judgement.kept)}
            metrics |= {f"{name}_divergence_before": judgement.before, f"{name}_divergence": judgement.after}
    return planned, metrics
