"""evaluate: the one stage that reads the test split; measures every network and writes the report."""

from __future__ import annotations

import csv
import hashlib
import json
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from akgp import artifacts
from akgp.data import Summary
from akgp.deployment.speed import slowdowns, target_slowdowns
from akgp.evaluation import (
    Latency,
    Ratio,
    accuracy,
    balanced_accuracy,
    latency,
    predict_logits,
    runtime_logits,
    speedup,
)
from akgp.evaluation.cost import count
from akgp.io.atomic import write_json
from akgp.params.training_defaults import dense_training
from akgp.quantization import export_onnx
from akgp.reporting import page
from akgp.reporting.findings import findings
from akgp.reporting.metrics import DETAILS, SHA256, split
from akgp.runtimes import RUNTIMES, installed, measured_in
from akgp.stages.inputs import load_ensemble
from akgp.stages.normalization import read_source, summary_for
from akgp.stages.target_rows import measured
from akgp.workspace import METRICS, Step, Task

KERNELS = ("integer_convolutions", "floating_convolutions", "floating_operations")


def compute(task: Task, out: Path, state: dict[str, Any] | None) -> Iterator[Step]:
    """Measure teacher, dense, pruned, student and int8 on the test split; write metrics and report."""
    workspace, params = task.workspace, task.params
    summary, source = summary_for(task), read_source(task, "test")
    example = torch.zeros(1, summary.channels, *summary.image_size)
    metrics: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        graphs: dict[str, Path] = {}
        for name, (model, files) in _networks(task):
            logits = predict_logits(model, source, device=task.device)
            metrics[name] = _row(logits, source.labels, files) | vars(count(model, example))
            graphs[name] = Path(folder) / f"{name}.onnx"
            export_onnx(model.cpu(), example, graphs[name])
            yield Step({"network": name, "top1": metrics[name]["top1"]})
        # The int8 network exists as this file alone: it is tested in the runtime that runs it when deployed.
        graphs["int8"], runtime = workspace.int8 / "model.onnx", RUNTIMES[params.deploy.runtime]
        logits = runtime_logits(graphs["int8"], source, threads=params.ray.cpus_per_worker, runtime=runtime)
        kernels = _json(workspace.int8 / METRICS)
        metrics["int8"] = (
            metrics["student"]  # params and MACs: quantization changes neither
            | _row(logits, source.labels, [graphs["int8"]])
            | {key: kernels[key] for key in KERNELS}
            | {SHA256: hashlib.sha256(graphs["int8"].read_bytes()).hexdigest()}
            | ({"qat": kernels["qat"]} if "qat" in kernels else {})
        )
        yield Step({"network": "int8", "top1": metrics["int8"]["top1"]})
        # All networks in one call: they are timed in turn, in the same rounds, on the same machine.
        targets, microcontroller, refused = measured(task, source, Path(folder))
        if targets:
            yield Step({"measured": ", ".join(row["target"] for row in targets)})
        shape, seed = tuple(example.shape), params.seed
        times = latency(graphs, shape, params.evaluate, seed, runtime)
        slower = [
            *slowdowns(times, graphs, shape, params.evaluate.threads, seed, runtime),
            *target_slowdowns(targets, runtime),
        ]
    for name, row in metrics.items():
        row |= _speed(times[name], speedup(times["dense"], times[name], seed))
        row["latency_runtime"] = measured_in(runtime, params.evaluate.threads)
    contract, details = split(metrics)
    # Findings name the values in use, also where params.yaml leaves them to the number of images.
    teacher = dense_training(params, params.student, sum(summary.counts["train"]))
    used = params.model_copy(update={"teacher": teacher})
    found = findings(metrics, summary.counts["test"], used)
    warnings = [*refused, *found, *slower, *_stages_warnings(task)]
    write_json(out / METRICS, contract)
    write_json(
        out / DETAILS,
        {
            "networks": details,
            "data": data_of(summary),
            "params": params.model_dump(mode="json"),
            "warnings": warnings,
            "slowdowns": slower,
            "targets": targets,
            "microcontroller": microcontroller,
        },
    )
    shown = _report(task, summary, metrics, warnings)
    page.write(out, replace(shown, targets=targets, microcontroller=microcontroller))
    yield Step({"done": "report"})


def _networks(task: Task) -> Iterator[tuple[str, tuple[nn.Module, list[Path]]]]:
    """Name, network and its files on disk, for every network that computes in floating point."""
    workspace, params = task.workspace, task.params
    teachers = [workspace.dense(name) / "model.safetensors" for name in params.teachers]
    yield "teacher", (load_ensemble(task), teachers)
    for name, folder in (
        ("dense", workspace.dense(params.student)),
        ("pruned", workspace.pruned),
        ("student", workspace.student),
    ):
        yield name, (artifacts.load(folder), [folder / "model.safetensors"])


def _speed(time: Latency, faster: Ratio) -> dict[str, float]:
    """A network's time and, of ratios within a round, how many times as fast as the dense network it is.

    Other load on the machine slows the two of a round alike.
    """
    return {
        "latency_ms": time.median_ms,
        "latency_low_ms": time.low_ms,
        "latency_high_ms": time.high_ms,
        "times_faster": faster.median,
        "times_faster_low": faster.low,
        "times_faster_high": faster.high,
    }


def _row(logits: Tensor, labels: Tensor, files: list[Path]) -> dict[str, Any]:
    return {
        "top1": accuracy(logits, labels),
        "balanced_top1": balanced_accuracy(logits, labels),
        "bytes": sum(file.stat().st_size for file in files),
    }


def data_of(summary: Summary) -> dict[str, Any]:
    """Which images the networks were trained and tested with."""
    return {
        "source": summary.source,
        "digest": summary.digest,
        "classes": len(summary.classes),
        "test": sum(summary.counts["test"]),
    }


def _stages_warnings(task: Task) -> Iterator[str]:
    """The `warnings` that the stages of these networks wrote to their metrics.json."""
    workspace, params = task.workspace, task.params
    dense = dict.fromkeys((*params.teachers, params.student))
    folders = {f"network {name}": workspace.dense(name) for name in dense}
    folders |= {"pruned": workspace.pruned, "student": workspace.student, "int8": workspace.int8}
    for label, folder in folders.items():
        for warning in _json(folder / METRICS).get("warnings", []):
            yield warning if warning.startswith("networks.") else f"{label}: {warning}"


def _report(
    task: Task, summary: Summary, metrics: dict[str, dict[str, Any]], warnings: list[str]
) -> page.Report:
    workspace = task.workspace
    characteristics = _json(workspace.student / "characteristics.json")
    return page.Report(
        params=task.params,
        metrics=metrics,
        characteristics=characteristics,
        sentence=characteristics["sentence"],
        histories={
            **{
                f"dense {name}": _json(workspace.dense(name) / "history.json")
                for name in dict.fromkeys((*task.params.teachers, task.params.student))
            },
            "student": _json(workspace.student / "history.json"),
        },
        layers=_table(workspace.pruned / "layers.csv"),
        w0=_json(workspace.student / METRICS).get("w0", {}).get("weight"),
        budget=_json(workspace.pruned / METRICS).get("budget"),
        weights=_table(workspace.student / "weights.csv"),
        summary=summary.model_dump(mode="json"),
        warnings=warnings,
        provenance={
            "machine": f"{platform.machine()}, {torch.cpu.get_capabilities().get('cpu_name', '?')}, "
            f"{task.params.ray.cpus_per_worker} cores used",
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "torchvision")},
            **{runtime.name: runtime.version for runtime in RUNTIMES.values() if installed(runtime)},
            "ray": version("ray"),
        },
    )


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _table(file: Path) -> list[dict[str, Any]]:
    with file.open(newline="", encoding="utf-8") as rows:
        return list(csv.DictReader(rows))
