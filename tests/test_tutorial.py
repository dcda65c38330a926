"""docs/tutorial.md: its files written and its commands typed as a reader would print what it shows."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from akgp import cli

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', PAGE, re.S | re.M))
REFUSALS = re.findall(r"^akgp: (images/.*)$", PAGE, re.M)


def commands() -> Iterator[tuple[str, str]]:
    """Every command of a console block, and what stands below it."""
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.S | re.M):
        for typed in block.split("$ ")[1:]:
            command, _, output = typed.partition("\n")
            yield command, output


def write_files(folder: Path) -> None:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    write_files(tmp_path)
    return tmp_path


def akgp(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Run a command line in this process; how it ends is said by what it prints."""
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    before = signal.getsignal(signal.SIGTERM)
    try:
        cli.main()
    except SystemExit:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_tutorial_up_to_its_computation(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (script, written), *typed = commands()
    runpy.run_path("write_images.py")
    assert script == "python write_images.py" and capsys.readouterr().out == written
    assert [command for command, _ in typed[:2]] == ["akgp recipe use mine", "akgp params check"]
    for command, output in typed[:2]:
        akgp(monkeypatch, command)
        assert capsys.readouterr().out == output
    recipe = workspace / "recipes/mine.yaml"
    recipe.write_text(FILES["recipes/mine.yaml"].replace("macs: 0.25", "macs: 2.5"), encoding="utf-8")
    akgp(monkeypatch, "akgp recipe use mine")
    assert capsys.readouterr().err in PAGE


def test_what_the_tutorial_says_of_a_broken_file_and_an_empty_folder(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("seven", "nine"):
        (workspace / "images" / name).mkdir(parents=True)
        for number in range(20):
            Image.new("L", (8, 8), number).save(workspace / "images" / name / f"{number}.png")
    akgp(monkeypatch, "akgp recipe use mine")
    broken = workspace / "images/seven/broken.png"
    broken.write_text("not an image")
    akgp(monkeypatch, "akgp stage data")
    assert REFUSALS[0] in capsys.readouterr().err
    broken.unlink()
    (workspace / "images/ten").mkdir()
    akgp(monkeypatch, "akgp stage data")
    assert REFUSALS[1] in capsys.readouterr().err


def figures_left_out(text: str) -> list[str]:
    """Lines without what differs between processors: accuracies, latencies, and all behind a first guess."""
    text = re.sub(r"(images/\S+: \w+) .*", r"\1", text)
    return [" ".join(line.split()) for line in re.sub(r"\d+\.\d+ (%|ms)", "", text).splitlines()]


@pytest.mark.slow
def test_the_whole_tutorial(tmp_path: Path) -> None:
    folder = tmp_path / "akgp"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    write_files(folder)
    recipe = folder / "recipes/mine.yaml"
    written = recipe.read_text(encoding="utf-8")
    assert written.count("epochs: 30") == 1
    # A third of the training: the figures of all 30 epochs are no part of the test.
    recipe.write_text(written.replace("epochs: 30", "epochs: 10"), encoding="utf-8")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
    }

    def output(command: str) -> str:
        ran = subprocess.run(
            command, shell=True, cwd=folder, env=environment, stdout=subprocess.PIPE,
            text=True, encoding="utf-8", check=True,
        )  # fmt: skip
        return ran.stdout

    for command, expected in commands():
        if command == "akgp report":
            output("dvc repro")
        if command == "dvc status":
            recipe.write_text(
                recipe.read_text(encoding="utf-8").replace("macs: 0.25", "macs: 0.5"), encoding="utf-8"
            )
            output("akgp recipe use mine")
        printed = figures_left_out(output(command))
        shown, _, end = expected.partition("…\n")
        assert printed[: len(shown.splitlines())] == figures_left_out(shown), command
        # Warnings may follow, such as that int8 is slower on this processor.
        assert not end or figures_left_out(end)[-1] in printed
