"""What a machine may lack: a home that can be written, a short or roomy folder for temporary files."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from akgp.cli import home
from akgp.orchestration.ray_folder import LONGEST, ray_folder
from akgp.workspace import StageError


def test_a_home_that_can_be_written_is_used(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "not" / "there"):
        assert home.substitutes({"HOME": str(folder)}, tmp_path) == {}


@pytest.mark.parametrize("home_of", ["/dev/null", "/dev/null/home"])
def test_without_one_libraries_keep_their_files_in_the_workspace(home_of: str, tmp_path: Path) -> None:
    found = home.substitutes({"HOME": home_of, "PREFECT_HOME": "/mine"}, tmp_path)
    assert found.pop("RAY_AUTH_TOKEN")
    assert found == {
        "MPLCONFIGDIR": str(tmp_path / ".akgp" / "matplotlib"),
        "XDG_CACHE_HOME": str(tmp_path / ".akgp" / "cache"),
    }
    known = {"HOME": home_of, "RAY_AUTH_TOKEN_PATH": "/a/token"}
    assert "RAY_AUTH_TOKEN" not in home.substitutes(known, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_commands_look_at_the_home(tmp_path: Path) -> None:
    code = (
        "import os, sys; from akgp import cli; sys.argv = ['akgp', '--help']\n"
        "try: cli.main()\nexcept SystemExit: print(os.environ['MPLCONFIGDIR'])"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("MPLCONFIGDIR", "HOME")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, encoding="utf-8",
        env=environment | {"HOME": "/dev/null"},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == str(tmp_path / ".akgp" / "matplotlib"), done.stderr


def test_ray_uses_the_folder_for_temporary_files_if_it_will_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long, good = tmp_path / ("x" * 90), "/tmp"
    long.mkdir()
    assert ray_folder("/tmp/", ["/var/tmp"]) == "/tmp/ray"
    for bad, reason in (
        (str(long), f"a path of {len(str(long))} bytes, {LONGEST} are the most for Ray's sockets"),
        ("/nowhere", "No such file or directory"),
        ("/dev/null", "Not a directory"),
    ):
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            assert ray_folder(bad, ["/nowhere/else", good]) == "/tmp/ray"
        assert caplog.messages == [f"{bad}: {reason}: Ray uses /tmp/ray"]
        with pytest.raises(StageError) as error:
            ray_folder(bad, ["/nowhere/else"])
        assert str(error.value) == (
            f"TMPDIR: no folder for Ray's sockets: {bad}: {reason}; /nowhere/else: No such file or directory"
        )


def test_the_longest_folder_leaves_room_for_rays_sockets() -> None:
    """Ray adds a number to a socket's name where there are several nodes."""
    name = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1234"
    limit = 107 if sys.platform.startswith("linux") else 103
    assert LONGEST + len(name) == limit and len("/var/tmp") < LONGEST


def test_a_folder_without_room_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    room = os.statvfs("/tmp")
    full = os.statvfs_result((*room[:4], 0, *room[5:]))
    monkeypatch.setattr(os, "statvfs", lambda folder: full)
    with pytest.raises(StageError, match=r"/tmp: 0 MiB free, 64 are needed"):
        ray_folder("/tmp", [])
