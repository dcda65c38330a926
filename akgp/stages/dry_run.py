"""A dense network taken through the pipeline before it is trained: exported, pruned, quantized, all dry.

What cannot come out at the other end is refused here, before hours are spent on it. Our own CIFAR ResNets are
known to be exported; of them pruning alone is tried, as `prune` says.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from akgp.data import Summary, read_summary
from akgp.evaluation.cost import count
from akgp.params import CIFAR_RESNETS, Params
from akgp.pruning import Pruned
from akgp.quantization import export_onnx, quantize, require_finite
from akgp.stages.prune import pruned_as
from akgp.stages.teacher import built
from akgp.workspace import StageError, Task

IMAGES = 4
"""Random images on which it is tried to quantize."""
REASONS = 3
"""Reasons why layers stay dense that are named, the most frequent ones."""


def check(task: Task) -> list[str]:
    """`passage` of the network that `teacher` is about to make, by the first of several workers.

    Returns what to tell the user.

    Raises:
        StageError: as `passage`.
    """
    assert task.network is not None
    if dist.is_initialized() and dist.get_rank():
        return []
    summary = read_summary(task.workspace.data)
    said = passage(built(task), task.network, task.params, summary)
    return [said] if said else []


def passage(model: nn.Module, name: str, params: Params, summary: Summary) -> str | None:
    """Take `model` through export and, if it is the student's, through pruning and quantization.

    Of another student than a CIFAR ResNet it returns a line about what would be pruned.

    Args:
        model: on the CPU; its weights, fresh or trained, are not changed.

    Raises:
        StageError: something stands in the way; names the network.
    """
    try:
        return _passage(model, name, params, summary)
    except ValueError as error:  # of quantization, pruning and runtime
        raise StageError(f"networks.{name}: {error}") from error


def _passage(model: nn.Module, name: str, params: Params, summary: Summary) -> str | None:
    example = torch.zeros(1, summary.channels, *summary.image_size)
    noise = torch.randn(IMAGES, *example.shape[1:], generator=torch.Generator().manual_seed(0))
    require_finite(model, noise)
    ours, student = params.networks[name].architecture in CIFAR_RESNETS, name == params.student
    if not ours and (student or name in params.teachers):  # evaluate times these in a runtime
        with tempfile.TemporaryDirectory() as folder:
            floating = Path(folder) / "float.onnx"
            export_onnx(model, example, floating)
            if student:
                quantize(floating, noise, params.quantize, Path(folder) / "int8.onnx")
    if not student:
        return None
    pruned = pruned_as(params.prune, model, example, params.seed)
    before, after = count(model, example), count(pruned.model, example)
    return None if ours else preview(name, pruned, 1 - after.macs / before.macs)


def preview(name: str, pruned: Pruned, macs: float) -> str:
    """What pruning as asked removes, and why the layers stay dense that do: one line.

    Args:
        macs: share of the multiply-accumulates that go.
    """
    filters = sum(layer.dense_width for layer in pruned.layers)
    gone = filters - sum(layer.pruned_width for layer in pruned.layers)
    dense = Counter(layer.reason for layer in pruned.layers if layer.reason)
    line = f"networks.{name}: pruning will remove {gone} of {filters} filters, {macs:.0%} of the MACs"
    if not dense:
        return line
    named = "; ".join(f"{layers}: {reason}" for reason, layers in dense.most_common(REASONS))
    more = f"; {len(dense) - REASONS} more reasons" if len(dense) > REASONS else ""
    return f"{line}; {dense.total()} of {len(pruned.layers)} layers stay dense ({named}{more})"
