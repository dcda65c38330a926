"""Files of a user's own that a network is made of: found, relative to the workspace, and watched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from akgp import params
from akgp.io.atomic import write_json
from akgp.stages import network_files
from akgp.workspace import StageError, Task, Workspace


def own(root: Path, checkpoint: str | None) -> params.Params:
    (root / "own_watched.py").write_text("def make(num_classes): ...\n")
    (root / "net.pt").write_bytes(b"weights")
    network = {"architecture": "own_watched:make", "checkpoint": checkpoint}
    return params.validate({"networks": {"mine": network}, "teachers": ["mine"], "student": "mine",
                            "data": {"splits": {"test": 0.25}}})  # fmt: skip


def made(root: Path, checked: params.Params) -> None:
    """As if the network had been made of the files as they are."""
    folder = Workspace(root).dense("mine")
    folder.mkdir(parents=True)
    write_json(folder / network_files.SOURCES, network_files.digests(checked.networks["mine"], root))


@pytest.mark.parametrize("changed", ["own_watched.py", "net.pt"])
def test_a_change_is_noticed_and_the_remedy_named(changed: str, tmp_path: Path) -> None:
    checked = own(tmp_path, "net.pt")
    made(tmp_path, checked)
    network_files.check(checked, tmp_path)
    (tmp_path / changed).write_text("other")
    with pytest.raises(
        StageError, match=rf"{changed} has changed since models/dense/mine was made of it: `dvc"
    ):
        network_files.check(checked, tmp_path)


def test_a_missing_checkpoint_is_named_by_its_path_from_the_workspace(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=rf"networks.mine.checkpoint: {tmp_path}/none.pt: no such"):
        noted(tmp_path, own(tmp_path, "none.pt"))


def test_urls_and_installed_packages_are_not_watched(tmp_path: Path) -> None:
    network = params.Network(architecture="torchvision.models:resnet18", checkpoint="s3://bucket/net.pt")
    assert network_files.sources(network, tmp_path) == []
    assert network_files.located("s3://bucket/net.pt", tmp_path) == "s3://bucket/net.pt"


def noted(root: Path, checked: params.Params) -> str:
    """What the stage writes of the network."""
    network_files.run(Task("network_files", checked, root))
    return (Workspace(root).network_files / "mine.json").read_text()


def test_what_a_module_imports_from_the_workspace_is_watched_too(tmp_path: Path) -> None:
    """Nothing is run, and neither installed packages nor akgp itself are watched."""
    package = tmp_path / "watched_nets"
    (package / "parts").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('run')\n")
    (package / "net.py").write_text(
        "import torch, akgp.models\nfrom . import blocks\nfrom .parts import head\n"
    )
    (package / "blocks.py").write_text("from watched_sizes import WIDTH\n")
    (package / "parts" / "__init__.py").touch()
    (package / "parts" / "head.py").touch()
    (tmp_path / "watched_sizes.py").write_text("WIDTH = 8\n")
    (tmp_path / "watched_other.py").write_text("not Python\n")
    tree = {"networks": {"mine": {"architecture": "watched_nets.net:make"}}, "teachers": ["mine"],
            "student": "mine", "data": {"splits": {"test": 0.25}}}  # fmt: skip
    checked = params.validate(tree)
    before = noted(tmp_path, checked)
    assert list(json.loads(before)) == [
        "watched_nets/__init__.py", "watched_nets/blocks.py", "watched_nets/net.py",
        "watched_nets/parts/__init__.py", "watched_nets/parts/head.py", "watched_sizes.py",
    ]  # fmt: skip
    (tmp_path / "watched_other.py").write_text("other\n")
    assert noted(tmp_path, checked) == before
    (tmp_path / "watched_sizes.py").write_text("WIDTH = 16\n")
    assert noted(tmp_path, checked) != before
    (package / "net.py").write_text("not Python\n")
    assert "watched_nets/net.py" in json.loads(noted(tmp_path, checked))


def test_folders_without_init_are_followed_and_environments_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Python does; the environment is that of the running interpreter, whatever its folder's name."""
    installed = tmp_path / "env" / "lib" / "site-packages"
    for folder in (tmp_path / "nets", tmp_path / "models", installed):
        folder.mkdir(parents=True)
    (tmp_path / "nets" / "net.py").write_text("from models import student\nimport nets.blocks, bulky\n")
    (tmp_path / "nets" / "blocks.py").touch()
    (installed / "bulky.py").touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    monkeypatch.syspath_prepend(str(installed))
    files = network_files.sources(params.Network(architecture="nets.net:make"), tmp_path)
    assert [str(file.relative_to(tmp_path)) for file in files] == ["nets/blocks.py", "nets/net.py"]


@pytest.mark.parametrize(("source", "noted"), [("cifar10", {"AKGP_CIFAR10": "/images"}), ("digits", {})])
def test_where_the_environment_has_cifar10_is_noted_for_the_stage_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, noted: dict[str, str]
) -> None:
    monkeypatch.setenv("AKGP_CIFAR10", "/images")
    checked = own(tmp_path, None)
    data = params.Data.model_validate({"source": source, "splits": {"test": None if noted else 0.25}})
    task = Task("network_files", checked.model_copy(update={"data": data}), tmp_path)
    network_files.run(task)
    assert json.loads((task.workspace.network_files / network_files.ENVIRONMENT).read_text()) == noted
    graph = YAML(typ="safe").load((Path(__file__).parents[2] / "dvc.yaml").read_text())
    assert f"models/files/{network_files.ENVIRONMENT}" in graph["stages"]["data"]["deps"]


def test_another_object_at_a_url_is_seen_and_a_silent_store_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    url = "memory://bucket/watched.pt"
    checked, records = own(tmp_path, url), []
    for content in (b"one", b"another"):
        fsspec.filesystem("memory").pipe_file("/bucket/watched.pt", content)
        records.append(noted(tmp_path, checked))
    assert noted(tmp_path, checked) == records[1] != records[0]
    fsspec.filesystem("memory").rm("/bucket/watched.pt")
    assert noted(tmp_path, checked) == records[1]
    assert "memory://bucket/watched.pt: cannot be read" in caplog.text
    with pytest.raises(StageError, match=r"mine\.checkpoint: memory://bucket/none.pt: cannot be read"):
        noted(tmp_path, own(tmp_path, "memory://bucket/none.pt"))


@pytest.mark.slow
def test_dvc_trains_again_what_is_made_of_a_changed_file(tmp_path: Path) -> None:
    """By the project's own dvc.yaml, in which stages only say that they ran."""
    text = (Path(__file__).parents[2] / "dvc.yaml").read_text()
    tree = YAML(typ="safe", pure=True).load(text)["stages"]
    kept = {name: tree[name] for name in ("network_files", "teacher")}
    network_files_stage, teacher = kept.values()
    network_files_stage["deps"] = []
    network_files_stage["cmd"] = f"{sys.executable} -m akgp.cli stage network_files"
    teacher |= {"deps": [each for each in teacher["deps"] if each.startswith("models/")],
                "cmd": "echo ${item.network} >> ran; mkdir -p models/dense/${item.network}"}  # fmt: skip
    with (tmp_path / "dvc.yaml").open("w") as file:
        YAML().dump({"stages": kept}, file)
    checked = own(tmp_path, "net.pt")
    (tmp_path / "params.yaml").write_text(params.dump(checked))
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "-q"], cwd=tmp_path, check=True)
    ran = []
    for change in ({}, {}, {"net.pt": "other"}, {"own_watched.py": "def make(num_classes): return 1"}, {}):
        for name, content in change.items():
            (tmp_path / name).write_text(content)
        subprocess.run([*dvc, "repro", "-q"], cwd=tmp_path, check=True)
        ran.append(len((tmp_path / "ran").read_text().split()))
    assert ran == [1, 1, 2, 3, 3]
