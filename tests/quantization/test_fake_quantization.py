"""Fake quantization against the int8 file's own arithmetic, and its gradients against formulas."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.models.layout import set_layout
from akgp.params import Quantize
from akgp.quantization import QuantizationError, export_onnx, fake_quantized, quantize
from akgp.quantization.fake_quantization import Grid, RoundedWeight, norms_of, roundings
from akgp.quantization.qdq import Qdq
from tests.support.onnx_files import logits_of
from tests.support.small_networks import Small

IMAGES = torch.randn(32, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def chain() -> nn.Module:
    """Nothing between the layers; with and without BatchNorm and ReLU, depthwise, a channel with γ = 0."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(54, 5),
    )  # fmt: skip
    for norm in (network[1], network[4]):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    nn.init.zeros_(network[1].weight[2:3])
    return network.eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("chain") / "float.onnx"
    export_onnx(chain(), IMAGES[:1], file)
    return file


def int8_of(exported: Path, params: Quantize) -> onnx.ModelProto:
    file = exported.with_name("int8.onnx")
    quantize(exported, IMAGES, params, file)
    return onnx.load(str(file))


@pytest.fixture(scope="module")
def int8(exported: Path) -> onnx.ModelProto:
    return int8_of(exported, Quantize())


@torch.no_grad()
def test_a_network_computes_what_its_int8_file_does(int8: onnx.ModelProto) -> None:
    """But for single steps: biases are not rounded here, and float32 sums decide ties in another way."""
    network, exact = chain(), logits_of(int8, IMAGES)
    given = network(IMAGES)
    with fake_quantized(network, int8, IMAGES[:1]):
        found = network(IMAGES).numpy()
    step = roundings(int8)["9"].output.scale
    off = np.abs(np.rint((found - exact) / step))
    assert off.max() <= 1 and (off > 0).mean() < 0.02
    assert np.abs(given.numpy() - exact).mean() > 3 * np.abs(found - exact).mean()
    assert torch.equal(network(IMAGES), given)  # all is as it was
    assert sorted(network.state_dict()) == sorted(chain().state_dict())


@torch.no_grad()
def test_weights_are_the_files(int8: onnx.ModelProto) -> None:
    network, graph = chain(), Qdq(int8)
    with fake_quantized(network, int8, IMAGES[:1]):
        for name, norm in (("0", network[1]), ("3", network[4]), ("6", None), ("9", None)):
            integers = graph.constant(f"{name}.weight_quantized").astype(np.float64)
            scale = graph.constant(f"{name}.weight_scale").astype(np.float64)
            weight = network.get_submodule(name).weight.double()
            if norm is not None:  # Ioffe & Szegedy 2015: γ / √(σ² + ε)
                factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
                weight = weight * factor.view(-1, 1, 1, 1)
            held = integers * scale.reshape(-1, *[1] * (integers.ndim - 1))
            np.testing.assert_allclose(weight.numpy(), held, atol=1e-4 * np.abs(held).max())


def test_an_activations_gradient_is_passed_where_it_is_not_clipped() -> None:
    """Jacob et al. 2018: rounding has the gradient 1, clipping that of min and max."""
    x = torch.tensor([-1.06, -0.99, 0.0, 0.33, 1.55, 1.65], requires_grad=True)
    y = Grid(0.01, 100).rounded(x)
    (y * torch.arange(1.0, 7)).sum().backward()
    torch.testing.assert_close(y.detach(), torch.tensor([-1.0, -0.99, 0.0, 0.33, 1.55, 1.55]))
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor([0.0, 2, 3, 4, 5, 0]))


def test_a_weights_gradient_is_that_of_the_rounded_weight() -> None:
    """With BatchNorm in training mode: as if the rounded weight were a parameter itself."""
    layer, norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
    nn.init.normal_(norm.weight)
    plain = copy.deepcopy((layer, norm))
    torch.nn.utils.parametrize.register_parametrization(
        layer, "weight", RoundedWeight(layer, norm, per_channel=True)
    )
    with torch.no_grad():
        assert not torch.equal(plain[0].weight, layer.weight)
        plain[0].weight.copy_(layer.weight)
    for network in ((layer, norm), plain):
        nn.Sequential(*network)(IMAGES).square().mul(IMAGES[:, :1, 1:-1, 1:-1]).sum().backward()
    found, right = dict(layer.named_parameters())["parametrizations.weight.original"], plain[0].weight
    torch.testing.assert_close(found.grad, right.grad)
    torch.testing.assert_close(norm.weight.grad, plain[1].weight.grad)


def test_a_layer_in_float_stays_so(exported: Path) -> None:
    network = chain()
    int8 = int8_of(exported, Quantize(precision={"0": "float", "6": "float"}))
    assert list(roundings(int8)) == ["3", "9"]
    given = network[0].weight.detach().clone()
    with fake_quantized(network, int8, IMAGES[:1]):
        assert torch.equal(network[0].weight, given) and torch.equal(network[6].weight, chain()[6].weight)
        assert "parametrizations.weight.original" in dict(network[3].named_parameters())


def test_norms_are_found_by_what_they_take() -> None:
    network = Small().eval()
    named = {module: name for name, module in network.named_modules()}
    pairs = {named[layer]: named[norm] for layer, norm in norms_of(network, IMAGES[:1]).items()}
    assert pairs == {"stem": "norm", "inner": "inner_norm", "outer": "outer_norm"}


class Between(nn.Module):
    """A layer that writes zeros in between; a layer scale, which the export puts into the layer before."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.zeros, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(6)
        set_layout(self.zeros, None, torch.tensor([2, -1, 0, 3, -1, 1]))
        for tensor in (self.norm.weight, self.norm.bias, self.norm.running_mean, self.norm.running_var):
            tensor.data = torch.rand(6) + 0.5
        self.scaled, self.scale = nn.Conv2d(6, 8, 1), nn.Parameter(torch.rand(8, 1, 1) + 2)
        self.out = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.scale * self.scaled(F.relu(self.norm(self.zeros(x))))
        return self.out(F.relu(x).mean((2, 3)))


def test_what_the_file_holds_otherwise_is_trained_in_float(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = Between().eval()
    export_onnx(network, IMAGES[:1], tmp_path / "float.onnx")
    int8 = int8_of(tmp_path / "float.onnx", Quantize())
    given, exact = network(IMAGES).detach().numpy(), logits_of(int8, IMAGES)
    with fake_quantized(network, int8, IMAGES[:1]):
        assert "parametrizations.weight.original" in dict(network.zeros.named_parameters())
        found = network(IMAGES).detach().numpy()
    assert "quantize.qat: int8, but trained in float: scaled" in caplog.messages
    assert np.abs(given - exact).mean() > 1.3 * np.abs(found - exact).mean()


def test_a_network_of_another_kind_is_refused(int8: onnx.ModelProto) -> None:
    class Other(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    with (
        pytest.raises(QuantizationError, match=r"^quantize.qat: none of .* \(0, 3, 6, 9\): it must be null"),
        fake_quantized(Other(), int8, IMAGES[:1]),
    ):
        pass


class Gated(nn.Module):
    """A hard sigmoid, which makes its layer a sixth in the file, one with a BatchNorm and one without."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.deep = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1, bias=False)
        self.norm, self.gate, self.head = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.Linear(8, 5)
        for tensor in (self.norm.weight, self.norm.bias, self.norm.running_mean, self.norm.running_var):
            tensor.data = torch.rand(8) + 0.5

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = x * F.hardsigmoid(self.norm(self.deep(x)))
        return self.head((x * F.hardsigmoid(self.gate(x.mean((2, 3), keepdim=True)))).mean((2, 3)))


def test_what_the_file_holds_by_one_factor_is_rounded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = Gated().eval()
    export_onnx(network, IMAGES[:1], tmp_path / "float.onnx")
    int8 = int8_of(tmp_path / "float.onnx", Quantize())
    largest = network.gate.weight.detach().abs().max() / 6
    torch.testing.assert_close(roundings(int8)["gate"].largest.max(), largest, rtol=0.02, atol=0)
    exact = network(IMAGES).detach()
    with fake_quantized(network, int8, IMAGES[:1]):
        for layer in (network.stem, network.deep, network.gate, network.head):
            assert "parametrizations.weight.original" in dict(layer.named_parameters())
        found = network(IMAGES).detach()
    assert not [record for record in caplog.records if record.name.startswith("akgp")]
    wrong = (found - torch.from_numpy(logits_of(int8, IMAGES))).abs().mean()
    assert wrong < 0.5 * (exact - torch.from_numpy(logits_of(int8, IMAGES))).abs().mean()
