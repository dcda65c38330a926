"""The description of an int8 file, against the file and the simulator; what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.params import Quantize
from akgp.quantization import QuantizationError, export_onnx, quantize
from akgp.quantization import operations as ops
from akgp.quantization.description import Description, describe
from akgp.quantization.simulator import simulate

IMAGES = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Kinds(nn.Module):
    """All operations that an export knows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.depthwise = nn.Conv2d(12, 12, 3, groups=12, padding=1, stride=2)
        self.grouped = nn.Conv2d(12, 12, 3, groups=3, padding=2, dilation=2, bias=False)
        self.gate = nn.Conv2d(12, 12, 1)
        self.out = nn.Linear(12 * 2 * 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.depthwise(F.hardswish(self.stem(x))))
        x = x + self.grouped(x)
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        shuffled = x.reshape(-1, 3, 4, 4, 4).transpose(1, 2).reshape(-1, 12, 4, 4)
        a, b = shuffled[:, :6], x[:, 6:]
        x = torch.cat([F.max_pool2d(a, 2), F.avg_pool2d(b, 3, 2, 1)], 1)
        return self.out(x.flatten(1))


def int8_file(model: nn.Module, folder: Path, images: Tensor = IMAGES) -> Path:
    torch.manual_seed(0)
    export_onnx(model.eval(), images, folder / "fp32.onnx")
    quantize(folder / "fp32.onnx", images, Quantize(), folder / "int8.onnx")
    return folder / "int8.onnx"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    torch.manual_seed(0)
    return onnx.load(int8_file(Kinds(), tmp_path_factory.mktemp("kinds")))


@pytest.fixture(scope="module")
def kinds(file: onnx.ModelProto) -> Description:
    return describe(file)


def of_kind(kinds: Description, kind: type) -> list:
    return [each for each in kinds.operations if isinstance(each, kind)]


def test_every_operation_is_listed_with_its_shapes(kinds: Description) -> None:
    listed = [
        (type(each).__name__, each.output.shape)
        for each in kinds.operations
        if not isinstance(each, ops.Reshape) or each.output.shape != each.input.shape
    ]
    assert (kinds.input.shape, kinds.output.shape) == ((3, 8, 8), (5,))
    expected = [
        *[("Convolution", (12, 8, 8)), ("Table", (12, 8, 8)), ("Convolution", (12, 4, 4))],
        *[("Convolution", (12, 4, 4)), ("Add", (12, 4, 4)), ("GlobalAveragePool", (12, 1, 1))],
        *[("Convolution", (12, 1, 1)), ("Table", (12, 1, 1)), ("Mul", (12, 4, 4))],
        *[("Select", (6, 4, 4)), ("Select", (6, 4, 4)), ("MaxPool", (6, 2, 2))],
        *[("AveragePool", (6, 2, 2)), ("Concat", (12, 2, 2)), ("Reshape", (48,)), ("Gemm", (5,))],
    ]
    assert sorted(listed) == sorted(expected)
    names = [each.output.name for each in kinds.operations]
    assert len(set(names)) == len(names) and names[-1] == kinds.output.name


def test_convolutions_by_their_fields_are_the_simulators(file: onnx.ModelProto, kinds: Description) -> None:
    """Weights, bias, padding, groups and factors are enough to compute each convolution's integers."""
    simulated = simulate(file, IMAGES.numpy())
    integers = {step.output.name: step.output.q for step in simulated.steps}
    convolutions = of_kind(kinds, ops.Convolution)
    assert [(each.groups, each.strides, each.dilations) for each in convolutions] == [
        (1, (1, 1), (1, 1)),
        (12, (2, 2), (1, 1)),
        (3, (1, 1), (2, 2)),
        (1, (1, 1), (1, 1)),
    ]
    for each in convolutions:
        top, left, bottom, right = each.pads
        x = torch.from_numpy(integers[each.input.name].astype(np.int64) - each.input.zero)
        sums = F.conv2d(
            F.pad(x, (left, right, top, bottom)).double(),
            torch.tensor(each.weight).double(),
            torch.tensor(each.bias).double(),
            stride=each.strides,
            dilation=each.dilations,
            groups=each.groups,
        ).numpy()
        steps = np.rint(sums.astype(np.float32) * each.factors[:, None, None]) + each.output.zero
        assert (steps.clip(0, 255) == integers[each.output.name]).all(), each.name


def test_tables_are_the_simulators(file: onnx.ModelProto, kinds: Description) -> None:
    integers = {step.output.name: step.output.q for step in simulate(file, IMAGES.numpy()).steps}
    assert sorted(each.function for each in of_kind(kinds, ops.Table)) == ["HardSwish", "Sigmoid"]
    for each in of_kind(kinds, ops.Table):
        assert (each.table[integers[each.input.name]] == integers[each.output.name]).all()
    (concat,) = of_kind(kinds, ops.Concat)
    parts = [table[integers[x.name]] for x, table in zip(concat.inputs, concat.tables, strict=True)]
    assert (np.concatenate(parts, 1) == integers[concat.output.name]).all()


def test_moved_channels_are_the_simulators(file: onnx.ModelProto, kinds: Description) -> None:
    """Half of a shuffle, and channels side by side."""
    integers = {step.output.name: step.output.q for step in simulate(file, IMAGES.numpy()).steps}
    shuffled, half = sorted(of_kind(kinds, ops.Select), key=lambda each: each.index[0])
    assert shuffled.index.tolist() == [0, 4, 8, 1, 5, 9] and shuffled.begin is None
    assert half.begin == 6 and len(half.index) == 6
    for each in (shuffled, half):
        assert (integers[each.input.name][:, each.index] == integers[each.output.name]).all()


class Refused(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.conv, self.out = kind, nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.kind == "Softmax":
            return torch.softmax(self.out(x.mean((2, 3))), 1)
        if self.kind == "Div":
            return self.out((x / x.exp()).mean((2, 3)))  # by what stays in float
        if self.kind == "Scale":
            x = F.relu(x) * torch.arange(1, 1 + x.shape[3]).float()  # by column
            return self.out(x.mean((2, 3)))
        if self.kind == "Transpose":
            x = x.transpose(1, 2).mean(3)
            return self.out(F.pad(x[:, :, :4], (0, 0))[:, 0])
        return self.out((x + x.mean((2, 3), keepdim=True)).mean((2, 3)))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("Softmax", r"node_softmax: Softmax cannot be exported, only these operations"),
        (
            "Transpose",
            r"node_mean: ReduceMean in floating point cannot be exported, only .* int8 can: Abs, ",
        ),
        ("Div", r"div: Div cannot be exported"),
        ("Add", r"add_\d+: Add of two shapes cannot be exported"),
        ("Scale", r"mul_\d+: Mul of a constant tensor cannot be exported"),
    ],
)
def test_other_operations_are_refused_by_name(kind: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match=message):
        describe(onnx.load(int8_file(Refused(kind), tmp_path)))


def test_an_open_size_and_several_inputs_are_refused(file: onnx.ModelProto) -> None:
    changed = onnx.ModelProto()
    changed.CopyFrom(file)
    changed.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(QuantizationError, match=r"images must be fixed, got input of \[3, 0, 8\]"):
        describe(changed)
    changed.graph.input.add().name = "mask"
    with pytest.raises(QuantizationError, match="must have one input, the images, got input, mask"):
        describe(changed)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (nn.ELU(), "Elu"),
        (nn.ELU(0.25), "Elu alpha 0.25"),
        (nn.Hardsigmoid(), "HardSigmoid"),
        (nn.GELU(), "Gelu"),
        (nn.GELU("tanh"), "Gelu approximate b'tanh'"),
    ],
    ids=str,
)
def test_a_function_is_named_with_what_is_unusual_of_it(
    function: nn.Module, name: str, tmp_path: Path
) -> None:
    """Runtimes compute it by its name alone."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), function, nn.Conv2d(4, 3, 6), nn.Flatten())
    (table,) = of_kind(describe(onnx.load(int8_file(model, tmp_path))), ops.Table)
    assert table.function == name
