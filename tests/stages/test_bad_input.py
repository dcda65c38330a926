"""What users get wrong: one clear line, an exit status, no traceback, and nothing lost."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from akgp import models, params
from akgp.orchestration.capacity import require_capacity
from akgp.orchestration.run import run_stage
from akgp.workspace import StageError
from tests.support import commands

AKGP = str(Path(sys.executable).with_name("akgp"))
TEACHER = ["teacher", "--network", "small"]


def tree(**changes: Any) -> dict[str, Any]:
    return {
        "data": {"color": "gray", "splits": {"test": 0.25}},
        "networks": {"small": {"architecture": "cifar_resnet20", "widths": [8, 8, 16]}},
        "teachers": ["small"],
        "student": "small",
        "ray": {"cpus_per_worker": 1},
    } | changes


def folder_of_images(root: Path) -> Path:
    for label in ("cat", "dog"):
        (root / "images" / label).mkdir(parents=True)
        for number in range(10):
            pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / label / f"{number}.jpg")
    return root / "images"


def image_data(root: Path) -> dict[str, Any]:
    folder = folder_of_images(root)
    splits = {"calibration": 0.2, "validation": 0.2, "test": 0.2}
    return {"source": "image_folder", "path": str(folder), "splits": splits}


def unknown_parameter(root: Path) -> tuple[dict[str, Any], str]:
    params = tree(prune={"ratio": 0.5, "ration": 0.5})
    return params, "prune.ration: unknown parameter; did you mean prune.ratio?"


def ratio_out_of_range(root: Path) -> tuple[dict[str, Any], str]:
    return tree(prune={"ratio": 1.2}), "prune.ratio: got 1.2, must be less than 1"


def missing_directory(root: Path) -> tuple[dict[str, Any], str]:
    data = {"source": "image_folder", "path": str(root / "nowhere"), "splits": {"test": 0.2}}
    return tree(data=data), "nowhere"


def truncated_jpeg(root: Path) -> tuple[dict[str, Any], str]:
    data = image_data(root)
    file = root / "images" / "dog" / "3.jpg"
    file.write_bytes(file.read_bytes()[:-100])
    return tree(data=data), "dog/3.jpg"


def class_of_one(root: Path) -> tuple[dict[str, Any], str]:
    data = image_data(root)
    (root / "images" / "emu").mkdir()
    Image.new("RGB", (12, 12)).save(root / "images" / "emu" / "0.jpg")
    return tree(data=data), "emu"


@pytest.mark.parametrize(
    "case", [unknown_parameter, ratio_out_of_range, missing_directory, truncated_jpeg, class_of_one]
)
def test_data_stage(
    case: Callable[[Path], tuple[dict[str, Any], str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process: it computes without Ray."""
    content, expected = case(tmp_path)
    monkeypatch.chdir(tmp_path)

    def ran(stage: list[str]) -> tuple[int, str]:
        return commands.run(monkeypatch, "stage", *stage), capsys.readouterr().err

    refused(tmp_path, content, ["data"], expected, ran)


def test_wrong_credentials(s3: Any, tmp_path: Path) -> None:
    data = {"source": "image_folder", "path": f"s3://{s3.bucket}/images", "splits": {"test": 0.2}}
    wrong = {**s3.environment, "AWS_SECRET_ACCESS_KEY": "wrong-secret-of-no-use"}
    error = refused(tmp_path, tree(data=data), ["data"], "s3://", partial(process, tmp_path, wrong))
    assert "wrong-secret-of-no-use" not in error


def test_an_address_nobody_answers(tmp_path: Path) -> None:
    prepared(tmp_path)
    content = tree(ray={"address": "127.0.0.1:1", "cpus_per_worker": 1})
    expected = "ray.address: nobody answers at '127.0.0.1:1'"
    refused(tmp_path, content, TEACHER, expected, partial(process, tmp_path, {}))


@pytest.mark.slow
@pytest.mark.parametrize("kind, asked, expected", [
    ("gpus", {"gpus_per_worker": 1}, "ray.gpus_per_worker: 1 worker(s) with 1 CPU(s) and 1 GPU(s) each are"),
    ("cpus", {"cpus_per_worker": 4096}, "ray.cpus_per_worker: 1 worker(s) with 4096 CPU(s) and 0 GPU(s) "),
])  # fmt: skip
def test_more_than_exists(kind: str, asked: dict[str, int], expected: str, tmp_path: Path) -> None:
    prepared(tmp_path)
    content = tree(ray={"cpus_per_worker": 1} | asked)
    refused(tmp_path, content, TEACHER, expected, partial(process, tmp_path, {}))


def test_more_than_any_node_has() -> None:
    """All nodes together have the CPUs, but a worker lies in one of them."""
    nodes = [{"CPU": 2.0}, {"CPU": 3.0}]
    require_capacity(nodes, params.Ray(cpus_per_worker=2), 2)
    for key, cpus, gpus, workers, room, most in (
        ("cpus_per_worker", 4, 0, 1, 0, 3), ("gpus_per_worker", 1, 1, 1, 0, 0),
        ("workers", 3, 0, 2, 1, 1), ("workers", 2, 0, 3, 2, 2),
    ):  # fmt: skip
        with pytest.raises(StageError) as refused:
            require_capacity(nodes, params.Ray(cpus_per_worker=cpus, gpus_per_worker=gpus), workers)
        assert str(refused.value) == (
            f"ray.{key}: {workers} worker(s) with {cpus} CPU(s) and {gpus} GPU(s) each are asked for, but "
            f"this machine has room for {room} worker(s), each in one node: lower it to {most}"
        )


@pytest.mark.parametrize("trials, workers, room, lower", [
    (6, 1, 5, "it to 5"), (3, 2, 5, "it to 2"), (1, 6, 5, "ray.workers or what each worker needs"),
])  # fmt: skip
def test_more_trials_at_a_time_than_there_is_room_for(
    trials: int, workers: int, room: int, lower: str
) -> None:
    nodes = [{"CPU": 2.0}, {"CPU": 3.0}]
    with pytest.raises(StageError) as refused:
        require_capacity(nodes, params.Ray(address="auto"), workers, trials)
    assert str(refused.value) == (
        f"sweep.concurrent: {trials} trial(s) at a time, of {workers} worker(s) with 1 CPU(s) and 0 GPU(s) "
        f"each, are asked for, but the cluster has room for {room} worker(s), each in one node: lower "
        f"{lower}, or add nodes"
    )


@pytest.mark.slow
def test_a_checkpoint_of_another_architecture(tmp_path: Path) -> None:
    prepared(tmp_path)
    other = models.build(params.Network(architecture="cifar_resnet32"), num_classes=10, in_channels=1)
    torch.save(other.state_dict(), tmp_path / "other.pt")
    small = {"architecture": "cifar_resnet20", "widths": [8, 8, 16], "checkpoint": str(tmp_path / "other.pt")}
    content = tree(networks={"small": small})
    refused(tmp_path, content, TEACHER, "other.pt", partial(process, tmp_path, {}))


def prepared(root: Path) -> None:
    """A workspace whose data stage has run."""
    (root / "params.yaml").write_text(params.dump(params.validate(tree())))
    run_stage("data", root=root)


def process(root: Path, environment: dict[str, str], stage: list[str]) -> tuple[int, str]:
    """Status and standard error of `akgp stage`, in a process of its own."""
    done = subprocess.run(
        [AKGP, "stage", *stage], cwd=root, env=os.environ | environment,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return done.returncode, done.stderr


def refused(
    root: Path,
    content: dict[str, Any],
    stage: list[str],
    expected: str,
    ran: Callable[[list[str]], tuple[int, str]],
) -> str:
    """The stage must fail with one line that says `expected` and leave artifacts as they were."""
    text = io.StringIO()
    YAML().dump(content, text)
    (root / "params.yaml").write_text(text.getvalue())
    for artifact in ("data/prepared", "models/dense/small", "models/student"):
        (root / artifact).mkdir(parents=True, exist_ok=True)
        (root / artifact / "earlier").write_text("whole")
    before = {file: file.read_bytes() for folder in ("data", "models") for file in files(root / folder)}
    status, errors = ran(stage)
    assert status != 0
    shown = errors.replace("\r", "\n").splitlines()
    lines = [line for line in shown if line.strip() and not re.match(rf"{stage[0]}[@ ]", line)]  # no bar
    assert len(lines) == 1, errors
    assert lines[0].startswith("akgp: ") and expected in lines[0], lines[0]
    after = {file: file.read_bytes() for folder in ("data", "models") for file in files(root / folder)}
    assert after == before
    return lines[0]


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
