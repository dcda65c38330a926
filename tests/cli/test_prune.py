"""`akgp prune --dry-run` on networks of torchvision's and of one's own, without a workspace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from akgp.cli import app

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def run(*words: str) -> str:
    result = RUNNER.invoke(app, ["prune", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_layer_has_a_line() -> None:
    shown = run("cifar_resnet20", "--dry-run", "--input", "3,32,32", "--scope", "all").splitlines()
    assert shown[0].split() == ["layer", "dense", "pruned", "stays", "dense", "because"]
    assert shown[1].split() == ["conv1", "16", "8"]
    assert any(line.startswith("linear ") and line.endswith("is the network's output") for line in shown)
    assert shown[-1].startswith("MACs: 10,2") and shown[-1].endswith("kept (25.3%)")


def test_a_network_of_ones_own_as_json(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\n\n"
        "def small(num_classes, in_channels):\n"
        "    head = nn.Linear(32 * 36, num_classes)\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, 32, 3), nn.ReLU(), nn.Flatten(), head)\n"
    )
    shown = json.loads(run("own:small", "--dry-run", "--input", "1,8,8", "--macs", "0.5", "--json"))
    first, last = shown["layers"]
    assert (first["name"], first["dense_width"], first["pruned_width"], first["reason"]) == ("0", 32, 16, "")
    assert (
        last["reason"] == "is the network's output" and shown["pruned"]["macs"] * 2 == shown["dense"]["macs"]
    )


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("TwoTensors", ("3,8,8", "5")),
        ("TwoTensors", ("numbers=5", "image=3,8,8")),
        ("OneDict", ("image=3,8,8", "numbers=5")),
    ],
)
def test_a_network_of_several_inputs(name: str, inputs: tuple[str, str]) -> None:
    words = [f"tests.support.several_inputs:{name}", "--dry-run", "--json"]
    shown = json.loads(run(*words, *(word for each in inputs for word in ("--input", each))))
    assert [row["pruned_width"] for row in shown["layers"]] == [8, 8, 16, 10]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "only --dry-run"),
        (["--dry-run", "--input", "32"], "must be channels,height,width such as 3,224,224"),
        (["--dry-run", "--input", "3,0,8"], "must be sizes such as 3,224,224"),
        (
            ["--dry-run", "--input", "3,8,8", "--input", "m=x"],
            "must be sizes such as 3,224,224, got 'm=x'",
        ),
        (["--dry-run", "--input", "3,8,8", "--input", "m=5"], "each needs a name of its own or none"),
        (["--dry-run", "--ratio", "1.5"], "less than 1"),
        (["--dry-run", "--bytes", "500kB"], "must be a number of bytes such as 131072 or 128k, got '500kB'"),
        (
            ["--dry-run", "--ratio", "0.5", "--macs", "0.5"],
            "exactly one of ratio, macs, params, bytes",
        ),
    ],
)
def test_wrong_usage_is_said(words: list[str], message: str) -> None:
    result = RUNNER.invoke(app, ["prune", "cifar_resnet20", *words])
    assert result.exit_code == 2 and message in " ".join(result.output.replace("│", " ").split())
