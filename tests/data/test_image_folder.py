"""A folder of images as users have it: other files, links, any suffix, splits of its own; on a disk and on s3://."""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from akgp.data import DataError, prepare
from akgp.data.cache import Files, user_cache
from akgp.data.formats import IMAGE_SUFFIXES, begins_like_an_image, ending, not_taken
from akgp.params import Data
from tests.support.images import SHARES, by_origin, encoded, image_folder, pixels_of, prepared, refused

OWN_TEST: dict[str, Any] = {"splits": SHARES | {"test": None}}


def given(folder: Path | str, **more: Any) -> dict[str, Any]:
    return {"source": "image_folder", "path": str(folder)} | more


def counted(tmp_path: Path, folder: Path, **more: Any) -> int:
    summary = prepared(tmp_path / "out", **given(folder, **more))[0]
    return sum(map(sum, summary.counts.values()))


# What is not taken


def test_what_is_not_taken_is_counted_and_said_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = image_folder(tmp_path / "images")
    for name in ("ant/a.txt", "bee/b.TXT", "list.csv", "ant/.DS_Store", "bee/Thumbs.db", "ant/README"):
        (folder / name).write_text("no image")
    (folder / "__MACOSX" / "ant").mkdir(parents=True)
    (folder / "__MACOSX" / "ant" / "._0.png").write_bytes(encoded(pixels_of(0)))
    (folder / ".cache").mkdir()
    (folder / "ant" / "raw.nef").write_bytes(encoded(pixels_of(0), "tiff"))  # its preview is no image
    os.mkfifo(folder / "bee" / "pipe.png")
    with caplog.at_level(logging.WARNING):
        summary = prepared(tmp_path / "out", **given(folder))[0]
    expected = {
        "hidden": 4, ".txt": 2, "no ending": 1, ".nef": 1, ".csv": 1, "no regular file": 1,
    }  # fmt: skip
    assert summary.not_taken == expected
    (record,) = caplog.records
    assert record.getMessage().startswith("not taken: 4 hidden, 2 .txt, 1 ")
    assert sum(map(sum, summary.counts.values())) == 20


def test_rare_endings_are_counted_together() -> None:
    found = not_taken([f"a.x{k}" for k in range(500)] + ["b.txt", "c.txt"], {})
    assert found[".txt"] == 2 and found["others"] == 493 and len(found) == 9


def test_a_class_without_a_usable_image_is_refused(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images")
    (folder / "cow").mkdir()
    refused(tmp_path, r"images/cow: no image in this class folder \(it is empty\)", **given(folder))
    for number in range(10):
        (folder / "cow" / f"{number}.png").write_text("no image" if number else "")
    message = r"^class 'cow': none of its 10 images can be used"
    refused(tmp_path, message, **given(folder, on_bad_rows="skip"))


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    file = image_folder(tmp_path / "images") / "ant" / "0.png"
    refused(tmp_path, r"0\.png: is a file: must be a directory of class folders", **given(file))
    (tmp_path / "texts" / "ant").mkdir(parents=True)
    (tmp_path / "texts" / "ant" / "a.txt").write_text("no image")
    refused(tmp_path, r"texts: no images in class folders, only 1 \.txt", **given(tmp_path / "texts"))


# Links


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images")
    elsewhere = image_folder(tmp_path / "elsewhere", ("cow",))
    (folder / "cow").symlink_to(elsewhere / "cow")
    (folder / "ant" / "linked.png").symlink_to(elsewhere / "cow" / "1.png")
    (folder / "bee" / "loop").symlink_to(folder)
    (folder / "ant" / "more").symlink_to(folder / "bee")
    (folder / "ant" / "self.txt").symlink_to("self.txt")
    files = Files(str(folder))
    assert set(files.skipped) == {"bee/loop", "ant/more/loop"}
    assert [name for name in files.names if name.startswith("cow/")] == [f"cow/{k}.png" for k in range(10)]
    refused(tmp_path, r"ant/self\.txt", **given(folder))
    (folder / "ant" / "self.txt").unlink()
    summary, _, origins = prepared(tmp_path / "out", **given(folder))
    assert summary.classes == ("ant", "bee", "cow") and sum(map(sum, summary.counts.values())) == 41
    assert summary.not_taken == {"link to a folder above it": 2}
    assert any(origin.endswith("ant/more/0.png") for split in origins.values() for origin in split)


def test_a_link_to_nothing_is_a_bad_row(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images")
    (folder / "ant" / "gone.png").symlink_to(tmp_path / "gone.png")
    (folder / "latest").symlink_to(tmp_path / "gone")  # it may have been a folder
    refused(tmp_path, r"ant/gone\.png: .*no such file", **given(folder))
    summary = prepared(tmp_path / "out", **given(folder, on_bad_rows="skip"))[0]
    assert summary.skipped == 1 and summary.not_taken == {"link to nothing": 1}


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = image_folder(tmp_path / "images")
    scandir = os.scandir

    def forbidden(path: str) -> Any:
        if str(path).endswith("bee"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidden)  # the tests may run as root
    refused(tmp_path, r"images: can't be read \(.*Permission denied: '.*/bee'\)", **given(folder))


# Content, not suffix


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("jpeg", ".jfif"), ("jpeg", ""), ("png", ".jpg"), ("jpeg2000", ".jp2"), ("jpeg2000", ".data"),
        ("avif", ".avif"), ("avif", ".x"), ("webp", ""), ("gif", ".1"), ("bmp", ".image"), ("tiff", ""),
        ("ppm", ""), ("qoi", ""), ("tga", ".tga"), ("pcx", ".pcx"), ("png", ".PNG"), ("dds", ""),
    ],
)  # fmt: skip
def test_images_are_taken_whatever_their_suffix(kind: str, suffix: str, tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images")
    content = encoded(np.full((6, 6, 3), 200, np.uint8), kind)
    (folder / "ant" / f"other{suffix}").write_bytes(content)
    assert ending(f"other{suffix}") in IMAGE_SUFFIXES or begins_like_an_image(content[:64])
    _, images, origins = prepared(tmp_path / "out", **given(folder))
    pixels, label = by_origin(images, origins)[f"{folder}/ant/other{suffix}"]
    assert label == 0 and abs(pixels.astype(int) - 200).max() <= 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"P1 is a road",
        b"BM is no bitmap here",
        b"#define X 1",
        b"%!PS-Adobe",
        b"II",
        b"RIFF",
    ],
)
def test_text_is_no_image(content: bytes) -> None:
    assert not begins_like_an_image(content)


@pytest.mark.parametrize(
    ("package", "name", "content", "message"),
    [
        (
            "pillow_heif",
            "photo",
            b"\0\0\0\x18ftypheic",
            r"ant/photo: .*of format HEIC: `pip install pillow-heif`",
        ),
        ("pillow_jxl", "x.jxl", b"\xff\x0a", r"ant/x\.jxl: .*of format JPEG XL: `pip install"),
    ],
)
def test_a_format_without_decoder_is_a_bad_row_that_says_what_brings_it(
    tmp_path: Path, package: str, name: str, content: bytes, message: str
) -> None:
    if find_spec(package):
        pytest.skip(f"{package} decodes it")
    folder = image_folder(tmp_path / "images")
    (folder / "ant" / name).write_bytes(content + bytes(80))
    refused(tmp_path, message, **given(folder))


def test_no_other_program_is_started_by_an_image(tmp_path: Path) -> None:
    """Pillow would hand EPS to Ghostscript."""
    folder = image_folder(tmp_path / "images")
    (folder / "ant" / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\n%%End")
    refused(tmp_path, r"x\.png: the image can't be decoded \(of no known format\)", **given(folder))


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images")
    for name in (b"caf\xe9.png", b"caf\xe9"):
        Path(os.fsdecode(os.fsencode(folder / "ant") + b"/" + name)).write_bytes(encoded(pixels_of(3)))
    (folder / "bee").rename(os.fsdecode(os.fsencode(folder) + b"/b\xe9e"))
    Path(os.fsdecode(os.fsencode(folder / "ant") + b"/text\xe9.t\xe9")).write_text("no image")
    summary, images, origins = prepared(tmp_path / "out", **given(folder))
    found = by_origin(images, origins)
    assert summary.classes == ("ant", r"b\xe9e") and len(found) == 22 and summary.not_taken == {r".t\xe9": 1}
    assert (found[rf"{folder}/ant/caf\xe9.png"][0] == pixels_of(3)).all()


# Splits of its own


def with_validation(root: Path) -> Path:
    """training/, Val/ and Test/ of two classes, with 10, 4 and 3 images a class."""
    for name, images in (("training", 10), ("Val", 4), ("Test", 3)):
        image_folder(root / name, images=images)
    return root


def test_a_validation_split_is_used_as_it_is(tmp_path: Path) -> None:
    folder = with_validation(tmp_path / "images")
    summary, _, origins = prepared(tmp_path / "out", **given(folder, **OWN_TEST))
    assert summary.counts == {
        "train": (8, 8), "calibration": (2, 2), "validation": (4, 4), "test": (3, 3),
    }  # fmt: skip
    names = {"train": "training", "calibration": "training", "validation": "Val", "test": "Test"}
    for split, name in names.items():
        assert all(origin.startswith(f"{folder}/{name}/") for origin in origins[split])
    assert origins["validation"] == sorted(origins["validation"])


def test_a_regime_leaves_a_validation_split_as_it_is(tmp_path: Path) -> None:
    folder = with_validation(tmp_path / "images")
    regime = {"label_noise": 0.4}
    clean, before, _ = prepared(tmp_path / "clean", **given(folder, **OWN_TEST))
    noisy, after, _ = prepared(tmp_path / "noisy", **given(folder, **OWN_TEST, regime=regime))
    assert torch.equal(before["validation"].pixels, after["validation"].pixels)
    assert torch.equal(before["validation"].labels, after["validation"].labels)
    assert noisy.counts["validation"] == (4, 4) and noisy.regime is not None and clean.regime is None
    assert noisy.regime.changed["validation"] == 0 and sum(noisy.regime.changed.values()) == 8
    assert noisy.regime.kept == (10, 10)  # of those that a regime may leave out


def test_train_and_val_alone_need_a_share_for_the_test(tmp_path: Path) -> None:
    folder = with_validation(tmp_path / "images")
    (folder / "Test").rename(tmp_path / "elsewhere")
    refused(
        tmp_path, r"data\.splits\.test must be a share: .* has no test split", **given(folder, **OWN_TEST)
    )
    summary = prepared(tmp_path / "out", **given(folder))[0]
    assert summary.counts["validation"] == (4, 4) and summary.counts["test"] == (2, 2)
    assert sum(summary.counts["train"]) + sum(summary.counts["calibration"]) == 16


def test_classes_of_the_splits_must_be_those_of_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = with_validation(tmp_path / "images")
    image_folder(folder / "Val", ("cow",), 2)
    refused(tmp_path, r"^class 'cow' is in the validation split only: add", **given(folder, **OWN_TEST))
    image_folder(folder / "training", ("cow",), 10)
    with caplog.at_level(logging.WARNING):
        prepared(tmp_path / "out", **given(folder, **OWN_TEST))
    assert [r.getMessage() for r in caplog.records] == [
        "the test split has no image of 1 classes, such as cow"
    ]


def test_classes_are_checked_before_images_are_read(tmp_path: Path) -> None:
    """Tiny ImageNet's layout: all images of val/ lie in val/images."""
    folder = image_folder(tmp_path / "images" / "train").parent
    image_folder(folder / "val", ("images",))
    data, read = Data.model_validate(given(folder, splits=SHARES | {"test": 0.2})), []
    with pytest.raises(DataError, match="class 'images' is in the validation split only"):
        prepare(data, 0, tmp_path, read.append)
    assert not read


# Bad rows


def test_the_first_ten_bad_files_are_named_and_the_remedy(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images", images=30)
    for number in range(5, 20):
        (folder / "ant" / f"{number}.png").write_text("no image")
    with pytest.raises(DataError) as error:
        prepare(Data.model_validate(given(folder, splits=SHARES)), 0, tmp_path)
    *bad, last = str(error.value).splitlines()
    assert len(bad) == 10 and all(": the image can't be decoded (of no known format)" in line for line in bad)
    assert last.startswith("10 bad rows among the first ") and "`data.on_bad_rows: skip` would leave" in last
    summary = prepared(tmp_path / "out", **given(folder, on_bad_rows="skip"))[0]
    assert summary.skipped == 15 and summary.counts["train"][1] > summary.counts["train"][0]


def test_the_search_for_more_bad_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("akgp.data.reading.LOOKAHEAD", 3)
    folder = image_folder(tmp_path / "images", images=30)
    (folder / "ant" / "1.png").write_text("no image")
    read: list[int] = []
    with pytest.raises(DataError, match=r"ant/1\.png: .*; `data\.on_bad_rows: skip` would leave it out$"):
        prepare(Data.model_validate(given(folder, splits=SHARES)), 0, tmp_path, read.append)
    assert sum(read) == 5  # 0.png, 1.png, and three more


# s3://


def test_s3_takes_and_refuses_what_the_disk_does(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infra.s3 import client

    for name, value in {**s3.environment, "XDG_CACHE_HOME": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    folder = with_validation(tmp_path / "folders")
    (folder / "training" / "ant" / "other").write_bytes(encoded(pixels_of(5)))
    for name in ("training/ant/a.txt", "training/ant/empty", "Val/.DS_Store", "Val/bee/.hidden/x.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"" if name.endswith("empty") else b"no image")
    url = s3.upload(folder, "folders-of-images")
    here = prepared(tmp_path / "here", **given(folder, **OWN_TEST))[0]
    there = prepared(tmp_path / "there", **given(url, **OWN_TEST))[0]
    assert (there.digest, there.not_taken) == (here.digest, here.not_taken)
    assert here.not_taken == {"hidden": 2, "no ending": 1, ".txt": 1}
    heads = list((user_cache() / "sources").glob("*/*.head"))
    assert len(heads) == 2  # of other and a.txt: nothing is asked of the store again
    with client(s3.environment) as store:
        store.put_object(Bucket=s3.bucket, Key="folders-of-images/Test/cow/", Body=b"")
    refused(tmp_path, r"Test/cow: no image in this class folder \(it is empty\)", **given(url, **OWN_TEST))


def test_the_first_bytes_of_files_in_a_store_are_asked_for_once(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from akgp.data import cache

    for name, value in {**s3.environment, "XDG_CACHE_HOME": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    asked: list[list[str]] = []
    read_files = cache.read_files

    def recorded(paths: list[str], first_bytes: int | None = None) -> Any:
        asked.append(list(paths))
        contents = read_files(paths, first_bytes)
        assert first_bytes is None or all(len(each) <= first_bytes for each in contents)  # type: ignore[arg-type]
        return contents

    monkeypatch.setattr(cache, "read_files", recorded)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "big").write_bytes(b"x" * 1000)
    (folder / "image").write_bytes(encoded(pixels_of(1)))
    url = s3.upload(folder, "heads")
    for expected in (2, 0):
        asked.clear()
        files = Files(url)
        heads = files.heads([f"{url}/big", f"{url}/image"])
        assert [begins_like_an_image(head) for head in heads if isinstance(head, bytes)] == [False, True]
        assert sum(map(len, asked)) == expected


def test_a_single_image_is_read_by_content_too(tmp_path: Path) -> None:
    from akgp.data import Summary, read_image

    Image.fromarray(pixels_of(3)).save(tmp_path / "image", "png")
    found = read_image(tmp_path / "image", Summary.model_construct(image_size=(6, 6), channels=3))
    assert (found[0].permute(1, 2, 0).numpy() == pixels_of(3)).all()
