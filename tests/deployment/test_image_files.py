"""What `akgp predict` takes: files, folders, patterns, standard input; and releases."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from akgp.deployment import release
from akgp.deployment.image_files import image_files
from akgp.params import load
from tests.support.commands import run
from tests.support.releases import candidate, prepare


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for name in ("b.png", "a.png", "sub/c.png", ".hidden.png"):
        Image.fromarray(np.full((8, 8), 200, np.uint8)).save(tmp_path / "photos" / name)
    Image.fromarray(np.full((8, 8), 200, np.uint8)).save(tmp_path / "photos" / "sub" / "no_suffix", "png")
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    (tmp_path / "photos" / "loop").symlink_to(tmp_path / "photos")
    return tmp_path


def names(tmp_path: Path, *given: str, stdin: bytes = b"") -> list[str]:
    return [name for name, _ in image_files(given, io.BytesIO(stdin), tmp_path).files]


WITHIN = ["photos/a.png", "photos/b.png", "photos/sub/c.png", "photos/sub/no_suffix"]


def test_a_folder_stands_for_its_images(photos: Path) -> None:
    given = image_files(["photos"], io.BytesIO(), photos)
    assert [name for name, _ in given.files] == WITHIN
    assert list(given.notes()) == ["photos: files that are no images are left out (.txt 1)"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("photos/*.png", WITHIN[:2]),
        ("photos/**/c.*", ["photos/sub/c.png"]),
        ("photos/s?b", WITHIN[2:]),
        ("photos/**", WITHIN),
    ],
)
def test_a_pattern_stands_for_what_matches(photos: Path, pattern: str, expected: list[str]) -> None:
    assert names(photos, pattern) == expected


def test_a_name_that_looks_like_a_pattern_is_a_name(photos: Path) -> None:
    (photos / "photos" / "a.png").rename(photos / "[1].png")
    assert names(photos, "[1].png", "nowhere.png") == ["[1].png", "nowhere.png"]
    assert image_files(["no*.png", "photos/e*"], io.BytesIO(), photos).empty == ["no*.png", "photos/e*"]


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\0"])
def test_names_on_standard_input(photos: Path, separator: str) -> None:
    text = separator.join(["photos/sub/c.png", "photos/a.png", ""])
    assert names(photos, "-", stdin=text.encode()) == ["photos/sub/c.png", "photos/a.png"]


def test_an_image_on_standard_input(photos: Path) -> None:
    content = (photos / "photos" / "a.png").read_bytes()
    assert names(photos, "-", "photos/b.png", stdin=content) == ["-", "photos/b.png"]
    assert (photos / "stdin").read_bytes() == content
    assert names(photos, "-", stdin=b"\x89PNG\r\n\x1a\n damaged") == ["-"]
    assert names(photos, "-") == ["-"]  # nothing at all


def test_predict_goes_on_after_a_bad_file(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(photos, [0, 100, 140, 255])
    candidate(photos)
    (photos / "photos" / "a.png").write_bytes(b"damaged")
    (photos / "empty").mkdir()
    assert run(monkeypatch, "predict", "photos", "nowhere.png", "empty", "photos/b.png", "--top", "1") == 1
    output = capsys.readouterr()
    read = [line.split(":")[0] for line in output.out.splitlines()]
    assert read == [*WITHIN[1:], "photos/b.png"]
    assert sorted(output.err.splitlines()) == [
        "akgp: empty: no images here",
        "akgp: nowhere.png: can't be read (No such file or directory)",
        "akgp: photos/a.png: the image can't be decoded (of no known format)",
        "akgp: photos: files that are no images are left out (.txt 1)",
    ]
    assert run(monkeypatch, "predict", "photos/b.png") == 0


def test_predict_from_a_pipe_as_json(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(photos, [0, 100, 140, 255])
    candidate(photos)
    content = (photos / "photos" / "a.png").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert run(monkeypatch, "predict", "-", "bad.png", "--json", "--top", "1") == 1
    output = capsys.readouterr()
    said = json.loads(output.out)
    assert set(said) == {"model", "release", "predictions", "failed"}
    (first,) = said["predictions"]
    assert first["file"] == "-" and set(first["classes"][0]) == {"class", "probability"}
    assert said["failed"] == [
        {"file": "bad.png", "error": "bad.png: can't be read (No such file or directory)"}
    ]


def test_predict_by_the_network_in_production(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = "networks: {net: {architecture: cifar_resnet20}}\nteachers: [net]\nstudent: net\n"
    (photos / "params.yaml").write_text(settings + "release: {releases: here}\n")
    assert run(monkeypatch, "predict", "--model", "releases", "photos/b.png") == 1
    assert capsys.readouterr().err.endswith(
        "here: no releases here; `akgp release promote` makes the first\n"
    )
    prepare(photos, [0, 100, 140, 255])
    candidate(photos)
    assert run(monkeypatch, "predict", "photos/b.png") == 0
    expected = capsys.readouterr().out
    where = release.place(Path(), load(photos / "params.yaml"))
    version = release.promote(where, release.candidate(photos), None)
    (photos / "models" / "int8" / "model.onnx").unlink()
    for model in ("releases", "here", f"here/{version}"):
        assert run(monkeypatch, "predict", "--model", model, "photos/b.png") == 0
        assert capsys.readouterr().out == expected
    assert run(monkeypatch, "predict", "--model", "releases", "photos/b.png", "--json") == 0
    assert json.loads(capsys.readouterr().out)["release"] == version
    (photos / where / version / "model.onnx").write_bytes(b"other")
    assert run(monkeypatch, "predict", "--model", "releases", "photos/b.png") == 1
    assert "damaged: its SHA-256" in capsys.readouterr().err
