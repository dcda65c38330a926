"""Residual blocks that are removed whole: which there are, and what is left without them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.efficientnet import MBConv
from torchvision.models.mobilenetv2 import InvertedResidual

from akgp import artifacts, params
from akgp.evaluation import count
from akgp.models import cifar_resnet
from akgp.pruning import Pruned, PruningError, prune, residual_blocks, without_blocks
from akgp.stages.prune import pruned_as

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
EXAMPLE = torch.zeros(1, 3, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    model = cifar_resnet(20, (8, 8, 16)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model


@torch.no_grad()
def outputs(model: nn.Module) -> Tensor:
    logits: Tensor = model.eval()(IMAGES)
    return logits


@torch.no_grad()
def masked(model: nn.Module, pruned: Pruned) -> Tensor:
    """What the dense network gives with the removed filters, and their BatchNorms, at zero."""
    zeroed = copy.deepcopy(model)
    for layer in pruned.layers:
        gone = [index for index in range(layer.dense_width) if index not in layer.kept]
        for name in (layer.name, layer.name.replace("conv", "bn")):
            for parameter in zeroed.get_submodule(name).parameters():
                parameter[gone] = 0
    return outputs(zeroed)


class Stream(nn.Module):
    """A block that computes in place, without an activation, called by a network whose stream is signed."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))

    def forward(self, x: Tensor) -> Tensor:
        x += self.branch(x)
        return x


def plain() -> nn.Sequential:
    """One such block; a layer, a block with a gate and one called twice hand on something else."""
    twice = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), Stream(), twice, nn.Sequential(nn.Conv2d(8, 8, 1), nn.Sigmoid()), twice,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def test_blocks_are_those_with_a_shortcut_and_nothing_else() -> None:
    assert residual_blocks(plain(), EXAMPLE) == ["1"]
    assert residual_blocks(network(), EXAMPLE) == [
        f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(3) if stage == 1 or block
    ]  # fmt: skip
    for model in (models.mobilenet_v2(num_classes=3), models.efficientnet_b0(num_classes=3)):
        by_torchvision = [
            name
            for name, module in model.named_modules()
            if isinstance(module, (MBConv, InvertedResidual)) and module.use_res_connect
        ]
        assert residual_blocks(model, torch.zeros(1, 3, 32, 32)) == by_torchvision
    transformer = models.VisionTransformer(8, 4, 2, 2, 8, 16, num_classes=3)
    names = [f"encoder.layers.encoder_layer_{number}" for number in range(2)]
    assert residual_blocks(transformer, EXAMPLE) == names


def test_it_is_the_network_with_the_block_s_filters_at_zero() -> None:
    model = network()
    before = outputs(model)
    whole = without_blocks(model, EXAMPLE, ["layer1.[12]", "layer3.2"])
    assert [layer.name for layer in whole.layers if not layer.kept] == [
        f"layer{block}.conv{number}" for block in ("1.1", "1.2", "3.2") for number in (1, 2)
    ]
    torch.testing.assert_close(outputs(whole.model), masked(model, whole))
    smaller = prune(whole.model, EXAMPLE, macs=0.4, round_to=1, after=whole)
    torch.testing.assert_close(outputs(smaller.model), masked(model, smaller), rtol=1e-3, atol=1e-4)
    assert [layer.name for layer in smaller.layers] == [layer.name for layer in whole.layers]
    share = count(smaller.model, EXAMPLE).macs / count(model, EXAMPLE).macs
    assert smaller.budget and smaller.budget.reached == pytest.approx(share) == pytest.approx(0.4, rel=0.02)
    torch.testing.assert_close(outputs(model), before, rtol=0, atol=0)


def test_a_saved_one_is_loaded_as_it_is(tmp_path: Path) -> None:
    whole = without_blocks(network(), EXAMPLE, ["layer2.*"])
    smaller = prune(whole.model, EXAMPLE, ratio=0.5, round_to=1, after=whole).model
    artifacts.save(smaller, tmp_path)
    loaded = artifacts.load(tmp_path)
    torch.testing.assert_close(outputs(loaded), outputs(smaller), rtol=0, atol=0)
    artifacts.save(without_blocks(loaded, EXAMPLE, ["layer1.1"]).model, tmp_path)
    assert residual_blocks(artifacts.load(tmp_path), EXAMPLE) == [
        "layer1.0",
        "layer1.2",
        "layer3.1",
        "layer3.2",
    ]


def test_an_unknown_network_s_spec_is_found(tmp_path: Path) -> None:
    model = models.resnet18(num_classes=3).eval()
    artifacts.save(without_blocks(model, torch.zeros(1, 3, 32, 32), ["layer4.1"]).model, tmp_path)
    assert not [name for name, _ in artifacts.load(tmp_path).named_modules() if name.startswith("layer4.1.")]


def test_cuts_little_by_little_come_to_the_same() -> None:
    asked = params.Prune(ratio=0.5, round_to=1, bypass=("layer1.1",))
    model = network()
    once = pruned_as(asked, model, EXAMPLE, seed=0)
    half = pruned_as(asked, model, EXAMPLE, seed=0, done=0.5)
    twice = pruned_as(asked, half.model, EXAMPLE, seed=0, after=half)
    assert [layer.pruned_width for layer in twice.layers] == [layer.pruned_width for layer in once.layers]


@pytest.mark.parametrize("name", ["layer2.0", "conv1", "nothing"])
def test_what_is_no_block_is_refused(name: str) -> None:
    with pytest.raises(
        PruningError, match=f"bypass: '{name}' is no residual block of CifarResNet; such are layer1"
    ):
        without_blocks(network(), EXAMPLE, ["layer1.1", name])
