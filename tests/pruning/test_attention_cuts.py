"""Attention: queries, keys and values of all heads are cut, exactly, and the network stays usable."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from akgp import artifacts
from akgp.evaluation.cost import count, count_macs
from akgp.models import Spec, create
from akgp.models.attention import narrowable_names
from akgp.models.inputs import Inputs
from akgp.pruning import Pruned, int8_bytes, prune
from akgp.pruning.narrowing import with_narrowable_attention
from akgp.quantization import export_onnx

IMAGES = torch.zeros(2, 3, 32, 32)


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = create(Spec(f"tests.support.attention_networks:{name}", 5, 3)).eval()
    for parameter in model.parameters():  # biases and a head of zeros would hide what is wrong
        nn.init.normal_(parameter, std=0.1) if parameter.ndim < 2 or not parameter.any() else None
    return model


def masked(model: nn.Module, pruned: Pruned) -> nn.Module:
    """The given network with the filters of `layers` zeroed, those of bare parameters too."""
    model = copy.deepcopy(model)
    for layer in pruned.layers:
        gone = sorted(set(range(layer.dense_width)) - set(layer.kept))
        parent, _, leaf = layer.name.rpartition(".")
        if leaf.endswith("_proj_weight"):  # a part of all three, apart or in one
            attention, part = model.get_submodule(parent), "qkv".find(leaf[0])
            part = max(part, 0) * layer.dense_width
            whole = attention.in_proj_weight is not None
            rows = torch.tensor(gone, dtype=torch.long)
            attention.in_proj_bias.data[part + rows] = 0
            weight = attention.in_proj_weight if whole else getattr(attention, leaf)
            weight.data[rows + part if whole else rows] = 0
            continue
        for name, parameter in model.named_parameters():
            if name in (f"{layer.name}.weight", f"{layer.name}.bias"):
                parameter.data[gone] = 0
    return model


def inner_products(model: nn.Module) -> int:
    """The MACs of attention's two products, which no parameter takes part in."""
    macs = count_macs(model, IMAGES)
    return macs.total - sum(macs.by_parameter.values())


@pytest.mark.parametrize(
    ("name", "share"),
    [("vit", 0.58), ("swin", 0.54), ("Cross", 0.55), pytest.param("swin_v2", 0.54, marks=pytest.mark.slow)],
)
def test_cut_exact_trains_reloads(name: str, share: float, tmp_path: Path) -> None:
    model = network(name)
    pruned = prune(model, IMAGES, ratio=0.5, round_to=1, scope="inside")
    assert count(pruned.model, IMAGES).macs < share * count(model, IMAGES).macs
    assert 2 * inner_products(pruned.model) == inner_products(model)
    x = torch.randn(4, 3, 32, 32)
    expected = masked(model, pruned)(x)
    torch.testing.assert_close(pruned.model(x), expected, rtol=1e-4, atol=1e-5)
    artifacts.save(pruned.model, tmp_path)
    loaded = artifacts.load(tmp_path)
    assert torch.equal(loaded(x), pruned.model.eval()(x))
    loaded.train()(x).sum().backward()
    assert all(each.grad is not None for each in loaded.parameters())
    again = prune(loaded.eval(), IMAGES, ratio=0.5, round_to=1, scope="inside")  # a second cycle
    assert count(again.model, IMAGES).macs < count(loaded, IMAGES).macs


def test_an_encoder_is_used_with_padding(tmp_path: Path) -> None:
    """In eval mode torch's encoder would make nested tensors of it, in a kernel that reads dense weights."""
    model = network("Padded")
    x = torch.randn(2, 6, 32)
    x[1, 4:] = 0
    pruned = prune(model, x, ratio=0.5, round_to=1, scope="inside")
    artifacts.save(pruned.model, tmp_path)
    expected = masked(model, pruned)(x)  # autograd keeps that kernel out
    with torch.no_grad():
        for smaller in (pruned.model.eval(), artifacts.load(tmp_path)):
            torch.testing.assert_close(smaller(x), expected, rtol=1e-4, atol=1e-5)


def test_patterns_match_the_names_that_are_shown() -> None:
    encoder = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.Linear(8, 32), encoder, nn.Flatten(), nn.Linear(128, 5)).eval()
    pruned = prune(model, torch.zeros(1, 4, 8), ratio=0.0, round_to=1, layers={"*.in_proj_weight": 0.5})
    changed = {layer.name: layer.rule for layer in pruned.layers if layer.pruned_width < layer.dense_width}
    assert changed == {"1.self_attn.in_proj_weight": "layers *.in_proj_weight: 0.5"}


@pytest.mark.parametrize("name", ["vit", pytest.param("swin", marks=pytest.mark.slow)])
def test_stream_and_budget(name: str) -> None:
    model = network(name)
    pruned = prune(model, IMAGES, ratio=0.5, scope="all")
    assert count(pruned.model, IMAGES).macs < 0.35 * count(model, IMAGES).macs
    half = prune(model, IMAGES, macs=0.5, scope="all", round_to=1)
    assert count(half.model, IMAGES).macs == pytest.approx(0.5 * count(model, IMAGES).macs, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "swin_v2"])
def test_onnx_as_torch(name: str, tmp_path: Path) -> None:
    model = prune(network(name), IMAGES, ratio=0.5, scope="all").model
    export_onnx(model, IMAGES, tmp_path / "float.onnx")
    x = torch.randn(2, 3, 32, 32)
    session = onnxruntime.InferenceSession(tmp_path / "float.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(got, outputs(model, x), rtol=1e-3, atol=1e-4)


def outputs(model: nn.Module, x: Tensor) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(x).numpy()


def test_left_as_they_are() -> None:
    """What is skipped, and weights that two attentions to other sequences share."""
    model = network("vit")
    names = [name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    skipped = prune(model, IMAGES, ratio=0.5, skip=names[:1]).model
    assert narrowable_names(skipped) == names[1:]
    cross = network("Cross")
    decoder: Any = cross.decoder
    decoder.self_attn.in_proj_weight = decoder.multihead_attn.in_proj_weight
    smaller: Any = prune(cross, IMAGES, ratio=0.5).model
    assert narrowable_names(smaller) == ["attention", "decoder.self_attn"]
    tied = smaller.decoder.self_attn.in_proj.weight
    assert tied is smaller.decoder.multihead_attn.in_proj_weight


class Cross(nn.Module):
    """Attention to the first `seen` features."""

    def __init__(self, seen: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, kdim=seen, vdim=seen, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        seen = x[..., : self.attention.kdim]
        return self.attention(x, seen, seen)[0]


@pytest.mark.parametrize(("seen", "weights"), [(8, 4 * 8 * 8), (6, 2 * 8 * 8 + 2 * 8 * 6)])
def test_the_bytes_of_attention_are_the_same_before_its_layers_are_apart(seen: int, weights: int) -> None:
    """A byte a weight, and 17 for each of the four layers' eight filters: bias, scales and zero points."""
    model, example = Cross(seen), torch.zeros(1, 3, 8)
    apart = with_narrowable_attention(model, Inputs.of(model, example), set())
    assert narrowable_names(apart)
    assert int8_bytes(model) == int8_bytes(apart) == weights + 4 * 8 * 17
