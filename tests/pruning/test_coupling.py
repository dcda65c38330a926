"""The coupling of channels against Torch-Pruning's graph and against brute force on random networks."""

from __future__ import annotations

import random

import pytest
import torch
import torch_pruning
import torchvision
from torch import Tensor, nn

from akgp.evaluation.cost import count
from akgp.models import Inputs
from akgp.pruning import prune
from akgp.pruning.coupling.groups import layer_filters
from akgp.pruning.coupling.network import couple
from akgp.pruning.coupling.units import Units
from tests.support.hard_constructions import NETWORKS
from tests.support.hard_networks import Between
from tests.support.small_networks import Small


def test_units_are_the_components_of_the_graph_of_pairs() -> None:
    units, generator = Units(), torch.Generator().manual_seed(0)
    ids = units.fresh(200)
    pairs = ids[torch.randint(0, 200, (2, 120), generator=generator)]
    units.unite(*pairs, "a test")
    component = {each: {each} for each in ids.tolist()}  # the definition: merge sets pair by pair
    for one, other in pairs.T.tolist():
        merged = component[one] | component[other]
        component |= dict.fromkeys(merged, merged)
    assert units.labels()[1:].tolist() == [min(component[each]) for each in ids.tolist()]


@pytest.mark.parametrize("name", ["small", "resnet18", "mobilenet_v2"])
def test_couples_filters_as_torch_pruning_does(name: str) -> None:
    torch.manual_seed(0)
    model = Small() if name == "small" else torchvision.models.get_model(name, num_classes=5)
    model.eval()
    example = torch.zeros(1, 3, 12, 12) if name == "small" else torch.zeros(1, 3, 32, 32)
    coupling = couple(model, Inputs.of(model, example))
    ours: dict[int, set[tuple[str, int]]] = {}
    for layer, _, ids in layer_filters(model, coupling):
        for position, label in enumerate(coupling.labels[ids].tolist()):
            ours.setdefault(label, set()).add((layer, position))
    names = {module: each for each, module in model.named_modules()}
    graph = torch_pruning.DependencyGraph().build_dependency(model, example, verbose=False)
    for layer, module, ids in layer_filters(model, coupling):
        position = len(ids) // 2
        group = graph.get_pruning_group(
            module, graph.get_pruner_of_module(module).prune_out_channels, [position]
        )
        theirs = {
            (names[item.dep.target.module], item.idxs[0])
            for item in group
            if isinstance(item.dep.target.module, (nn.Conv2d, nn.Linear))
            and graph.is_out_channel_pruning_fn(item.dep.handler)
        }
        assert ours[int(coupling.labels[ids[position]])] == theirs, layer


class DropPath(nn.Module):
    """As timm has it: a random number for each image."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.new_empty(len(x), 1, 1, 1).bernoulli_(0.5) if self.training else x


@pytest.mark.parametrize(
    "layer", [nn.Dropout(), nn.Dropout(inplace=True), nn.Dropout2d(), nn.AlphaDropout(), DropPath()], ids=repr
)
def test_noise_in_training_keeps_no_layout(layer: nn.Module) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), layer, nn.ReLU(), nn.Flatten(), nn.Linear(576, 3))
    layers = prune(model.train(), torch.zeros(2, 3, 8, 8), ratio=0.5).layers
    assert (layers[0].pruned_width, layers[0].layout) == (8, None)


class Chain(Between):
    """Several constructions one behind the other."""

    def __init__(self, parts: list[Between]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def hard(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part.hard(x)  # type: ignore[operator]
        return x


@pytest.mark.parametrize("seed", range(12))
def test_constructions_at_random_are_cut_exactly(seed: int) -> None:
    """`prune` compares the cut network with the masked one itself: what is tested is that it always can."""
    torch.manual_seed(seed)
    # Those that keep the width and size of what arrives, so that any may follow any.
    same = []
    for name, build in NETWORKS.items():
        network = build()
        x = torch.zeros(1, 16, 16, 16)
        if isinstance(network, Between) and type(network).__name__ == "Hard" and name != "roll":
            with torch.no_grad():
                if network.eval().hard(x).shape == x.shape:
                    same.append(network)
    model = Chain(random.Random(seed).sample(same, 4)).eval()
    example = torch.zeros(2, 3, 16, 16)
    pruned = prune(model, example, ratio=0.5, round_to=2)
    assert count(pruned.model, example).macs < count(model, example).macs
