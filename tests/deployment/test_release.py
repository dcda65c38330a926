"""Releases: the gate, promotion and its interruption, rollback, damage; on a disk and on a real S3 server."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from akgp import params
from akgp.deployment import release
from akgp.deployment.predict import Classifier
from akgp.deployment.release import Decision, ReleaseCandidate, ReleaseError, files, store
from akgp.params import Release
from tests.support.releases import CLASSES, QUICK, candidate, prepare

SMALLEST = "networks: {net: {architecture: cifar_resnet20}}\nteachers: [net]\nstudent: net\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(SMALLEST + QUICK)
    prepare(tmp_path, [0, 50, 100, 120, 140, 160, 200, 255])
    candidate(tmp_path)
    return tmp_path


def configured(root: Path, **gate: Any) -> params.Params:
    settings = json.dumps(gate)
    (root / "params.yaml").write_text(f"{SMALLEST}{QUICK}release: {settings}\n")
    return params.load(root / "params.yaml")


def reviewed(root: Path, **gate: Any) -> release.Review:
    return release.review(root, configured(root, **gate))


def network(number: int) -> ReleaseCandidate:
    """Something to store: nothing looks into it."""
    content = {"model.onnx": f"model {number}".encode(), "preprocessing.json": b"{}"}
    return ReleaseCandidate(
        content, {"top1": 90.0 + number, "bytes": 7, "latency_ms": 0.1}, "of the test images"
    )


# The gate


@pytest.mark.parametrize(
    ("top1", "limits", "promote", "reasons"),
    [
        (98.3, {}, True, ["top-1 98.30 % against 98.30 %, equal"]),
        (98.8, {}, True, ["top-1 98.80 % against 98.30 %, 0.50 points better"]),
        (97.8, {}, True, ["98.30 %, 0.50 points worse, 0.5 allowed (release.max_drop)"]),
        (97.7, {}, False, ["98.30 %, 0.60 points worse, 0.5 allowed (release.max_drop)"]),
        (98.2, {"max_drop": 0.0}, False, ["0.10 points worse, 0 allowed (release.max_drop)"]),
        (float("nan"), {}, False, ["top-1 nan %"]),
        (98.3, {"max_bytes": 1000}, True, ["equal", "1,000 bytes, 1,000 allowed (release.max_bytes)"]),
        (98.3, {"max_bytes": 999}, False, ["1,000 bytes, 999 allowed (release.max_bytes)"]),
        (98.3, {"max_latency_ms": 0.2}, True, ["equal", "0.200 ms, 0.2 allowed"]),
        (98.3, {"max_latency_ms": 0.19}, False, ["0.200 ms, 0.19 allowed (release.max_latency_ms)"]),
        (90.0, {"max_bytes": 9, "max_latency_ms": 0.1}, False, ["8.30 points worse", "bytes", "ms"]),
    ],
)
def test_gate(top1: float, limits: dict[str, Any], promote: bool, reasons: list[str]) -> None:
    new = {"top1": top1, "bytes": 1000, "latency_ms": 0.2}
    decision = release.gate(new, {"top1": 98.3, "bytes": 10, "latency_ms": 9.0}, Release(**limits))
    assert decision.promote is promote
    assert len(decision.reasons) == len(reasons)
    for said, expected in zip(decision.reasons, reasons, strict=True):
        assert expected in said


def test_the_first_release_has_nothing_to_beat_but_its_limits() -> None:
    new = {"top1": 50.0, "bytes": 1000, "latency_ms": 0.2}
    assert release.gate(new, None, Release()) == Decision(True, ("top-1 50.00 %, the first release",))
    assert not release.gate(new, None, Release(max_bytes=999)).promote


def test_review_measures_both_on_the_present_test_split(root: Path) -> None:
    first = reviewed(root)
    assert first.rows["new"]["top1"] == 100  # not the 12 % of the report, which may be of another network
    assert first.rows["new"]["bytes"] == (root / "models/int8/model.onnx").stat().st_size
    assert 0 < first.rows["new"]["latency_ms"] < 9
    where = release.place(root, configured(root))
    version = release.promote(where, first.network)
    assert reviewed(root).decision == Decision(False, (f"nothing new: {version} is in production",))
    assert not reviewed(root).rejected

    candidate(root, bias=0.2)  # from gray 153 on: wrong for 140, 7 of 8 are right
    review = reviewed(root)
    assert review.rejected and review.production == version
    assert [row["top1"] for row in review.rows.values()] == [100, 87.5]
    assert "in production  100.00 %  " in review.text() and "12.50 points worse, 0.5 allowed" in review.text()
    assert not reviewed(root, max_drop=12.5).rejected

    prepare(root, [0, 255])  # other test images: the two agree on these
    review = reviewed(root)
    assert review.decision.promote
    assert review.decision.reasons == (
        "top-1 100.00 % against 100.00 %, equal",
        f"the test images have changed since {version} was released; both were measured on these",
    )


def test_classes_go_by_name(root: Path) -> None:
    release.promote(release.place(root, configured(root)), reviewed(root).network)
    candidate(root, bias=-2)  # all bright
    prepare(root, [0, 100, 200, 255], classes=("bright", "new", "dark"))
    assert [row["top1"] for row in reviewed(root).rows.values()] == [100, 50]


def test_what_cannot_be_compared_or_released_is_named(root: Path) -> None:
    (root / "models/int8/preprocessing.json").write_text(
        json.dumps({"classes": CLASSES, "image_size": [8, 8], "channels": 1, "mean": [0.5], "std": [0.5]})
    )
    with pytest.raises(ReleaseError, match=r"network new takes images of \(1, 8, 8\), the test split's are"):
        reviewed(root)
    (root / "reports/metrics.json").write_text('{"dense": {"top1": 1}}')
    with pytest.raises(ReleaseError, match=r"reports/metrics\.json: must hold int8; `dvc repro` writes"):
        reviewed(root)
    (root / "models/int8/preprocessing.json").unlink()
    with pytest.raises(ReleaseError, match=r"preprocessing\.json: no such file; `dvc repro` writes it"):
        reviewed(root)


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
    one, two, three = (release.promote(where, network(number)) for number in (1, 2, 3))
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
    four = release.promote(where, network(4))
    assert release.rollback(where) == one  # what it replaced, not what was made before it
    assert release.releases(where) == [one, two, three, four]
    with pytest.raises(ReleaseError, match=f"{one} is in production already"):
        release.rollback(where, one)
    with pytest.raises(ReleaseError, match=f"release 'x': not found, must be one of {one}, {two}"):
        release.rollback(where, "x")


def test_the_same_network_is_not_released_twice(where: str) -> None:
    one, two = release.promote(where, network(1)), release.promote(where, network(2))
    with pytest.raises(ReleaseError, match=f"has been released as {two}"):
        release.promote(where, network(2))
    release.rollback(where)
    with pytest.raises(ReleaseError, match=f"has been released as {two}"):  # it was withdrawn for a reason
        release.promote(where, network(2))
    assert release.current(where) == one


@pytest.mark.parametrize("writes", [0, 1, 2, 3])
def test_interrupted_promotion_leaves_the_old_one(
    where: str, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """It ends at each of its writes in turn: two files, metrics.json, the pointer."""
    old = release.promote(where, network(1))
    left = writes

    def cut_off(path: str, content: bytes) -> None:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        files.write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(store, "write", cut_off)
        with pytest.raises(KeyboardInterrupt):
            release.promote(where, network(2))
    assert release.releases(where) == [old]
    assert release.load(where, old) == network(1)
    assert release.current(where) == old
    new = release.promote(where, network(2))  # what is left of it doesn't stand in the way
    assert release.load(where, new) == network(2)
    assert release.rollback(where) == old


KILLED = """
import os, signal, sys
from akgp.deployment import release

def hook(event, arguments):
    global left
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if (writes or event == "os.rename") and where in str(arguments[0]):
        left -= 1
        if not left: os.kill(os.getpid(), signal.SIGKILL)

network = release.ReleaseCandidate({"model.onnx": b"model 2", "preprocessing.json": b"{}"}, {}, "")
for left, where in enumerate(sys.argv[1:], 1):
    child = os.fork()
    if child == 0:
        sys.addaudithook(hook)
        release.promote(where, network)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_killed_at_every_file_system_change(tmp_path: Path) -> None:
    """SIGKILL before the n-th open for writing or rename: the old release or the new one is whole."""
    places = [str(tmp_path / f"{change:02}") for change in range(1, 13)]
    old = [release.promote(where, network(1)) for where in places]
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
        ("metrics.json", None, r"metrics\.json: missing: the release is damaged"),
    ],
)
def test_damage_is_named_and_refused(tmp_path: Path, file: str, content: bytes | None, message: str) -> None:
    where = str(tmp_path)
    old, new = release.promote(where, network(1)), release.promote(where, network(2))
    damaged = tmp_path / old / file
    damaged.unlink() if content is None else damaged.write_bytes(content)
    with pytest.raises(ReleaseError, match=message):
        release.load(where, old)
    with pytest.raises(ReleaseError, match=message):
        release.rollback(where)
    assert release.current(where) == new


def test_a_damaged_release_can_be_left(tmp_path: Path) -> None:
    where = str(tmp_path)
    old, new = release.promote(where, network(1)), release.promote(where, network(2))
    (tmp_path / new / "metrics.json").unlink()
    assert release.rollback(where) == old


def test_files_of_another_release_are_damage(tmp_path: Path) -> None:
    old, new = (release.promote(str(tmp_path), network(number)) for number in (1, 2))
    (tmp_path / old / "metrics.json").write_bytes((tmp_path / new / "metrics.json").read_bytes())
    with pytest.raises(ReleaseError, match=r"metrics\.json: damaged: it is of another release"):
        release.show(str(tmp_path), old)
    (tmp_path / "current.json").write_text(json.dumps({"version": new, "history": [new, old]}))
    with pytest.raises(ReleaseError, match=r"current\.json: damaged: its history must end with its version"):
        release.current(str(tmp_path))


def test_a_damaged_release_in_production_is_not_compared_with(root: Path) -> None:
    where = Path(release.place(root, configured(root)))
    version = release.promote(str(where), reviewed(root).network)
    candidate(root, weight=2)
    (where / version / "model.onnx").write_bytes(b"")
    with pytest.raises(ReleaseError, match=r"model\.onnx: damaged"):
        reviewed(root)


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
    assert status == 1 and "50.00 points worse, 0.5 allowed" in output
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


def test_a_release_classifies_images(root: Path) -> None:
    from PIL import Image

    version = release.promote(str(root / "releases"), reviewed(root).network)
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(root / "white.png")
    assert Classifier(root / "releases" / version)(root / "white.png")[0][0] == "bright"
