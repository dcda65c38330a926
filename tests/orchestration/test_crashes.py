"""A stage killed at any change of the workspace leaves the old artifact or the new one, and is run again."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from akgp import artifacts, params
from akgp.io.atomic import atomic_directory
from akgp.models import cifar_resnet
from akgp.orchestration.run import run_stage
from tests.support.computing import computed

# Copies FOLDER to COPIES/n before the n-th change in it, and dies at the one whose number is DEATH: a process
# that is killed there leaves what is copied.
WATCHED = """
import os, shutil, signal, sys
from akgp.orchestration.run import run_stage
stage, folder, copies, death = sys.argv[1:]
folder, changes, copying = os.path.realpath(folder) + os.sep, 0, False
RELATIVE = {"os.remove": 1, "os.rmdir": 1}  # where the arguments hold the folder that the name is relative to
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

def hook(event, args):
    global changes, copying
    changing = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir") or (
        event == "open" and isinstance(args[2], int) and args[2] & WRITING)
    if copying or not changing or not isinstance(args[0], (str, os.PathLike)):
        return
    path, beside = os.fspath(args[0]), args[RELATIVE[event]] if event in RELATIVE else -1
    if beside != -1:
        path = os.path.join(os.readlink(f"/proc/self/fd/{beside}"), path)
    if os.path.realpath(path).startswith(folder):
        changes, copying = changes + 1, True
        shutil.copytree(folder, os.path.join(copies, str(changes)))
        copying = False
        if changes == int(death):
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
run_stage(stage)
"""


def write_params(root: Path, *, new: bool) -> None:
    tree = {
        "seed": int(new),
        "data": {"color": "gray", "splits": {"test": 0.25}},
        "networks": {"small": {"architecture": "cifar_resnet20"}},
        "teachers": ["small"],
        "student": "small",
        "prune": {"ratio": 0.5 if new else 0.25, "round_to": 2},
        "quantize": {"images": 64 if new else 32},
        "ray": {"cpus_per_worker": 1},
    }
    (root / "params.yaml").write_text(params.dump(params.validate(tree)))


def content(folder: Path) -> str:
    """A digest of all names and files below a folder; '' if it is not there."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        digest.update(f"{file.relative_to(folder)}\0".encode())
        digest.update(file.read_bytes() if file.is_file() else b"")
    return digest.hexdigest() if folder.exists() else ""


def left(artifact: Path) -> list[str]:
    """Hidden names beside an artifact: what a death may leave, and the next run clears."""
    return [path.name for path in artifact.parent.iterdir() if path.name.startswith(".")]


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared digits, and networks that know nothing."""
    root = tmp_path_factory.mktemp("untrained")
    write_params(root, new=False)
    run_stage("data", root=root)
    for seed, folder in enumerate(("dense/small", "student")):
        torch.manual_seed(seed)
        artifacts.save(cifar_resnet(8, (4, 8, 8), in_channels=1), root / "models" / folder)
    return root


def made(stage: str, artifact: Path, root: Path, *, new: bool) -> str:
    """The content of the artifact that the stage puts into place in `root`, undisturbed, without Ray."""
    write_params(root, new=new)
    if stage == "data":
        run_stage(stage, root=root)
    else:
        computed(root, stage)
    return content(artifact)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "folder", "dies"),
    [("data", "data/prepared", True), ("prune", "models/pruned", True), ("quantize", "models/int8", False)],
)
def test_a_stage_that_dies_at_any_change_leaves_the_old_artifact_or_the_new_one(
    stage: str, folder: str, dies: bool, untrained: Path, tmp_path: Path
) -> None:
    """By a process that is killed, and what others would leave, killed at each change of the next one."""
    undisturbed, root = (shutil.copytree(untrained, tmp_path / name) for name in ("undisturbed", "root"))
    new = made(stage, undisturbed / folder, undisturbed, new=True)
    old = made(stage, root / folder, root, new=False)
    assert old != new
    write_params(root, new=True)

    def watched(copies: str, death: int) -> int:
        code = [sys.executable, "-c", WATCHED, stage, str((root / folder).parent), str(tmp_path / copies)]
        done = subprocess.run([*code, str(death)], cwd=root, capture_output=True, text=True, timeout=300)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode

    if dies:
        assert watched("killed", 2) == -signal.SIGKILL
        assert content(root / folder) == old and left(root / folder)
    assert watched("resumed", 0) == 0
    assert content(root / folder) == new and not left(root / folder)

    name = Path(folder).name
    copies = sorted((tmp_path / "resumed").iterdir(), key=lambda copy: int(copy.name))
    assert len(copies) > 4, "it changes at least that much"
    seen = [content(copy / name) for copy in copies]
    assert set(seen) <= {old, new} and seen == sorted(seen, key=[old, new].index), "never back to the old one"
    for copy in copies:  # as the next run does with what it has computed
        with atomic_directory(copy / name) as out:
            shutil.copytree(root / folder, out, dirs_exist_ok=True)
        assert content(copy / name) == new, f"after a death at change {copy.name}"
        assert not left(copy / name), "what the death has left is cleared"
