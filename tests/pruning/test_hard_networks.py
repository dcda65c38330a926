"""Networks with one hard construction each: every one is pruned, exact, trains, and is saved and loaded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from akgp import artifacts
from akgp.evaluation.cost import count, count_macs
from akgp.models import Spec, create
from akgp.pruning import Pruned, prune
from tests.support import further_constructions, hard_constructions, published_constructions
from tests.support.further_constructions import ATTENTION
from tests.support.hard_networks import between

IMAGES = torch.zeros(2, 3, 16, 16)

# Parameters apart from layers and BatchNorms lose entries too, which their names and filters do not tell.
BARE = {
    "weight_norm", "GroupNorm", "LayerNorm", "InstanceNorm", "RMSNorm", "bare weights", "embedding",
    "transformer", "windows", "tied autoencoder", "dynamic convolution", "gated MLP", "pooling as mixing",
    "response normalisation", "GRU over rows", "class token", "scaled weight", "global filter",
    "MLP-Mixer", "cosine similarity", "deformable convolution", "Fourier operator", "simple gates",
    "generated kernels", "scaled mixing of positions", "positions added in place",
}  # fmt: skip
LEFT_WHOLE = {"roll", "GRU over rows"}  # every channel is summed with every other; an LSTM and a GRU stay


def _between_activations(model: nn.Module) -> int:
    """The MACs of products that no parameter takes part in."""
    macs = count_macs(model, IMAGES)
    return macs.total - sum(macs.by_parameter.values())


CASES = [
    pytest.param(
        f"{module.__name__}:network_{number}", name, id=name,
        # The quick ones are of one kind each.
        marks=[] if module is hard_constructions or name in ATTENTION else [pytest.mark.slow],
    )
    for module in (hard_constructions, further_constructions, published_constructions)
    for number, name in enumerate(module.NETWORKS)
]  # fmt: skip


def outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [each for each in pytree.tree_leaves(model.eval()(x)) if isinstance(each, Tensor)]


def masked(model: nn.Module, pruned: Pruned) -> nn.Module:
    """The given network without the filters that `layers` names, and γ and β of BatchNorms behind them.

    Which these are is seen from what arrives: a channel that is constant over noise.
    """
    model = copy.deepcopy(model)
    with torch.no_grad():
        for layer in pruned.layers:
            module = model.get_submodule(layer.name)
            gone = sorted(set(range(layer.dense_width)) - set(layer.kept))
            inside = isinstance(module, nn.ConvTranspose2d) and module.groups == 1
            module.weight[(slice(None), gone) if inside else gone] = 0  # type: ignore[index, operator]
            if module.bias is not None:
                module.bias[gone] = 0  # type: ignore[index, operator]

    def silence(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        values = inputs[0].transpose(0, 1).flatten(1)
        constant = (values == values[:, :1]).all(1)
        if module.weight is not None:
            module.weight.data[constant] = module.bias.data[constant] = 0  # type: ignore[index, operator]

    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(silence)
    return model


@pytest.mark.parametrize(("spec", "name"), CASES)
def test_pruned_exact_trains_and_reloads(spec: str, name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create(Spec(spec, 5, 3)).eval()
    pruned = prune(model, IMAGES, ratio=0.5, round_to=1)
    if name in ATTENTION:  # both of its products
        assert 2 * _between_activations(pruned.model) == _between_activations(model)
    if name not in LEFT_WHOLE:
        assert count(pruned.model, IMAGES).macs < 0.8 * count(model, IMAGES).macs
    x = torch.randn(4, 3, 16, 16)
    if name not in BARE:
        for expected, got in zip(outputs(masked(model, pruned), x), outputs(pruned.model, x), strict=True):
            torch.testing.assert_close(
                got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()) + 1e-7
            )
    artifacts.save(pruned.model, tmp_path)
    loaded = artifacts.load(tmp_path)
    for expected, got in zip(outputs(pruned.model, x), outputs(loaded, x), strict=True):
        assert torch.equal(expected, got)
    again = prune(loaded, IMAGES, ratio=0.3, round_to=1).model  # a second cut
    assert count(again, IMAGES).macs < count(loaded, IMAGES).macs
    for network in (pruned.model, loaded):
        trained = pytree.tree_leaves(network.train()(x))
        sum(each.sum() for each in trained if each.requires_grad).backward()


@pytest.mark.parametrize(
    "name",
    [
        "ghost that adds in place",
        "scaled mixing of positions",
        "positions added in place",
        "parts of fixed sizes",
        "parts of one fixed size",
    ],
)
def test_nothing_but_the_output_stays(name: str) -> None:
    pruned = prune(further_constructions.NETWORKS[name](), IMAGES, ratio=0.5, round_to=2)
    assert [layer.name for layer in pruned.layers if layer.pruned_width == layer.dense_width] == ["head"]
    assert not any(layer.layout for layer in pruned.layers if layer.name != "across")  # whose are positions


def test_a_layer_without_a_bias_says_that_it_takes_no_constants() -> None:
    model = between(lambda net, x: net.side(x.sigmoid()), side=lambda: nn.Conv2d(16, 16, 1, bias=False))()
    layers = prune(model, IMAGES, ratio=0.5).layers
    reasons = {each for layer in layers for each in (layer.reason, layer.layout)}
    assert "convolution in side has no bias to take constants of its inputs" in reasons


def test_budget_of_weights_that_are_computed() -> None:
    model = published_constructions.NETWORKS["rotated kernels"]()
    smaller = prune(model, IMAGES, macs=0.5, round_to=1).model
    assert count(smaller, IMAGES).macs == pytest.approx(0.5 * count(model, IMAGES).macs, rel=0.02)


def test_number_that_is_a_tensor_in_training() -> None:
    model = published_constructions.NETWORKS["shake-shake"]()
    assert count(prune(model, IMAGES, ratio=0.5).model, IMAGES).macs < 0.3 * count(model, IMAGES).macs
