"""Kernels of zeros: how many multiply-accumulates they were, and channels that are left without any."""

from __future__ import annotations

import torch
from torch import nn

from akgp.evaluation import count
from akgp.models import cifar_resnet
from experiments.granularity import (
    EXAMPLE,
    hold_zeros,
    kept_macs,
    kernel_macs,
    without_channels,
    without_kernels,
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return cifar_resnet(8).eval()


def layer(model: nn.Module, name: str) -> nn.Conv2d:
    found = model.get_submodule(name)
    assert isinstance(found, nn.Conv2d)
    return found


def test_kernels_go_until_the_others_are_a_share_of_the_macs() -> None:
    model = network()
    smaller, whole = without_kernels(model, 0.4), count(model, EXAMPLE).macs
    assert 0 <= kept_macs(smaller) - 0.4 * whole < max(kernel_macs(model).values())
    assert kept_macs(model) == whole == count(smaller, EXAMPLE).macs
    hold_zeros(smaller)
    optimizer = torch.optim.SGD(smaller.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    before = kept_macs(smaller)
    for _ in range(2):
        smaller(torch.randn(4, *EXAMPLE.shape[1:])).square().sum().backward()
        optimizer.step()
    assert kept_macs(smaller) == before


def test_a_channel_without_kernels_goes_and_the_outputs_stay() -> None:
    model = network()
    first, second = (layer(model, name) for name in ("layer2.0.conv1", "layer2.0.conv2"))
    with torch.no_grad():
        first.weight[3] = 0
        second.weight[:, 5] = 0
    smaller, many = without_channels(model)
    assert many == 2 and layer(smaller, "layer2.0.conv1").out_channels == first.out_channels - 2
    images = torch.randn(2, *EXAMPLE.shape[1:])
    assert torch.allclose(smaller(images), model(images), atol=1e-5)
    assert without_channels(network())[1] == 0
