"""Builds dense networks: CIFAR ResNets, torchvision's classifiers, users' networks by module:function.

Torchvision's pretrained weights are loaded here, other checkpoints by `checkpoint`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from akgp.io.errors import one_line
from akgp.models.eval_mode import eval_mode
from akgp.models.inputs import Inputs, required
from akgp.models.plain import why_wrapped
from akgp.models.resnet import WIDTHS, cifar_resnet
from akgp.models.spec import ModelError, Spec, model_name, tag
from akgp.models.user_code import at, user_network
from akgp.params import CIFAR_RESNETS, Network

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

CIFAR_RESNET = re.compile(r"cifar_resnet(\d+)")


def build(
    network: Network, *, num_classes: int, in_channels: int, image_size: tuple[int, int] | None = None
) -> nn.Module:
    """The network of an entry of `networks`, with random or torchvision's pretrained weights.

    Args:
        image_size: (H, W); if given, one forward pass checks the shape of the logits.

    Raises:
        ModelError: an unknown name, a failing import, not a network or one in a wrapper, one of several
            inputs, or logits of a wrong shape.
    """
    model = create(
        Spec(network.architecture, num_classes, in_channels), widths=network.widths, weights=network.weights
    )
    if wrapped := why_wrapped(model):
        raise ModelError(f"{model_name(model)} {wrapped}")
    require_one_input(model)
    if image_size is not None:
        check_output(model, torch.zeros(1, in_channels, *image_size), num_classes)
    return model


def create(
    spec: Spec, *, widths: Sequence[int] | Mapping[str, int] | None = None, weights: str | None = None
) -> nn.Module:
    """The network of `spec`, tagged with it; see `build`."""
    if match := CIFAR_RESNET.fullmatch(spec.architecture):
        return cifar_resnet(int(match[1]), widths or WIDTHS, spec.num_classes, spec.in_channels)
    model = user_network(spec) if ":" in spec.architecture else _torchvision(spec, weights)
    tag(model, spec)
    return model


def require_one_input(model: nn.Module) -> None:
    """Raise ModelError if `model` cannot be called with images alone."""
    needed = required(model)
    if len(needed) > 1:
        raise ModelError(
            f"{model_name(model)} takes {len(needed)} inputs without a default ({', '.join(needed)}), but "
            f"the pipeline has images alone: give {' and '.join(needed[1:])} a default in its forward"
        )


def check_output(model: nn.Module, example_input: Tensor, num_classes: int) -> None:
    """Raise ModelError unless `model` in eval mode gives logits [B, num_classes] for `example_input`."""
    logits = first_outputs(model, Inputs((example_input,)))
    expected = (len(example_input), num_classes)
    if not isinstance(logits, Tensor) or logits.shape != expected:
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(
            f"{model_name(model)} must give logits of shape {list(expected)} for images of "
            f"{_size(example_input)}, got {got}"
        )


def first_outputs(model: nn.Module, inputs: Inputs) -> Any:
    """What `model` gives in eval mode. Lazy layers have their sizes from then on.

    Raises:
        ModelError: it cannot take the inputs.
    """
    tensors, name = inputs.tensors(), model_name(model)
    try:
        with torch.no_grad(), eval_mode(model):
            return inputs.run(model)
    except Exception as error:  # whatever the network raises
        why = f"{one_line(error)}{at(error)}"
        if len(tensors) > 1:
            raise ModelError(f"{name} cannot take {inputs}: {why}") from error
        why += _about_channels(model, tensors[0])
        raise ModelError(f"{name} cannot take images of {_size(tensors[0])}: {why}") from error


def _size(images: Tensor) -> str:
    return "×".join(map(str, images.shape[1:]))


def _about_channels(model: nn.Module, example_input: Tensor) -> str:
    """The end of an error message if the first convolution has another number of channels than the images."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.in_channels in (0, example_input.shape[1]):  # 0: lazy
        return ""
    return (
        f"; it reads {first.in_channels} channels: data.color must be "
        f"{'gray' if first.in_channels == 1 else 'rgb'}, or its function must take in_channels"
    )


def _torchvision(spec: Spec, weights: str | None) -> nn.Module:
    try:
        from torchvision import models
    except ImportError as error:
        raise ModelError(f"{spec.architecture!r} needs torchvision: {error}") from error

    name = spec.architecture
    names = models.list_models(module=models)
    if name not in names:
        near = difflib.get_close_matches(name, [*names, *CIFAR_RESNETS], n=3)
        raise ModelError(
            f"architecture: unknown network {name!r}"
            + (f", did you mean {' or '.join(near)}?" if near else ".")
            + f" Allowed: {', '.join(CIFAR_RESNETS)}, a classifier of torchvision, or module:function"
        )
    if spec.in_channels != 3:
        raise ModelError(f"{name} takes images of 3 channels, got {spec.in_channels}; use data.color: rgb")
    # The auxiliary heads of these two would make training return tuples.
    options: dict[str, Any] = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    if weights is None:
        if options:
            options["init_weights"] = True  # what both use by default, but announce to change, with a warning
        return models.get_model(name, weights=None, num_classes=spec.num_classes, **options)
    trained = trained_weights(name, weights)
    try:
        model = models.get_model(name, weights=trained, **options)
    except (OSError, RuntimeError) as error:
        raise ModelError(f"weights: {weights} of {name} cannot be downloaded: {one_line(error)}") from error
    classes = len(trained.meta["categories"])
    if spec.num_classes != classes:
        replace_head(model, classes, spec.num_classes)
    return model


def trained_normalization(architecture: str, weights: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, by channel, of the images that torchvision's weights were trained on.

    Raises:
        ModelError: the network has no such weights.
    """
    transforms = trained_weights(architecture, weights).transforms()
    return tuple(transforms.mean), tuple(transforms.std)


def trained_weights(architecture: str, weights: str) -> WeightsEnum:
    """Where torchvision has these weights of a network, and what it says of them; nothing is downloaded.

    Raises:
        ModelError: the network has no such weights.
    """
    from torchvision import models

    available = models.get_model_weights(architecture).__members__
    if weights not in available:
        raise ModelError(f"weights: {architecture} has {', '.join(available)}, got {weights!r}")
    return available[weights]


def replace_head(model: nn.Module, classes: int, num_classes: int) -> None:
    """Replace the last linear layer or convolution with `classes` outputs by a new one with `num_classes`."""
    heads = [
        (name, module)
        for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) and module.out_features == classes)
        or (isinstance(module, nn.Conv2d) and module.out_channels == classes)
    ]
    if not heads:
        raise ModelError(f"{model_name(model)} has no layer of {classes} outputs to replace")
    name, old = heads[-1]
    bias = old.bias is not None
    new: nn.Module
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, num_classes, bias=bias)
    else:
        assert isinstance(old, nn.Conv2d)
        new = nn.Conv2d(old.in_channels, num_classes, old.kernel_size, old.stride, old.padding, bias=bias)  # type: ignore[arg-type]
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)
