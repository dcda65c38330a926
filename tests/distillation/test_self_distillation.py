from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from akgp import params
from akgp.data.batches import Batch
from akgp.distillation import (
    SelfDistillation,
    self_distillation_loss,
)
from akgp.distillation.strategies.self_distillation import HINT
from akgp.models import cifar_resnet
from tests.support.distillations import (
    Logits,
    distill,
    loop_divergence,
    loop_label_loss,
    loop_softened,
    several_teachers,
    trained_on,
)


def loop_self(
    student: Logits,
    features: list[float],
    heads: list[tuple[list[float], Logits]],
    y: int,
    given: params.Distill,
) -> float:
    """Zhang et al. 2019: CE(q_C) + Σ_i (1 − α)·CE(q_i) + α·KL(q_C ‖ q_i) + λ·‖F_i − F_C‖²."""
    total = loop_label_loss(student, y, given)
    for head_features, head in heads:
        taught = loop_divergence(loop_softened(student, given), loop_softened(head, given))
        total += (1 - 0.3) * loop_label_loss(head, y, given) + 0.3 * given.temperature**2 * taught
        total += HINT * sum((a - b) ** 2 for a, b in zip(head_features, features, strict=True))
    return total


@pytest.mark.parametrize(
    "changes", [{}, {"logit_std": True}, {"training": {"label_smoothing": 0.1}}], ids=str
)
def test_self_distillation_loss_is_its_formula(changes: dict[str, Any]) -> None:
    given = distill(strategy="self_distillation", **changes)
    student, others, labels, _ = several_teachers(2)
    features, *of_heads = torch.randn(3, 7, 5, dtype=torch.float64)
    heads = list(zip(of_heads, others, strict=True))
    expected = [
        loop_self(
            student[i].tolist(), features[i].tolist(), [(f[i].tolist(), z[i].tolist()) for f, z in heads],
            int(labels[i]), given,
        )
        for i in range(7)
    ]  # fmt: skip
    loss = self_distillation_loss(student, features, heads, labels, params=given)
    assert loss.shape == () and loss.item() == pytest.approx(sum(expected) / 7, rel=1e-6)


def test_the_deepest_classifier_learns_from_labels_alone() -> None:
    student, others, labels, _ = several_teachers(2)
    features, *of_heads = torch.randn(3, 7, 5, dtype=torch.float64)
    for tensor in (student, others, features, *of_heads):
        tensor.requires_grad_()
    heads = list(zip(of_heads, others, strict=True))
    self_distillation_loss(
        student, features, heads, labels, params=distill(strategy="self_distillation")
    ).backward()
    (expected,) = torch.autograd.grad(F.cross_entropy(student, labels), student)
    torch.testing.assert_close(student.grad, expected)
    assert features.grad is None and others.grad is not None
    assert all(tensor.grad is not None for tensor in of_heads)


def small_resnet() -> torch.nn.Module:
    torch.manual_seed(0)
    return cifar_resnet(8, (4, 8, 8), num_classes=3)


def self_taught(model: torch.nn.Module, **changes: Any) -> SelfDistillation:
    torch.manual_seed(1)
    return SelfDistillation(
        model, distill(strategy="self_distillation", **changes), torch.zeros(1, 3, 8, 8), prior=None
    )


def test_heads_read_the_feature_maps_of_the_training_pass() -> None:
    model = small_resnet().train()
    objective = self_taught(model)
    assert objective.map_shapes == [(4, 8, 8), (8, 4, 4)], "layer1 and layer2 of layer1, layer2, layer3"
    batch = Batch(torch.arange(6), torch.randn(6, 3, 8, 8), torch.arange(6) % 3)
    logits = model(batch.inputs)
    model.eval()(torch.randn(2, 3, 8, 8))  # validation in between is none of the heads' business
    loss = objective(batch, logits, 0.0)

    model.train()
    objective.remove_hooks()
    x = F.relu(model.bn1(model.conv1(batch.inputs)))
    maps = [model.layer1(x), model.layer2(model.layer1(x))]
    features = model.layer3(maps[1]).mean((2, 3))
    heads = [head(seen) for head, seen in zip(objective.heads, maps, strict=True)]
    expected = self_distillation_loss(logits, features, heads, batch.labels, params=objective.params)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad is not None for p in (*model.parameters(), *objective.parameters()))


def test_heads_where_they_are_named() -> None:
    objective = self_taught(small_resnet(), heads=("layer2.0.bn1",))
    assert objective.map_shapes == [(8, 4, 4)]


class Plain(torch.nn.Module):
    """No stages of a ResNet's names; one module called twice; a classifier that is a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 6, 3, 2), torch.nn.Conv2d(6, 6, 3, 2)
        self.act, self.last = torch.nn.ReLU(), torch.nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.second(self.act(self.first(x))))).mean((2, 3))


def test_heads_of_any_network() -> None:
    model = Plain()
    objective = self_taught(model, heads=("first",))
    assert trained_on(objective, model, epochs=2)[-1]["loss"] > 0


def features_only() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Softmax(1))


@pytest.mark.parametrize(
    ("model", "heads", "message"),
    [
        (Plain, (), r"distill.heads: the student has no stages layer1, .* \[B, C, H, W\], such as first$"),
        (Plain, ("act",), r"distill.heads: 'act' must be a module that is called once .* such as first$"),
        (small_resnet, ("layer9",), r"distill.heads: 'layer9' must be .*, such as layer1, layer2$"),
        (small_resnet, ("linear",), r"distill.heads: 'linear' must be .*, such as layer1, layer2$"),
        (features_only, (), r"distill.strategy 'self_distillation' needs .* got none that gives 144 of"),
    ],
)
def test_heads_that_cannot_be(
    model: Callable[[], torch.nn.Module], heads: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        self_taught(model(), heads=heads)


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "fp32", "channels_last": False},
        {"precision": "bf16", "ema": 0.9},
        {"precision": "fp32", "compile": True},
        {"precision": "fp32", "freeze": ("layer1",)},
    ],
    ids=["plain", "bf16 and average", "compiled", "a frozen stage"],
)
def test_self_distillation_trains(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compiler(model, backend="eager"))
    model = small_resnet()
    objective = self_taught(model)
    rows = trained_on(objective, model, epochs=6, learning_rate=0.1, **changes)
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["val_top1"] > 60
    assert list(model.state_dict()) == list(small_resnet().state_dict())
    objective.remove_hooks()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.slow
def test_self_distillation_compiled_by_inductor_trains_alike() -> None:
    rows = []
    for compiled in (False, True):
        model = small_resnet()
        rows.append(trained_on(self_taught(model), model, compile=compiled, precision="fp32")[-1])
    assert rows[1]["loss"] == pytest.approx(rows[0]["loss"], rel=1e-3)


def test_self_distillation_prior_shifts_all_logits() -> None:
    model, prior = small_resnet().train(), torch.tensor([0.7, 0.2, 0.1]).log()
    objective = self_taught(model, alpha=0.0)
    batch = Batch(torch.arange(6), torch.randn(6, 3, 8, 8), torch.arange(6) % 3)
    losses = []
    for shift in (None, prior):
        objective.prior = shift
        losses.append(objective(batch, model(batch.inputs), 0.0))
    logits, maps = model(batch.inputs), objective._seen[:2]
    change = sum(
        F.cross_entropy(z + prior, batch.labels) - F.cross_entropy(z, batch.labels)
        for z in (logits, *(head(seen)[1] for head, seen in zip(objective.heads, maps, strict=True)))
    )
    torch.testing.assert_close(losses[1] - losses[0], change)


def test_alpha_of_self_is_a_share() -> None:
    with pytest.raises(
        ValueError, match=r"alpha must be in \[0, 1\] for strategy 'self_distillation', got 2.5"
    ):
        distill(strategy="self_distillation", alpha=2.5)
    assert distill(strategy="wsld", alpha=2.5).alpha == 2.5
