"""The normalisation of a network's images: its own, by params.yaml or its weights, or that of the data.

All stages after the dense networks use the student's; teachers with another one are adapted to it.
"""

from __future__ import annotations

from torch import nn

from akgp.data import BatchSource, IndexedSource, Summary, read_split, read_summary
from akgp.models.building import trained_normalization
from akgp.models.renormalized import Renormalized
from akgp.workspace import Task


def summary_for(task: Task, network: str | None = None) -> Summary:
    """The data's summary with the mean and standard deviation of `network`, by default the student.

    Raises:
        ModelError: torchvision has no such weights of the network.
    """
    summary, chosen = read_summary(task.workspace.data), task.params.networks[network or task.params.student]
    mean, std = chosen.mean, chosen.std
    if chosen.weights is not None and mean is None:
        mean, std = trained_normalization(chosen.architecture, chosen.weights)
    if mean is None:
        return summary
    return summary.model_copy(update={"mean": mean, "std": std})


def read_source(task: Task, split: str, network: str | None = None) -> BatchSource:
    """A prepared split in the normalisation of `network`, by default the student's.

    Raises:
        DataError: its file is missing or damaged.
    """
    summary = summary_for(task, network)
    return IndexedSource.of(read_split(task.workspace.data, split), summary.mean, summary.std)


def as_student(model: nn.Module, task: Task, network: str) -> nn.Module:
    """`model`, which is `network` or one of its folds, for images in the student's normalisation."""
    # Equal ones are left alone: the extra product and sum would round.
    given, own = summary_for(task), summary_for(task, network)
    if (given.mean, given.std) == (own.mean, own.std):
        return model
    return Renormalized(model, (given.mean, given.std), (own.mean, own.std)).eval()
