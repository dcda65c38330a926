"""Pruning against the definition of FPGM, golden cases, and networks with filters set to zero."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from akgp.evaluation.cost import count
from akgp.models import cifar_resnet
from akgp.pruning import (
    CRITERIA,
    Pruned,
    PruningError,
    coupled_scores,
    fpgm_scores,
    l1_scores,
    l2_scores,
    layers_table,
    prune,
)
from akgp.pruning.bounds import rounded
from akgp.reporting.layouts import dense_layouts
from akgp.stages.prune import removed

SMALL = torch.zeros(2, 3, 32, 32)


def double_loop(weight: Tensor) -> list[float]:
    """The definition: g(j) = Σ_i ‖F_i − F_j‖₂, in float64, filter by filter."""
    filters = weight.double().flatten(1).tolist()
    return [sum(math.dist(one, other) for other in filters) for one in filters]


@pytest.mark.parametrize("shape", [(7, 3, 3, 3), (16, 5), (1, 4, 1, 1), (33, 2, 5)])
def test_fpgm_is_the_double_loop(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(fpgm_scores(weight), torch.tensor(double_loop(weight), dtype=torch.float64))


def test_fpgm_in_blocks_and_far_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few numbers, and an offset that float32's Gram matrix would not survive."""
    from akgp.pruning import criteria

    monkeypatch.setattr(criteria, "BLOCK", 40)
    weight = 1000 + 0.01 * torch.randn(13, 11, dtype=torch.float64)
    expected = torch.tensor(double_loop(weight), dtype=torch.float64)
    torch.testing.assert_close(fpgm_scores(weight), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ([1.0, -1.0, 0.9], [1.0, -1.0]),  # w and −w are two filters: 0.9 is the replaceable one
        ([3.0, 2.0, 0.1], [3.0, 0.1]),  # 2 is the median
        ([6.0, 7.0, 0.4, 0.5], [7.0, 0.4]),
    ],
)
def test_golden_cases(filters: list[float], kept: list[float]) -> None:
    scores = fpgm_scores(torch.tensor(filters)[:, None])
    best = scores.argsort(descending=True, stable=True)[: len(kept)]
    assert sorted(torch.tensor(filters)[best].tolist()) == pytest.approx(sorted(kept))


def test_norms_are_numpys() -> None:
    weight = torch.randn(6, 4, 3, 3)
    flat = weight.numpy().reshape(6, -1).astype(np.float64)
    np.testing.assert_allclose(l1_scores(weight), np.linalg.norm(flat, 1, axis=1))
    np.testing.assert_allclose(l2_scores(weight), np.linalg.norm(flat, 2, axis=1))


def test_coupled_layers_weigh_alike_whatever_their_scale() -> None:
    one, other = torch.randn(8, 3, 3, 3), torch.randn(8, 5)
    scores = coupled_scores([one, other], fpgm_scores)
    scaled = coupled_scores([one, 1000 * other], fpgm_scores)
    torch.testing.assert_close(scores, scaled)
    assert scores.mean() == pytest.approx(1)
    parts = [weight.double().flatten(1) / fpgm_scores(weight).mean() for weight in (one, other)]
    expected = torch.tensor(double_loop(torch.cat(parts, 1)), dtype=torch.float64)
    torch.testing.assert_close(scores, expected / expected.mean())


def network(name: str) -> nn.Module:
    """A network whose BatchNorms are not the identity, so that a wrong one among them shows."""
    torch.manual_seed(0)
    if name.startswith("cifar_resnet"):
        model: nn.Module = cifar_resnet(int(name.removeprefix("cifar_resnet")))
    else:
        model = torchvision.models.get_model(name, weights=None, num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model.eval()


def zeroed(model: nn.Module, pruned: Pruned, norms: dict[str, str]) -> nn.Module:
    """The given network with removed filters, and γ and β of their BatchNorm, set to zero."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for layer in pruned.layers:
            gone = sorted(set(range(layer.dense_width)) - set(layer.kept))
            for name in filter(None, (layer.name, norms.get(layer.name))):
                for parameter in model.get_submodule(name).parameters(recurse=False):
                    parameter[gone] = 0
    return model


def following_norms(model: nn.Module) -> dict[str, str]:
    """Convolution -> the BatchNorm that gets its output, found by identity in a forward pass."""
    made: dict[int, str] = {}
    found: dict[str, str] = {}
    kept_alive = []
    for name, module in model.named_modules():

        def hook(module: nn.Module, inputs: Any, output: Tensor, name: str = name) -> None:
            if isinstance(module, nn.Conv2d):
                made[id(output)] = name
                kept_alive.append(output)
            elif isinstance(module, nn.BatchNorm2d) and id(inputs[0]) in made:
                found[made[id(inputs[0])]] = name

        module.register_forward_hook(hook)
    model(SMALL)
    return found


@pytest.mark.parametrize(
    "name",
    ["cifar_resnet20", "resnet18", "mobilenet_v2", pytest.param("vgg16_bn", marks=pytest.mark.slow)],
)
def test_surgery_is_masking(name: str) -> None:
    """The contract: zeroing what `layers` says was removed gives the outputs of the smaller network."""
    model = network(name)
    if name == "vgg16_bn":  # its linear layers are 90 % of it, and FPGM on 25,088 inputs takes seconds
        model.classifier = nn.Linear(512 * 7 * 7, 10)
    pruned = prune(model, SMALL, ratio=0.5)
    masked = zeroed(model, pruned, following_norms(copy.deepcopy(model)))
    inputs = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected, got = masked(inputs), pruned.model.eval()(inputs)
    assert (expected - got).abs().max() < 1e-5 * expected.abs().max().clamp_min(1)
    assert count(pruned.model, SMALL).macs < 0.35 * count(model, SMALL).macs
    assert got.shape == (3, 10)


def test_kept_filters_are_those_of_highest_score() -> None:
    model = network("cifar_resnet20")
    layers = {layer.name: layer for layer in prune(model, SMALL, ratio=0.5).layers}
    inner = layers["layer2.1.conv1"]  # not coupled to any other
    scores = double_loop(model.get_submodule(inner.name).weight)  # type: ignore[arg-type]
    assert inner.kept == tuple(sorted(np.argsort(scores)[16:].tolist()))
    assert layers["layer1.0.conv2"].kept == layers["conv1"].kept == layers["layer1.2.conv2"].kept
    assert (layers["linear"].pruned_width, layers["linear"].reason) == (10, "is the network's output")
    assert all(layer.reason is None for name, layer in layers.items() if name != "linear")


def test_the_given_network_stays_as_it_is() -> None:
    model = network("cifar_resnet20").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.conv1.weight.requires_grad_(False)  # type: ignore[union-attr]
    pruned = prune(model, SMALL, ratio=0.5).model
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert model.training and pruned.training
    assert not model.conv1.weight.requires_grad  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "amount"),
    [
        ("cifar_resnet20", {"macs": 0.5}),
        ("cifar_resnet20", {"params": 0.3}),
        ("cifar_resnet32", {"macs": 0.25}),
        pytest.param("resnet18", {"macs": 0.5}, marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", {"params": 0.6}, marks=pytest.mark.slow),
    ],
)
def test_a_budget_is_met_within_two_percent(name: str, amount: dict[str, float]) -> None:
    model = network(name)
    pruned = prune(model, SMALL, **amount)  # type: ignore[arg-type]
    ((key, share),) = amount.items()
    dense, got = (getattr(count(each, SMALL), key) for each in (model, pruned.model))
    assert got / dense == pytest.approx(share, rel=0.02)
    assert all(
        layer.pruned_width % 8 == 0 or layer.pruned_width == layer.dense_width for layer in pruned.layers
    )


@pytest.mark.parametrize(
    ("wanted", "dense", "round_to", "width"),
    [
        (8, 16, 8, 8),
        (12, 24, 8, 16),
        (11.9, 24, 8, 8),
        (1, 64, 8, 8),
        (3, 6, 8, 6),
        (30, 31, 8, 31),
        (18, 18, 8, 18),
        (5, 10, 1, 5),
    ],
)
def test_rounding(wanted: float, dense: int, round_to: int, width: int) -> None:
    assert rounded(wanted, dense, round_to) == width


def test_skip_leaves_a_module_and_what_is_summed_with_it_dense() -> None:
    pruned = prune(network("resnet18"), SMALL, ratio=0.5, skip=("layer1.0",))
    layers = {layer.name: layer for layer in pruned.layers}
    assert layers["layer1.0.conv1"].reason == "skipped"
    assert layers["conv1"].reason == "summed with layer1.0.conv2, which is skipped"
    assert layers["layer1.0.conv2"].reason == "skipped"
    assert layers["layer1.1.conv1"].pruned_width == 32


@pytest.mark.parametrize(
    ("name", "summed"),
    [
        ("cifar_resnet8", lambda layer: layer == "conv1" or layer.endswith("conv2")),
        ("resnet18", lambda layer: layer == "conv1" or layer.endswith(("conv2", "downsample.0"))),
        # Blocks of stride 2 and those whose widths differ have no shortcut; the first of a stage feeds a sum.
        ("mobilenet_v2", lambda layer: layer.endswith("conv.2") and layer.split(".")[1] not in ("1", "17")),
        pytest.param("vgg11", lambda layer: False, marks=pytest.mark.slow),
    ],
)
def test_scope_inside_leaves_sums_whole(name: str, summed: Callable[[str], bool]) -> None:
    layers = prune(network(name), SMALL, ratio=0.5, scope="inside", criterion="random").layers
    reasons = {layer.name: layer.reason for layer in layers[:-1]}
    stream = "a residual stream, which scope inside leaves whole"
    assert reasons == {layer: stream if summed(layer) else None for layer in reasons}


def test_random_is_seeded_and_ratio_0_removes_nothing() -> None:
    model = network("cifar_resnet20")
    state = torch.random.get_rng_state()
    runs = [prune(model, SMALL, ratio=0.5, criterion="random", seed=seed).layers for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    assert torch.equal(state, torch.random.get_rng_state())
    dense = prune(model, SMALL, ratio=0.0)
    assert {layer.reason for layer in dense.layers} == {"is the network's output", "ratio or budget"}
    torch.testing.assert_close(dense.model.eval()(SMALL), model(SMALL))


class Norm(nn.Module):
    """A convolution whose channels a GroupNorm mixes, one scaled by a parameter, one in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed = nn.Conv2d(3, 16, 3)
        self.norm = nn.GroupNorm(4, 16)
        self.scaled = nn.Conv2d(16, 16, 1)
        self.scale = nn.Parameter(torch.ones(16, 1, 1))
        self.between = nn.Conv2d(16, 16, 1)
        self.grouped = nn.Conv2d(16, 16, 3, groups=4)
        self.free = nn.Conv2d(16, 32, 1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.scale * self.scaled(self.norm(self.mixed(x)))
        return self.head(self.free(self.grouped(self.between(x))).relu().mean((2, 3)))


def test_norms_over_channels_parameters_and_groups_are_no_obstacle() -> None:
    pruned = prune(Norm(), SMALL, ratio=0.5)
    assert {layer.name: (layer.pruned_width, layer.reason) for layer in pruned.layers} == {
        "mixed": (8, None),
        "scaled": (8, None),
        "between": (8, None),
        "grouped": (8, None),
        "free": (16, None),
        "head": (10, "is the network's output"),
    }
    assert pruned.model.grouped.groups == 4 and pruned.model.grouped.weight.shape == (8, 2, 3, 3)
    assert pruned.model.scale.shape == (8, 1, 1)
    assert pruned.model.norm.num_channels == 16  # zeros in place of what was removed: the statistics stay


class OnePlus(nn.Module):
    """Makes a one of a zero, which the next layer reads: its bias has to do that instead."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).exp()).mean((2, 3))


def test_a_constant_is_added_to_the_next_bias() -> None:
    model = OnePlus()
    pruned = prune(model, SMALL, ratio=0.5)
    gone = sorted(set(range(16)) - set(pruned.layers[0].kept))
    added = pruned.model.head.bias - model.head.bias  # type: ignore[operator, union-attr]
    torch.testing.assert_close(added, model.head.weight[:, gone, 0, 0].sum(1))


def nothing_finite() -> nn.Module:
    model = cifar_resnet(20)
    model.layer2[0].conv1.weight.data[3] = torch.nan  # type: ignore[index, union-attr, operator]
    return model


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (
            cifar_resnet(8),
            {},
            "exactly one of ratio, macs, params, bytes, latency_ms must be given, got none",
        ),
        (cifar_resnet(8), {"ratio": 0.5, "macs": 0.5}, "got ratio, macs"),
        (cifar_resnet(8), {"ratio": 1.0}, r"ratio must be in \[0, 1\), got 1.0"),
        (cifar_resnet(8), {"macs": 0.0}, r"macs must be in \(0, 1\), got 0.0"),
        (
            cifar_resnet(8),
            {"ratio": 0.5, "criterion": "entropy"},
            "criterion must be one of fpgm, l1",
        ),
        (cifar_resnet(8), {"ratio": 0.5, "skip": ["layer9"]}, "skip: 'layer9' is not a module"),
        (cifar_resnet(8), {"ratio": 0.5, "skip": ["bn1"]}, "skip: 'bn1' holds no convolution or linear"),
        (cifar_resnet(8), {"ratio": 0.5, "scope": "out"}, "scope must be one of inside, all, got 'out'"),
        (cifar_resnet(8), {"ratio": 0.5, "round_to": 0}, "round_to must be a whole number, 1 or more, got 0"),
        (nothing_finite(), {"ratio": 0.5}, "layer2.0.conv1.weight holds values that are not finite"),
        (nn.Linear(7, 7), {"ratio": 0.5}, r"Linear cannot be traced with an input of \[2, 3, 32, 32\]"),
    ],
)
def test_refused(model: nn.Module, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PruningError, match=message):
        prune(model, SMALL, **arguments)


def test_every_criterion_prunes() -> None:
    for criterion in CRITERIA:
        assert prune(cifar_resnet(8), SMALL, ratio=0.5, criterion=criterion).layers[0].pruned_width == 8


def test_table_has_a_row_a_layer() -> None:
    rows = layers_table(prune(cifar_resnet(8), SMALL, ratio=0.5))
    assert rows[0] == {
        "name": "conv1",
        "dense_width": 16,
        "pruned_width": 8,
        "reason": "",
        "rule": "",
        "layout": "",
    }
    assert rows[-1] == {
        "name": "linear",
        "dense_width": 10,
        "pruned_width": 10,
        "reason": "is the network's output",
        "rule": "",
        "layout": "",
    }


def test_a_layer_that_writes_zeros_in_place_of_its_filters_says_why() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()
    )
    pruned = prune(nn.Sequential(*model, nn.Flatten(), nn.Linear(64, 4)), torch.zeros(1, 3, 6, 6), ratio=0.5)
    rows = layers_table(pruned)
    assert [row["layout"] for row in rows] == ["native_group_norm in 1 is over the channels", "", ""]
    assert dense_layouts(rows) == (
        "zeros stay in place of the filters removed of 0 (native_group_norm in 1 is over the channels)"
    )
    many = [{"name": f"l{n}", "layout": f"view in {n // 5}"} for n in range(20)]
    assert dense_layouts(many) == (
        "zeros stay in place of the filters removed of l0, l1, l2 and 2 more (view in 0); l5, l6, l7 and 2 "
        "more (view in 1); l10, l11, l12 and 2 more (view in 2); 5 more for other reasons"
    )
    assert dense_layouts(rows[1:]) == ""


def test_the_stage_says_what_is_removed_and_what_is_kept() -> None:
    line = removed({"filters_removed": 0.493, "macs_reduction": 0.747, "params_reduction": 0.748})
    assert line == "prune: 49.3% of the filters removed; kept: 25.3% of the MACs, 25.2% of the parameters"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "densenet121",
        "efficientnet_b0",
        "mobilenet_v3_small",
        "regnet_y_400mf",
        "squeezenet1_1",
        "convnext_tiny",
    ],
)
def test_torchvision_networks_are_cut_exactly(name: str) -> None:
    """`prune` compares surgered and masked outputs itself: what is tested is that it finds no fault."""
    model, example = network(name), torch.zeros(2, 3, 64, 64)
    pruned = prune(model, example, ratio=0.5).model
    assert count(pruned, example).macs < 0.6 * count(model, example).macs
