"""The paper's experiment: an int8 ResNet-32 at half of the MACs against its own dense network, seed by seed.

`python -m experiments.paper`, in a clone of its own with its `.venv` active: for each seed a strong teacher
(recipe cifar10-teacher), then the whole pipeline (recipe cifar10-resnet32); a row is appended to
results/cifar10-resnet32/table.json and table.md as each seed ends. Stages resume where they were interrupted,
and seeds that are in the table are left out, so it may be killed and started again over days. Each seed has a
teacher of its own: another seed's has been trained on images that this one validates on.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import typer

from akgp import params
from akgp.params import Params
from akgp.workspace import Workspace

ROOT = Path()
RESULTS = Path("results/cifar10-resnet32")
NETWORKS = ("teacher", "dense", "student", "int8")


def recipe(name: str, seed: int, *, cpu: bool, scale: float) -> Params:
    """The recipe with this seed, all epochs times `scale`; on processors alone if `cpu`."""
    tree: dict[str, Any] = params.load(Path("recipes") / f"{name}.yaml").model_dump(mode="json")
    tree["seed"] = seed
    if cpu:
        tree["ray"]["gpus_per_worker"] = 0
    for training in (tree["teacher"], tree["distill"]["training"]):
        training["epochs"] = max(round(training["epochs"] * scale), 2)
    for network in tree["networks"].values():
        if network["checkpoint"]:
            network["checkpoint"] = str(teacher_file(seed))
    return params.validate(tree)


def teacher_file(seed: int) -> Path:
    return Path("teachers") / f"wide-{seed}.safetensors"


def repro(asked: Params, *stages: str) -> None:
    """`dvc repro` with these parameters; a stage that was interrupted resumes."""
    Path("params.yaml").write_text(params.dump(asked), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "dvc", "repro", *stages], check=True)


def measured(seed: int, *, cpu: bool, scale: float) -> dict[str, Any]:
    """The row of a seed, from reports/metrics.json: top-1, %, of each network, and the int8 file's size."""
    file = teacher_file(seed)
    if not file.exists():
        repro(recipe("cifar10-teacher", seed, cpu=cpu, scale=scale), "teacher")
        file.parent.mkdir(exist_ok=True)
        shutil.copy(Workspace(ROOT).dense("wide") / "model.safetensors", file)
    repro(recipe("cifar10-resnet32", seed, cpu=cpu, scale=scale))
    metrics = json.loads((Workspace(ROOT).reports / "metrics.json").read_text(encoding="utf-8"))
    return {"seed": seed, "scale": scale} | {f"{name}_top1": metrics[name]["top1"] for name in NETWORKS} | {
        "macs_share": metrics["student"]["macs"] / metrics["dense"]["macs"],
        "int8_bytes": metrics["int8"]["bytes"],
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a seed a line, then int8 less dense, its mean and standard error."""
    lines = [
        "# The paper's experiment", "",
        "`python -m experiments.paper`: top-1 on the test split, %; all is chosen on validation.",
        "Epochs are those of the recipes times `scale`.", "",
        "| seed | scale | teacher | dense | student | int8 | int8 − dense | MACs | int8 bytes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    gains = [row["int8_top1"] - row["dense_top1"] for row in rows]
    for row, gain in zip(rows, gains, strict=True):
        accuracies = " | ".join(f"{row[f'{name}_top1']:.2f}" for name in NETWORKS)
        lines.append(
            f"| {row['seed']} | {row['scale']:g} | {accuracies} | {gain:+.2f} | {row['macs_share']:.3f} | "
            f"{row['int8_bytes']:,} |"
        )
    if len(gains) > 1:
        error = stdev(gains) / len(gains) ** 0.5
        lines += ["", f"int8 − dense: {mean(gains):+.2f} ± {error:.2f} points over {len(gains)} seeds."]
    return "\n".join(lines) + "\n"


def main(
    seeds: Annotated[int, typer.Option(help="How many, from 0.")] = 3,
    cpu: Annotated[bool, typer.Option(help="Without a GPU: nine days on two cores.")] = False,
    scale: Annotated[float, typer.Option(help="All epochs times this, for a trial.")] = 1.0,
) -> None:
    """Run the seeds that results/cifar10-resnet32/table.json does not hold."""
    file = RESULTS / "table.json"
    rows = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    for seed in range(seeds):
        if any((row["seed"], row["scale"]) == (seed, scale) for row in rows):
            continue
        rows.append(measured(seed, cpu=cpu, scale=scale))
        RESULTS.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        (RESULTS / "table.md").write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
