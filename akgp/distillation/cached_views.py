"""Teachers that are asked beforehand, about K views of every image, instead of in every step.

A teacher's forward pass costs a third of what training a network of its size does; after K passes over the
images it is not needed again (Shen & Xing 2022, A Fast Knowledge Distillation Framework).
The price: the student sees K views of an image, not one more in every epoch. And what `augment.cutout` and
`erasing` fill has the mean colour of a batch, here of the teachers' own.

N: training images, K: views, T: teachers, B: samples of a batch, C: classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from akgp.data.batches import Batch, BatchSource
from akgp.data.views import VIEW
from akgp.distillation.teachers import TeacherFn
from akgp.params import Distill

ANSWERS, CLASSES = "teacher_answers", "teacher_classes"
TOP = 32
"""Classes whose answers are kept where there are more than twice as many."""
BATCH = 256


def ask_about_views(
    source: BatchSource,
    teachers: Sequence[TeacherFn],
    params: Distill,
    *,
    classes: int,
    seed: int,
    device: torch.device,
    known: dict[str, Tensor] | None = None,
) -> tuple[BatchSource, list[TeacherFn], dict[str, Tensor]]:
    """The images in `params.teacher_views` views, the teachers as they answered about these, and the answers.

    Args:
        known: answers of an earlier call with the same arguments, which are not asked for again.

    Returns:
        The source shows the views in turn; its columns hold the answers. Those are log probabilities, float16
        [N, K, T, C], or of the TOP likeliest classes, with their numbers, int16 [N, K, T, TOP].
    """
    assert params.teacher_views is not None
    viewed = source.with_views(params.training.augment, params.teacher_views, seed)
    answers = known or _asked(viewed.to(device), teachers, params)
    return viewed.with_columns(**answers), [_answering(i, classes) for i in range(len(teachers))], answers


def _asked(viewed: BatchSource, teachers: Sequence[TeacherFn], params: Distill) -> dict[str, Tensor]:
    views: list[dict[str, Tensor]] = []
    for view in range(params.teacher_views or 0):
        batches = viewed.ordered(batch_size=BATCH, view=view, channels_last=params.training.channels_last)
        parts = [packed(torch.stack([teacher(batch) for teacher in teachers], 1)) for batch in batches]
        views.append({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
    return {name: torch.stack([view[name] for view in views], 1) for name in views[0]}


def packed(logits: Tensor) -> dict[str, Tensor]:
    """Logits [..., C] as log probabilities in float16 on the CPU, with many classes the TOP likeliest."""
    log = logits.log_softmax(-1)
    if log.shape[-1] <= 2 * TOP:
        return {ANSWERS: log.half().cpu()}
    best = log.topk(TOP, -1)
    return {ANSWERS: best.values.half().cpu(), CLASSES: best.indices.to(torch.int16).cpu()}


def unpacked(answers: Tensor, numbers: Tensor | None, classes: int) -> Tensor:
    """Log probabilities [..., C] in float32; classes that were not kept share what is left equally."""
    log = answers.float()
    if numbers is None:
        return log
    left = (1 - log.exp().sum(-1, keepdim=True)).clamp_min(1e-6) / (classes - log.shape[-1])
    return left.log().repeat(*[1] * (log.ndim - 1), classes).scatter(-1, numbers.long(), log)


def _answering(number: int, classes: int) -> TeacherFn:
    """Teacher `number` as it answered about the views that a batch shows."""

    def logits(batch: Batch) -> Tensor:
        rows = torch.arange(len(batch.labels), device=batch.labels.device)
        kept = {name: batch.columns.get(name) for name in (ANSWERS, CLASSES)}
        shown = {
            name: column[rows, batch.columns[VIEW], number]
            for name, column in kept.items()
            if column is not None
        }
        return unpacked(shown[ANSWERS], shown.get(CLASSES), classes)

    return logits
