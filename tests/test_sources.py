"""Files of a user's own that a network is made of: found, relative to the workspace, and watched."""

from __future__ import annotations

from pathlib import Path

import pytest

from akgp import params
from akgp.stages import sources
from akgp.stages.workspace import StageError, Workspace, write_json


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
    write_json(folder / sources.SOURCES, sources.digests(checked.networks["mine"], root))


@pytest.mark.parametrize("changed", ["own_watched.py", "net.pt"])
def test_a_change_is_noticed_and_the_remedy_named(changed: str, tmp_path: Path) -> None:
    checked = own(tmp_path, "net.pt")
    made(tmp_path, checked)
    sources.check(checked, tmp_path)
    (tmp_path / changed).write_text("other")
    with pytest.raises(StageError, match=rf"{changed} has changed .*--force --single-item teacher@mine"):
        sources.check(checked, tmp_path)


def test_a_missing_checkpoint_is_named_by_its_path_from_the_workspace(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=rf"checkpoint: {tmp_path}/none.pt: no such file"):
        sources.sources(own(tmp_path, "none.pt").networks["mine"], tmp_path)


def test_urls_and_installed_packages_are_not_watched(tmp_path: Path) -> None:
    network = params.Network(architecture="torchvision.models:resnet18", checkpoint="s3://bucket/net.pt")
    assert sources.sources(network, tmp_path) == []
    assert sources.located("s3://bucket/net.pt", tmp_path) == "s3://bucket/net.pt"
