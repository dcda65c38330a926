"""How much accuracy a network loses by each layer, on labelled images."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from tqdm import tqdm

from akgp import artifacts
from akgp.data import BatchSource
from akgp.data.files import list_files
from akgp.data.parquet import is_table
from akgp.data.sampling import normalized, sampled
from akgp.evaluation import accuracy, count, predict_logits
from akgp.io.terminal import UnbrokenStderr
from akgp.models import Spec, check_output, create, load_checkpoint, spec_of
from akgp.params import Data, Prune
from akgp.pruning import Point, PruningError, Sensitivity, residual_blocks, without_blocks
from akgp.pruning.evidence import Evidence
from akgp.pruning.group_criteria import BY_IMAGES
from akgp.stages.normalization import read_source
from akgp.stages.pruning_evidence import evidence
from akgp.workspace import StageError, Task, require

T = TypeVar("T")


@dataclass(frozen=True)
class SensitivityResult:
    """Top-1 (%) of the dense network, and of it with one group of layers cut, on so many images.

    blocks: of it without a residual block, by the block's name, and the share of the MACs that is left.
    all_points: how many there would be without a limit of time.
    """

    dense_top1: float
    images: int
    blocks: Mapping[str, tuple[float, float]]
    points: tuple[Point, ...]
    all_points: int


@dataclass(frozen=True)
class Judged:
    """A network from anywhere, and what it is judged on.

    network: a folder that `akgp.artifacts` wrote, a name of torchvision's or akgp's, or module:function.
    weights: a checkpoint for a name or a function.
    data: of the source, path, image size and colour count.
    mean, std: of each channel, in units of 255; None: those of the images.
    """

    network: str
    weights: str | None
    data: Data
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def measure(task: Task, ratios: Sequence[float], images: int, seconds: float) -> SensitivityResult:
    """Cut each group of layers of the student's dense network alone by each ratio, as `prune` says.

    Args:
        images: of the validation split, at most; drawn by the seed.
        seconds: after these no further block or layer is begun.

    Raises:
        PruningError: as `Sensitivity`.
        StageError: no dense network or data yet.
    """
    workspace = task.workspace
    require(workspace.data, workspace.dense(task.params.student))
    dense = artifacts.load(workspace.dense(task.params.student))
    source = read_source(task, "validation")
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(task.params.seed))
    return _measured(
        dense, source.take(order[:images]), task.params.prune, ratios, seconds,
        task.params.seed, task.device, evidence(task, dense),
    )  # fmt: skip


def measure_anywhere(
    judged: Judged, params: Prune, ratios: Sequence[float], images: int, seconds: float
) -> SensitivityResult:
    """`measure` without a workspace: on images of the part test of a source, validation or all it has.

    Raises:
        PruningError: as `Sensitivity`; the criterion looks at images.
        StageError: the network and the images do not fit.
        DataError, ModelError: one of these cannot be read.
    """
    if params.criterion in BY_IMAGES:
        raise PruningError(f"criterion {params.criterion} looks at images, which takes a workspace")
    drawn, classes = sampled(judged.data, images, seed=0)
    model = _loaded(judged, classes, channels=drawn.pixels.shape[1])
    source = normalized(drawn, judged.mean, judged.std)
    check_output(model, torch.zeros(1, *source.image_shape), len(classes))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return _measured(model, source, params, ratios, seconds, 0, device)


def holds_tables(path: str) -> bool:
    """Whether there are Parquet files at or below a path."""
    return any(is_table(name or path) for name in list_files(path).files)


def _loaded(judged: Judged, classes: Sequence[str], channels: int) -> nn.Module:
    if Path(judged.network).is_dir():
        if judged.weights:
            raise StageError(
                f"{judged.network}: a folder has its weights: no --weights, got {judged.weights}"
            )
        model = artifacts.load(judged.network)
    elif judged.weights is None:
        raise StageError(f"{judged.network}: with random weights accuracy says nothing: give --weights")
    else:
        model = create(Spec(judged.network, len(classes), channels))
        load_checkpoint(model, judged.weights)
    spec = spec_of(model)
    if spec and spec.num_classes != len(classes):
        raise StageError(
            f"{judged.network}: has {spec.num_classes} classes, {judged.data.path} {len(classes)}: they must "
            "be the same, in the order of their names"
        )
    if spec and spec.in_channels != channels:
        gray = "--gray" if spec.in_channels == 1 else "no --gray"
        raise StageError(f"{judged.network}: takes images of {spec.in_channels} channel(s): give {gray}")
    return model.eval()


def _measured(
    dense: nn.Module, source: BatchSource, params: Prune, ratios: Sequence[float], seconds: float,
    seed: int, device: torch.device, looked_at: Evidence | None = None,
) -> SensitivityResult:  # fmt: skip
    def judge(model: nn.Module) -> float:
        return top1(model, source, device)

    example = torch.zeros(1, *source.image_shape)
    sensitivity = Sensitivity(
        dense, example, ratios, judge, criterion=params.criterion, scope=params.scope,
        round_to=params.round_to, skip=params.skip, seed=seed, evidence=looked_at,
    )  # fmt: skip
    dense_top1, deadline = judge(dense), time.monotonic() + seconds
    names, macs = residual_blocks(dense, example), count(dense, example).macs
    blocks = dict[str, tuple[float, float]]()
    for name in _until(deadline, names, 1):
        smaller = without_blocks(dense, example, [name]).model
        blocks[name] = judge(smaller), count(smaller, example).macs / macs
    points = tuple(_until(deadline, _shown(sensitivity), len(ratios)))
    return SensitivityResult(dense_top1, len(source), blocks, points, len(names) + len(sensitivity))


def _until(deadline: float, each: Iterable[T], of_one: int) -> Iterator[T]:
    """What there is until the deadline, but all `of_one` layer or block that is begun, and one at least."""
    for number, one in enumerate(each, 1):
        yield one
        if number % of_one == 0 and time.monotonic() > deadline:
            return


def top1(model: nn.Module, source: BatchSource, device: torch.device) -> float:
    """Accuracy in %."""
    labels = torch.cat([batch.labels for batch in source.ordered(batch_size=256)])
    return accuracy(predict_logits(model, source, device=device), labels)


def _shown(sensitivity: Sensitivity) -> Iterator[Point]:
    """The points, with a progress bar."""
    yield from tqdm(
        sensitivity,
        desc="sensitivity",
        unit="network",
        file=UnbrokenStderr(),
        dynamic_ncols=True,
        leave=False,
    )
