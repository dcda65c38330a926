from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from akgp.data import DataError
from akgp.deployment.predict import Classifier
from akgp.runtimes import GraphError

CLASSES = ["dark", "middle", "bright"]
MEAN, STD = 0.4, 0.2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network of logits (−10 z, 0, 10 z), where z is the mean of the normalised pixels."""
    from onnx import TensorProto, helper, save

    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Reshape", ["mean", "shape"], ["column"]),
        helper.make_node("MatMul", ["column", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [
            helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 1]),
            helper.make_tensor("weights", TensorProto.FLOAT, [1, 3], [-10, 0, 10]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, tmp_path / "model.onnx")
    content = {"classes": CLASSES, "image_size": [8, 8], "channels": 1, "mean": [MEAN], "std": [STD]}
    (tmp_path / "preprocessing.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize(("gray", "size"), [(0, (8, 8)), (102, (8, 8)), (255, (31, 17))])
def test_probabilities_follow_the_preprocessing(folder: Path, gray: int, size: tuple[int, int]) -> None:
    file = folder / "image.png"
    Image.fromarray(np.full((*size, 3), gray, np.uint8)).save(file)
    z = (gray / 255 - MEAN) / STD
    exponents = [math.exp(10 * factor * z) for factor in (-1, 0, 1)]
    expected = {name: each / sum(exponents) for name, each in zip(CLASSES, exponents, strict=True)}
    guesses = Classifier(folder)(file)
    assert dict(guesses) == pytest.approx(expected, rel=1e-4)
    shares = [share for _, share in guesses]
    assert shares == sorted(shares, reverse=True)


def test_logits_and_classes_must_be_as_many(folder: Path) -> None:
    content = json.loads((folder / "preprocessing.json").read_text()) | {"classes": CLASSES[:2]}
    (folder / "preprocessing.json").write_text(json.dumps(content))
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "image.png")
    with pytest.raises(GraphError, match=r"image.png: the network gives \[3\] logits for 2 classes"):
        Classifier(folder)(folder / "image.png")


def test_what_is_missing_is_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.png"):
        Classifier(folder)(folder / "nowhere.png")
    (folder / "text.png").write_text("not an image")
    with pytest.raises(DataError, match=r"text\.png: the image can't be decoded"):
        Classifier(folder)(folder / "text.png")
    (folder / "model.onnx").write_bytes(b"half a file")
    with pytest.raises(
        DataError, match=r"model\.onnx: onnxruntime cannot load it: .*; `dvc repro quantize` writes"
    ):
        Classifier(folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(DataError, match=r"model\.onnx: no such file; `dvc repro` writes it"):
        Classifier(folder)
    (folder / "preprocessing.json").write_text("{}")
    with pytest.raises(
        DataError, match=r"preprocessing\.json: must hold classes, image_size, channels, mean, std"
    ):
        Classifier(folder)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("not JSON", r"not valid JSON \("),
        ('{"classes": ["a"], "image_size": 8, "channels": 1, "mean": [0], "std": [1]}', "image_size: "),
        ('{"classes": ["a"], "image_size": [8, 8], "channels": 1, "mean": [0], "std": ["?"]}', r"std\.0: "),
    ],
)
def test_preprocessing_that_cannot_be_used_is_one_line(folder: Path, written: str, said: str) -> None:
    (folder / "preprocessing.json").write_text(written)
    with pytest.raises(
        DataError, match=rf"preprocessing\.json: {said}.*; `dvc repro quantize` writes it again"
    ) as raised:
        Classifier(folder)
    assert "\n" not in str(raised.value)
