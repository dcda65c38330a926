"""Cross-fitting: teachers that have not seen the labels of the images on which they teach.

K networks are trained, each on all folds of the training images but its own; every image is then
answered by the network of its fold (Dao et al. 2021, Knowledge Distillation as Semiparametric
Inference, section 4). A teacher trained on an image's wrong label repeats it; these cannot.
N: training images, K: folds, C: classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from akgp.data.batches import Batch, BatchSource
from akgp.distillation.teachers import TeacherFn, frozen_teacher
from akgp.evaluation import predict_logits


@dataclass(frozen=True)
class Teacher:
    """One teacher: a network, or with cross-fitting K networks, each trained without one fold.

    networks: K; they are moved between devices, and frozen when they teach.
    fold: int64 [N], which of them answers each training image; None: K is 1.
    """

    networks: Sequence[nn.Module]
    fold: Tensor | None = None

    def __post_init__(self) -> None:
        if isinstance(self.networks, nn.Module):
            raise ValueError("a teacher's networks must be a list, such as Teacher([network])")
        if not self.networks or (self.fold is None and len(self.networks) > 1):
            raise ValueError(f"a teacher is one network, or several and a fold, got {len(self.networks)}")

    def out_of_fold_logits(self, source: BatchSource, device: torch.device | str) -> Tensor:
        """The logits [N, C] of the training images, each by a network that has not seen it if K > 1."""
        fold = torch.zeros_like(source.labels) if self.fold is None else self.fold
        return out_of_fold(self.networks, source, fold, device=device)

    def held_out_logits(self, source: BatchSource, device: torch.device | str) -> Tensor:
        """The logits of images that no network was trained on, each by one network: as sharp as a fold's."""
        fold = torch.arange(len(source)) % len(self.networks)
        return out_of_fold(self.networks, source, fold, device=device)

    def to(self, device: torch.device | str) -> None:
        for network in self.networks:
            network.to(device)

    def frozen(self, device: torch.device, dtype: torch.dtype | None, *, channels_last: bool) -> TeacherFn:
        """The teacher as an objective calls it; its networks are moved to `device` and stay there."""
        self.to(device)
        if self.fold is None or len(self.networks) == 1:
            return frozen_teacher(self.networks[0], dtype=dtype, channels_last=channels_last)
        return cross_fitted(self.networks, self.fold.to(device), dtype=dtype, channels_last=channels_last)


def folds(labels: Tensor, count: int, seed: int) -> Tensor:
    """The fold of every training image, int64 [N] in [0, count), stratified by class.

    The same labels, count and seed give the same folds. Of each class every fold gets as many
    images as every other, or one more.

    Args:
        labels: int64 [N].
        count: K, two or more.

    Raises:
        ValueError: fewer than two folds, or more than images.
    """
    if not 2 <= count <= len(labels):
        raise ValueError(f"folds must be in [2, {len(labels)}], the number of images, got {count}")
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    # Shuffled within each class: a stable sort by label keeps the random order.
    by_class = shuffled[labels.cpu()[shuffled].argsort(stable=True)]
    fold = torch.empty(len(labels), dtype=torch.int64)
    fold[by_class] = torch.arange(len(labels)) % count  # dealt out in turn, class after class
    return fold


def cross_fitted(
    networks: Sequence[nn.Module],
    fold: Tensor,
    *,
    dtype: torch.dtype | None = None,
    channels_last: bool = True,
) -> TeacherFn:
    """K networks as one teacher: each training image is answered by the network of its fold.

    Args:
        networks: the k-th has not been trained on fold k.
        fold: int64 [N], of each training image, in [0, K), on the device of the batches.

    Raises:
        ValueError: `fold` is not as above.
    """
    _check(fold, fold.numel(), len(networks))
    teachers = [frozen_teacher(network, dtype=dtype, channels_last=channels_last) for network in networks]

    def logits(batch: Batch) -> Tensor:
        def answer(k: int, mine: Tensor) -> Tensor:
            return teachers[k](batch.take(mine))

        return _by_fold(fold[batch.index], len(teachers), answer)

    return logits


def out_of_fold(
    networks: Sequence[nn.Module], source: BatchSource, fold: Tensor, *, device: torch.device | str
) -> Tensor:
    """The logits of every image by its fold's network, float32 [N, C] on the CPU, in eval mode and fp32.

    For images on which none of the networks was trained, `arange(N) % K` as `fold` answers each by
    one network, so that their logits are as sharp as those that the student learns from.

    Args:
        fold: int64 [N], of each image, in [0, K).

    Raises:
        ValueError: `fold` is not as above, or there is no image.
    """
    _check(fold, len(source), len(networks))

    def answer(k: int, mine: Tensor) -> Tensor:
        return predict_logits(networks[k], source.take(mine), device=device)

    return _by_fold(fold, len(networks), answer)


def _by_fold(fold: Tensor, count: int, answer: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Rows in the order of `fold`, those of fold k by `answer(k, positions)`; empty folds are left out."""
    members = [(fold == k).nonzero()[:, 0] for k in range(count)]
    answers = torch.cat([answer(k, mine) for k, mine in enumerate(members) if len(mine)])
    return answers[torch.cat(members).argsort()]  # back to the order of the images


def _check(fold: Tensor, images: int, networks: int) -> None:
    if fold.shape != (images,) or fold.dtype != torch.int64 or not images:
        raise ValueError(
            f"fold must be int64 [{images}], of one image or more, got {fold.dtype} {list(fold.shape)}"
        )
    if not 0 <= fold.min() <= fold.max() < networks:
        raise ValueError(
            f"fold must be in [0, {networks}), one of the networks, got {fold.min()} to {fold.max()}"
        )
