"""Files are UTF-8 whatever the locale says, and a terminal that shows less gets what it can show."""

from __future__ import annotations

import ast
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from akgp.cli import console

ROOT = Path(__file__).parents[2]
PARTS = ("akgp", "flows", "infra", "scripts", "experiments")
OURS = [file for part in PARTS for file in (ROOT / part).rglob("*.py")]
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
LIBRARIES = ("Image", "fsspec", "tarfile", "webbrowser", "zipfile")  # their `open` is not the built-in one


def without_encoding(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls that read or write text in the encoding of the locale."""
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and all(key.arg not in ("encoding", None) for key in call.keywords):
            options = {key.arg: key.value for key in call.keywords}
            if isinstance(call.func, ast.Attribute):
                owner, name = ast.unparse(call.func.value), call.func.attr
            else:
                owner, name = "", ast.unparse(call.func)
            text = isinstance(options.get("text"), ast.Constant)
            text |= (name == "read_text" and not call.args) or (name == "write_text" and len(call.args) == 1)
            if name == "open" and owner not in LIBRARIES:
                modes = [each.value for each in call.args if isinstance(each, ast.Constant)]
                modes += [ast.literal_eval(mode) for mode in [options.get("mode")] if mode]
                # The `open` of a file system of fsspec's takes a path first; without a mode it is binary.
                text |= not any("b" in str(mode) for mode in modes) and not (owner and len(call.args) > 1)
            if text:
                yield call


@pytest.mark.parametrize("file", OURS, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_text_is_read_or_written_in_the_locales_encoding(file: Path) -> None:
    calls = without_encoding(ast.parse(file.read_text(encoding="utf-8")))
    assert [f"line {call.lineno}: {ast.unparse(call)}" for call in calls] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("p.read_text()", True),
        ("p.write_text(x)", True),
        ("p.open()", True),
        ("p.open('w')", True),
        ("open(p, 'a')", True),
        ("run(c, text=True)", True),
        ("p.open('rb')", False),
        ("open(p, mode='wb')", False),
        ("p.read_text(encoding='utf-8')", False),
        ("filesystem.open(p, 'rb')", False),
        ("Image.open(p)", False),
    ],
)
def test_such_calls_are_found(source: str, found: bool) -> None:
    assert bool(list(without_encoding(ast.parse(source)))) == found


def akgp(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("akgp")), *arguments],
        cwd=root,
        env=os.environ | ASCII,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )


@pytest.mark.slow
def test_commands_work_where_the_locale_is_ascii(tmp_path: Path) -> None:
    """Names of files and classes that are not ASCII among them."""
    for label in ("Käse", "Öl"):
        (tmp_path / "Bilder" / label).mkdir(parents=True)
        for number in range(12):
            Image.new("L", (8, 8), 20 * number).save(tmp_path / "Bilder" / label / f"é{number}.png")
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    (tmp_path / "reports").mkdir()
    shutil.copy(ROOT / "results" / "digits" / "metrics.json", tmp_path / "reports")
    (tmp_path / "params.yaml").write_text(
        "# größer\ndata: {source: image_folder, path: Bilder, color: gray, splits: {test: 0.25, "
        "calibration: 0.2, validation: 0.2}}\n"
        "networks: {n: {architecture: cifar_resnet20}}\nteachers: [n]\nstudent: n\n",
        encoding="utf-8",
    )
    for arguments, shown in (
        (("params", "check"), "params.yaml: valid"),
        (("stage", "data"), ""),
        (("report",), "student"),
        (("recipe", "show", "cifar10-quick"), "seed"),
        (("params", "check", "--params", "Ü.yaml"), "akgp: ?.yaml: no such file"),
    ):
        done = akgp(tmp_path, *arguments)
        assert "Traceback" not in done.stderr and shown in done.stdout + done.stderr
        assert (done.returncode == 0) == ("Ü.yaml" not in arguments), done.stderr
        assert done.stderr.isascii()  # typer writes UTF-8 to standard output
    summary = json.loads((tmp_path / "data" / "prepared" / "summary.json").read_text(encoding="utf-8"))
    assert summary["classes"] == ["Käse", "Öl"]


def test_a_stream_shows_what_its_encoding_has() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    console.show_what_can_be_shown(stream)
    print("2 × 3 − 1", file=stream, flush=True)
    assert raw.getvalue().strip() == b"2 ? 3 ? 1"
    whole = io.TextIOWrapper(io.BytesIO(), encoding="UTF-8", errors="strict")
    console.show_what_can_be_shown(whole)
    assert whole.errors == "strict"
