"""What `akgp params check` finds before anything computes."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from akgp import data, models, params, precheck, recipes

ROOT = Path(__file__).parents[2]
PARTIAL = "networks: {net: {architecture: cifar_resnet20}}\nteachers: [net]\nstudent: net\n"


def checked(network: dict[str, Any] | None = None, **changes: Any) -> params.Params:
    networks = {"net": network or {"architecture": "cifar_resnet20"}}
    return params.validate({"networks": networks, "teachers": ["net"], "student": "net"} | changes)


def folder_of(path: str) -> dict[str, Any]:
    return {"source": "image_folder", "path": path, "splits": {"test": 0.2}}


def test_all_that_dvc_reads_must_stand_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(PARTIAL, encoding="utf-8")
    recipes.require_complete(file)  # a recipe: no dvc.yaml beside it
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    with pytest.raises(params.ParamsError) as error:
        recipes.require_complete(file)
    assert str(error.value) == (
        f"{file}: seed, data, teacher, folds, prune, deploy, evaluate, quantize, distill: missing, and "
        "DVC reads what a stage depends on from this file alone: `akgp recipe use` writes a complete one"
    )
    file.write_text(params.dump(params.load(file)), encoding="utf-8")
    recipes.require_complete(file)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ("", "no stages; it must map `stages` to one or more, by name"),
        ("[1]", "no stages; it must map `stages` to one or more, by name"),
        ("stages: [a]", "no stages; it must map `stages` to one or more, by name"),
        ("stages: {}", "no stages; it must map `stages` to one or more, by name"),
        ("stages: {a: b}", "stages.a: must be a mapping, and its params a list"),
        ("stages: {a: {cmd: x, params: 3}}", "stages.a: must be a mapping, and its params a list"),
        ("x: [\n", "line 2: not valid YAML: expected the node content, but found '<stream end>'"),
        ("a: *b", "line 1: not valid YAML: found undefined alias 'b'"),
    ],
)
def test_a_damaged_graph_is_one_line(tmp_path: Path, graph: str, message: str) -> None:
    (tmp_path / "params.yaml").write_text(PARTIAL, encoding="utf-8")
    (tmp_path / "dvc.yaml").write_text(graph, encoding="utf-8")
    with pytest.raises(params.ParamsError) as error:
        recipes.require_complete(tmp_path / "params.yaml")
    assert str(error.value) == f"{tmp_path / 'dvc.yaml'}: {message}"


def test_programs_that_count_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    counted = checked(evaluate={"targets": ["c"], "cores": ["M4F"]})
    assert list(precheck.quick(counted, tmp_path)) == [
        "evaluate.cores: arm-none-eabi-gcc, arm-none-eabi-size, qemu-system-arm: not installed; see "
        "docs/how-to/microcontroller.md"
    ]
    assert not list(precheck.quick(checked(evaluate={"targets": ["c"]}), tmp_path))


def test_what_lies_on_this_disk(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "file").touch()
    assert list(precheck.quick(checked(data=folder_of("images")), tmp_path)) == []
    assert list(precheck.quick(checked(data=folder_of("file")), tmp_path)) == [
        f"data.path: {tmp_path}/file: is a file, must be a directory"
    ]
    (line,) = precheck.quick(checked(data=folder_of("gs://bucket/pets")), tmp_path)
    assert line.startswith("data.path: gs://bucket/pets: ") and "install gcsfs" in line
    wrong = checked(
        {"architecture": "cifar_resnet20", "checkpoint": "images"},
        data=folder_of("none"),
        ray={"storage": "file/runs"},
        release={"releases": "file"},
    )
    assert list(precheck.quick(wrong, tmp_path)) == [
        f"data.path: {tmp_path}/none: no such file or directory",
        f"networks.net.checkpoint: {tmp_path}/images: is a directory, must be a file",
        f"ray.storage: {tmp_path}/file/runs: {tmp_path}/file is a file, must be a directory",
        f"release.releases: {tmp_path}/file: {tmp_path}/file is a file, must be a directory",
    ]
    gone = checked({"architecture": "cifar_resnet20", "checkpoint": "gone.pt"})
    assert list(precheck.quick(gone, tmp_path)) == [
        f"networks.net.checkpoint: {tmp_path}/gone.pt: no such file"
    ]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "images"], "nothing is written"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "precheck_nets.py").write_text(
        "from torch import nn\n"
        "def good(num_classes, in_channels):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
        "                         nn.Linear(4, num_classes))\n"
        "def broken(num_classes): raise RuntimeError('no weights here')\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    return tmp_path


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ("precheck_nets:good", []),
        ("precheck_nets:broken", ["networks.net.architecture: ", "no weights here"]),
        ("precheck_nets:none", ["networks.net.architecture: ", "precheck_nets", "none"]),
        ("no_such_module:net", ["networks.net.architecture: ", "no_such_module"]),
        ("resnet999", ["networks.net.architecture: unknown network 'resnet999', did you mean"]),
    ],
)
def test_networks_are_built(architecture: str, said: list[str], workspace: Path) -> None:
    found = list(precheck.thorough(checked({"architecture": architecture}), workspace))
    assert len(found) == bool(said) and all(each in found[0] for each in said), found
    assert not found or "\n" not in found[0]


def test_every_network_that_is_wrong_has_a_line(workspace: Path) -> None:
    """A checkpoint is compared where the number of classes is known; it is read in any case."""
    (workspace / "data" / "prepared").mkdir(parents=True)
    data.prepare(
        params.Data(color="gray", splits=params.Splits(test=0.25)), 0, workspace / "data" / "prepared"
    )
    for depth in (20, 32):
        state = models.cifar_resnet(depth, in_channels=1).state_dict()
        torch.save(state, workspace / f"{depth}.pt")
    (workspace / "text.pt").write_text("no weights", encoding="utf-8")
    networks = {
        name: {"architecture": "cifar_resnet20", "checkpoint": f"{name}.pt"} for name in ("20", "32", "text")
    }
    several = checked(
        data={"color": "gray", "splits": {"test": 0.25}}, networks=networks, teachers=["20"], student="20"
    )
    other, text = precheck.thorough(several, workspace)
    assert other.startswith("networks.32") and "32.pt" in other
    assert text.startswith("networks.text") and "neither safetensors nor a state dict" in text


def test_stores_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    found = list(precheck.thorough(checked(ray={"storage": "s3://bucket/runs"}), tmp_path))
    assert found == [
        "ray.storage: s3://bucket/runs cannot be listed (EndpointConnectionError): check AWS_ENDPOINT_URL, "
        "and that the server runs"
    ]
