"""A stage killed at its n-th change of the workspace, for every n, leaves the old artifact or the new one."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import ray_cluster

from akgp import artifacts, params, stages
from akgp.models import cifar_resnet

DYING = """
import os, signal, sys
from akgp import stages
watched, left = [os.path.realpath(folder) + os.sep for folder in ("data", "models")], {change}
CHANGES = {{"os.rename", "os.remove", "os.rmdir", "os.mkdir"}}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

def hook(event, args):
    global left
    changes = event in CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & WRITING)
    if changes and isinstance(args[0], (str, os.PathLike)):
        if os.path.realpath(args[0]).startswith(tuple(watched)):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
stages.run({stage!r})
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with ray_cluster(head_cpus=2) as running:
        yield running.address


def write_params(root: Path, address: str, *, new: bool) -> None:
    tree = {
        "seed": int(new),
        "data": {"color": "gray", "splits": {"test": 0.25}},
        "networks": {"small": {"architecture": "cifar_resnet20"}},
        "teachers": ["small"],
        "student": "small",
        "prune": {"ratio": 0.5 if new else 0.25, "round_to": 2},
        "quantize": {"images": 64 if new else 32},
        "ray": {"cpus_per_worker": 1, "address": address},
    }
    (root / "params.yaml").write_text(params.dump(params.validate(tree)))


def content(folder: Path) -> str:
    """A digest of all names and files below a folder; '' if it is not there."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        digest.update(f"{file.relative_to(folder)}\0".encode())
        digest.update(file.read_bytes() if file.is_file() else b"")
    return digest.hexdigest() if folder.exists() else ""


def workspace(root: Path, address: str) -> Path:
    """Prepared digits, and networks that know nothing."""
    root.mkdir()
    write_params(root, address, new=False)
    stages.run("data", root=root)
    for seed, folder in enumerate(("dense/small", "student")):
        torch.manual_seed(seed)
        artifacts.save(cifar_resnet(8, (4, 8, 8), in_channels=1), root / "models" / folder)
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "folder"), [("data", "data/prepared"), ("prune", "models/pruned"), ("quantize", "models/int8")]
)
def test_a_stage_that_dies_at_any_change_leaves_the_old_artifact_or_the_new_one(
    stage: str, folder: str, cluster: str, tmp_path: Path
) -> None:
    before = workspace(tmp_path / "before", cluster)
    stages.run(stage, root=before)
    undisturbed = shutil.copytree(before, tmp_path / "undisturbed")
    write_params(undisturbed, cluster, new=True)
    stages.run(stage, root=undisturbed)
    old, new = content(before / folder), content(undisturbed / folder)
    assert old != new

    write_params(before, cluster, new=True)
    seen, deaths, status = {old}, 0, -signal.SIGKILL
    while status == -signal.SIGKILL:
        deaths += 1
        code = DYING.format(change=deaths, stage=stage)
        done = subprocess.run([sys.executable, "-c", code], cwd=before, capture_output=True, text=True)
        status = done.returncode
        assert status in (0, -signal.SIGKILL), done.stderr
        seen.add(content(before / folder))
        assert seen <= {old, new}, f"after death {deaths}"
    assert deaths > 4, "it changes at least that much"
    assert content(before / folder) == new
    left = [path.name for path in (before / folder).parent.iterdir() if path.name.startswith(".")]
    assert not left, "what the deaths have left is cleared"
