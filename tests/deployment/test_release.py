"""Releases: the gate, promotion and its interruption, rollback, damage; on a disk and on a real S3 server."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from akgp.deployment import release
from akgp.deployment.predict import Classifier
from akgp.deployment.release import ReleaseError, files, store
from tests.support.releases import candidate, network, promote, reviewed, workspace


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return workspace(tmp_path)


# The place


@pytest.fixture(params=["disk", "s3"])
def where(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "disk":
        return str(tmp_path / "releases")
    server = request.getfixturevalue("s3")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{server.bucket}/releases/{request.node.name}"


def test_promote_show_and_roll_back(where: str) -> None:
    assert (release.current(where), release.releases(where)) == (None, [])
    one, two, three = (promote(where, network(number)) for number in (1, 2, 3))
    assert release.releases(where) == [one, two, three]
    assert release.current(where) == three
    assert release.load(where, two) == network(2)
    record = release.show(where)
    assert (record.version, record.int8["top1"], record.test_digest) == (three, 93, "of the test images")
    assert json.loads(files.read(f"{where}/current.json"))["version"] == three

    assert release.rollback(where) == two
    assert release.current(where) == two
    assert release.rollback(where) == one
    with pytest.raises(ReleaseError, match=f"{one} is the first: there is none before it"):
        release.rollback(where)
    assert release.rollback(where, three) == three
    assert release.rollback(where, one) == one
    four = promote(where, network(4))
    assert release.rollback(where) == one  # what it replaced, not what was made before it
    assert release.releases(where) == [one, two, three, four]
    with pytest.raises(ReleaseError, match=f"{one} is in production already"):
        release.rollback(where, one)
    with pytest.raises(ReleaseError, match=f"release 'x': not found, must be one of {one}, {two}"):
        release.rollback(where, "x")


def test_the_same_network_is_not_released_twice(where: str) -> None:
    one, two = promote(where, network(1)), promote(where, network(2))
    with pytest.raises(ReleaseError, match=f"has been released as {two}"):
        promote(where, network(2))
    release.rollback(where)
    with pytest.raises(ReleaseError, match=f"has been released as {two}"):  # it was withdrawn for a reason
        promote(where, network(2))
    assert release.current(where) == one


@pytest.mark.parametrize("writes", [0, 1, 2, 3])
def test_interrupted_promotion_leaves_the_old_one(
    where: str, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """It ends at each of its writes in turn: two files, metrics.json, the pointer."""
    old = promote(where, network(1))
    left = writes

    def cut_off(change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal left
            if not left:
                raise KeyboardInterrupt
            left -= 1
            return change(*arguments)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(store, "write", cut_off(files.write))
        patched.setattr(store, "replace", cut_off(files.replace))
        with pytest.raises(KeyboardInterrupt):
            promote(where, network(2))
    assert release.releases(where) == [old]
    assert release.load(where, old) == network(1)
    assert release.current(where) == old
    new = promote(where, network(2))  # what is left of it doesn't stand in the way
    assert release.load(where, new) == network(2)
    assert release.rollback(where) == old


@pytest.mark.parametrize("change", ["promote", "roll back"])
def test_of_changes_at_once_one_is_made(where: str, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All have read current.json before the first of them writes it."""
    old = [promote(where, network(number)) for number in (1, 2)]
    together = threading.Barrier(4)

    def replace(*arguments: Any) -> bool:
        together.wait(60)
        return files.replace(*arguments)

    def attempt(number: int) -> str:
        if change == "roll back" and number == 3:
            return release.rollback(where)
        return release.promote(where, network(number), old[1])

    def outcome(number: int) -> str:
        try:
            return attempt(number)
        except ReleaseError as error:
            return str(error)

    with monkeypatch.context() as patched, ThreadPoolExecutor(4) as pool:
        patched.setattr(store, "replace", replace)
        said = list(pool.map(outcome, range(3, 7)))
    made = release.current(where)
    refusal = f"{where}: {made} has come into production meanwhile; run the command again"
    assert sorted(said) == sorted([str(made), *3 * [refusal]])
    assert json.loads(files.read(f"{where}/current.json"))["history"] == [*old, made]


def test_a_promotion_is_refused_where_production_is_not_what_it_was_compared_with(where: str) -> None:
    first = release.promote(where, network(1), None)
    for compared in (None, "another"):
        with pytest.raises(ReleaseError, match=f"{first} has come into production meanwhile; run the comm"):
            release.promote(where, network(2), compared)
    second = release.promote(where, network(2), first)
    release.rollback(where)
    with pytest.raises(ReleaseError, match=f"{first} has come into production meanwhile"):
        release.promote(where, network(3), second)


def test_a_pointer_whose_writing_was_not_acknowledged_is_not_taken_for_that_of_another(where: str) -> None:
    """A client that gets no answer repeats its PUT, which has been carried out already."""
    path = f"{where}/current.json"
    assert files.replace(path, None, b"one") and not files.replace(path, None, b"other")
    assert files.replace(path, b"one", b"two") and not files.replace(path, b"one", b"other")
    assert files.replace(path, None, b"two") is path.startswith("s3://")
    assert files.read(path) == b"two"


KILLED = """
import os, signal, sys
from akgp.deployment import release

def hook(event, arguments):
    global left
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if (writes or event == "os.rename") and where in str(arguments[0]):
        left -= 1
        if not left: os.kill(os.getpid(), signal.SIGKILL)

row = {"top1": 92.0, "bytes": 7, "latency_ms": 0.1}
network = release.ReleaseCandidate({"model.onnx": b"model 2", "preprocessing.json": b"{}"}, row, "")
for left, where in enumerate(sys.argv[1:], 1):
    child = os.fork()
    if child == 0:
        sys.addaudithook(hook)
        release.promote(where, network, release.current(where))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_killed_at_every_file_system_change(tmp_path: Path) -> None:
    """SIGKILL before the n-th open for writing or rename: the old release or the new one is whole."""
    places = [str(tmp_path / f"{change:02}") for change in range(1, 13)]
    old = [promote(where, network(1)) for where in places]
    command = [sys.executable, "-c", KILLED, *places]  # it imports once, and forks a child for each place
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    # Four files, two changes each.
    assert [int(status) for status in done.stdout.split()] == 8 * [-signal.SIGKILL] + 4 * [0]
    for change, where in enumerate(places, 1):
        present = release.current(where)
        assert present is not None
        model = release.load(where, present).files["model.onnx"]
        killed = change <= 8
        assert (present == old[change - 1]) == killed and model == (b"model 1" if killed else b"model 2")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.onnx", b"other", r"model\.onnx: damaged: its SHA-256 is \w+…, must be \w+…"),
        ("model.onnx", None, r"model\.onnx: missing: the release is damaged"),
        ("preprocessing.json", b"", r"preprocessing\.json: damaged"),
        ("metrics.json", b"{", r"metrics\.json: damaged: Invalid JSON"),
        ("metrics.json", b"{}", r"metrics\.json: damaged: version: Field required"),
        (
            "metrics.json",
            b'{"version": "", "released": "", "akgp": "", "int8": {}, "test_digest": "", "sha256": {}}',
            r"metrics\.json: damaged: int8: top1 must be a number, got null",
        ),
        ("metrics.json", None, r"metrics\.json: missing: the release is damaged"),
    ],
)
def test_damage_is_named_and_refused(tmp_path: Path, file: str, content: bytes | None, message: str) -> None:
    where = str(tmp_path)
    old, new = promote(where, network(1)), promote(where, network(2))
    damaged = tmp_path / old / file
    damaged.unlink() if content is None else damaged.write_bytes(content)
    with pytest.raises(ReleaseError, match=message):
        release.load(where, old)
    with pytest.raises(ReleaseError, match=message):
        release.rollback(where)
    assert release.current(where) == new


def test_a_damaged_release_can_be_left(tmp_path: Path) -> None:
    where = str(tmp_path)
    old, new = promote(where, network(1)), promote(where, network(2))
    (tmp_path / new / "metrics.json").unlink()
    assert release.rollback(where) == old


def test_files_of_another_release_are_damage(tmp_path: Path) -> None:
    old, new = (promote(str(tmp_path), network(number)) for number in (1, 2))
    (tmp_path / old / "metrics.json").write_bytes((tmp_path / new / "metrics.json").read_bytes())
    with pytest.raises(ReleaseError, match=r"metrics\.json: damaged: it is of another release"):
        release.show(str(tmp_path), old)
    (tmp_path / "current.json").write_text(json.dumps({"version": new, "history": [new, old]}))
    with pytest.raises(ReleaseError, match=r"current\.json: damaged: its history must end with its version"):
        release.current(str(tmp_path))


def test_s3_refuses_in_one_line_without_secrets(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-of-a-user")
    monkeypatch.setattr(fsspec.get_filesystem_class("s3"), "cachable", False)
    where = f"s3://{s3.bucket}/denied"
    with pytest.raises(ReleaseError, match=rf"^{where}/current\.json: ") as error:
        release.current(where)
    with pytest.raises(ReleaseError, match=rf"^{where}/model\.onnx: "):
        files.write(f"{where}/model.onnx", b"")
    assert "\n" not in str(error.value) and "wrong-secret" not in str(error.value)


# The command


@pytest.fixture
def akgp(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run `akgp …` in the workspace: its exit status, output and error output."""
    from akgp import cli

    monkeypatch.chdir(root)
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["akgp", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
            sys.exit(0)
        return int(end.value.code or 0), *capsys.readouterr()

    return command


def test_the_commands(root: Path, akgp: Any) -> None:
    assert akgp("release", "list") == (0, "", "")
    status, _, error = akgp("release", "show")
    assert (status, error) == (
        1,
        "akgp: releases: no releases here; `akgp release promote` makes the first\n",
    )

    status, output, _ = akgp("release", "promote")
    assert status == 0 and "top-1 100.00 %, the first release" in output
    one = output.split()[-1]
    status, output, _ = akgp("release", "promote")
    assert (status, output) == (0, f"nothing new: {one} is in production\n")

    candidate(root, bias=-2)
    status, output, _ = akgp("release", "promote")
    assert status == 3 and "50.00 points worse, 0.5 allowed" in output
    status, output, _ = akgp("release", "promote", "--force")
    two = output.split()[-1]
    assert status == 0 and two != one

    status, output, _ = akgp("release", "list")
    assert [line[:31] for line in output.splitlines()] == [f"  {one}", f"* {two}"]
    assert "100.00 %" in output and "50.00 %" in output
    assert akgp("release", "rollback") == (0, f"in production: {one}\n", "")
    status, output, _ = akgp("release", "show")
    assert output.startswith(f"releases/{one}\n") and '"top1": 100.0' in output
    status, _, error = akgp("release", "rollback")
    assert (status, error) == (1, f"akgp: release {one} is the first: there is none before it\n")
    status, output, _ = akgp("release", "promote")
    assert (status, output) == (0, f"nothing new: {two} was in production before\n")

    (root / "releases" / two / "model.onnx").write_bytes(b"")
    status, output, _ = akgp("release", "list", "--json")
    listed = json.loads(output)
    assert (status, listed["releases"], listed["production"]) == (0, "releases", one)
    rows = listed["versions"]
    assert [(row["version"], row["production"], row["error"]) for row in rows] == [
        (one, True, None), (two, False, None),
    ]  # fmt: skip
    assert [row["int8"]["top1"] for row in rows] == [100.0, 50.0]
    status, _, error = akgp("release", "show", two)
    assert (status, error.count("\n")) == (1, 1)
    assert error.startswith(f"akgp: releases/{two}/model.onnx: damaged")


def test_the_commands_say_of_which_data_a_release_is(root: Path, akgp: Any) -> None:
    file = root / "models" / "int8" / "preprocessing.json"
    status, output, _ = akgp("release", "promote", "--json")
    promoted = json.loads(output)
    assert (status, promoted["promoted"], set(promoted["rows"])) == (0, True, {"new"})
    candidate(root, bias=-2)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"source": "image_folder pets"}))
    assert akgp("release", "promote", "--force", "--json")[0] == 0
    status, output, _ = akgp("release", "list")
    assert max(map(len, output.splitlines())) <= 80
    assert re.search(r"  2.* of unknown data \* 2.* of image_folder pets$", "  " + " ".join(output.split()))
    rows = json.loads(akgp("release", "list", "--json")[1])["versions"]
    assert [row["data"] for row in rows] == [None, "image_folder pets"]
    shown = json.loads(akgp("release", "show", "--json")[1])
    assert (shown["data"], shown["place"]) == ("image_folder pets", f"releases/{shown['version']}")
    assert shown["int8"]["top1"] == 50.0 and set(shown["sha256"]) == {"model.onnx", "preprocessing.json"}
    _, text, _ = akgp("release", "show")
    assert max(map(len, text.splitlines())) <= 80
    place, _, content = text.partition("\n")
    assert place == shown.pop("place") and json.loads(content) == shown
    assert json.loads(akgp("release", "rollback", "--json")[1]) == {"production": promoted["production"]}


def test_a_damaged_release_in_production_is_repaired_or_replaced(root: Path, akgp: Any) -> None:
    one = akgp("release", "promote")[1].split()[-1]
    folder = root / "releases" / one
    released = json.loads((folder / "metrics.json").read_text())["released"]
    for file, content in (("model.onnx", b""), ("preprocessing.json", b"{}"), ("metrics.json", b"{}")):
        (folder / file).write_bytes(content)
        assert akgp("release", "show")[0] == 1
        status, output, _ = akgp("release", "promote")
        assert status == 0 and f"nothing new: {one} is in production, but releases/{one}/{file}" in output
        assert output.endswith("; its files are written again\n")
        status, shown, _ = akgp("release", "show", "--json")
        assert (status, json.loads(shown)["released"]) == (0, released)

    candidate(root, bias=-2)
    (folder / "model.onnx").unlink()
    damage = f"releases/{one}/model.onnx: missing: the release is damaged"
    status, _, error = akgp("release", "promote")
    remedy = "`akgp release promote --force` puts the new network in its place, without a comparison"
    assert (status, error) == (1, f"akgp: {damage}; {remedy}\n")
    status, output, _ = akgp("release", "promote", "--force")
    two = output.split()[-1]
    assert status == 0 and f"not compared with the release in production: {damage}\n" in output

    (root / "releases" / two / "model.onnx").unlink()
    candidate(root)
    status, _, error = akgp("release", "promote", "--force")
    assert status == 1 and f"`akgp release rollback {one}` puts this network in its place" in error


@pytest.mark.parametrize("figures", [{}, {"top1": None, "bytes": 1, "latency_ms": 1.0}])
def test_a_release_without_figures_is_named_beside_the_others(
    root: Path, akgp: Any, figures: dict[str, Any]
) -> None:
    one, two = (promote("releases", network(number)) for number in (1, 2))
    file = root / "releases" / one / "metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"int8": figures}))
    status, output, _ = akgp("release", "list")
    said = " ".join(output.split())
    assert status == 0 and f"* {two} 92.00 % 7 bytes 0.100 ms" in said
    assert f"{one}/metrics.json: damaged: int8: top1 must be a number, got null" in said


def test_a_release_classifies_images(root: Path) -> None:
    from PIL import Image

    version = promote(str(root / "releases"), reviewed(root).network)
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(root / "white.png")
    assert Classifier(root / "releases" / version)(root / "white.png")[0][0] == "bright"
