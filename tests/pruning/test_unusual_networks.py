"""Networks that were refused whole, cut wrongly or cut for nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import prune as masks

from akgp.evaluation import count
from akgp.pruning import prune, prune_gradually

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Recurrent(nn.Module):
    """A ConvLSTM: its gates are called with different inputs, and split by a number in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gates = block(3, 32, 2), nn.Conv2d(64, 128, 3, padding=1)
        self.out, self.head = block(32, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        h = c = x.new_zeros(len(x), 32, *x.shape[2:])
        for _ in range(2):
            i, f, o, g = torch.split(self.gates(torch.cat([x, h], 1)), 32, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.head(self.out(h).mean((2, 3)))


class Functional(nn.Module):
    """A weight that is used outside of its module, before a normalization in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = block(3, 32, 2), nn.Conv2d(32, 64, 3, padding=1)
        self.norm, self.head = nn.GroupNorm(8, 64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(self.stem(x), self.conv.weight, self.conv.bias, padding=1)
        return self.head(self.norm(x).relu().mean((2, 3)))


class ImageByImage(nn.Module):
    """Attention in a loop over the batch: as many views as there are images."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.qkv = block(3, 32, 2), nn.Linear(32, 96)
        self.out, self.head = nn.Linear(32, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for tokens in self.features(x).flatten(2).transpose(1, 2):
            q, k, v = self.qkv(tokens).view(-1, 3, 4, 8).permute(1, 2, 0, 3)
            mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
            rows.append(self.out(mixed.transpose(0, 1).reshape(-1, 32)).mean(0))
        return self.head(torch.stack(rows))


class Caching(nn.Module):
    """Attention whose first pass keeps an index, by a view that later passes do not have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv = block(3, 32, 4), nn.Linear(32, 96)
        self.out, self.head, self.cache = nn.Linear(32, 32), nn.Linear(32, 5), None

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        n, tokens, width = x.shape
        if self.cache is None:
            places = torch.arange(tokens)
            self.cache = (places.view(1, -1) - places.view(-1, 1)).abs().reshape(1, 1, tokens, tokens)
        q, k, v = self.qkv(x).reshape(n, tokens, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-2, -1) - self.cache).softmax(-1) @ v
        return self.head((x + self.out(mixed.transpose(1, 2).reshape(n, tokens, width))).mean(1))


class Llama(nn.Module):
    """Pre-normalised blocks over an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(50, 32), nn.RMSNorm(32)
        self.up, self.down, self.head = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        return self.head(x + self.down(F.silu(self.up(self.norm(x)))))


class AlwaysDropping(nn.Module):
    """Monte-Carlo dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = block(3, 32), block(32, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(self.b(F.dropout2d(self.a(x), 0.2, True)), 0.2).mean((2, 3)))


class Dropped(nn.Module):
    """In place, behind a view of the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Sequential(block(3, 32, 2), block(32, 32, 2)[:2]), nn.Linear(512, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(self.features(x).flatten(1), 0.2, self.training, inplace=True))


class Stepped(nn.Module):
    """A weight in learned steps of each filter, as quantization-aware training has them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.conv, self.b = block(3, 32), nn.Conv2d(32, 32, 3, padding=1), block(32, 32)
        self.steps, self.head = nn.Parameter(torch.rand(32, 1, 1, 1) + 0.1), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.conv.weight / self.steps).round() * self.steps
        x = F.conv2d(self.a(x), weight, self.conv.bias, padding=1).relu()
        return self.head(self.b(x).mean((2, 3)))


class ByName(nn.Module):
    """Its functions are given their tensors by name."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.out = nn.Conv2d(3, 32, 3, 4), nn.Linear(32, 96), nn.Linear(32, 32)
        self.head = nn.Linear(32 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = torch.reshape(input=x, shape=(len(x), 32, 16)).transpose(1, 2)
        q, k, v = torch.split(tensor=self.qkv(x), split_size_or_sections=32, dim=-1)
        q, k, v = (torch.unflatten(input=each, dim=-1, sizes=(4, 8)).transpose(1, 2) for each in (q, k, v))
        x = F.scaled_dot_product_attention(query=q, key=k, value=v).transpose(1, 2)
        return self.head(torch.reshape(input=self.out(x.flatten(2)).relu(), shape=(len(x), 512)))


class ByPosition(ByName):
    """The same."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x.reshape(len(x), 32, 16).transpose(1, 2)
        q, k, v = self.qkv(x).split(32, -1)
        q, k, v = (each.unflatten(-1, (4, 8)).transpose(1, 2) for each in (q, k, v))
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.head(self.out(x.flatten(2)).relu().reshape(len(x), 512))


def macs(network: nn.Module, example: Tensor = IMAGES) -> int:
    return count(network.eval(), example).macs


def kept(network: nn.Module, example: Any = IMAGES, **options: Any) -> float:
    """The share of the MACs that is left, of a network that runs on other batches and can be trained."""
    torch.manual_seed(0)
    smaller = prune(network, example, **{"ratio": 0.5, "round_to": 4} | options).model
    with torch.no_grad():
        for inputs in (example, example[:1], torch.cat([example, example]), example):
            smaller.eval()(inputs)
    smaller.train()(example).sum().backward()
    return macs(smaller, example) / macs(network, example)


@pytest.mark.parametrize("network", [Recurrent, Functional])
@pytest.mark.parametrize("amount", [{"ratio": 0.5}, {"macs": 0.6}])
def test_no_filter_is_zeroed_where_it_is_not_removed(network: type[nn.Module], amount: Any) -> None:
    torch.manual_seed(0)
    pruned = prune(network(), IMAGES, **amount)
    modules = dict(pruned.model.named_modules())
    for layer in pruned.layers:
        assert modules[layer.name].weight.flatten(1).abs().sum(1).count_nonzero() == layer.pruned_width
        assert layer.pruned_width == len(modules[layer.name].weight)
    assert any("would be zeroed, not removed" in str(layer.reason) for layer in pruned.layers)


def test_what_a_cut_has_removed_is_not_kept_by_the_next() -> None:
    torch.manual_seed(0)
    first, second = prune_gradually(Recurrent(), IMAGES, steps=2, ratio=0.5)
    before = {layer.name: set(layer.kept) for layer in first.layers}
    assert all(set(layer.kept) <= before[layer.name] for layer in second.layers)


@pytest.mark.parametrize("network", [ImageByImage, Caching])
def test_views_whose_number_differs_between_passes(network: type[nn.Module]) -> None:
    assert kept(network()) < 0.9


def test_spectral_norm_of_a_network_in_training_mode() -> None:
    """Its weight changes whenever it is read in that mode, which a new network is in."""
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), parametrizations.spectral_norm(nn.Conv2d(32, 32, 3)), nn.ReLU(),
        nn.Conv2d(32, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip
    assert network.training
    smaller = prune(network, IMAGES, ratio=0.5).model
    assert smaller.training and smaller[4].out_channels == 16 and parametrize.is_parametrized(smaller[2])


def test_an_embedding_is_no_weight_to_the_norm_behind_it() -> None:
    tokens = torch.randint(50, (2, 7), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    smaller = prune(Llama(), tokens, ratio=0.5, scope="all", round_to=4).model
    assert (smaller.up.in_features, smaller.up.out_features, smaller.down.out_features) == (16, 32, 16)


@pytest.mark.parametrize("network", [AlwaysDropping, Dropped])
def test_dropout_in_eval_mode_and_in_place(network: type[nn.Module]) -> None:
    assert kept(network(), scope="all") < 0.35


def test_a_weight_that_hooks_compute_can_be_copied() -> None:
    network = nn.Sequential(
        block(3, 32), block(32, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)
    )
    masks.l1_unstructured(network[1][0], "weight", 0.3)
    assert kept(network) < 0.5


def test_steps_of_a_weight_cost_no_other_layer_its_cut() -> None:
    torch.manual_seed(0)
    pruned = prune(Stepped(), IMAGES, ratio=0.5, round_to=4)
    assert {layer.name: layer.pruned_width for layer in pruned.layers}["b.0"] == 16


def test_tensors_that_are_given_by_name() -> None:
    """Cut as they are by position."""
    torch.manual_seed(0)
    named, plain = ByName(), ByPosition()
    plain.load_state_dict(named.state_dict())
    one, two = (prune(each.eval(), IMAGES, ratio=0.5) for each in (named, plain))
    assert [layer.kept for layer in one.layers] == [layer.kept for layer in two.layers]
    assert [layer.pruned_width for layer in one.layers] == [16, 48, 16, 5]
    torch.testing.assert_close(one.model(IMAGES), two.model(IMAGES))


def test_a_transposed_convolution_in_groups_says_that_it_stays_dense() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.ConvTranspose2d(32, 32, 2, groups=4), nn.ReLU(),
        nn.Conv2d(32, 32, 1), nn.ReLU(), nn.Conv2d(32, 5, 1),
    )  # fmt: skip
    layer = prune(network, IMAGES, ratio=0.5).layers[1]
    assert (layer.dense_width, layer.pruned_width, layer.kept) == (32, 32, tuple(range(32)))
    assert layer.reason == "convolution in 2 has 4 groups"
