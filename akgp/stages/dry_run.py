"""A dry run of the later stages with a dense network before it is trained: export, pruning, quantization.

A network that a later stage could not work with is refused here, before hours are spent on its training.
akgp's CIFAR ResNets are known to export and quantize: with them only pruning is tried, and what else
params.yaml asks of the int8 file (`quantize.bytes`, `evaluate.targets`).
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from akgp.budgets import Deployed, prune_by_params
from akgp.budgets.file_bytes import file_bytes
from akgp.data import Summary, read_summary
from akgp.deployment import package
from akgp.distillation import check_heads
from akgp.evaluation.cost import count
from akgp.models.bypassed import bypassed_names
from akgp.params import CIFAR_RESNETS, Params
from akgp.params.device import bytes_of
from akgp.pruning import Pruned, layers_table
from akgp.quantization import export_onnx, quantize, require_finite
from akgp.reporting.layouts import dense_layouts
from akgp.runtimes import RUNTIMES
from akgp.stages.folds import check_classes
from akgp.stages.module_names import check_module_names, check_names_after_pruning, trainings
from akgp.stages.pruning_evidence import evidence_of_noise
from akgp.stages.target_rows import check_writable
from akgp.stages.teacher import build_network
from akgp.workspace import StageError, Task

IMAGES = 4
"""Random images for the trial quantization."""
VARIES = 0.02
"""Share by which a file's bytes vary with its weights: constants that are zero are not written."""
REASONS = 3
"""How many reasons for dense layers are named, the most frequent first."""


def check(task: Task) -> list[str]:
    """Run `dry_run` with the network that `teacher` is about to train, on the first of several workers.

    Returns:
        Messages for the user.

    Raises:
        StageError: as `dry_run`.
    """
    assert task.network is not None
    # All workers have the same network; its error on one of them ends the job.
    if dist.is_initialized() and dist.get_rank():
        return []
    summary = read_summary(task.workspace.data)
    if task.params.folds is not None and task.network in task.params.teachers:
        check_classes(task, task.params.folds)
    _require_calibration(task.params, summary)
    notice = dry_run(build_network(task), task.network, task.params, summary)
    return [notice] if notice else []


def dry_run(model: nn.Module, name: str, params: Params, summary: Summary) -> str | None:
    """Try to export `model` and, if it is the student's, to prune and quantize it.

    Returns:
        A line about what would be pruned, for a student other than a CIFAR ResNet, or whose budget is missed;
        else None.

    Args:
        model: on the CPU; its weights, new or trained, are not changed.

    Raises:
        StageError: a later stage could not work with it; the message names the network.
    """
    try:
        return _dry_run(model, name, params, summary)
    except ValueError as error:  # of quantization, pruning and runtime
        raise StageError(f"networks.{name}: {error}") from error


def _dry_run(model: nn.Module, name: str, params: Params, summary: Summary) -> str | None:
    example = torch.zeros(1, summary.channels, *summary.image_size)
    # A generator of its own: the training that follows draws the numbers that it would without this.
    noise = torch.randn(IMAGES, *example.shape[1:], generator=torch.Generator().manual_seed(0))
    require_finite(model, noise)
    check_module_names(model, name, params)
    _require_visible(name, params, summary)
    if name == params.student and params.distill.facts.heads:
        check_heads(model, params.distill, example)
    ours, student = params.networks[name].architecture in CIFAR_RESNETS, name == params.student
    timed = not ours and (student or name in params.teachers)  # evaluate times these in a runtime
    if timed or (student and params.quantize.precision):  # whose names may match no layer
        with tempfile.TemporaryDirectory() as folder:
            floating = Path(folder) / "float.onnx"
            export_onnx(model, example, floating)
            if student:
                quantize(floating, noise, params.quantize, Path(folder) / "int8.onnx")
    if not student:
        return None
    looked_at = evidence_of_noise(params.prune.criterion, noise, len(summary.classes))
    pruned = prune_by_params(params.prune, model, example, params.seed, looked_at, Deployed.of(params))
    check_names_after_pruning(pruned.model, params)
    if params.quantize.bytes is not None:
        _require_room(pruned.model, example, bytes_of(params.quantize.bytes), params)
    if params.evaluate.targets:
        _require_targets(pruned.model, noise, params, summary)
    before, after = count(model, example), count(pruned.model, example)
    missed = pruned.budget is not None and pruned.budget.why is not None
    return preview(name, pruned, 1 - after.macs / before.macs) if missed or not ours else None


def _require_room(model: nn.Module, example: Tensor, asked: int, params: Params) -> None:
    """Raise ValueError if `quantize.bytes` is too few even with all layers in int8."""
    least = file_bytes(model, example, RUNTIMES[params.deploy.runtime])
    if least > asked * (1 + VARIES):
        raise ValueError(
            f"quantize.bytes: {asked:,} asked, but with all layers in int8 the pruned network's file has "
            f"about {least:,}: ask for more, or prune more"
        )


def _require_targets(model: nn.Module, noise: Tensor, params: Params, summary: Summary) -> None:
    """Raise ValueError if the int8 network could not be written in a format of `evaluate.targets`."""
    with tempfile.TemporaryDirectory() as folder:
        floating, file = Path(folder) / "float.onnx", Path(folder) / package.MODEL
        export_onnx(model, noise[:1], floating)
        quantize(floating, noise, params.quantize, file)
        package.complete(Path(folder), summary, None)
        try:
            check_writable(file, params.evaluate)
        except ValueError as error:
            raise ValueError(f"evaluate.targets: {str(error).removeprefix(f'{file}: ')}") from None


def _require_calibration(params: Params, summary: Summary) -> None:
    """Raise StageError if there are too few calibration images to measure the teachers' weight by."""
    others = [name for name in params.teachers if name != params.student]
    images = sum(summary.counts["calibration"])
    if params.distill.asks_for_w0 and others and images <= len(params.teachers):
        raise StageError(
            f"data.splits.calibration: got {images} calibration image(s), which do not tell what the answers "
            f"of {len(params.teachers)} teacher(s) are worth: there must be more; or give distill.w0 a number"
        )


def _require_visible(name: str, params: Params, summary: Summary) -> None:
    """Raise ValueError if a training of the network would hide its images."""
    for section, training in trainings(name, params).items():
        try:
            training.augment.require_visible(*summary.image_size)
        except ValueError as error:
            raise ValueError(f"{section}.{error}") from None


def preview(name: str, pruned: Pruned, macs: float) -> str:
    """One line: what pruning by params.yaml would remove, and why some layers would stay dense.

    Args:
        macs: share of the multiply-accumulates that would be removed.
    """
    filters = sum(layer.dense_width for layer in pruned.layers)
    removed = filters - sum(layer.pruned_width for layer in pruned.layers)
    dense = Counter(layer.reason for layer in pruned.layers if layer.reason)
    line = f"networks.{name}: pruning will remove {removed} of {filters} filters, {macs:.0%} of the MACs"
    if bypassed := bypassed_names(pruned.model):
        line += f"; without the blocks {', '.join(bypassed)}"
    if pruned.budget and pruned.budget.why:
        line += f"; {pruned.budget}"
    if layouts := dense_layouts(layers_table(pruned)):
        line += f"; {layouts}"
    if not dense:
        return line
    named = "; ".join(f"{layers}: {reason}" for reason, layers in dense.most_common(REASONS))
    more = f"; {len(dense) - REASONS} more reasons" if len(dense) > REASONS else ""
    return f"{line}; {dense.total()} of {len(pruned.layers)} layers stay dense ({named}{more})"
