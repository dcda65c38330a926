"""Criteria that look at images, against finite differences, exact Hessians, brute force and loops."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian
from torch.nn import functional as F
from torch.nn.utils import prune as masks
from torch.nn.utils.parametrizations import weight_norm

from akgp.data.batches import Batch
from akgp.distillation import distillation_objective
from akgp.distillation.strategies import TEACHER_WEIGHT
from akgp.params import Distill
from akgp.pruning import evidence, group_criteria, prune
from akgp.pruning.coupling.preparation import PruningError
from akgp.pruning.evidence import (
    Evidence,
    curvature_roots,
    distillation_curvature,
    gated,
    hessian_diagonal,
    judged_modules,
    loss_derivatives,
)
from akgp.pruning.group_criteria import BY_IMAGES, BY_NETWORK
from akgp.training import cross_entropy

CLASSES, TEMPERATURE = 4, 3.0


class Residual(nn.Module):
    """A stream that two layers write, and a layer of its own inside the block."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.stem_bn = nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.inner, self.inner_bn = nn.Conv2d(5, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.outer, self.outer_bn = nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5)
        self.hidden, self.head = nn.Linear(5, 6), nn.Linear(6, CLASSES)
        for bn in (self.stem_bn, self.inner_bn, self.outer_bn):
            nn.init.uniform_(bn.weight, 0.5, 1.5)
            nn.init.uniform_(bn.bias, 0, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_bn(self.stem(x)), inplace=True)
        x = x + self.outer_bn(self.outer(F.relu(self.inner_bn(self.inner(x)), inplace=True)))
        return self.head(F.relu(self.hidden(F.relu(x).mean((2, 3)))))


@dataclass
class Writer:
    """As `akgp.pruning.coupling.groups.Writer`."""

    name: str
    module: nn.Module
    members: Tensor
    filters: Tensor


@dataclass
class Group:
    writers: Sequence[Writer]
    width: int
    reason: str | None = field(default=None)


def weight(model: nn.Module, layer: str) -> Tensor:
    return model.get_parameter(f"{layer}.weight").detach()


def group(model: Residual, *names: str) -> Any:
    """Layers that write the same channels, filter j of each being channel j."""
    modules = [model.get_submodule(name) for name in names]
    width = len(weight(model, names[0]))
    order = torch.arange(width)
    return Group([Writer(n, m, order, order[:, None]) for n, m in zip(names, modules, strict=True)], width)


@pytest.fixture
def model() -> Residual:
    return Residual().double().eval()


def batches(count: int = 2, images: int = 6, side: int = 5) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(count):
        inputs = torch.randn(images, 2, side, side, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, CLASSES, (images,), generator=generator)
        weight = torch.rand(images, generator=generator)
        made.append(Batch(torch.arange(images), inputs, labels, {TEACHER_WEIGHT: weight}))
    return made


def by_labels() -> Evidence:
    return Evidence(batches(), cross_entropy())


def taught() -> Evidence:
    torch.manual_seed(2)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(50, CLASSES)).double()
    params = Distill(strategy="akgp", w0=0.5, temperature=TEMPERATURE)
    objective = distillation_objective([lambda batch: teacher(batch.inputs)], params, prior=None)
    return Evidence(batches(), objective, distillation_curvature(TEACHER_WEIGHT, TEMPERATURE))


def scaled(model: Residual, norms: Sequence[str], channel: int, factor: float) -> nn.Module:
    """A copy with one channel's γ and β scaled: what a gate does."""
    changed = Residual().double().eval()
    changed.load_state_dict(model.state_dict())
    for name in norms:
        for key in ("weight", "bias"):
            changed.get_parameter(f"{name}.{key}").data[channel] *= factor
    return changed


def losses(model: nn.Module, given: Evidence) -> Tensor:
    """Of each batch."""
    return torch.stack([given.objective(each, model(each.inputs), 0.0) for each in given.batches]).detach()


STREAM, INNER = (["stem", "outer"], ["stem_bn", "outer_bn"]), (["inner"], ["inner_bn"])


def test_filters_are_judged_behind_their_batch_norm(model: Residual) -> None:
    found = judged_modules(model, batches()[0].inputs)
    names = {module: name for name, module in model.named_modules()}
    assert {layer: names[module] for layer, module in found.items()} == {
        "stem": "stem_bn", "inner": "inner_bn", "outer": "outer_bn", "hidden": "hidden", "head": "head",
    }  # fmt: skip


class Preactivated(nn.Module):
    """A BatchNorm behind a layer whose output a shortcut reads too, and one behind two layers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.stem, self.conv = (nn.Conv2d(inputs, 5, 3, padding=1) for inputs in (2, 5))
        self.norm, self.head = nn.BatchNorm2d(5), nn.Linear(5, CLASSES)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        x = self.stem(x) if gate is None else self.stem(x) * gate[:, None, None]
        if self.kind == "shortcut":
            x = x + self.conv(self.norm(x).relu())
        else:
            x = self.norm(self.conv(self.norm(x).relu()))
        logits: Tensor = self.head(x.relu().mean((2, 3)))
        return logits


@pytest.mark.parametrize("kind", ["shortcut", "shared norm"])
def test_a_gate_is_on_all_that_a_layer_gives(kind: str) -> None:
    torch.manual_seed(0)
    network, given = Preactivated(kind).double().eval(), by_labels()
    found = loss_derivatives(network, given)["stem"]
    for batch, row in zip(given.batches, found, strict=True):
        gate = torch.ones(5, dtype=torch.float64, requires_grad=True)
        loss = F.cross_entropy(network(batch.inputs, gate), batch.labels)
        torch.testing.assert_close(row, *torch.autograd.grad(loss, gate))


@pytest.mark.parametrize("given", [by_labels, taught])
@pytest.mark.parametrize(("layers", "norms"), [STREAM, INNER])
def test_taylor_is_the_squared_derivative_by_a_gate(
    model: Residual, layers: Any, norms: Any, given: Any
) -> None:
    used, step = given(), 1e-5
    (scores,) = group_criteria.taylor(model, [group(model, *layers)], used)
    for channel, score in enumerate(scores.tolist()):
        up, down = (losses(scaled(model, norms, channel, 1 + sign * step), used) for sign in (1, -1))
        assert score == pytest.approx(((up - down) / (2 * step)).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize(("layers", "norms"), [STREAM, INNER])
def test_knowledge_is_the_second_order_rise_of_the_distillation_loss(
    model: Residual, layers: Any, norms: Any
) -> None:
    """By finite differences of the logits, and the Hessian of the objective itself by autograd."""
    used, step = taught(), 1e-6
    (scores,) = group_criteria.knowledge(model, [group(model, *layers)], used)
    for channel, score in enumerate(scores.tolist()):
        up, down = (scaled(model, norms, channel, 1 + sign * step) for sign in (1, -1))
        rise = 0.0
        for batch in used.batches:
            logits = model(batch.inputs).detach()
            change = ((up(batch.inputs) - down(batch.inputs)) / (2 * step)).detach().flatten()

            def loss(z: Tensor, batch: Batch = batch) -> Tensor:
                return used.objective(batch, z.view(-1, CLASSES), 0.0)

            slope, curve = (f(loss, logits.flatten()) for f in (jacobian, hessian))
            rise += (-slope @ change + change @ curve @ change / 2).item() / len(used.batches)
        assert score == pytest.approx(rise, rel=1e-4)


def test_knowledge_of_ones_own_teacher_is_not_zero(model: Residual) -> None:
    params = Distill(strategy="teacher")
    objective = distillation_objective([lambda batch: model(batch.inputs)], params, prior=None)
    made = [Batch(b.index, b.inputs, b.labels, {TEACHER_WEIGHT: torch.ones(6)}) for b in batches()]
    used = Evidence(made, objective, distillation_curvature(TEACHER_WEIGHT, params.temperature))
    (scores,) = group_criteria.knowledge(model, [group(model, "inner")], used)
    assert (scores > 0).all()
    assert all(each.abs().max() < 1e-12 for each in loss_derivatives(model, used).values())


def test_curvature_is_drawn_where_there_are_many_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(50, 6)).double()
    monkeypatch.setattr(evidence, "EXACT_CLASSES", 5)
    monkeypatch.setattr(evidence, "DRAWS", 4000)
    (batch,) = batches(1, images=2)
    curvature = distillation_curvature(TEACHER_WEIGHT, TEMPERATURE)
    with gated(network, batch) as run:
        total = torch.stack(
            [each[:, :, None] * each[:, None] for each in curvature_roots(curvature, run)]
        ).sum(0)
        logits = run.logits.detach().requires_grad_()
    taught = batch.columns[TEACHER_WEIGHT]
    for n in range(2):
        loss = lambda z, n=n: (  # noqa: E731
            (1 - taught[n]) * F.cross_entropy(z, batch.labels[n])
            + taught[n] * TEMPERATURE**2 * F.cross_entropy(z / TEMPERATURE, torch.full((6,), 1 / 6).double())
        )
        exact = hessian(loss, logits[n].detach())
        torch.testing.assert_close(total[n], exact, atol=0.02, rtol=0.1)


def test_hessian_diagonal_is_the_exact_one(model: Residual) -> None:
    """Within five standard errors, by the exact Hessian of all weights together."""
    used, draws = Evidence(batches(1), cross_entropy()), 400
    found = hessian_diagonal(model, used, draws=draws, seed=0)
    names = list(found)
    weights = [weight(model, name) for name in names]

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([each.numel() for each in weights])
        given = {f"{n}.weight": p.view_as(w) for n, p, w in zip(names, parts, weights, strict=True)}
        (batch,) = used.batches
        return used.objective(batch, torch.func.functional_call(model, given, (batch.inputs,)), 0.0)

    whole = hessian(loss, torch.cat([each.flatten() for each in weights]))
    exact = whole.diagonal()
    deviation = (whole.square().sum(1) - exact.square()).clamp_min(0).sqrt()
    estimate = torch.cat([found[name].flatten() for name in names])
    assert ((estimate - exact).abs() <= 5 * deviation / draws**0.5 + 1e-12).all()
    assert exact.abs().max() > 10 * (deviation / draws**0.5).median()


def test_scores_that_are_no_numbers_are_refused() -> None:
    network = nn.Sequential(
        nn.Conv2d(2, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES)
    )
    (batch,) = batches(1)
    given = Evidence([replace(batch, inputs=batch.inputs * torch.nan)], cross_entropy())
    with pytest.raises(PruningError, match="criterion taylor finds no number for filters of 0"):
        prune(network.double(), batch.inputs, ratio=0.5, criterion="taylor", evidence=given)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("by", ["weight_norm", "masks"])
def test_hessian_by_weights_that_are_computed(by: str, frozen: bool) -> None:
    """That of a network that has them as parameters."""
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.Tanh(), nn.Conv2d(5, 4, 3), nn.Flatten(), nn.Linear(4, CLASSES)
    )
    computed = copy.deepcopy(plain.double())
    for layer in (computed[0], computed[2]):
        weight_norm(layer) if by == "weight_norm" else masks.l1_unstructured(layer, "weight", 0.3)
    for index in (0, 2):
        plain[index].weight.data = computed[index].weight.detach().clone()  # type: ignore[operator, union-attr]
    computed.requires_grad_(not frozen)
    given = by_labels()
    found, expected = (hessian_diagonal(each, given, draws=2, seed=0) for each in (computed, plain))
    assert expected["0"].abs().max() > 0
    torch.testing.assert_close(found, expected)
    assert {each.requires_grad for each in computed.parameters()} == {not frozen}


def test_obd_refuses_a_layer_that_the_loss_does_not_see() -> None:
    class Detached(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[1](self[0](x).detach().mean((2, 3)))  # type: ignore[no-any-return]

    network = Detached(nn.Conv2d(2, 5, 3), nn.Linear(5, CLASSES)).double()
    with pytest.raises(PruningError, match="no derivative by the weight of 0"):
        hessian_diagonal(network, by_labels(), draws=1, seed=0)


class Hard(nn.Module):
    """Attention has second derivatives by the kernel that is written out alone; a hard sigmoid has none."""

    def __init__(self, *, hard: bool) -> None:
        super().__init__()
        self.conv, self.head, self.hard = nn.Conv2d(3, 8, 1), nn.Linear(8, 3), hard

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.conv(images).flatten(2).mT
        tokens = F.scaled_dot_product_attention(tokens, tokens, tokens)
        logits: Tensor = self.head((F.hardsigmoid(tokens) if self.hard else tokens).mean(1))
        return logits


def test_obd_says_which_derivative_there_is_not() -> None:
    batch = Batch(torch.arange(4), torch.randn(4, 3, 4, 4), torch.arange(4) % 3)
    used = Evidence([batch], cross_entropy())
    assert set(hessian_diagonal(Hard(hard=False), used, draws=2, seed=0)) == {"conv", "head"}
    with pytest.raises(PruningError, match=r"obd needs second derivatives, .*hardsigmoid.*: take taylor or"):
        hessian_diagonal(Hard(hard=True), used, draws=2, seed=0)


def test_obd_adds_up_the_saliencies_of_the_weights(model: Residual, monkeypatch: pytest.MonkeyPatch) -> None:
    diagonal = {name: torch.rand_like(weight(model, name)) for name in ("stem", "outer")}
    monkeypatch.setattr(group_criteria, "hessian_diagonal", lambda *args, **options: diagonal)
    (scores,) = group_criteria.obd(model, [group(model, "stem", "outer")], by_labels())
    for channel, score in enumerate(scores.tolist()):
        total = sum(
            0.5 * h * w * w
            for name, values in diagonal.items()
            for h, w in zip(
                values[channel].flatten().tolist(),
                weight(model, name)[channel].flatten().tolist(),
                strict=True,
            )
        )
        assert score == pytest.approx(total)


def test_hrank_is_the_mean_rank_of_the_maps(model: Residual) -> None:
    used = by_labels()
    (scores,) = group_criteria.hrank(model, [group(model, "inner")], used)
    ranks = []
    for batch in used.batches:
        x = F.relu(model.stem_bn(model.stem(batch.inputs)))
        maps = F.relu(model.inner_bn(model.inner(x))).detach().numpy()
        ranks += [[np.linalg.matrix_rank(channel.astype(np.float32)) for channel in image] for image in maps]
    np.testing.assert_allclose(scores.numpy(), np.mean(ranks, 0))
    assert scores.min() > 0


def test_bn_scale_is_gamma_and_needs_one(model: Residual) -> None:
    stream, inner = group_criteria.bn_scale(
        model, [group(model, *STREAM[0]), group(model, "inner")], batches()[0].inputs
    )
    expected = (model.stem_bn.weight.abs() + model.outer_bn.weight.abs()) / 2
    torch.testing.assert_close(stream, expected.detach())
    torch.testing.assert_close(inner, model.inner_bn.weight.detach().abs())
    with pytest.raises(
        PruningError, match="bn_scale: no BatchNorm with a scale stands directly behind hidden"
    ):
        group_criteria.bn_scale(model, [group(model, "hidden")], batches()[0].inputs)


def test_lamp_is_its_formula(model: Residual) -> None:
    (scores,) = group_criteria.lamp(model, [group(model, "inner")], batches()[0].inputs)
    weights = model.inner.weight.detach()
    flat = weights.flatten().tolist()
    for channel, score in enumerate(scores.tolist()):
        mine = weights[channel].flatten().tolist()
        expected = sum(w * w / sum(v * v for v in flat if abs(v) >= abs(w)) for w in mine)
        assert score == pytest.approx(expected)


@pytest.mark.parametrize("name", [*BY_IMAGES, *BY_NETWORK])
def test_scoring_changes_nothing(model: Residual, name: str) -> None:
    """Also in training mode, with frozen weights."""
    model.train().requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    groups = [group(model, *STREAM[0]), group(model, "inner")]
    if name in BY_IMAGES:
        scores = BY_IMAGES[name](model, groups, taught())
    else:
        scores = BY_NETWORK[name](model, groups, batches()[0].inputs)
    assert [each.shape for each in scores] == [(5,), (3,)] and all(each.isfinite().all() for each in scores)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.training and not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
