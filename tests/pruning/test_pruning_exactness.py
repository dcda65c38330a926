"""What pruning leaves as it was, in which modes it works, what it refuses, and that a wrong cut is found."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.nn.utils import prune as masks
from torchvision.ops import SqueezeExcitation

from akgp.evaluation.cost import count
from akgp.pruning import PruningError, prune
from tests.support.small_networks import IMAGES, Small, kept

EXPECTED = kept(prune(Small(), IMAGES, ratio=0.5))


def test_every_layer_of_the_small_network_is_cut() -> None:
    widths = {name: len(filters) for name, filters in EXPECTED.items()}
    assert widths == {"stem": 8, "inner": 16, "outer": 8, "side": 16, "both": 8, "head": 5}


def test_parameters_stay_frozen_and_modules_in_their_mode() -> None:
    model = Small().train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    frozen = ["stem.weight", "norm.weight", "norm.bias", "inner.weight", "head.bias"]
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    model.norm.eval()
    pruned = prune(model, IMAGES, ratio=0.5).model
    for network in (model, pruned):
        assert [n for n, p in network.named_parameters() if not p.requires_grad] == frozen
        assert [n for n, m in network.named_modules() if not m.training] == ["norm"]
        assert network.inner.weight.is_contiguous(memory_format=torch.channels_last)
        assert not network.inner.weight.is_contiguous()
    assert isinstance(pruned.inner.weight, nn.Parameter) and pruned.inner.weight.is_leaf
    assert {n: b.dtype for n, b in pruned.named_buffers()} == {n: b.dtype for n, b in model.named_buffers()}


def test_a_network_in_channels_last_loses_as_many_filters() -> None:
    """Behind a side of 1 its strides say other layouts than the shapes do."""
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Hardswish(), SqueezeExcitation(16, 8), nn.Conv2d(16, 16, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip
    plain = prune(network, IMAGES, ratio=0.5, round_to=4)
    last = prune(network.to(memory_format=torch.channels_last), IMAGES, ratio=0.5, round_to=4)  # type: ignore[call-overload]
    assert kept(plain) == kept(last) and {layer.layout for layer in last.layers} == {None}


def test_channels_last_stays_beside_kernels_of_three_dimensions() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3).to(memory_format=torch.channels_last), nn.ReLU(), nn.Unflatten(1, (16, 1)),
        nn.Conv3d(16, 5, (1, 3, 3)),
    )  # type: ignore[call-overload]  # fmt: skip
    smaller = prune(network, IMAGES, ratio=0.5).model
    assert smaller[0].weight.shape[0] == 8  # type: ignore[index]
    assert smaller[0].weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[index]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precision_stays(dtype: torch.dtype) -> None:
    pruned = prune(Small().to(dtype), IMAGES.to(dtype), ratio=0.5).model
    assert {tensor.dtype for tensor in pruned.parameters()} == {dtype}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_constants_are_added_in_half_precision(dtype: torch.dtype) -> None:
    """A sigmoid makes .5 of a zero: half of the weights on what is removed goes to the bias behind it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.Sigmoid(), nn.Linear(64, 5)).to(dtype)
    pruned = prune(model, torch.zeros(2, 16, dtype=dtype), ratio=0.5)
    gone = sorted(set(range(64)) - set(pruned.layers[0].kept))
    expected = model[2].bias.double() + model[2].weight.double()[:, gone].sum(1) / 2
    torch.testing.assert_close(pruned.model[2].bias.double(), expected, rtol=0, atol=0.01)  # type: ignore[index]


def test_hooks_stay() -> None:
    model, seen = Small(), []
    model.side.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    pruned = prune(model, IMAGES, ratio=0.5).model
    seen.clear()
    pruned(IMAGES)
    assert seen == [16]


class Tied(nn.Module):
    """Two layers of one weight: one module called twice, one parameter in two, or two of one memory."""

    def __init__(self, by: str) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 24), nn.Linear(24, 5)
        self.one, self.free, self.two = nn.Linear(24, 24), nn.Linear(24, 32), nn.Linear(32, 24)
        self.three = self.one if by == "module" else nn.Linear(24, 24)
        if by == "parameter":
            self.three.weight = self.one.weight
        if by == "memory":
            self.three.weight.data = self.one.weight.data.T

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.one(F.relu(self.first(x))))
        x = F.relu(self.two(F.relu(self.free(x))))
        return self.last(F.relu(self.three(x)))


@pytest.mark.parametrize("by", ["module", "parameter", "memory"])
def test_tied_weights_stay_tied(by: str) -> None:
    torch.manual_seed(0)
    model, example = Tied(by), torch.zeros(2, 12)
    result = prune(model, example, ratio=0.5)
    pruned, reasons = result.model, {layer.name: layer.reason for layer in result.layers}
    assert len(list(pruned.parameters())) == len(list(model.parameters()))
    assert pruned.free.out_features == 16
    if by == "module":
        assert pruned.three is pruned.one and pruned.one.out_features == 16
    elif by == "parameter":
        assert pruned.three.weight is pruned.one.weight
        assert pruned.three.bias is not pruned.one.bias
    else:
        pruned.one.weight.data[1, 2] = 7.0
        assert pruned.three.weight[2, 1] == 7.0
    # Outputs and inputs of a weight that is shared are the same channels of every layer around it.
    assert not any(reasons.get(name) for name in ("first", "one", "two", "three"))
    assert pruned.one.weight.shape == (16, 16)


def test_a_budget_of_parameters_counts_a_tied_one_once() -> None:
    model, example = Tied("parameter"), torch.zeros(2, 12)
    pruned = prune(model, example, params=0.75, round_to=1).model
    assert count(pruned, example).params / count(model, example).params == pytest.approx(0.75, rel=0.02)


class Decorated(Small):
    forward = torch.no_grad()(Small.forward)


class Inferred(Small):
    forward = torch.inference_mode()(Small.forward)


class Halfway(Small):
    """Turns gradients off in the middle, detaches, and goes on with data."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = F.relu(self.norm(self.stem(x)))
            inner = F.relu(self.inner_norm(self.inner(x).detach()))
        x = x.data + torch.detach(self.outer_norm(self.outer(inner)))
        torch.set_grad_enabled(False)
        x = F.relu(self.both(torch.cat([self.side(x), x], 1)))
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


class Writes(Small):
    """Clips a weight in place, as only no_grad allows."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.head.bias.clamp_(-1, 1)
        return super().forward(x)


@pytest.mark.parametrize("kind", [Small, Decorated, Inferred, Halfway, Writes])
def test_gradients_turned_off_by_the_forward_pass(kind: type[Small]) -> None:
    with torch.enable_grad():
        assert kept(prune(kind(), IMAGES, ratio=0.5)) == EXPECTED


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("amount", [{"ratio": 0.5}, {"macs": 0.5}])
def test_gradients_turned_off_by_the_caller(mode: Callable[[], Any], amount: dict[str, float]) -> None:
    expected = kept(prune(Small(), IMAGES, **amount))  # type: ignore[arg-type]
    with mode():
        pruned = prune(Small(), torch.zeros(2, 3, 12, 12), **amount)  # type: ignore[arg-type]
    assert kept(pruned) == expected
    assert not any(tensor.is_inference() for tensor in pruned.model.state_dict().values())
    pruned.model.train()(IMAGES).sum().backward()


def test_frozen_everywhere_and_in_training_mode() -> None:
    pruned = prune(Small().train().requires_grad_(False), IMAGES, ratio=0.5)
    assert kept(pruned) == EXPECTED
    assert not any(parameter.requires_grad for parameter in pruned.model.parameters())


def test_the_given_network_is_not_run() -> None:
    """Not even its buffers change."""

    class Counts(Small):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x)

    model = Counts()
    assert prune(model, IMAGES, ratio=0.5).model.calls == model.calls == 0


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = torch.jit.trace(nn.Conv2d(3, 16, 3), IMAGES)
        self.head = nn.Conv2d(16, 5, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)).flatten(1)


class TrainingHead(Small):
    """A head that only training sees; it stays as wide as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = nn.Conv2d(16, 5, 12)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.auxiliary(self.norm(self.stem(x)))
        return super().forward(x)


def quantized() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(8, 8)), {nn.Linear})  # type: ignore[no-any-return]


def of_narrow_layers() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(256, 5))


@pytest.mark.filterwarnings("ignore")  # what makes these networks is deprecated
@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (lambda: torch.jit.trace(Small().eval(), IMAGES), {}, "it is a scripted or traced module"),
        (lambda: torch.jit.script(nn.Sequential(nn.Conv2d(3, 16, 3))), {}, "it is a scripted or traced"),
        (Scripted, {}, "its module features is a scripted or traced module"),
        (quantized, {}, "its module 0 is quantized"),
        pytest.param(
            lambda: torch.compile(Small()),
            {},
            "it is compiled; prune it before torch",
            marks=pytest.mark.slow,
        ),
        (lambda: Small().to("meta"), {}, "stem.weight has no values"),
        (lambda: nn.Sequential(nn.LazyConv2d(8, 3)), {}, "0.weight has no values yet; run the network once"),
        (nn.ReLU, {}, "has no convolution and no linear layer"),
        (lambda: "resnet18", {}, "model must be a torch.nn.Module, got str"),
        (
            of_narrow_layers,
            {},
            r"ratio 0.5 \(the share of .* to remove\): 0, 2: no wider than round_to \(8\); 4: is",
        ),
        (
            Small,
            {"ratio": 0.01},
            r"nothing can be removed by ratio 0.01 .* ratio or budget; head: is the network's",
        ),
        (of_narrow_layers, {"ratio": None, "macs": 0.5}, r"by macs 0.5 \(the share of the MACs to keep\)"),
        (
            Small,
            {"ratio": None, "params": 1.5},
            r"params must be in \(0, 1\), got 1.5; it is the share .* to keep",
        ),
        (Small, {"ratio": "0.5"}, r"ratio must be in \[0, 1\), got '0.5'; it is the share .* to remove"),
        (Small, {"round_to": 8.0}, r"round_to must be a whole number, 1 or more, got 8.0"),
        (Small, {"skip": None}, r"skip must be a list of names of modules, got None"),
        (Small, {"layers": None}, r"layers must be a dict by names of layers, got None"),
        (Small, {"limits": {"*": 3}}, r"limits: '\*' must be a Limit, .* got 3"),
        (Small, {"skip": "stem"}, "skip must be a list"),
        (lambda: nn.Conv2d(3, 8, 3), {"skip": ["x"]}, "skip: 'x' is not a module of the network"),
    ],
)
def test_refused_in_one_line(build: Callable[[], Any], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PruningError, match=message) as raised:
        prune(build(), IMAGES, **({"ratio": 0.5} | arguments))
    assert "\n" not in str(raised.value)


def with_weight_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), parametrizations.weight_norm(nn.Conv2d(16, 16, 3)), nn.ReLU(),
        nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Conv2d(32, 5, 6), nn.Flatten(),
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of the older weight normalisation
@pytest.mark.parametrize(
    "computing", [nn.utils.weight_norm, partial(masks.l1_unstructured, name="weight", amount=0.3)]
)
def test_a_weight_that_a_hook_computes_has_its_new_shape_at_once(computing: Callable[..., Any]) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.Flatten(), nn.Linear(512, 3)
    )  # fmt: skip
    computing(model[2])
    pruned = prune(model, torch.zeros(1, 3, 8, 8), ratio=0.5).model
    layer = pruned[2]
    assert isinstance(layer, nn.Conv2d)
    assert layer.weight.shape == (layer.out_channels, layer.in_channels, 3, 3) and layer.out_channels == 16
    copy.deepcopy(pruned)


def with_transposed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.ConvTranspose2d(32, 16, 3), nn.InstanceNorm2d(16, affine=True),
        nn.Conv2d(16, 5, 12), nn.Flatten(),
    )  # fmt: skip


def with_shared_groups() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.Conv2d(32, 16, 3, groups=16), nn.PReLU(), nn.Conv2d(16, 32, 1), nn.PReLU(32),
        nn.InstanceNorm2d(32, affine=True), nn.Conv2d(32, 5, 8), nn.Flatten(),
    )  # fmt: skip


def with_statistics_alone() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32, affine=False), nn.Conv2d(32, 16, 3), nn.Conv2d(16, 5, 8),
        nn.Flatten(),
    )  # fmt: skip


def with_gates() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.GLU(1), nn.Conv2d(32, 16, 3), nn.Conv2d(16, 5, 8), nn.Flatten(),
    )  # fmt: skip


def test_what_only_training_runs_is_cut_along() -> None:
    pruned = prune(TrainingHead(), IMAGES, ratio=0.5)
    assert kept(pruned) == EXPECTED | {"auxiliary": tuple(range(5))}
    assert pruned.model.auxiliary.in_channels == 8
    pruned.model.train()(IMAGES)


@pytest.mark.parametrize(
    ("build", "widths"),
    [
        (with_statistics_alone, {"0": 16, "2": 8, "3": 5}),
        (with_gates, {"0": 32, "2": 8, "3": 5}),
        (with_weight_norm, {"0": 8, "2": 8, "4": 16, "6": 5}),
        (with_transposed, {"0": 16, "2": 8, "4": 5}),
        (with_shared_groups, {"0": 16, "1": 16, "3": 16, "6": 5}),
    ],
)
def test_widths(build: Callable[[], nn.Module], widths: dict[str, int]) -> None:
    layers = prune(build(), IMAGES, ratio=0.5).layers
    assert {layer.name: layer.pruned_width for layer in layers} == widths
    reasons = {layer.name: layer.reason for layer in layers if layer.reason}
    expected = {str(max(map(int, widths))): "is the network's output"}
    if (
        build is with_shared_groups
    ):  # pairs of inputs, of which each group loses one, but a single filter a group
        expected["1"] = "convolution in 1 has 16 groups"
    assert reasons == expected


class Attends(nn.Module):
    """A patch embedding, attention, a hidden layer that can be cut, and a head without a module."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 16, 3, stride=3)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.up, self.down = nn.Linear(16, 64), nn.Linear(64, 16)
        self.head = nn.Parameter(torch.randn(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.down(F.gelu(self.up(x)))
        return x.mean(1) @ self.head


@pytest.mark.parametrize("amount", [{"macs": 0.8}, {"params": 0.8}])
def test_a_budget_counts_what_count_counts(amount: dict[str, float]) -> None:
    model = Attends()
    dense = count(model, IMAGES)
    tokens = 16
    assert dense.macs == tokens * (27 * 16 + 4 * 16 * 16 + 2 * tokens * 16 + 2 * 16 * 64) + 16 * 5
    pruned = prune(model, IMAGES, round_to=1, **amount)  # type: ignore[arg-type]
    ((key, share),) = amount.items()
    assert getattr(count(pruned.model, IMAGES), key) / getattr(dense, key) == pytest.approx(share, rel=0.02)
    assert {layer.name for layer in pruned.layers if not layer.reason} == {
        "patches", "attention.in_proj_weight", "attention.out_proj", "up", "down",
    }  # fmt: skip


def test_the_log_says_what_was_removed_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "akgp.pruning")
    model = Small()
    pruned = prune(model, IMAGES, ratio=0.5).model
    dense, left = count(model, IMAGES), count(pruned, IMAGES)
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("akgp")]
    assert line.startswith(
        "ratio 0.5 (the share of each layer's filters to remove). Kept: 61 of 109 filters, "
    )
    assert f"{left.macs:,} of {dense.macs:,} MACs ({100 * left.macs / dense.macs:.1f} %)" in line


@pytest.mark.parametrize("inplace", [False, True])
def test_dropout_leaves_no_zeros_in_place(inplace: bool) -> None:
    head = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.2, inplace=inplace), nn.Linear(32, 4))
    first, last = prune(head, torch.zeros(2, 8), ratio=0.5).layers
    assert (first.pruned_width, first.layout, last.layout) == (16, None, None)
