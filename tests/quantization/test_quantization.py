"""Exported graphs against PyTorch; quantized ones against the arithmetic that their own file states."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from akgp.models import ChannelMap, cifar_resnet
from akgp.params import Quantize
from akgp.quantization import (
    Kernels,
    QuantizationError,
    Verification,
    convolution_kernels,
    export_onnx,
    quantize,
    verify,
)
from akgp.quantization.export import for_runtimes
from akgp.quantization.kernels import optimized
from akgp.quantization.simulator import simulate
from akgp.runtimes import GraphError
from akgp.runtimes.onnxruntime import session

SIDE = 16
CONVOLUTIONS = 21  # 19 of ResNet-20 and the two that stand for option A's shortcuts


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """A network whose BatchNorms have seen data, so that activations have natural ranges."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
                module.momentum = None
        for _ in range(2):
            model.train()(torch.randn(32, 3, SIDE, SIDE))
    return model.eval()


def inputs(count: int = 48, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def run(path: Path, x: Tensor) -> Tensor:
    return torch.from_numpy(session(path, threads=1).run(None, {"input": x.numpy()})[0])


@dataclass(frozen=True)
class Files:
    model: nn.Module
    fp32: Path
    int8: Path
    kernels: Kernels


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """ResNet-20, its widths multiples of 8, before and after quantization."""
    folder = tmp_path_factory.mktemp("graphs")
    torch.manual_seed(0)  # whatever tests ran before
    model = lively(cifar_resnet(20, (8, 16, 32)))
    export_onnx(model, inputs(1), folder / "fp32.onnx")
    kernels = quantize(folder / "fp32.onnx", inputs(), Quantize(), folder / "int8.onnx")
    return Files(model, folder / "fp32.onnx", folder / "int8.onnx", kernels)


# The float graph


@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_graphs_hold_no_ballast(files: Files, kind: str) -> None:
    graph = onnx.load(getattr(files, kind))
    (x,), (y,) = graph.graph.input, graph.graph.output
    assert (x.name, y.name) == ("input", "logits")
    dims = x.type.tensor_type.shape.dim
    assert dims[0].dim_param and [dim.dim_value for dim in dims[1:]] == [3, SIDE, SIDE]
    body = graph.graph
    assert not body.value_info
    for part in (graph, body, *body.node, *body.initializer, *body.input, *body.output):
        assert not part.metadata_props and not part.doc_string
    parameters = sum(p.numel() for p in files.model.parameters())
    assert getattr(files, kind).stat().st_size < {"fp32": 4, "int8": 1}[kind] * parameters + 45_000


@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_any_batch_gives_the_same_logits(files: Files, kind: str) -> None:
    file, x = getattr(files, kind), inputs(5, seed=2)
    whole = run(file, x)
    for size in (1, 2):
        parts = torch.cat([run(file, part) for part in x.split(size)])
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)


def test_the_float_graph_computes_what_torch_does(files: Files) -> None:
    x = inputs(seed=2)
    with torch.no_grad():
        torch.testing.assert_close(run(files.fp32, x), files.model(x), rtol=1e-4, atol=1e-4)


def test_a_pruned_shortcut_computes_what_torch_does(tmp_path: Path) -> None:
    """Channels in any order, some of them zeros, widths odd."""
    torch.manual_seed(0)
    model = cifar_resnet(8, {"layer2.0.conv1": 5})
    with torch.no_grad():
        shortcut = model.layer2[0].shortcut
        assert isinstance(shortcut, ChannelMap)
        shortcut.index = torch.randint(-1, 16, (32,), generator=torch.Generator().manual_seed(0))
        lively(model)
        export_onnx(model, inputs(1), tmp_path / "model.onnx")
        torch.testing.assert_close(
            run(tmp_path / "model.onnx", inputs()), model(inputs()), rtol=1e-4, atol=1e-4
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "convolutions"),
    [("mobilenet_v2", 52), ("mobilenet_v3_small", 52), ("shufflenet_v2_x0_5", 56), ("squeezenet1_1", 26),
     ("efficientnet_b0", 81), ("resnet18", 20)],
)  # fmt: skip
def test_torchvisions_networks_are_integers_throughout(name: str, convolutions: int, tmp_path: Path) -> None:
    from torchvision import models

    x = torch.randn(48, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    model = models.get_model(name, num_classes=10)
    model.train()(x)  # BatchNorms see data
    export_onnx(model.eval(), x[:1], tmp_path / "fp32.onnx")
    with torch.no_grad():
        torch.testing.assert_close(run(tmp_path / "fp32.onnx", x[:4]), model(x[:4]), rtol=1e-3, atol=1e-3)
    kernels = quantize(tmp_path / "fp32.onnx", x, Quantize(), tmp_path / "int8.onnx")
    assert kernels == Kernels(integer=convolutions, floating=0)
    assert verify(tmp_path / "int8.onnx", x) == Verification(images=48, floating={}, equal=True)


def test_a_normalization_before_its_convolution_is_an_integer_convolution(tmp_path: Path) -> None:
    """As in DenseNet and pre-activation ResNets: it cannot be folded into a convolution."""

    class Preactivated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.out = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
            self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))
            self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for norm, conv in zip(self.norms, self.convs, strict=False):
                x = x + conv(torch.relu(norm(x)))
            return self.out(torch.relu(self.norms[2](x)).mean((2, 3)))

    model = Preactivated()
    lively(model)
    with torch.no_grad():
        model.norms[0].weight[:3] = torch.tensor([0.0, -1.0, 1e-7])
    file, x = tmp_path / "int8.onnx", inputs()
    export_onnx(model, inputs(1), tmp_path / "fp32.onnx")
    assert quantize(tmp_path / "fp32.onnx", x, Quantize(), file) == Kernels(integer=6, floating=0)
    with torch.no_grad():
        torch.testing.assert_close(run(tmp_path / "fp32.onnx", x), model(x), rtol=1e-4, atol=1e-4)
        assert (run(file, x) - model(x)).abs().mean() < 0.05 * model(x).abs().mean()
    assert verify(file, x) == Verification(images=48, floating={}, equal=True)


def test_export_changes_nothing() -> None:
    model = cifar_resnet(8, (4, 4, 8)).train()
    model.bn1.eval()
    copy = for_runtimes(model)
    assert not any(isinstance(module, ChannelMap) for module in copy.modules())
    assert [type(module) for name, module in model.named_modules() if name.endswith("shortcut")] == [
        nn.Identity,
        ChannelMap,
        ChannelMap,
    ]
    assert model.training and not model.bn1.training
    x = inputs(4)
    assert torch.equal(copy.eval()(x), model.eval()(x))


class Branching(nn.Module):
    """Its path depends on the values, which no graph of fixed operations can state."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) if bool(x.sum() > 0) else x.amax((2, 3))


def test_a_network_that_cannot_be_traced(tmp_path: Path) -> None:
    with pytest.raises(
        QuantizationError, match=r"Branching cannot be exported to ONNX for input \[N, 3, 16, 16\]: "
    ):
        export_onnx(Branching(), inputs(1), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_weights_that_are_not_float32_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match=r"0.weight is torch.float64, must be float32: call"):
        export_onnx(nn.Sequential(nn.Conv2d(3, 4, 3).double()), inputs(1), tmp_path / "model.onnx")


# The int8 graph


class Qdq:
    """A QDQ graph: constants by name, and what de-quantizes each tensor."""

    def __init__(self, path: Path) -> None:
        body = onnx.load(path).graph
        self.nodes = list(body.node)
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in body.initializer}
        self.made_by = {name: node for node in body.node for name in node.output}

    def quantized(self, name: str) -> tuple[NDArray[Any] | None, NDArray[Any], NDArray[Any], int | None]:
        """Integers (None of an activation), scale, zero point and axis of the tensor `name`."""
        node = self.made_by[name]
        assert node.op_type == "DequantizeLinear", f"{name} comes from {node.op_type}"
        integers, scale, zero = node.input
        axis = {attribute.name: attribute.i for attribute in node.attribute}.get("axis")
        return self.constants.get(integers), self.constants[scale], self.constants[zero], axis


def test_every_convolution_is_integer(files: Files) -> None:
    assert files.kernels == Kernels(integer=CONVOLUTIONS, floating=0)
    assert convolution_kernels(files.fp32) == Kernels(integer=0, floating=CONVOLUTIONS)


def test_between_input_and_logits_nothing_is_float(files: Files) -> None:
    """Shortcuts and the mean over pixels included."""
    nodes = [node.op_type for node in optimized(files.int8).graph.node]
    layers = ("QLinearConv", "QLinearAdd", "QLinearGlobalAveragePool", "QGemm", "Reshape", "Transpose")
    assert sorted(kind for kind in nodes if kind not in layers) == ["DequantizeLinear", "QuantizeLinear"]
    assert nodes.count("Transpose") <= 2


def test_activations_are_unsigned_a_tensor_weights_signed_a_channel(files: Files) -> None:
    graph = Qdq(files.int8)
    convolutions = [node for node in graph.nodes if node.op_type == "Conv"]
    assert len(convolutions) == CONVOLUTIONS
    constants = {t.name: numpy_helper.to_array(t) for t in onnx.load(files.fp32).graph.initializer}
    for node in convolutions:
        _, input_scale, input_zero, _ = graph.quantized(node.input[0])
        assert input_zero.dtype == np.uint8 and input_scale.shape == ()
        integers, scale, zero, axis = graph.quantized(node.input[1])
        assert integers is not None
        assert integers.dtype == np.int8 and axis == 0 and scale.shape == (len(integers),)
        assert not zero.any(), "symmetric"
        float_weight = constants[graph.made_by[node.input[1]].input[0].removesuffix("_quantized")]
        error = np.abs(integers * scale[:, None, None, None] - float_weight)
        assert (error <= scale[:, None, None, None] * (0.5 + 1e-4)).all()
        largest = np.abs(float_weight).max((1, 2, 3))
        enlargement = scale[largest > 0] / (largest[largest > 0] / 127)
        assert (enlargement > 1 - 1e-5).all() and (enlargement < 2 + 1e-5).all()
        if len(node.input) == 3:
            bias, bias_scale, bias_zero, _ = graph.quantized(node.input[2])
            assert bias is not None and bias.dtype == np.int32 and not bias_zero.any()
            np.testing.assert_allclose(bias_scale, input_scale * scale, rtol=1e-5)


def test_integer_kernels_compute_what_the_file_states(files: Files) -> None:
    """Bit for bit the integer simulator's logits, on every processor; those are onnx's own but for ties.

    onnx's reference evaluator follows the file in floats: ties go otherwise there, which moves a few
    logits by a step; sums that saturate or overflow would be far off.
    """
    from onnx.reference import ReferenceEvaluator

    x = inputs(16, seed=2)
    simulated = simulate(onnx.load(files.int8), x.numpy())
    assert not simulated.floating
    np.testing.assert_array_equal(run(files.int8, x).numpy(), simulated.logits)
    (stated,) = ReferenceEvaluator(str(files.int8)).run(None, {"input": x.numpy()})
    _, step, _, _ = Qdq(files.int8).quantized("logits")
    steps = np.abs(simulated.logits - stated) / step
    assert steps.max() < 2.5 and (steps < 0.5).mean() > 0.9


def test_int8_stays_close_to_float(files: Files) -> None:
    x = inputs(seed=3)
    exact, rounded = run(files.fp32, x), run(files.int8, x)
    assert (rounded - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_a_convolution_left_in_float_is_counted(files: Files, tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Once(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{"input": inputs().numpy()}])

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self.batches, None)

    names = [node.name for node in onnx.load(files.fp32).graph.node if node.op_type == "Conv"]
    quantize_static(
        str(files.fp32),
        str(tmp_path / "mixed.onnx"),
        Once(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=names[3:5],
    )
    assert convolution_kernels(tmp_path / "mixed.onnx") == Kernels(integer=CONVOLUTIONS - 2, floating=2)


class Chosen(nn.Module):
    """The largest positions of each channel, of a transposed convolution in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up = nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 4, 2, 2, groups=2)
        self.out = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        largest, _ = self.up(self.stem(x).relu()).flatten(2).topk(3, dim=2)
        return self.out(largest.flatten(1))


def test_operations_of_several_outputs_or_without_a_reference_are_simulated(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = inputs(8)
    export_onnx(Chosen().eval(), x, tmp_path / "float.onnx")
    quantize(tmp_path / "float.onnx", x, Quantize(), tmp_path / "int8.onnx")
    simulation = simulate(onnx.load(str(tmp_path / "int8.onnx")), x.numpy())
    assert {"ConvTranspose", "TopK"} <= set(simulation.floating)
    torch.testing.assert_close(torch.from_numpy(simulation.logits), run(tmp_path / "int8.onnx", x))


def test_quantizing_again_gives_the_same_file(files: Files, tmp_path: Path) -> None:
    """From more images of which as many are used, and from an array."""
    more = torch.cat([inputs(), 100 * inputs(8, seed=5)]).numpy()
    quantize(files.fp32, more, Quantize(images=48), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == files.int8.read_bytes()


@pytest.mark.parametrize("calibration", ["entropy", "percentile"])
def test_other_calibrations(
    files: Files, tmp_path: Path, calibration: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    params = Quantize(calibration=calibration)
    kernels = quantize(files.fp32, inputs(), params, tmp_path / "model.onnx")
    assert kernels == files.kernels and capsys.readouterr().out == ""
    exact, rounded = run(files.fp32, inputs()), run(tmp_path / "model.onnx", inputs())
    assert (rounded - exact).abs().mean() < 0.15 * exact.abs().mean()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (inputs(4) / 0, "calibration images must be finite, got nan or inf"),
        (inputs(4)[:, :2], r"calibration images must be .*3, 16, 16\] with N > 0 as .*fp32.onnx takes, "
         r"got \[4, 2, 16, 16\]"),
        (inputs(4)[..., :8], r"got \[4, 3, 16, 8\]"),
        (inputs(4)[:0], r"with N > 0 .* got \[0, 3, 16, 16\]"),
        (inputs(4)[0], r"got \[3, 16, 16\]"),
    ],
)  # fmt: skip
def test_refused_images(files: Files, tmp_path: Path, images: Tensor, message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        quantize(files.fp32, images, Quantize(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    with pytest.raises(GraphError, match=r"model\.onnx: onnxruntime cannot load it: "):
        quantize(file, inputs(), Quantize(), tmp_path / "int8.onnx")
    file.write_text("no graph")
    with pytest.raises(GraphError, match=r"model\.onnx: onnxruntime cannot load it: "):
        convolution_kernels(file)


class Normalized(nn.Module):
    """Residual blocks of a norm over all channels, whose exported scale and bias they share."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 5)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(1, 8), nn.Conv2d(8, 8, 1)) for _ in range(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("blocks", [6, 12])
def test_copies_of_a_shared_bias_have_names_of_their_own(blocks: int, tmp_path: Path) -> None:
    """The fifth copy of val_12 was called val_124, which is another tensor."""
    torch.manual_seed(0)
    model, images = Normalized(blocks).eval(), torch.randn(16, 3, 8, 8)
    export_onnx(model, images, tmp_path / "float.onnx")
    quantize(tmp_path / "float.onnx", images, Quantize(), tmp_path / "int8.onnx")
    (got,) = session(tmp_path / "int8.onnx", threads=1).run(None, {"input": images.numpy()})
    expected = model(images).detach()
    assert (torch.from_numpy(got) - expected).abs().max() < 0.15 * expected.abs().max()


def test_nothing_is_left_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not all shapes are inferred, onnxruntime writes the graph there, and its weights beside it."""
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    torch.manual_seed(0)
    images = torch.randn(4, 3, 8, 8)
    export_onnx(Normalized(1).eval(), images, tmp_path / "float.onnx")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def infers_nothing(inference: Any) -> bool:
        inference.run_ = False
        return False

    monkeypatch.setattr(SymbolicShapeInference, "_infer_impl", infers_nothing)
    quantize("../float.onnx", images, Quantize(), "../int8.onnx")
    assert (tmp_path / "int8.onnx").exists() and not list(Path().iterdir())
