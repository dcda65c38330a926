"""`akgp verify`, `export` and `bench` in a workspace of a few test images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from akgp.data import Preprocessing
from akgp.deployment.package import write_metadata
from akgp.deployment.targets import TARGETS
from akgp.params import Quantize
from akgp.quantization import QuantizationError, export_onnx, quantize
from akgp.quantization.qdq import Qdq
from akgp.runtimes import installed
from tests.support.commands import run
from tests.support.releases import CLASSES, QUICK, prepare

SMALLEST = "networks: {net: {architecture: cifar_resnet20}}\nteachers: [net]\nstudent: net\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("workspace")
    (root / "params.yaml").write_text(SMALLEST + QUICK)
    prepare(root, [0, 50, 100, 120, 140, 160, 200, 255])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)).eval()
    images = torch.rand(16, 1, 4, 4) * 2 - 1
    export_onnx(model, images, root / "float.onnx")
    file = root / "models" / "int8" / "model.onnx"
    file.parent.mkdir(parents=True)
    quantize(root / "float.onnx", images, Quantize(), file)
    about = Preprocessing(classes=CLASSES, image_size=(4, 4), channels=1, mean=(0.5,), std=(0.5,))
    write_metadata(file, about, None)
    (root / "text.onnx").write_text("no")
    given = [helper.make_tensor_value_info(name, 1, ["N", 3]) for name in "ab"]
    add = helper.make_node("Add", ["a", "b"], ["c"])
    out = helper.make_tensor_value_info("c", 1, ["N", 3])
    onnx.save(helper.make_model(helper.make_graph([add], "two", given, [out])), root / "two.onnx")
    return root


@pytest.fixture
def root(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


def test_verify_says_that_all_bits_agree(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "verify") == 0
    said = capsys.readouterr().out
    assert said.startswith("onnxruntime ") and "the logits of all 8 test images are exact" in said


def test_verify_against_another_file_names_the_layer(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load("models/int8/model.onnx")
    graph = Qdq(model)
    node = graph.weighted()[-1]
    bias = graph.dequantized(node.input[2])
    assert bias is not None
    graph.write(bias.integers, graph.constant(bias.integers) + 2000)
    onnx.save(model, "other.onnx")
    assert run(monkeypatch, "verify", "--against", "other.onnx", "--json") == 1
    said = json.loads(capsys.readouterr().out)
    assert said["images"] == 8 and said["equal"] < 8 and not said["exact"]
    assert said["first"].startswith("first in Gemm 3: ")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("pack", "nowhere.onnx"), "akgp: nowhere.onnx: no such file"),
        (("unpack", "nowhere.akgp"), "akgp: nowhere.akgp: no such file"),
        (("verify", "nowhere.onnx"), "akgp: nowhere.onnx: no such file"),
        (("verify", "--against", "nowhere"), "akgp: --against nowhere: no such file, and no runtime: onnx"),
        (("verify", "float.onnx"), "akgp: float.onnx: is no int8 file"),
        (("bench", "models/int8", "--runtime", "core"), "akgp: runtime 'core': must be one of onnxruntime"),
        (("bench", "text.onnx"), "akgp: text.onnx: cannot be read as ONNX: "),
        (("pack", "text.onnx"), "akgp: text.onnx: cannot be read as ONNX: "),
        (
            ("bench", "two.onnx"),
            "akgp: two.onnx: must have one input of a fixed size beside the batch, got a ",
        ),
    ],
)
def test_errors_are_one_line(
    root: Path,
    arguments: tuple[str, ...],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *arguments) == 1
    said = capsys.readouterr()
    assert said.err.startswith(line) and len(said.err.splitlines()) == 1 and not said.out


def test_export_writes_and_measures(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [name for name in ("onnx", "openvino", "litert") if installed(TARGETS[name].runtime)]
    assert run(monkeypatch, "export", "--to", ",".join(names)) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("exported/")] == [
        f"exported/{TARGETS[name].file}" for name in names
    ]
    assert "as oracle" in out and "On 8 test images" in out
    assert all((root / "exported" / TARGETS[name].file).is_file() for name in names)
    monkeypatch.chdir(tmp_path)  # where no data are prepared: the file says what images it takes
    assert run(monkeypatch, "bench", str(root / "exported" / TARGETS[names[-1]].file), "--rounds", "6") == 0
    assert run(monkeypatch, "export", str(root / "models/int8")) == 1  # said before anything is written
    assert "--no-check writes the files" in capsys.readouterr().err and not (tmp_path / "exported").exists()
    monkeypatch.chdir(root)
    assert (root / "exported/preprocessing.json").is_file()
    assert run(monkeypatch, "verify", "--against", "exported") == 0
    capsys.readouterr()
    assert run(monkeypatch, "export", "--no-check", "--output", "there", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["files"] == [{"target": "onnx", "file": "there/model.onnx"}] and said["measured"] == []


@pytest.mark.parametrize(
    ("option", "value"), [("--to", ""), ("--output", "params.yaml"), ("--output", "models/int8")]
)
def test_export_refuses_no_target_a_file_as_folder_and_the_models_own(
    root: Path, option: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "export", option, value) == 2
    assert f"Invalid value for {option}: " in capsys.readouterr().err


def test_a_refused_target_leaves_the_folder_as_it_was(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of several, whichever comes first."""

    def refuse(*_: object) -> None:
        raise QuantizationError("no such operation there")

    (root / "kept").mkdir(exist_ok=True)
    (root / "kept" / "model.onnx").write_text("of another network")
    monkeypatch.setitem(TARGETS, "openvino", replace(TARGETS["onnx"], name="openvino", writer=refuse))
    for order in ("onnx,openvino,c", "c,openvino,onnx"):
        assert run(monkeypatch, "export", "--to", order, "--output", "kept", "--no-check") == 1
    assert "no such operation there" in capsys.readouterr().err
    assert [file.name for file in (root / "kept").iterdir()] == ["model.onnx"]
    assert (root / "kept" / "model.onnx").read_text() == "of another network"


def test_bench_times_a_file_against_itself_and_others(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "bench", "models/int8", "float.onnx", "--rounds", "6", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["timed"]
    assert [row["name"] for row in rows] == ["models/int8", "A/A", "float.onnx"]
    assert (
        rows[1]["verdict"] == ""
        and rows[0]["ratio"]["median"] == 1
        and all(row["latency"]["median_ms"] > 0 for row in rows)
    )
    assert run(monkeypatch, "bench", "models/int8", "--rounds", "6") == 0
    assert "A/A" in capsys.readouterr().out
