"""Labels as sources give them (numbers or text), and the classes that they stand for."""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from akgp.data.files import DataError
from akgp.data.samples import Samples

Label = int | str


def label_of(value: object, classes: tuple[str, ...] | None) -> Label:
    """A label as a number from 0 or a text; with known `classes`, as its position in these.

    Raises:
        DataError: it is missing, empty, negative, not a whole number, or not one of `classes`.
    """
    match value:
        case None:
            raise DataError("the label is missing")
        case bool():  # before int, which it is: a column of booleans has the classes True and False
            value = str(value)
        case float() if value.is_integer():  # integers that are stored as floats
            value = int(value)
    if classes and value in classes:
        return classes.index(str(value))
    if classes and not (isinstance(value, int) and 0 <= value < len(classes)):
        raise DataError(
            f"the label is {value!r}, must be 0 to {len(classes) - 1} or one of {listed(classes)}"
        )
    if isinstance(value, str) and not value.strip():
        raise DataError("the label is empty")
    if isinstance(value, str):  # some systems store é as e and an accent
        return unicodedata.normalize("NFC", value)
    if not (isinstance(value, int) and value >= 0):
        raise DataError(f"the label is {value!r}, must be a whole number from 0, or text{_unlabelled(value)}")
    return value


def _unlabelled(value: object) -> str:
    """What to do about the labels of test images that are kept secret."""
    return "; where −1 is for unlabelled images, leave their files out" if value == -1 else ""


def given_labels(samples: Samples, classes: tuple[str, ...] | None) -> list[tuple[Label, str]]:
    """The labels, see `label_of`, with their origins, without images where they can be; bad ones left out."""
    given: list[tuple[Label, str]] = []
    for sample in (samples.bare or samples.read)():
        with contextlib.suppress(DataError):
            given.append((label_of(sample.label, classes), sample.origin))
    return given


def listed(classes: Sequence[str]) -> str:
    """The class names for a message, of more than ten the first ten."""
    return ", ".join(classes[:10]) + (f", … ({len(classes)} in all)" if len(classes) > 10 else "")


def classes_of(labels: Iterable[tuple[Label, str]]) -> tuple[str, ...]:
    """Names of all classes, in the order of their indices: text sorted as text, numbers as numbers.

    Args:
        labels: each with its origin.

    Raises:
        DataError: some are numbers, others text; names one of each.
    """
    first: dict[Label, str] = {}
    for label, origin in labels:
        first.setdefault(label, origin)
    numbers = sorted(label for label in first if isinstance(label, int))
    texts = sorted(label for label in first if isinstance(label, str))
    if numbers and texts:
        raise DataError(
            f"labels must be all numbers or all text: {first[numbers[0]]} has {numbers[0]!r}, "
            f"{first[texts[0]]} {texts[0]!r}"
        )
    return tuple(map(str, numbers or texts))


def by_name(classes: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """Classes that are numbers by their `names`; as they are where one has none or two would be alike."""
    if not all(name.isdecimal() and int(name) < len(names) for name in classes):
        return classes
    found = tuple(names[int(name)] for name in classes)
    return found if len(set(found)) == len(classes) else classes


def class_indices(labels: Sequence[Label], classes: tuple[str, ...], *, known: bool) -> Tensor:
    """Class indices int64 [N]; where classes are `known`, the labels are indices already."""
    index = {name: position for position, name in enumerate(classes)}
    return torch.tensor([label if known else index[str(label)] for label in labels], dtype=torch.int64)
