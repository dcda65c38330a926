"""What an int8 file says of itself, and the program in docs/how-to/deploy.md, which needs nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

import akgp.data
from akgp.data import Preprocessing
from akgp.deployment.package import digest, write_metadata
from akgp.deployment.predict import Classifier
from akgp.params import Quantize
from akgp.quantization import export_onnx, quantize

PROGRAM = re.search(
    r"```python\n(.*?)```",
    (Path(__file__).parents[2] / "docs/how-to/deploy.md").read_text(encoding="utf-8"),
    re.S,
)
SUMMARY = {
    "classes": ["ant", "bée", "c, d"],
    "image_size": [10, 12],
    "channels": 3,
    "mean": [0.41, 0.52, 0.47],
    "std": [0.21, 0.23, 0.29],
    "bit_depth": 12,
}


def preprocessing(content: dict[str, Any]) -> Preprocessing:
    return Preprocessing.model_validate_json(json.dumps(content))


def int8_file(folder: Path, channels: int) -> Path:
    torch.manual_seed(0)
    height, width = SUMMARY["image_size"]
    model = nn.Sequential(nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 80, 3)).eval()
    images = torch.randn(32, channels, height, width)
    export_onnx(model, images, folder / "fp32.onnx")
    quantize(folder / "fp32.onnx", images, Quantize(), folder / "model.onnx")
    about = SUMMARY | {"channels": channels, "mean": [0.41, 0.52, 0.47][:channels], "std": [0.2] * channels}
    write_metadata(folder / "model.onnx", preprocessing(about), "CC0-1.0")
    return folder / "model.onnx"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployed")
    int8_file(folder, 3)
    return folder


def pictures(folder: Path) -> list[str]:
    """Files in the modes that cameras, scanners and programs leave; returns their names."""
    generator = np.random.default_rng(0)

    def values(*shape: int) -> np.ndarray:
        coarse = generator.integers(0, 256, (3, 4, *shape[2:]), dtype=np.uint8)
        return np.kron(coarse, np.ones((9, 7, *[1] * len(shape[2:])), np.uint8))[: shape[0], : shape[1]]

    rgb, rgba, gray = (Image.fromarray(values(27, 23, *depth)) for depth in ((3,), (4,), ()))
    palette = rgb.quantize(16)
    palette.info["transparency"] = 3
    turned = rgb.getexif()
    turned[0x0112] = 6
    made = {
        "odd.png": rgb,
        "one pixel.png": rgb.resize((1, 1)),
        "as it is.png": rgb.resize((12, 10)),
        "gray.png": gray,
        "alpha.png": rgba,
        "gray and alpha.png": rgba.convert("LA"),
        "palette.png": rgb.quantize(16),
        "transparent palette.png": palette,
        "two tones.png": gray.convert("1"),
        "cmyk.jpg": rgb.convert("CMYK"),
        "twelve bits.png": Image.fromarray(values(27, 23).astype(np.uint16) * 16),
        "photo.webp": rgb,
        "animation.gif": rgb,
    }
    for name, image in made.items():
        image.save(folder / name)
    rgb.save(folder / "turned.jpg", exif=turned)
    rgb.save(folder / "moving.gif", save_all=True, append_images=[rgba.convert("RGB")])
    return [*made, "turned.jpg", "moving.gif"]


@pytest.mark.parametrize("channels", [3, 1])
def test_the_program_equals_predict_on_every_image(tmp_path: Path, channels: int) -> None:
    assert PROGRAM is not None and sum(map(bool, PROGRAM[1].split("\n"))) == 15
    int8_file(tmp_path, channels)
    names = pictures(tmp_path)
    alone = "assert not {'akgp', 'torch', 'onnx'} & set(sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-Xutf8", "-c", PROGRAM[1] + alone, *names],
        cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", check=True,
    )  # fmt: skip
    classify = Classifier(tmp_path / "model.onnx")
    guesses = [(name, *classify(tmp_path / name)[0]) for name in names]
    assert ran.stdout.splitlines() == [f"{name}: {best} {100 * share:.1f} %" for name, best, share in guesses]
    assert len({round(share, 3) for _, _, share in guesses}) > 5  # images are told apart


def test_a_file_says_what_its_user_needs(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    about = {each.key: json.loads(each.value) for each in model.metadata_props}
    assert {key: about[key] for key in ("classes", "image_size", "bit_depth", "channels")} == {
        key: SUMMARY[key] for key in ("classes", "image_size", "bit_depth", "channels")
    }
    assert (about["color"], about["layout"], about["license"]) == ("RGB", "NCHW", "CC0-1.0")
    assert about["akgp_version"] == akgp.__version__ and about["digest"] == digest(model)
    assert about["normalization"] == "(pixel / 255 - mean) / std" and "bilinear" in about["resize"]
    assert [each.domain for each in model.opset_import] == [""]
    write_metadata(folder / "model.onnx", preprocessing(SUMMARY), None)
    again = onnx.load(folder / "model.onnx")
    assert {each.key: each.value for each in again.metadata_props}["license"] == '"not stated"'
    assert len(again.metadata_props) == len(about) and digest(again) == about["digest"]


def test_a_file_without_metadata_needs_the_preprocessing_beside(folder: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    Image.new("RGB", (9, 9), (10, 200, 90)).save(image)
    model = onnx.load(folder / "model.onnx")
    write_metadata(folder / "model.onnx", preprocessing(SUMMARY), None)
    expected = Classifier(folder)(image)
    model.ClearField("metadata_props")
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(
        akgp.data.DataError, match=r"preprocessing\.json: no such file; `dvc repro` writes it"
    ):
        Classifier(tmp_path)
    (tmp_path / "preprocessing.json").write_text(json.dumps(SUMMARY))
    assert Classifier(tmp_path)(image) == expected
