"""Which folders are classes and which are splits: what is taken, and what is refused by name."""

from __future__ import annotations

import pytest

from akgp.data import DataError
from akgp.data.folders import classes_by_split


def layout(*names: str, others: tuple[str, ...] = (), empty: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Of each split 'image=class', of a tree of images (and other files, and empty folders) below /d."""
    found = classes_by_split("/d", sorted(names), others, empty)
    return {split: [f"{name}={label}" for name, label in listed] for split, listed in found.items()}


CLASSES = ("cat/1.png", "dog/2.png")


def below(folder: str, names: tuple[str, ...] = CLASSES) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" for name in names)


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", None, "test"),
        ("Training", None, "Testing"),
        ("TRAIN", "val", "Test"),
        ("train", "valid", "test"),
        ("training", "Validation", "testing"),
        ("train", "val", None),
        ("train", None, None),
    ],
)
def test_splits_are_known_by_their_names(train: str, validation: str | None, test: str | None) -> None:
    named = {"train": train, "validation": validation, "test": test}
    names = [name for folder in named.values() if folder for name in below(folder)]
    found = layout(*names)
    assert found == {
        split: [f"{folder}/cat/1.png=cat", f"{folder}/dog/2.png=dog"]
        for split, folder in named.items()
        if folder
    }


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (CLASSES, ["cat", "dog"]),
        (("cat/1.png", "cat/deep/er/2.png", "dog/2.png"), ["cat", "cat", "dog"]),
        (below("pets"), ["cat", "dog"]),  # a folder around all
        (below("a/b/pets"), ["cat", "dog"]),
        (below("data/train"), ["cat", "dog"]),
        (("cat/images/1.png", "dog/images/2.png"), ["cat", "dog"]),  # Tiny ImageNet
        (("cat/photos/1.png", "dog/2.png"), ["cat", "dog"]),
        (("train/1.png", "car/1.png", "bus/1.png"), ["bus", "car", "train"]),  # vehicles
        (("a/1.png", "A/2.png"), ["A", "a"]),  # letters
        (("cafe\u0301/1.png", "the\u0301/2.png"), ["caf\xe9", "th\xe9"]),  # as macOS stores them
        (("caf\udce9/1.png", "dog/2.png"), [r"caf\xe9", "dog"]),  # no UTF-8
        (("train/train/cat/1.png", "train/train/dog/1.png"), ["cat", "dog"]),
    ],
)
def test_what_is_unambiguous_is_taken(names: tuple[str, ...], classes: list[str]) -> None:
    found = layout(*names)
    assert [name.rpartition("=")[2] for name in found["train"]] == classes and list(found) == ["train"]


def test_a_validation_split_of_images_in_a_wrapper_beside_other_files() -> None:
    names = [*below("set/train"), *below("set/val"), *below("set/test")]
    found = layout(*names, others=("set/train/notes.txt", "set/annotations/1.xml"))
    assert list(found) == ["train", "validation", "test"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train/1.png", "test/2.png"), r"^/d/train/1\.png: images must lie in a folder named after"),
        (("train/cat/1.png", "test/2.png"), r"^/d/test/2\.png: images must lie in a folder .* /d/test/cat"),
        ((*below("images"), *below("masks")), r"^/d/images: images in its folders cat, dog, .*data\.path"),
        (("images/1.png", "masks/1.png"), r"^/d: images, masks don't look like classes"),
        ((*below("pets"), "sample/1.png"), r"^/d/pets: images in its folders cat, dog, none directly in it"),
        ((*below("fold1"), *below("fold2")), r"^/d/fold1: images in its folders cat, dog"),
        (below("cat", ("train/1.png", "test/2.png")) + below("dog", ("train/1.png",)),
         r"^/d/cat: holds the splits test, train: classes must lie in the splits, as train/cat"),
        ((*below("seg_train"), *below("seg_test")), r"^/d: seg_test, seg_train look like splits"),
        (("TrainImages/1.png", "TestImages/2.png"), r"^/d: TestImages, TrainImages look like splits"),
        (("train/1.png", "test1/2.png"), r"^/d: train, test1 look like splits"),
        ((*below("train"), "extra/1.png"), r"^/d/extra: beside train there must be no other images"),
        ((*CLASSES, "test/1.png"), r"^/d/cat: beside test there must be no other images .* rename"),
        ((*below("train"), *below("val"), *below("valid")), r"^/d/valid: is the validation .* /d/val: merge"),
        ((*below("train"), *below("Train")), r"is the train split, and so is"),
        (below("val") + below("test"), r"^images in /d/test and /d/val only, none in /d/train"),
        ((*CLASSES, "1.png"), r"^/d/1\.png: images must lie in a folder named after their class"),
        (("train/cat/1.png", "train/2.png"), r"^/d/train/2\.png: images must lie"),
        (("train/cat/1.png", "3.png"), r"^/d/3\.png: images must lie"),
    ],
)  # fmt: skip
def test_what_is_ambiguous_is_refused_by_name(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        layout(*names)


@pytest.mark.parametrize(
    ("others", "empty", "message"),
    [
        ((), ("cow",), r"^/d/cow: no image in this class folder \(it is empty\)"),
        ((), ("cow/deep",), r"^/d/cow: no image in this class folder \(it is empty\)"),
        (("cow/1.txt", "cow/x/2.txt"), (), r"^/d/cow: no image .* \(none of its 2 files is one\)"),
        ((), ("test",), r"^/d/test: no image in it: add images, or remove the folder"),
        (("test/cat/1.txt",), (), r"^/d/test: no image in it"),
    ],
)  # fmt: skip
def test_a_folder_without_an_image_is_refused(
    others: tuple[str, ...], empty: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        layout(*CLASSES, others=others, empty=empty)


def test_an_empty_class_of_a_split_is_refused() -> None:
    with pytest.raises(DataError, match=r"^/d/test/cow: no image in this class folder"):
        layout(*below("train"), *below("test"), empty=("test/cow",))


def test_one_folder_alone_is_no_wrapper_of_its_images() -> None:
    assert layout("cat/1.png", "cat/2.png") == {"train": ["cat/1.png=cat", "cat/2.png=cat"]}


def test_what_may_be_a_mistake_is_said(caplog: pytest.LogCaptureFixture) -> None:
    layout("a/1.png", "A/2.png")
    layout("train/1.png", "car/1.png", "bus/1.png")
    layout(*below("pets"))
    assert [record.getMessage() for record in caplog.records] == [
        "A and a differ in case only, and are two classes",
        "folder train is taken as a class like those beside it",
        "/d holds one folder, pets: taken from there",
    ]


def test_a_hundred_thousand_images_in_a_thousand_classes() -> None:
    names = [f"train/class{k:03d}/{i:03d}.png" for k in range(1000) for i in range(100)]
    found = classes_by_split("/d", names)
    assert len(found["train"]) == 100_000 and found["train"][-1] == (names[-1], "class999")
