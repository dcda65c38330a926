"""quantize: the student as a static int8 ONNX graph."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from akgp import artifacts
from akgp.deployment import package
from akgp.evaluation import accuracy, runtime_logits
from akgp.io.atomic import write_json
from akgp.params import Quantize
from akgp.quantization import (
    Judgement,
    correct_biases,
    equalize,
    export_onnx,
    quantize,
    require_finite,
    verify,
)
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
        judgements = _improved(floating, inputs, params, model_file)
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
    for name, judgement in judgements.items():
        metrics |= {name: float(judgement.kept)}
        metrics |= {f"{name}_divergence_before": judgement.before, f"{name}_divergence": judgement.after}
    package.complete(out, summary, params.license)
    write_json(out / METRICS, metrics | {"floating_kinds": dict(verified.floating)})
    yield Step(metrics)


def _improved(floating: Path, inputs: Tensor, params: Quantize, model_file: Path) -> dict[str, Judgement]:
    """Equalise the int8 graph, then correct its biases, as far as params.yaml asks for; what was judged."""
    tried: dict[str, Judgement | None] = {}
    if params.equalization:
        tried["equalization"] = equalize(floating, inputs, params, model_file)
    if params.bias_correction:
        tried["bias_correction"] = correct_biases(floating, inputs, model_file)
    return {name: judgement for name, judgement in tried.items() if judgement}
