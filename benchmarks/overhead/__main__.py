"""The command: `python -m benchmarks.overhead` measures and writes results/overhead/table.md.

One run: the digits recipe as a plain loop and by `dvc repro`, then the rounds of its two trainings as Ray
Train jobs; where AKGP_CIFAR10 names the images, also rounds that take longer.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from akgp import params as parameters
from benchmarks.overhead.reporting import table

ROOT = Path(__file__).resolve().parents[2]
LONG = {"data": {"regime": {"subset": 10_000}}}
"""What differs from the recipe cifar10-quick where longer epochs are measured."""
ARTIFACTS = ("dense/resnet20/model.safetensors", "student/model.safetensors", "int8/model.onnx")


def main(
    cpus: Annotated[int | None, typer.Option(help="ray.cpus_per_worker; by default the recipe's")] = None,
    out: Annotated[Path, typer.Option(help="where table.md and measured.json go")] = Path("results/overhead"),
) -> None:
    """Measure what Ray Train and DVC cost beside the plain loop, by stage and by epoch."""
    ray = {"ray": {"cpus_per_worker": cpus}} if cpus else {}
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        plain, piped = (workspace(Path(folder) / name, "digits", ray) for name in ("plain", "piped"))
        measured = {"plain": called("plain", plain), "dvc": called("piped", piped)}
        same = all(
            (plain / "models" / file).read_bytes() == (piped / "models" / file).read_bytes()
            for file in ARTIFACTS
        )
        loads.append(os.getloadavg()[0])
        measured["jobs"] = called("jobs", piped, "15", "teacher", "distill")
        if os.environ.get("AKGP_CIFAR10"):
            long = workspace(Path(folder) / "long", "cifar10-quick", LONG | ray)
            measured["long"] = called("jobs", long, "5", "teacher")
        loads.append(os.getloadavg()[0])
        used = parameters.load(piped / "params.yaml")
    out.mkdir(parents=True, exist_ok=True)
    (out / "measured.json").write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    (out / "table.md").write_text(table(measured, used, same, loads, sys.argv[1:]), encoding="utf-8")


def workspace(root: Path, recipe: str, changes: dict[str, Any]) -> Path:
    """A folder in which `dvc repro` makes everything: graph and code, and the changed recipe."""
    (root / ".dvc").mkdir(parents=True)
    for name in ("dvc.yaml", ".dvcignore", ".dvc/config"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "akgp", root / "akgp", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    tree = parameters.load(ROOT / "recipes" / f"{recipe}.yaml").model_dump(mode="json")
    (root / "params.yaml").write_text(
        parameters.dump(parameters.validate(_changed(tree, changes))), encoding="utf-8"
    )
    return root


def _changed(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return tree | {
        key: _changed(tree[key], value) if isinstance(value, dict) else value
        for key, value in changes.items()
    }


def called(module: str, root: Path, *arguments: str) -> dict[str, Any]:
    """What a module of this experiment measures in the workspace `root`, in a process of its own."""
    result = root / ".measured.json"
    subprocess.run(
        [sys.executable, "-m", f"benchmarks.overhead.{module}", str(result), *arguments],
        cwd=root, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    measured: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return measured


if __name__ == "__main__":
    typer.run(main)
