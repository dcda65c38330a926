"""The workspace: one computation at a time, and results that are whole or absent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from akgp import params, recipes
from akgp.io.atomic import atomic_directory, atomic_file
from akgp.orchestration.workspace_lock import workspace_lock
from akgp.workspace import StageError, Workspace

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from akgp.orchestration.workspace_lock import workspace_lock
from akgp.workspace import Workspace
with workspace_lock(Workspace(Path(sys.argv[1])), "teacher@other"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_computation_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        message = rf"held by process {other.pid}, .* teacher@other since \d"
        with pytest.raises(StageError, match=message), workspace_lock(workspace, "prune"):
            raise AssertionError("computed beside another one")
        # Nor are the parameters replaced by which it computes.
        (tmp_path / "params.yaml").write_text("as it was")
        with pytest.raises(StageError, match=message):
            recipes.use("digits", tmp_path / "params.yaml", ROOT / "recipes", force=True)
        assert (tmp_path / "params.yaml").read_text() == "as it was"
        other.kill()
        other.wait()
        with workspace_lock(workspace, "prune"):  # the lock went with its process
            pass
        recipes.use("digits", tmp_path / "params.yaml", ROOT / "recipes", force=True)
        assert params.load(tmp_path / "params.yaml") == params.load(ROOT / "recipes" / "digits.yaml")


# It takes a second to end, and then says so: not by print, which the signal may interrupt.
ENDING = (
    """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), os.write(1, b"ended\\n"), sys.exit(143)))
"""
    + HOLD
)
DVC = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]], env={'DVC_STAGE': 'teacher'})"


@pytest.mark.skipif(sys.platform != "linux", reason="the system's signal at a parent's death is Linux's")
def test_a_stage_ends_when_its_dvc_is_killed_and_is_waited_for(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", DVC, "-c", ENDING, str(tmp_path)], stdout=subprocess.PIPE
    ) as dvc:  # fmt: skip
        assert dvc.stdout is not None
        assert dvc.stdout.readline() == b"held\n"
        with pytest.raises(StageError, match=r"is held by process \d+, which computes teacher@other"):
            workspace_lock(workspace, "prune").__enter__()
        dvc.kill()
        dvc.wait()
        with workspace_lock(workspace, "prune"):
            assert dvc.stdout.readline() == b"ended\n"


def test_a_failed_replacement_leaves_the_old_and_nothing_beside(tmp_path: Path) -> None:
    destination = tmp_path / "models" / "student"
    with atomic_directory(destination) as new:
        (new / "a").write_text("old")
    with pytest.raises(RuntimeError), atomic_directory(destination) as new:
        (new / "a").write_text("half")
        raise RuntimeError
    assert (destination / "a").read_text() == "old"
    with atomic_directory(destination) as new:
        (new / "b").write_text("whole")
    assert [file.name for file in destination.iterdir()] == ["b"]
    assert [file.name for file in destination.parent.iterdir()] == ["student"]


def test_what_a_link_refers_to_is_replaced_where_it_lies(tmp_path: Path) -> None:
    """Twice: the first time leaves no link beside."""
    place, link = tmp_path / "large disk" / "prepared", tmp_path / "data" / "prepared"
    for folder in (place, link.parent):
        folder.mkdir(parents=True)
    link.symlink_to(place)
    (tmp_path / "data" / "file").symlink_to(place.parent / "file")
    for text in ("one", "two"):
        with atomic_directory(link) as new, atomic_file(tmp_path / "data" / "file") as beside:
            (new / "a").write_text(text)
            beside.write_text(text)
    assert link.is_symlink() and (place / "a").read_text() == (place.parent / "file").read_text() == "two"
    assert sorted(file.name for file in link.parent.iterdir()) == ["file", "prepared"]
    (link.parent / ".prepared.new").symlink_to(place)  # as an earlier version left it
    with atomic_directory(link) as new:
        (new / "a").write_text("three")
    assert (place / "a").read_text() == "three"


@pytest.mark.parametrize("atomic", [atomic_directory, atomic_file])
def test_a_full_disk_names_what_was_to_be_written(tmp_path: Path, atomic: Any) -> None:
    with pytest.raises(OSError) as raised, atomic(tmp_path / "new"), open("/dev/full", "w") as full:  # noqa: PTH123
        full.write("x")
    assert str(raised.value) == f"[Errno 28] No space left on device: '{tmp_path}/new'"
    assert list(tmp_path.iterdir()) == []


def test_dvc_leaves_earlier_artifacts_to_a_stage_that_fails() -> None:
    """Plain outs are deleted before a stage runs; it replaces its own at its end."""
    tree = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())
    outs = [out for stage in tree["stages"].values() for out in stage["outs"] + stage.get("metrics", [])]
    assert len(outs) == 10
    for out in outs:
        ((_, options),) = out.items()
        assert options == {"persist": True}
