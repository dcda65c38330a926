"""`akgp sensitivity NETWORK`: any trained network and labelled images, without a workspace."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from akgp import artifacts
from akgp.cli import app
from akgp.data import DataError
from akgp.data.sampling import normalized, sampled
from akgp.evaluation import count
from akgp.models import cifar_resnet
from akgp.params import Data
from akgp.pruning import without_blocks
from akgp.stages.sensitivity import top1

RUNNER = CliRunner()
OWN = """
from akgp.models import cifar_resnet

def net(num_classes, in_channels):
    return cifar_resnet(8, (8, 8, 16), num_classes, in_channels)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images of three classes in folders, a network's function, its checkpoint and its folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    random = np.random.RandomState(0)
    for name in ("a", "b", "c"):
        Path("images", name).mkdir(parents=True)
        for number in range(6):
            pixels = random.randint(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(Path("images", name, f"{number}.png"))
    Path("own_sensitivity.py").write_text(OWN)
    torch.manual_seed(0)
    network = cifar_resnet(8, (8, 8, 16), 3, 1)
    torch.save(network.state_dict(), "weights.pt")
    artifacts.save(network, "saved")
    return tmp_path


@pytest.mark.parametrize("network", [("own_sensitivity:net", "--weights", "weights.pt"), ("saved",)])
def test_a_table_a_figure_and_a_csv(network: tuple[str, ...]) -> None:
    options = ("--data", "images", "--gray", "--ratios", "0.5", "--round-to", "4", "--plot", "out/here.png")
    result = RUNNER.invoke(app, ["sensitivity", *network, *options, "--json"])
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert shown["images"] == 18 and shown["points"] == shown["all_points"] == 4
    model, example = artifacts.load("saved"), torch.zeros(1, 1, 8, 8)
    images, _ = sampled(Data(source="image_folder", path="images", color="gray"), 18, seed=0)
    left = without_blocks(model, example, ["layer1.0"]).model
    assert shown["blocks"] == [
        {
            "block": "layer1.0",
            "top1": top1(left, normalized(images, None, None), torch.device("cpu")),
            "macs": count(left, example).macs / count(model, example).macs,
        }
    ]
    with Path("out/here.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows] == [f"layer{stage}.0.conv1" for stage in (1, 2, 3)]
    assert [int(row["pruned_width"]) for row in rows] == [4, 4, 8]
    assert [float(row["top1"]) for row in rows] == [row["points"][0]["top1"] for row in shown["layers"]]
    assert Path("out/here.png").read_bytes().startswith(b"\x89PNG")


def test_a_limit_of_time_shows_what_was_measured() -> None:
    options = ("--data", "images", "--gray", "--ratios", "0.25,0.5", "--round-to", "4", "--seconds", "0")
    result = RUNNER.invoke(app, ["sensitivity", "saved", *options])
    lines = result.stdout.splitlines()
    assert lines[1].startswith("layer1.0 ") and lines[4].startswith("layer1.0.conv1")
    assert lines[5].startswith("dense: ")
    assert lines[-1].startswith("stopped by --seconds after 3 of 7 networks")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("saved",), "needs labelled images"),
        (("own_sensitivity:net", "--data", "images", "--gray"), "random weights accuracy says nothing"),
        (("saved", "--data", "images", "--gray", "--weights", "weights.pt"), "a folder has its weights"),
        (("saved", "--data", "images/a"), "images/a"),
        (("saved", "--data", "images"), "takes images of 1 channel(s): give --gray"),
        (("saved", "--data", "images", "--gray", "--mean", "0.1,0.2"), "mean must be 1 number"),
        (("saved", "--data", "images", "--gray", "--criterion", "taylor"), "taylor looks at images"),
        (("saved", "--data", "images", "--gray", "--scope", "none"), "scope: got"),
        (("--data", "images"), "is for a network that is named"),
        (("--scope", "all"), "--scope: is for a network that is named"),
        (("--gray",), "--gray: is for a network that is named"),
        (
            ("saved", "--data", "images", "--gray", "--plot", "x.xyz"),
            "must end in .svg, .png, .pdf, got x.xyz",
        ),
    ],
)
def test_one_line_says_what_is_wrong(words: tuple[str, ...], message: str) -> None:
    result = RUNNER.invoke(app, ["sensitivity", *words])
    assert result.exit_code and message in result.output + str(result.exception)


def test_images_are_drawn_from_all_and_classes_are_those_of_all() -> None:
    params = Data(source="image_folder", path="images", color="gray")
    images, classes = sampled(params, 5, seed=0)
    assert len(images) == 5 and classes == ("a", "b", "c")
    again, _ = sampled(params, 5, seed=0)
    assert torch.equal(images.pixels, again.pixels)
    drawn = {int(label) for seed in range(8) for label in sampled(params, 2, seed)[0].labels}
    assert drawn == {0, 1, 2}


def test_what_cannot_be_read_is_left_out_where_that_is_asked_for() -> None:
    Path("images", "a", "9.png").write_text("no image")
    with pytest.raises(DataError, match=r"9\.png: .*`data\.on_bad_rows: skip`"):
        sampled(Data(source="image_folder", path="images", color="gray"), 99, seed=0)
    words = ("sensitivity", "saved", "--data", "images", "--gray", "--ratios", "0.5")
    assert RUNNER.invoke(app, [*words, "--on-bad-rows", "skip"]).exit_code == 0
    pq.write_table(pa.table({"image": [b"", b"x"], "label": [None, 1]}), "a.parquet")
    with pytest.raises(DataError, match="in the train part, 1 bad"):  # the other one has no label
        sampled(Data(source="parquet", path="a.parquet", on_bad_rows="skip"), 9, seed=0)


def test_classes_are_those_of_all_parts() -> None:
    """Those drawn from have no image of b; files are not read for the names of the others."""
    Path("parted").mkdir()
    Path("images").rename("parted/train")
    for name in ("a", "c"):
        Path("parted", "test", name).mkdir(parents=True)
        Path("parted", "train", name, "0.png").rename(Path("parted", "test", name, "0.png"))
    Path("parted", "train", "b", "0.png").write_text("no image")
    images, classes = sampled(Data(source="image_folder", path="parted", color="gray"), 9, seed=0)
    assert classes == ("a", "b", "c") and images.labels.tolist() == [0, 2]
