"""Moves of channels in float graphs: they end in the weights of layers, and the network stays what it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.models.layout import set_layout
from akgp.pruning import prune
from akgp.quantization import export_onnx
from akgp.runtimes.onnxruntime import session

IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def graph(model: nn.Module, folder: Path) -> Counter[str]:
    """Its operations, after the logits have been compared with the network's."""
    file = folder / "float.onnx"
    export_onnx(model.eval(), IMAGES[:2], file)
    (got,) = session(file, threads=1).run(None, {"input": IMAGES.numpy()})
    np.testing.assert_allclose(got, model(IMAGES).detach().numpy(), rtol=0, atol=1e-5)
    return Counter(node.op_type for node in onnx.load(file).graph.node)


def trained_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    for tensor in norm.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return norm


class Shuffled(nn.Module):
    """Blocks of ShuffleNet v2: one half passes, the other is computed, both are shuffled."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 1), trained_norm(8), nn.Hardswish()) for _ in range(3)
        )
        self.out = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for block in self.blocks:
            a, b = x.chunk(2, 1)
            x = torch.cat((a, block(b)), 1)
            x = x.reshape(-1, 2, 8, 8, 8).transpose(1, 2).reshape(-1, 16, 8, 8)
        return self.out(x.mean((2, 3)))


def test_a_shuffle_ends_in_the_weights_behind_it(tmp_path: Path) -> None:
    """Halves are gathered, one to pass and one to be computed; nothing is shuffled."""
    kinds = graph(Shuffled(), tmp_path)
    assert not {"Transpose", "Split", "Slice"} & set(kinds)
    assert kinds["Gather"] == 2 * 3 and kinds["Reshape"] <= 1  # of the mean


def test_a_pruned_shuffle_has_no_operation_more(tmp_path: Path) -> None:
    """Zeros in the place of removed channels become a part of biases, beyond BatchNorm and hard-swish."""
    dense = Shuffled().eval()
    pruned = prune(dense, IMAGES[:1], ratio=0.5, scope="all", round_to=1).model
    assert "kept_inputs" in "".join(dict(pruned.named_buffers()))
    before, after = graph(dense, tmp_path), graph(pruned, tmp_path)
    assert after - before == Counter() and "Pad" not in after


class Zeros(nn.Module):
    """A convolution that writes zeros, a BatchNorm, and then what a test asks for."""

    def __init__(self, behind: Callable[[Zeros, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.behind = behind
        self.one, self.norm = nn.Conv2d(3, 3, 3), trained_norm(5)
        set_layout(self.one, None, torch.tensor([1, -1, 0, 2, -1]))
        self.point, self.wide = nn.Conv2d(5, 4, 1, bias=False), nn.Conv2d(5, 4, 3, padding=1)
        self.depthwise, self.out = nn.Conv2d(5, 5, 3, padding=1, groups=5), nn.Linear(4, 2)
        self.features, self.map = nn.Linear(5, 2), nn.Linear(5 * 6 * 6, 2)

    def forward(self, x: Tensor) -> Tensor:
        # 0 and what BatchNorm makes of it become other values.
        return self.behind(self, F.hardsigmoid(self.norm(self.one(x))))


def test_what_was_zero_is_a_part_of_biases(tmp_path: Path) -> None:
    """Of a convolution without one, behind a pool; and of a fully connected layer."""

    def behind(net: Zeros, x: Tensor) -> Tensor:
        features = torch.sigmoid(F.adaptive_avg_pool2d(x, 1)).flatten(1)
        return net.out(net.point(F.max_pool2d(x, 3, 1, 1)).mean((2, 3))) + net.features(features)

    assert not {"Pad", "Gather", "Slice"} & set(graph(Zeros(behind), tmp_path))


def test_or_it_is_written_where_its_place_matters(tmp_path: Path) -> None:
    """Where the border is 0 and the channel is not, in a flattened map, beside another order, as logits."""

    def behind(net: Zeros, x: Tensor) -> Tensor:
        turned = torch.cat((x[:, 2:], x[:, :2]), 1) + net.depthwise(x)
        logits = net.out(net.wide(x).mean((2, 3))) + net.map(x.flatten(1)) + net.features(turned.mean((2, 3)))
        return torch.cat((logits, x[:, [4, 0]].mean((2, 3))), 1)

    kinds = graph(Zeros(behind), tmp_path)
    assert kinds["Pad"] >= 2 and not {"Slice", "Split"} & set(kinds)


def test_tokens_are_no_channels(tmp_path: Path) -> None:
    """The second axis of three: a slice of it stays one."""

    def behind(net: Zeros, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)  # [N, 36, 5]
        return net.features(tokens[:, 1:9].mean(1))

    assert graph(Zeros(behind), tmp_path)["Slice"] == 1


def test_images_are_not_joined_or_taken_apart(tmp_path: Path) -> None:
    """Moves along other axes: of windows that become images, and of images themselves."""

    def behind(net: Zeros, x: Tensor) -> Tensor:
        windows = (
            F.pad(x, (0, 2, 0, 2)).reshape(-1, 5, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, 5, 4, 4)
        )
        together = windows.reshape(-1, 4, 5, 4, 4).transpose(1, 2).reshape(-1, 20, 4, 4)
        return net.features(together.mean((2, 3))[:, :5] + x.flip(0).flip(0).mean((2, 3)))

    graph(Zeros(behind), tmp_path)
