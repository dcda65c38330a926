"""quantize: the student as a static int8 ONNX graph."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from akgp import artifacts
from akgp.deployment import package
from akgp.evaluation import accuracy, runtime_logits
from akgp.io.atomic import write_json
from akgp.quantization import correct_biases, export_onnx, quantize, require_finite, verify
from akgp.stages.normalization import read_source, summary_for
from akgp.workspace import METRICS, Step, Task


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
        kernels = quantize(floating, inputs, params, model_file)
        yield Step({"done": "quantize"})
        correction = correct_biases(floating, inputs, model_file) if params.bias_correction else None
    verified = verify(model_file, inputs)
    yield Step({"done": "verify"})
    # On validation: the test split is evaluate's alone.
    validation = read_source(task, "validation")
    logits = runtime_logits(model_file, validation, threads=task.params.ray.cpus_per_worker)
    metrics = {
        "val_top1": accuracy(logits, validation.labels),
        **{f"{kind}_convolutions": number for kind, number in asdict(kernels).items()},
        "verified_images": verified.images,
        "floating_operations": sum(verified.floating.values()),
    }
    if correction:
        metrics |= {"bias_correction": float(correction.kept)}
        metrics |= {"divergence_before": correction.before, "divergence": correction.after}
    package.complete(out, summary, params.license)
    write_json(out / METRICS, metrics | {"floating_kinds": dict(verified.floating)})
    yield Step(metrics)
