"""The speed gate: verdicts on given times, layers named by the profiler, and the stage that fails."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from akgp import params
from akgp.deployment.speed import TOLERANCE, blamed, slowdowns, target_slowdowns
from akgp.evaluation import Latency
from akgp.models import cifar_resnet
from akgp.params import Quantize
from akgp.pruning import prune
from akgp.quantization import export_onnx, quantize
from akgp.quantization.layer_times import IMAGE, layer_times
from akgp.runtimes import RUNTIMES
from akgp.stages import speed_gate
from akgp.stages.table import STAGES
from akgp.workspace import GateError, Task

SHAPE = (1, 1, 8, 8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A network, pruned with its streams, whose shortcuts become convolutions without a bias; and in int8."""
    folder, images = tmp_path_factory.mktemp("files"), torch.randn(4, *SHAPE[1:])
    dense = cifar_resnet(8, (8, 16, 16), num_classes=3, in_channels=1).eval()
    student = prune(dense, images[:1], ratio=0.5, scope="all", round_to=4).model
    made = {name: folder / f"{name}.onnx" for name in ("dense", "student", "int8")}
    export_onnx(dense, images, made["dense"])
    export_onnx(student, images, made["student"])
    quantize(made["student"], images, Quantize(), made["int8"])
    return made


def test_every_layer_has_its_time_by_the_name_of_its_module(files: dict[str, Path]) -> None:
    names = {name for name, _ in cifar_resnet(8, (8, 16, 16)).named_modules() if re.search(r"conv\d$", name)}
    for file in files.values():
        times = layer_times(file, SHAPE)
        assert names | {"linear"} <= set(times) <= names | {
            "linear", IMAGE, "layer2.0.shortcut", "layer3.0.shortcut",
        }  # fmt: skip
        assert all(time > 0 for time in times.values())
    assert {"layer2.0.shortcut", "layer3.0.shortcut"} <= set(layer_times(files["student"], SHAPE))


def timed(milliseconds: float) -> Latency:
    rounds = milliseconds * (1 + 0.001 * np.arange(-10, 11))
    return Latency(milliseconds, rounds[0], rounds[-1], tuple(rounds))


@pytest.mark.parametrize(
    ("int8", "student", "said"),
    [
        (0.5, 0.7, ()),
        (0.7 * (1 + TOLERANCE) - 1e-3, 0.7, ()),  # within what differs from process to process
        (0.9, 0.7, (r"int8 is 0\.78 \(0\.78 to 0\.78\) times as fast as its own float network",)),
        (1.5, 1.2, ("int8 is 0.80 .* its own float network", "student is 0.83 .* the dense network")),
    ],
)
def test_a_network_that_is_slower_is_said_with_its_layers(
    files: dict[str, Path], int8: float, student: float, said: tuple[str, ...]
) -> None:
    times = {"dense": timed(1.0), "student": timed(student), "int8": timed(int8)}
    for runtime, rest in (("onnxruntime", ": most is lost in .+"), ("openvino", " in openvino")):
        found = list(slowdowns(times, files, SHAPE, 1, 0, RUNTIMES[runtime]))
        assert len(found) == len(said)
        for text, pattern in zip(found, said, strict=True):
            assert re.fullmatch(f"{pattern}{rest}", text), text


def test_those_layers_are_blamed_that_lose_most() -> None:
    slow = {"input": 0.2, "a": 3.0, "b": 1.0, "c": 1.5, "d": 0.5}
    fast = {"a": 2.9, "b": 0.2, "c": 1.6, "d": 0.1}
    assert blamed(slow, fast) == (
        "b (1.000 ms, there 0.200), d (0.500 ms, there 0.100), input (0.200 ms, there 0.000)"
    )
    assert blamed(fast, fast) == "no single layer"


def test_other_runtimes_are_judged_by_their_rows() -> None:
    slow, fast = {"median": 0.5, "low": 0.48, "high": 0.52}, {"median": 1.0, "low": 0.9, "high": 1.1}
    rows = [
        {"runtime": "openvino", "against_float": slow, "against_dense": fast},
        {"runtime": "litert", "against_float": fast, "against_dense": None},
        {"runtime": "onnxruntime", "against_float": slow, "against_dense": slow},
    ]
    assert list(target_slowdowns(rows, RUNTIMES["onnxruntime"])) == [
        "int8 is 0.50 (0.48 to 0.52) times as fast as its own float network in openvino"
    ]


@pytest.mark.parametrize("gate", ["fail", "warn"])
def test_the_stage_fails_unless_it_is_to_warn(tmp_path: Path, gate: str) -> None:
    tree = {
        "networks": {"net": {"architecture": "cifar_resnet20"}}, "teachers": ["net"], "student": "net",
        "evaluate": {"speed_gate": gate},
    }  # fmt: skip
    task = Task("evaluate", params.validate(tree), tmp_path)
    task.workspace.reports.mkdir()
    details = task.workspace.reports / "details.json"
    details.write_text("{}")  # of an earlier version
    speed_gate.require(task)
    details.write_text(json.dumps({"slowdowns": ["int8 is 0.5 times as fast"]}))
    if gate == "warn":
        speed_gate.require(task)
    else:
        with pytest.raises(
            GateError, match=r"^evaluate: int8 is 0\.5 .* reports/index\.html.* evaluate\.speed_gate: warn$"
        ):
            speed_gate.require(task)
    assert STAGES["evaluate"].gate == speed_gate.__name__
