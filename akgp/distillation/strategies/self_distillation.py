"""Self-distillation: the student's deepest classifier teaches small heads on its earlier feature maps.

The heads exist in training only. B: samples of a batch, C: classes, D: features that the network's
own classifier reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.data.batches import Batch
from akgp.distillation.losses import at_least_float32, check_batch, distillation_loss
from akgp.distillation.strategies.heads import anatomy_of, chosen_heads
from akgp.distillation.strategies.inputs import ObjectiveInputs, OwnObjective
from akgp.evaluation.cost import count
from akgp.params import Distill

HINT = 0.03
"""λ, of the squared distance between features; the number in the authors' code."""


def self_distillation_loss(
    logits: Tensor,
    features: Tensor,
    heads: Sequence[tuple[Tensor, Tensor]],
    labels: Tensor,
    *,
    params: Distill,
) -> Tensor:
    """CE(y, q_C) + Σ_i [(1 − α)·CE(y, q_i) + α·T²·KL(q_C,T ‖ q_i,T) + λ·‖F_i − F_C‖²], nats a sample.

    Be Your Own Teacher (Zhang et al. 2019, section 3, the sum of loss sources 1 to 3): q_C and F_C
    are the deepest classifier's and reach the heads without gradient. α = 0.3 and λ = 0.03 as in the
    authors' code, which takes T = 3. Departures: the factor T², which keeps the gradient's size
    independent of T; F are pooled features, as in the authors' code, which does not square the
    distance.

    Args:
        logits: [B, C], of the deepest classifier.
        features: F_C, [B, D].
        heads: of each head the features F_i [B, D] and the logits [B, C].
        labels: int64 [B], in [0, C); see `losses.check_batch`.

    Returns:
        A scalar, in float32 or, where logits are, float64.

    Raises:
        ValueError: logits or labels are not as above, or the batch is empty.
    """
    check_batch(logits, labels)
    smoothing = params.training.label_smoothing
    loss = F.cross_entropy(at_least_float32(logits), labels, label_smoothing=smoothing)
    for head_features, head_logits in heads:
        distance = at_least_float32(head_features) - at_least_float32(features).detach()
        loss = loss + HINT * distance.square().sum(1).mean()
        loss = loss + distillation_loss(
            head_logits,
            logits,
            labels,
            teacher_weight=params.alpha_or_default,
            temperature=params.temperature,
            label_smoothing=smoothing,
            logit_std=params.logit_std,
        )
    return loss


class SelfDistillation(nn.Module):
    """The objective of strategy `self_distillation`; its parameters are the heads'.

    Its loss is `self_distillation_loss`.

    Feature maps are taken by hooks on the network, which act while it is in training mode and are
    there until `remove_hooks`.
    """

    def __init__(
        self,
        model: nn.Module,
        params: Distill,
        example_input: Tensor,
        *,
        prior: Tensor | None,
    ) -> None:
        """Heads of random weights, from torch's generator, for the modules that `params.heads` names.

        Args:
            example_input: images of the size to come, [1, C, H, W], on the model's device.
            prior: [C], log class prior added to all logits in training; None: no shift.

        Raises:
            ValueError: a module of `params.heads` is missing or gives no feature maps; without
                names, none can be chosen; the network has no classifier.
        """
        super().__init__()
        anatomy = anatomy_of(model, example_input)
        names = chosen_heads(anatomy, params)
        self.params, self.prior = params, prior
        self.map_shapes = [anatomy.maps[name] for name in names]
        self.heads = nn.ModuleList(
            Head(channels, anatomy.features, anatomy.classes) for channels, _, _ in self.map_shapes
        )
        self._seen: list[Tensor | None] = [None] * (len(names) + 1)  # by head, then what the classifier reads
        self._hooks = [
            *(
                model.get_submodule(name).register_forward_hook(_keep_output(self._seen, index, model))
                for index, name in enumerate(names)
            ),
            model.get_submodule(anatomy.classifier).register_forward_pre_hook(_keep_input(self._seen, model)),
        ]

    def forward(self, batch: Batch, logits: Tensor, progress: float) -> Tensor:
        """The loss of the batch that the network has just seen, in nats a sample: a scalar."""
        *maps, read = self._seen
        assert read is not None
        self._seen[:] = [None] * len(self._seen)  # or the graph of this step would outlive it
        inputs = [head(seen) for head, seen in zip(self.heads, maps, strict=True)]
        shift = 0.0 if self.prior is None else self.prior
        return self_distillation_loss(
            logits + shift,
            _pooled(read),
            [(features, head_logits.float() + shift) for features, head_logits in inputs],
            batch.labels,
            params=self.params,
        )

    def remove_hooks(self) -> None:
        """Leave the network as it was."""
        for hook in self._hooks:
            hook.remove()


class Head(nn.Module):
    """A bottleneck and a classifier on a feature map: [B, channels, H, W] to features [B, D], logits [B, C].

    The paper's bottleneck layers: 1×1 to a quarter of D, at most 128, 3×3 of stride 2, 1×1 to D, each
    with BatchNorm and ReLU. No running statistics: heads are used in training only. Computed in the
    type of the feature map, so that a network under autocast has heads under autocast.
    """

    def __init__(self, channels: int, features: int, num_classes: int) -> None:
        super().__init__()
        inner = min(max(features // 4, 8), 128)
        self.bottleneck = nn.Sequential(
            *_layer(channels, inner, kernel=1, stride=1),
            *_layer(inner, inner, kernel=3, stride=2),
            *_layer(inner, features, kernel=1, stride=1),
        )
        self.classifier = nn.Linear(features, num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        half = x.dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(x.device.type, dtype=x.dtype if half else None, enabled=half):
            features = _pooled(self.bottleneck(x))
            return features, self.classifier(features)


def _layer(inputs: int, outputs: int, *, kernel: int, stride: int) -> Sequence[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(outputs, track_running_stats=False), nn.ReLU()


def _pooled(features: Tensor) -> Tensor:
    """[B, D] of a feature map [B, D, H, W], or the features as they are."""
    return features.mean((2, 3)) if features.ndim == 4 else features


# Looked at is the network's mode: a module that is frozen stays in eval mode while the others are trained.
# A copy of the network, as its average is, has copies of the hooks, and is run without gradients.
def _keep_output(
    seen: list[Tensor | None], index: int, model: nn.Module
) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if model.training and torch.is_grad_enabled():
            seen[index] = output

    return hook


def _keep_input(
    seen: list[Tensor | None], model: nn.Module
) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if model.training and torch.is_grad_enabled():
            seen[-1] = inputs[0]

    return hook


def heads_macs(student: nn.Module, params: Distill, example_input: Tensor) -> int:
    """MACs of the heads for one image; `student` and `example_input` are on the CPU.

    Raises:
        ValueError: as `SelfDistillation`.
    """
    objective = SelfDistillation(student, params, example_input, prior=None)
    objective.remove_hooks()
    heads = zip(objective.heads, objective.map_shapes, strict=True)
    return sum(count(head, torch.zeros(2, *shape)).macs for head, shape in heads)


def _self_distillation(inputs: ObjectiveInputs) -> SelfDistillation:
    return SelfDistillation(inputs.student, inputs.params, inputs.example_input, prior=inputs.prior)


OBJECTIVES: dict[str, OwnObjective] = {"self_distillation": _self_distillation}
