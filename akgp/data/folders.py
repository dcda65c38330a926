"""Which folders of a tree of images are classes and which are splits: taken where it is unambiguous.

Names only: nothing is read. CLASS/image, or train/CLASS/image beside test/ and val/, each below a folder
that holds nothing else; images of a class may lie deeper if some lie directly in its folder. All else is
refused by name: a folder that is taken for a class by mistake trains a network that tells nothing.
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
"""Folders of these names, in any case, are splits; of each split there may be one."""

IMAGES, ANNOTATIONS = {"images", "imgs"}, {"masks", "mask", "labels", "annotations", "segmentations", "depth"}
"""A folder of the first names beside one of the second: pictures and what is drawn on them, no classes."""

NAMED = 5
"""Folders that a message names; more are an ellipsis."""


@dataclass
class Folder:
    """images: directly in it; total: also below it; others: files that are no images, also below it."""

    path: str
    images: list[str] = field(default_factory=list)
    folders: dict[str, Folder] = field(default_factory=dict)
    total: int = 0
    others: int = 0

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def inner(self) -> Iterator[Folder]:
        """The folders directly in it that hold images, also deeper."""
        return (folder for folder in self.folders.values() if folder.total)


def classes_by_split(
    root: str, images: Sequence[str], others: Iterable[str] = (), empty: Iterable[str] = ()
) -> dict[str, list[tuple[str, str]]]:
    """Image and class by split: 'train' and, where the folders bring them, 'validation' and 'test'.

    Args:
        root: of the tree, for messages.
        images: names of the images, relative to `root`; their order is kept.
        others: names of all other files.
        empty: folders with nothing in them.

    Raises:
        DataError: what is which can't be told, a class has no image, or a split is missing, empty or
            there twice.
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
    """`top`, or the folder that is alone in it and again alone, down to the one that holds several."""
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
    """The folders in `top` that are splits, by split, in a fixed order; none if its folders are classes."""
    named = [folder for folder in top.folders.values() if folder.name.lower() in SPLIT_NAMES]
    beside = [folder for folder in top.inner() if folder.name.lower() not in SPLIT_NAMES]
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
    found: dict[str, Folder] = {}
    for folder in named:
        split = SPLIT_NAMES[folder.name.lower()]
        if split in found:
            raise DataError(
                f"{_at(root, folder)}: is the {split} split, and so is {_at(root, found[split])}: merge them"
            )
        found[split] = _same_name(folder)
    if "train" not in found:
        where = " and ".join(_at(root, folder) for folder in named)
        raise DataError(f"images in {where} only, none in {_at(root, top)}/train")
    return {split: found[split] for split in ("train", "validation", "test") if split in found}


def _is_class(named: list[Folder], beside: list[Folder]) -> bool:
    """Whether a folder `train` is a class, as of vehicles: images lie directly in it and all beside it."""
    if len(named) != 1 or SPLIT_NAMES[named[0].name.lower()] != "train" or len(beside) < 2:
        return False
    if not all(folder.images and not any(folder.inner()) for folder in [*named, *beside]):
        return False
    log.warning("folder %s is taken as a class like those beside it", printable(named[0].path))
    return True


def _resembles(name: str) -> str | None:
    """The split that a word of `name` means, as in seg_train, TestImages, val2017."""
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
    return [(name, class_name(name[start:].split("/", 1)[0])) for name in images if name.startswith(prefix)]


def _check_depth(root: str, top: Folder) -> None:
    """Folders in `top` whose images all lie deeper are classes only if the deeper folders can't be.

    Raises:
        DataError: they can: images/CLASS beside masks/CLASS, or pets/CLASS beside some other images.
    """
    nested = [folder for folder in top.folders.values() if not folder.images]
    deeper = {inner.name: inner for folder in nested for inner in folder.inner()}
    if len(deeper) < 2:
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


def class_name(folder: str) -> str:
    """The name of a folder's class: composed characters, so that one system's é is another's."""
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
