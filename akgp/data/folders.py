"""Decides which folders of a tree of images are classes and which are splits, if that is unambiguous.

By names alone: nothing is read. CLASS/image, or train/CLASS/image beside test/ and val/, each possibly
below a folder that holds nothing else; images of a class may lie deeper if some lie directly in its
folder. Anything else is an error, as a folder wrongly taken for a class trains a useless network.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from akgp.data.files import DataError, printable

log = logging.getLogger(__name__)

SPLIT_NAMES = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "val": "validation", "valid": "validation", "validation": "validation",
}  # fmt: skip
"""Folders with these names, in any case, are splits; there may be one of each split."""

IMAGES, ANNOTATIONS = {"images", "imgs"}, {"masks", "mask", "labels", "annotations", "segmentations", "depth"}
"""A folder of IMAGES beside one of ANNOTATIONS holds segmentation data or the like, not classes."""

NAMED = 5
"""How many folders a message names before an ellipsis."""


@dataclass
class Folder:
    """A folder. images: directly in it; total: number below it; others: number of other files below it."""

    path: str
    images: list[str] = field(default_factory=list)
    folders: dict[str, Folder] = field(default_factory=dict)
    total: int = 0
    others: int = 0

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def inner(self) -> Iterator[Folder]:
        """Its folders that hold images at any depth."""
        return (folder for folder in self.folders.values() if folder.total)


def classes_by_split(
    root: str, images: Sequence[str], others: Iterable[str] = (), empty: Iterable[str] = ()
) -> dict[str, list[tuple[str, str]]]:
    """(image, class) by split: 'train' and, where there are such folders, 'validation' and 'test'.

    Args:
        root: of the tree, for messages.
        images: names of the images, relative to `root`; their order is kept.
        others: names of all other files.
        empty: folders with nothing in them.

    Raises:
        DataError: the folders are ambiguous, a class has no image, or a split is missing, empty or there
            twice.
    """
    top = _unwrapped(root, _tree(images, others, empty))
    splits = _splits(root, top)
    if not splits:
        return {"train": _classes(root, top, images)}
    return {split: _classes(root, folder, images) for split, folder in splits.items()}


def _tree(images: Iterable[str], others: Iterable[str], empty: Iterable[str]) -> Folder:
    top = Folder("")

    def descend(steps: list[str], image: bool, other: bool) -> Folder:
        node = top
        for depth, step in enumerate(["", *steps]):
            if step:
                node = node.folders.setdefault(step, Folder("/".join(steps[:depth])))
            node.total += image
            node.others += other
        return node

    for name in images:
        descend(name.split("/")[:-1], True, False).images.append(name)
    for name in others:
        descend(name.split("/")[:-1], False, True)
    for name in empty:
        descend(name.split("/") if name else [], False, False)
    return top


def _unwrapped(root: str, top: Folder) -> Folder:
    """The first folder from `top` downwards that holds more than one folder, as archives often wrap data."""
    inside = top
    while not inside.images and len(inside.folders) == 1:
        (only,) = inside.folders.values()
        if only.images or not only.total or only.name.lower() in SPLIT_NAMES:
            break
        inside = only
    if inside is not top:
        log.warning("%s holds one folder, %s: taken from there", root, printable(inside.path))
    return inside


def _splits(root: str, top: Folder) -> dict[str, Folder]:
    """The folders in `top` that are splits, in a fixed order; empty if its folders are classes."""
    named = [folder for folder in top.folders.values() if folder.name.lower() in SPLIT_NAMES]
    beside = [folder for folder in top.inner() if folder.name.lower() not in SPLIT_NAMES]
    # Look-alikes such as seg_train and seg_test; one alone may be a class.
    alike = {part for folder in [*named, *beside] if (part := _resembles(folder.name))}
    if len(alike) > 1 and any(_resembles(folder.name) for folder in beside):
        raise DataError(
            f"{_at(root, top)}: {_listed([f for f in [*named, *beside] if _resembles(f.name)])} look like "
            "splits, not classes: name them train, val and test and leave no other folder of images beside "
            "them, or set data.path to one of them"
        )
    for folder in named:
        if not folder.total:
            raise DataError(f"{_at(root, folder)}: no image in it: add images, or remove the folder")
    if not named or _is_class(named, beside):
        return {}
    if beside:
        raise DataError(
            f"{_at(root, beside[0])}: beside {_listed(named)} there must be no other images (splits are "
            "called train, val and test): move it away, "
            "or rename what is a class"
        )
    if top.images:
        raise _outside(root, top)
    by_split: dict[str, Folder] = {}
    for folder in named:
        split = SPLIT_NAMES[folder.name.lower()]
        if split in by_split:
            raise DataError(
                f"{_at(root, folder)}: is the {split} split, and so is {_at(root, by_split[split])}: "
                "merge them"
            )
        by_split[split] = _same_name(folder)
    if "train" not in by_split:
        where = " and ".join(_at(root, folder) for folder in named)
        raise DataError(f"images in {where} only, none in {_at(root, top)}/train")
    return {split: by_split[split] for split in ("train", "validation", "test") if split in by_split}


def _is_class(named: list[Folder], beside: list[Folder]) -> bool:
    """Whether a folder `train` is a class (the vehicle): images lie directly in it and in those beside it."""
    if len(named) != 1 or SPLIT_NAMES[named[0].name.lower()] != "train" or len(beside) < 2:
        return False
    if not all(folder.images and not any(folder.inner()) for folder in [*named, *beside]):
        return False
    log.warning("folder %s is taken as a class like those beside it", printable(named[0].path))
    return True


def _resembles(name: str) -> str | None:
    """The split that a word in `name` stands for, as in seg_train, TestImages, val2017."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)
    return next((SPLIT_NAMES[word.lower()] for word in words if word.lower() in SPLIT_NAMES), None)


def _same_name(folder: Folder) -> Folder:
    """A split's folder, or the only one in it if that has the same name: test/test/CLASS."""
    if folder.images or len(folder.folders) != 1:
        return folder
    (only,) = folder.folders.values()
    return only if only.name.lower() == folder.name.lower() and not only.images else folder


def _classes(root: str, top: Folder, images: Iterable[str]) -> list[tuple[str, str]]:
    """The images below `top`, each with the name of the folder in `top` that it lies in."""
    if top.images:
        raise _outside(root, top)
    for folder in top.folders.values():
        if not folder.total:
            what = f"none of its {folder.others} files is one" if folder.others else "it is empty"
            raise DataError(
                f"{_at(root, folder)}: no image in this class folder ({what}): add images, or move it away"
            )
    _check_depth(root, top)
    names = {folder.name.lower() for folder in top.folders.values()}
    if names & IMAGES and names & ANNOTATIONS:
        raise DataError(
            f"{_at(root, top)}: {_listed(top.folders.values())} don't look like classes: "
            "images must lie in a folder named after their class"
        )
    _check_case(top)
    start = len(top.path) + 1 if top.path else 0
    prefix = f"{top.path}/" if top.path else ""
    return [
        (name, normalized_name(name[start:].split("/", 1)[0])) for name in images if name.startswith(prefix)
    ]


def _check_depth(root: str, top: Folder) -> None:
    """Check that folders in `top` whose images all lie deeper can only be classes themselves.

    Raises:
        DataError: the deeper folders may be the classes: images/CLASS beside masks/CLASS, or pets/CLASS.
    """
    nested = [folder for folder in top.folders.values() if not folder.images]
    deeper = {inner.name: inner for folder in nested for inner in folder.inner()}
    if len(deeper) < 2:  # one folder alone is not a set of classes
        return
    name = _at(root, nested[0])
    if all(step.lower() in SPLIT_NAMES for step in deeper):
        raise DataError(
            f"{name}: holds the splits {_listed(nested[0].inner())}: classes must lie in the splits, "
            f"as train/{printable(nested[0].name)}, not splits in the classes"
        )
    raise DataError(
        f"{name}: images in its folders {_listed(nested[0].inner())}, none directly in it: if those are the "
        f"classes, set data.path to {name} or move them up; if it is one, move an image directly into it"
    )


def _check_case(top: Folder) -> None:
    seen: dict[str, str] = {}
    for name in top.folders:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            log.warning(
                "%s and %s differ in case only, and are two classes", printable(other), printable(name)
            )


def normalized_name(folder: str) -> str:
    """The class of a folder: its name in composed characters, as some systems store é as e and an accent."""
    return unicodedata.normalize("NFC", printable(folder))


def _outside(root: str, folder: Folder) -> DataError:
    return DataError(
        f"{_at(root, Folder(folder.images[0]))}: images must lie in a folder named after their class, "
        f"such as {_at(root, folder)}/cat"
    )


def _at(root: str, folder: Folder) -> str:
    return printable(f"{root}/{folder.path}" if folder.path else root)


def _listed(folders: Iterable[Folder]) -> str:
    names = [printable(folder.name) for folder in folders]
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
