"""Channels of zeros for faster kernels: the same logits bit for bit, and the same file when taken out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from akgp.deployment.package import NOTED, align
from akgp.params import Quantize
from akgp.quantization import aligned, export_onnx, quantize, unaligned, verify
from akgp.quantization.description import describe
from akgp.quantization.operations import Convolution
from akgp.quantization.weight_sharing import share_weights
from akgp.runtimes import RUNTIMES
from tests.support.onnx_files import logits_of

IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A depthwise convolution of 24 channels with a gate, as MobileNetV3 has it, and `tail` behind."""

    def __init__(self, tail: nn.Module | None = None, wide: int = 24, groups: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.expand = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, wide, 1, groups=groups)
        self.deep = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.squeeze, self.excite = nn.Conv2d(wide, 8, 1), nn.Conv2d(8, wide, 1)
        self.tail = tail or nn.Sequential(nn.Conv2d(wide, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.LazyLinear(5)
        self(IMAGES[:1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.hardswish(self.deep(nn.functional.hardswish(self.expand(self.stem(x).relu()))))
        gate = self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu())
        return self.head(self.tail(x * nn.functional.hardsigmoid(gate)))


def int8(model: nn.Module, folder: Path) -> onnx.ModelProto:
    export_onnx(model.eval(), IMAGES[:1], folder / "float.onnx")
    quantize(folder / "float.onnx", IMAGES, Quantize(), folder / "int8.onnx")
    return onnx.load(str(folder / "int8.onnx"))


def noted(model: onnx.ModelProto) -> dict[str, int]:
    return {
        name: count
        for each in model.metadata_props
        if each.key == NOTED
        for name, count in json.loads(each.value).items()
    }


def constants(model: onnx.ModelProto) -> dict[str, tuple[np.ndarray, np.dtype]]:
    arrays = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    return {name: (array, array.dtype) for name, array in arrays.items()}


def test_a_gated_block_and_the_image_are_filled_up_and_emptied_again(tmp_path: Path) -> None:
    plain = int8(Block(), tmp_path)
    made = aligned(plain)
    onnx.checker.check_model(made)
    assert noted(made) == {"input": 3, "expand": 24, "excite": 24}
    shapes = {name: array.shape for name, (array, _) in constants(made).items()}
    assert shapes["stem.weight_quantized"] == (16, 4, 3, 3)
    assert shapes["deep.weight_quantized"] == (32, 1, 3, 3)
    assert shapes["squeeze.weight_quantized"] == (8, 32, 1, 1)
    assert (
        np.array_equal(logits_of(made, IMAGES), logits_of(plain, IMAGES))
        and len(np.unique(logits_of(plain, IMAGES))) > 5
    )
    again = unaligned(made)
    assert list(again.graph.node) == list(plain.graph.node) and not noted(again)
    np.testing.assert_equal(constants(again), constants(plain))
    assert aligned(made) == made
    assert noted(aligned(int8(Block(wide=32), tmp_path))) == {"input": 3}


class Narrow(nn.Module):
    """A residual stream of 8 channels, which 16 filters each would carry sooner, and a map of 4."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.one = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.two, self.map = nn.Conv2d(12, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.out, self.head = nn.Conv2d(4, 8, 1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = (x + self.two(self.one(x).relu())).relu()
        return self.head(self.out(self.map(x).relu()).relu().mean((2, 3)))


def test_few_filters_of_windows_are_filled_up_with_all_that_they_are_added_to(tmp_path: Path) -> None:
    plain = int8(Narrow(), tmp_path)
    made = aligned(plain)
    assert noted(made) == {"input": 3, "stem": 8, "one": 12, "two": 8}
    assert np.array_equal(logits_of(made, IMAGES), logits_of(plain, IMAGES))
    np.testing.assert_equal(constants(unaligned(made)), constants(plain))


class Viewed(nn.Module):
    """A gate of fully connected layers, and shapes of three and four axes on the way."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.gate = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 16)
        self.out, self.head = nn.Conv2d(16, 8, 1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = x * self.gate(x.mean((2, 3))).sigmoid().view(-1, 16, 1, 1)
        return self.head(nn.functional.max_pool1d(self.out(x).reshape(-1, 8, 64), 64).flatten(1))


class Twice(nn.Module):
    """A layer that is used twice, by which inputs of other widths would have to be taken."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.one = nn.Conv2d(3, wide, 1), nn.Conv2d(wide, wide, 3, padding=1)
        self.deep, self.head = nn.Conv2d(wide, wide, 3, padding=1, groups=wide), nn.Linear(wide, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        return self.head((self.one(self.one(x).relu()) + self.one(self.deep(x))).mean((2, 3)))


@pytest.mark.parametrize(
    ("network", "expected"),
    [(Viewed, {"input": 3}), (lambda: Twice(8), {}), (lambda: Twice(24), {})],
    ids=["viewed", "narrow and used twice", "depthwise and used twice"],
)
def test_shapes_and_layers_that_are_used_twice_stay(
    network: Callable[[], nn.Module], expected: dict[str, int], tmp_path: Path
) -> None:
    plain = int8(network(), tmp_path)
    made = aligned(plain)
    assert noted(made) == expected
    assert np.array_equal(logits_of(made, IMAGES), logits_of(plain, IMAGES))


def test_exports_are_written_from_the_graph_without_zeros(tmp_path: Path) -> None:
    plain = int8(Block(), tmp_path)
    onnx.save(aligned(plain), str(tmp_path / "aligned.onnx"))
    from akgp.deployment.targets import Int8File

    ours, expected = Int8File(tmp_path / "aligned.onnx").description, describe(plain)
    for one, other in zip(ours.operations, expected.operations, strict=True):
        assert type(one) is type(other) and one.output.shape == other.output.shape
        if isinstance(one, Convolution):
            assert np.array_equal(one.weight, other.weight) and np.array_equal(one.bias, other.bias)
    assert verify(tmp_path / "aligned.onnx", IMAGES).equal


class Joined(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x.relu()], 1).mean((2, 3))


class Scaled(nn.Module):
    """Channels told apart by constants behind a sum, which no layer takes in."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("slope", torch.linspace(0.1, 1, 24).reshape(1, 24, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.maximum(x + x.abs(), self.slope).mean((2, 3))


@pytest.mark.parametrize(
    "block",
    [
        lambda: Block(Joined()),
        lambda: Block(nn.Flatten()),
        lambda: Block(Scaled()),
        lambda: Block(nn.Sequential(nn.Conv2d(24, 16, 1, groups=2), nn.Flatten())),
        lambda: Block(groups=2),
        lambda: Block(nn.Sequential(nn.Conv2d(24, 48, 3, groups=24), nn.Flatten())),
    ],
    ids=["concatenated", "flattened", "constants", "grouped", "of groups", "multiplied"],
)
def test_channels_that_do_not_stay_apart_are_left_alone(
    block: Callable[[], nn.Module], tmp_path: Path
) -> None:
    plain = int8(block(), tmp_path)
    made = aligned(plain)
    assert "expand" not in noted(made)
    assert np.array_equal(logits_of(made, IMAGES), logits_of(plain, IMAGES))


def test_only_onnxruntimes_files_are_filled_up(tmp_path: Path) -> None:
    int8(Block(), tmp_path)
    file = tmp_path / "int8.onnx"
    before = file.read_bytes()
    align(file, RUNTIMES["openvino"])
    assert file.read_bytes() == before
    float_file = (tmp_path / "float.onnx").read_bytes()
    align(tmp_path / "float.onnx", RUNTIMES["onnxruntime"])
    assert onnx.load(str(tmp_path / "float.onnx")) == onnx.load_from_string(float_file)
    align(file, RUNTIMES["onnxruntime"])
    assert noted(onnx.load(str(file)))


def test_zeros_draw_no_shared_weights_to_them(tmp_path: Path) -> None:
    plain, file = int8(Block(), tmp_path), tmp_path / "aligned.onnx"
    onnx.save(aligned(plain), str(file))
    share_weights(tmp_path / "int8.onnx", 8, tmp_path / "shared.onnx")
    share_weights(file, 8, file)
    assert noted(onnx.load(str(file))) == {"input": 3, "expand": 24, "excite": 24}
    assert np.array_equal(logits_of(file, IMAGES), logits_of(tmp_path / "shared.onnx", IMAGES))
