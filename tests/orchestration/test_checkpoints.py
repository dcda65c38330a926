"""Damaged checkpoints, and damaged snapshots of Ray Tune's, are found and not used."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from akgp.orchestration.checkpoints import SUMS, discard, drop_damaged, require_writable, write_sums
from akgp.orchestration.tune import resumable
from akgp.workspace import StageError


def checkpoint(folder: Path) -> Path:
    (folder / "artifact").mkdir(parents=True)
    (folder / "state.pt").write_bytes(bytes(range(256)))
    (folder / "artifact" / "model with a space.json").write_text("{}")
    write_sums(folder)
    return folder


def test_sums_are_those_of_sha256sum(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoint_1")
    assert len((folder / SUMS).read_text().splitlines()) == 2
    subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=folder, check=True, capture_output=True)


def flip(folder: Path) -> None:
    content = bytearray((folder / "state.pt").read_bytes())
    content[100] ^= 1
    (folder / "state.pt").write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (flip, "state.pt"),
        (lambda folder: (folder / "state.pt").write_bytes(b"\0" * 100), "state.pt"),
        (
            lambda folder: (folder / "artifact" / "model with a space.json").unlink(),
            "artifact/model with a space",
        ),
    ],
    ids=["a bit", "cut short", "missing"],
)
def test_a_damaged_checkpoint_goes_and_the_others_stay(
    tmp_path: Path, damage: Callable[[Path], object], named: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run [1] of *?"  # no pattern
    whole, damaged = (checkpoint(run / f"checkpoint_{n}") for n in (1, 2))
    damage(damaged)
    with caplog.at_level(logging.WARNING):
        drop_damaged(str(run))
    assert [f"checkpoint_2/{named}" in message for message in caplog.messages] == [True]
    assert (whole / "state.pt").exists() and not any(file.is_file() for file in damaged.rglob("*"))
    drop_damaged(str(run))
    assert len(caplog.messages) == 1


def test_on_a_store_too(tmp_path: Path) -> None:
    flip(checkpoint(tmp_path / "damaged"))
    checkpoint(tmp_path / "whole")
    store = fsspec.filesystem("memory")
    store.put(str(tmp_path), "/runs/one", recursive=True)
    drop_damaged("memory://runs/one")
    assert {file.split("/")[3] for file in store.find("/runs/one")} == {"whole"}
    store.rm("/runs", recursive=True)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("/proc/nope", "No such file or directory"),
        ("{folder}/file", "File exists"),
        ("{folder}/file/runs", "Not a directory"),
    ],
)
def test_storage_that_takes_no_file_is_named(tmp_path: Path, place: str, said: str) -> None:
    (tmp_path / "file").touch()
    place = place.format(folder=tmp_path)
    with pytest.raises(StageError, match=rf"^ray\.storage: {place}: cannot be written \(.*{said}\)$"):
        require_writable(place)


def test_storage_that_takes_files_is_left_empty(tmp_path: Path) -> None:
    require_writable(str(tmp_path / "runs" / "new"))
    assert list((tmp_path / "runs" / "new").iterdir()) == []


def test_nothing_there_is_nothing_damaged(tmp_path: Path) -> None:
    drop_damaged(str(tmp_path / "no such run"))


@pytest.mark.parametrize("content", ['{"trial_da', "{}", "[]", '{"trial_data": null}', "\xff"])
def test_of_two_snapshots_the_whole_one_is_resumed(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run [1] of *?"
    run.mkdir()
    older, newer = (run / f"experiment_state-2026-01-0{day}_00-00-00.json" for day in (1, 2))
    newer.write_text(content, encoding="latin-1")
    (run / "experiment_state-note.txt").touch()
    with caplog.at_level(logging.WARNING):
        assert not resumable(str(run))
        assert caplog.messages == [f"{newer} is damaged: trials start again"] and not newer.exists()
        older.write_text('{"trial_data": []}')
        assert resumable(str(run)) and len(caplog.messages) == 1
    assert not resumable(str(tmp_path / "no such run"))


@pytest.mark.parametrize("name", ["p::v2", "run[ab]", "run*", "run?"])
def test_one_folder_is_removed_whatever_its_name(tmp_path: Path, name: str) -> None:
    """By fsspec "p::v2" is p, and the others are patterns."""
    folder, others = tmp_path / name / "job", [tmp_path / each for each in ("p", "runa", "run")]
    for each in (folder, *others):
        each.mkdir(parents=True)
        (each / "precious").touch()
    discard(str(folder))
    assert not folder.exists() and all((each / "precious").exists() for each in others)


def test_what_cannot_be_removed_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    discard(str(tmp_path / "none"))
    assert "none: has served, but cannot be removed (" in caplog.text
