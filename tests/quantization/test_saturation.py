"""Safe scales against loops and the saturating instruction itself; whole files against the simulator."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from akgp.params import Quantize
from akgp.quantization import QuantizationError, export_onnx, quantize, verify
from akgp.quantization.qdq import Qdq, rows
from akgp.quantization.saturation import quantized, safe_scales
from akgp.runtimes.onnxruntime import session
from tests.support.saturation import saturating_channels

SIDE = 8


def weights(kind: str) -> NDArray[np.float32]:
    """[O, K], such as networks have and such as they hopefully never have."""
    generator = np.random.default_rng(0)
    normal = generator.standard_normal((40, 27))
    made = {
        "normal": normal,
        "heavy tails": normal**5,
        "one sign": np.abs(normal),
        "alike": np.full((3, 8), 0.7),
        "odd K": normal[:, :3],
        "one weight": normal[:, :1],
        "zeros": np.zeros((2, 9)),
        "tiny": normal * 1e-30,
        "huge": normal * 1e30,
        "two scales": normal * np.where(np.arange(40) % 2, 1e-6, 1e3)[:, None],
    }
    return made[kind].astype(np.float32)


KINDS = ("normal", "heavy tails", "one sign", "alike", "odd K", "one weight", "zeros", "tiny", "huge")


def fits(row: NDArray[np.float32], scale: float) -> bool:
    """The rule in a loop: within 8 bits, no two neighbours of one sign above 128."""
    steps = [int(q) for q in np.rint(row.astype(np.float64) / scale)]
    pairs = itertools.pairwise(steps)
    return all(abs(q) <= 127 for q in steps) and not any(abs(a + b) > 128 for a, b in pairs if a * b > 0)


@pytest.mark.parametrize("kind", [*KINDS, "two scales"])
def test_a_scale_is_safe_and_the_least_that_is(kind: str) -> None:
    given = weights(kind)
    scales = safe_scales(given)
    integers = quantized(given, scales)
    assert scales.dtype == np.float32 and integers.dtype == np.int8 and (scales > 0).all()
    assert not len(saturating_channels(integers))
    assert (np.abs(integers * scales[:, None] - given) <= scales[:, None] * (0.5 + 1e-5)).all()
    for row, scale in zip(given, scales, strict=True):
        if row.any():
            enlargement = scale * 127 / np.abs(row).max()
            assert fits(row, float(scale) * (1 + 1e-5)) and 1 - 1e-6 <= enlargement < 2 + 1e-5
            assert not fits(row, float(scale) * (1 - 1e-5)) or enlargement < 1 + 3e-6


def saturated(sums: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.clip(sums, -(2**15), 2**15 - 1)


@pytest.mark.parametrize("start", [0, 1])
def test_sums_in_16_bits_are_exact(start: int) -> None:
    """vpmaddubsw on the worst activations: every pair of products, wherever pairs begin, is exact."""
    given = weights("normal")
    plain = np.rint(given / (np.abs(given).max(1) / 127)[:, None]).astype(np.int64)
    safe = quantized(given, safe_scales(given)).astype(np.int64)
    exact = {}
    for name, integers in (("plain", plain), ("safe", safe)):
        pairs = integers[:, start : start + 26].reshape(40, 13, 2)
        for activations in (255 * (pairs > 0), 255 * (pairs < 0), np.full_like(pairs, 255)):
            sums = (activations * pairs).sum(2)
            exact[name] = exact.get(name, True) and bool((saturated(sums) == sums).all())
    assert exact == {"plain": False, "safe": True}
    assert list(saturating_channels(plain.astype(np.int8)))


class Kinds(nn.Module):
    """Every kind of layer that has an integer kernel: odd, grouped, depthwise, strided, dilated, dense."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 15, 3, padding=1)
        self.grouped = nn.Conv2d(15, 30, 3, groups=3, padding=2, dilation=2)
        self.depthwise = nn.Conv2d(30, 30, 3, groups=30, padding=1, stride=2)
        self.point = nn.Conv2d(30, 30, 1)
        self.gate = nn.Conv2d(30, 30, 1)
        self.hidden = nn.Linear(60, 13)
        self.out = nn.Linear(13, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(torch.relu(self.grouped(torch.relu(self.stem(x)))))
        x = x + nn.functional.hardswish(self.point(x))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        x = torch.cat([nn.functional.max_pool2d(x, 2), nn.functional.avg_pool2d(x, 2)], 1)
        return self.out(nn.functional.relu6(self.hidden(x.mean((2, 3)))))


def inputs(count: int = 40) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def int8_file(model: nn.Module, folder: Path) -> Path:
    export_onnx(model.eval(), inputs(1), folder / "fp32.onnx")
    quantize(folder / "fp32.onnx", inputs(), Quantize(), folder / "int8.onnx")
    return folder / "int8.onnx"


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return int8_file(Kinds(), tmp_path_factory.mktemp("kinds"))


def test_no_weight_of_a_file_saturates_and_all_kernels_are_the_simulators(kinds: Path) -> None:
    graph = Qdq(onnx.load(kinds))
    assert len(graph.weighted()) == 7
    for node in graph.weighted():
        weight = graph.dequantized(node.input[1])
        assert weight is not None
        assert not len(saturating_channels(rows(node, graph.constant(weight.integers)))), node.name
    verified = verify(kinds, inputs())
    assert (verified.images, dict(verified.floating), verified.equal) == (40, {}, True)


def test_pairs_are_neighbours_in_the_kernels_order() -> None:
    """kh, kw, c: a pixel's channels lie side by side, and its last one beside the next pixel's first."""
    weight = torch.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2).numpy()
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"])
    assert rows(node, weight)[0].tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    gemm = onnx.helper.make_node("Gemm", ["x", "w"], ["y"])
    assert rows(gemm, weight[0, :, 0]).tolist() == weight[0, :, 0].T.tolist()


def test_shared_weights_and_channels_of_tiny_weights(tmp_path: Path) -> None:
    """A convolution that is used twice; a bias whose integers would overflow beside tiny weights."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.stem, self.out = (
                nn.Conv2d(6, 6, 3, padding=1),
                nn.Conv2d(3, 6, 1),
                nn.Linear(6, 4),
            )
            with torch.no_grad():
                self.conv.weight[1] *= 1e-9
                self.conv.bias[1] = 0.8

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(torch.relu(self.conv(10 * self.stem(x))))
            return self.out(x.mean((2, 3)))

    torch.manual_seed(0)
    model = Twice()
    file = int8_file(model, tmp_path)
    assert verify(file, inputs()).equal
    graph = Qdq(onnx.load(file))
    biases = [graph.dequantized(node.input[2]) for node in graph.weighted()]
    assert all(
        bias is not None and np.abs(graph.constant(bias.integers)).max() <= 2**30 + 64 for bias in biases
    )
    from akgp.runtimes.onnxruntime import session

    (logits,) = session(file, threads=1).run(None, {"input": inputs().numpy()})
    with torch.no_grad():
        exact = model(inputs()).numpy()
    assert np.abs(logits - exact).max() < 0.05 * np.abs(exact).max()


def test_what_a_kernel_computes_otherwise_fails_in_one_line(kinds: Path, tmp_path: Path) -> None:
    """A sum that overflows int32 does so on every processor: the simulator's does not."""
    model = onnx.load(kinds)
    graph = Qdq(model)
    node = graph.weighted()[3]
    bias = graph.dequantized(node.input[2])
    assert bias is not None
    stored = graph.constant(bias.integers)
    graph.tensors[bias.integers].CopyFrom(
        numpy_helper.from_array(np.full_like(stored, 2**31 - 1), bias.integers)
    )
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(QuantizationError) as error:
        verify(tmp_path / "model.onnx", inputs())
    assert "\n" not in str(error.value)
    assert "model.onnx: onnxruntime's integer kernels on this processor don't compute" in str(error.value)
    assert "images differ; first in Conv point: " in str(error.value)
    assert "values, by up to " in str(error.value)


def test_operations_that_stay_in_floating_point_are_named(tmp_path: Path) -> None:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm, self.out = nn.Conv2d(3, 8, 3), nn.LayerNorm(8), nn.Linear(8, 4)
            self.places = nn.Parameter(torch.randn(1, 36, 8))

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.stem(x).flatten(2).transpose(1, 2) + self.places)
            x = torch.softmax(x @ x.transpose(1, 2), -1) @ x
            return self.out(x.mean(1))

    torch.manual_seed(0)
    verified = verify(int8_file(Normalised(), tmp_path), inputs())
    assert set(verified.floating) >= {"LayerNormalization", "Softmax", "ReduceMean", "Add of two shapes"}


class Grouped(nn.Sequential):
    """Group normalization, whose exported graph reshapes by a shape that it computes."""

    def __init__(self) -> None:
        pooled = (nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 4))
        super().__init__(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), *pooled)


def test_computed_shapes_and_maxima(tmp_path: Path) -> None:
    """onnxruntime's symbolic shape inference knows no ReduceMax: a head that pools by it was refused."""
    torch.manual_seed(0)
    verified = verify(int8_file(Grouped(), tmp_path), inputs())
    assert "InstanceNormalization" in verified.floating and "ReduceMax" not in verified.floating


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(3, 2, 1),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.AvgPool2d(3, 3, 1, ceil_mode=True),
        nn.AvgPool2d((3, 2), (3, 2), 1, ceil_mode=True),
        nn.AvgPool2d(SIDE),
        nn.AvgPool2d((SIDE, 2)),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(1, 2, ceil_mode=True),
        nn.AvgPool2d(2, SIDE - 1, ceil_mode=True, count_include_pad=False),
        nn.AdaptiveAvgPool2d(4),
    ],
    ids=str,
)
def test_pools(tmp_path: Path, pool: nn.Module) -> None:
    """Borders that count or don't, incomplete windows, and the whole map, which has another kernel."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), pool, nn.Conv2d(6, 4, 1), nn.Flatten())
    file = int8_file(model, tmp_path)
    verified = verify(file, inputs())
    assert verified.equal and not verified.floating
    # A border that is divided by too much would be off by a third.
    expected = model.eval()(inputs()).detach().numpy()
    (got,) = session(file, threads=1).run(None, {"input": inputs().numpy()})
    assert np.abs(got - expected).max() < 0.1 * np.abs(expected).max()
