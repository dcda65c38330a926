from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support.images import (
    SHARES,
    by_origin,
    encoded,
    image_folder,
    parquet,
    pixels_of,
    prepared,
    refused,
    twenty,
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": None}, "the label is missing"),
        ({"label": -1}, "the label is -1, must be a whole number from 0, or text"),
        ({"label": 0.5}, "the label is 0.5, must be"),
        ({"label": float("nan")}, "the label is nan, must be"),
        ({"label": float("inf")}, "the label is inf, must be"),
        ({"label": " "}, "the label is empty"),
        ({"image": None}, "no image"),
        ({"image": b"text"}, r"the image can't be decoded \(of no known format\)"),
        ({"image": encoded(pixels_of(0))[:-40]}, "the image can't be decoded"),
        ({"image": encoded(np.full((6, 6), 70_000, np.int32), "tiff")}, r".*\(more than 16 bits"),
        ({"image": encoded(np.ones((6, 6), np.float32), "tiff")}, r".*\(floating-point"),
    ],
)
def test_a_bad_row_is_named_or_counted(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    images, labels = twenty()
    if not isinstance(changes.get("label", ""), str):
        labels = [1.0 if isinstance(changes["label"], float) else 1, 0] * 10
    images[13], labels[13] = changes.get("image", images[13]), changes.get("label", labels[13])
    folder = parquet(tmp_path / "tables" / "a.parquet", images, labels)
    given: dict[str, Any] = {"source": "parquet", "path": str(folder)}
    refused(tmp_path, rf"^{folder}/a\.parquet#13: {message}", **given)
    summary, _, origins = prepared(tmp_path / "out", **given, on_bad_rows="skip")
    assert (summary.skipped, sum(map(sum, summary.counts.values()))) == (1, 19)
    assert not any("#13" in origin for split in origins.values() for origin in split)


def test_bad_files_are_named_or_counted(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images")
    bad = folder / "bee" / "3.png"
    bad.write_bytes(bad.read_bytes()[:60])
    given: dict[str, Any] = {"source": "image_folder", "path": str(folder)}
    refused(tmp_path, rf"^{bad}: the image can't be decoded", **given)
    assert prepared(tmp_path / "out", **given, on_bad_rows="skip")[0].skipped == 1

    images = ["gone.png", *map(str, folder.glob("*/*"))]
    parquet(
        tmp_path / "tables" / "a.parquet", images, ["bee", *(Path(each).parent.name for each in images[1:])]
    )
    message = rf"^{tmp_path}/tables/a\.parquet#0: {tmp_path}/tables/gone\.png: no such file"
    refused(tmp_path, message, source="parquet", path=str(tmp_path / "tables"))


def test_a_path_that_nothing_can_be_read_from_is_a_bad_row(tmp_path: Path) -> None:
    """A kind of store that there is not, no name that a file can have, an image as text."""
    images: list[Any] = [str(tmp_path / "images" / f"{number}.png") for number in range(20)]
    (tmp_path / "images").mkdir()
    for number, file in enumerate(images):
        Path(file).write_bytes(encoded(pixels_of(number)))
    bad = {3: "foo://bucket/7.png", 5: f"{tmp_path}/zero\0.png", 7: "iVBORw0KGgo" * 1000}
    given: dict[str, Any] = {"source": "parquet", "path": str(tmp_path / "tables")}
    for row, path in bad.items():
        images[row] = path
        parquet(tmp_path / "tables" / "a.parquet", images, twenty()[1])
        refused(tmp_path, rf"a\.parquet#{min(bad)}: foo://bucket/7.png: Protocol not known: foo", **given)
    assert prepared(tmp_path / "out", **given, on_bad_rows="skip")[0].skipped == len(bad)
    parquet(tmp_path / "tables" / "a.parquet", ["gone.png"] * 20, twenty()[1])
    message = "no usable images in the train part, 20 bad ones skipped, first .*#0: .*gone.png: no such file"
    refused(tmp_path, message, **given, on_bad_rows="skip")


def test_labels_that_are_all_missing_are_named(tmp_path: Path) -> None:
    parquet(tmp_path / "tables" / "a.parquet", twenty()[0], pa.array([None] * 20, pa.int64()))
    refused(
        tmp_path, r"a\.parquet#0: the label is missing\n", source="parquet", path=str(tmp_path / "tables")
    )


def test_names_may_hold_two_colons(tmp_path: Path) -> None:
    """By which fsspec chains file systems."""
    folder = image_folder(tmp_path / "images")
    (folder / "bee").rename(folder / "a::bee")
    summary, _, origins = prepared(tmp_path / "out", source="image_folder", path=str(folder))
    assert summary.classes == ("a::bee", "ant")
    assert any("a::bee" in origin for split in origins.values() for origin in split)


def test_damaged_parquet_is_named(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "tables" / "a.parquet", *twenty())
    whole = (folder / "a.parquet").read_bytes()
    for damaged in (whole[:-50], whole[:4] + b"\xff" * 200 + whole[204:]):
        (folder / "a.parquet").write_bytes(damaged)
        refused(tmp_path, r"^.*/a\.parquet: ", source="parquet", path=str(folder))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"image_column": "img"},
            r"a\.parquet: no column 'img' \(data\.image_column\), the columns are image, label",
        ),
        ({"label_column": "y"}, r"no column 'y' \(data\.label_column\)"),
        ({"image_column": "list"}, r"'list' \(data\.image_column\) holds list.*, must hold encoded images"),
        (
            {"label_column": "image"},
            r"'image' \(data\.label_column\) holds binary, must hold integers or text",
        ),
    ],
)
def test_columns_are_checked_first(columns: dict[str, str], message: str, tmp_path: Path) -> None:
    images, labels = twenty()
    table = pa.table({"image": images, "label": labels, "list": [[1]] * 20})
    pq.write_table(table, tmp_path / "a.parquet")
    refused(tmp_path, message, source="parquet", path=str(tmp_path), **columns)


def test_sizes_must_be_alike_or_given(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images")
    wide = pixels_of(5, (10, 20))
    (folder / "bee" / "5.png").write_bytes(encoded(wide))
    given: dict[str, Any] = {"source": "image_folder", "path": str(folder)}
    refused(
        tmp_path, r"data\.image_size must be set: .*ant/0\.png has 6×6 pixels, .*bee/5\.png 20×10", **given
    )
    summary, images, origins = prepared(tmp_path / "out", **given, image_size=8)
    assert summary.image_size == (8, 8)
    squashed = np.asarray(Image.fromarray(wide).resize((8, 8), Image.Resampling.BILINEAR))
    assert (by_origin(images, origins)[f"{folder}/bee/5.png"][0] == squashed).all()

    (tmp_path / "parted").mkdir()
    (folder / "bee" / "5.png").unlink()
    folder.rename(tmp_path / "parted" / "train")
    for label in ("ant", "bee"):
        (tmp_path / "parted" / "test" / label).mkdir(parents=True)
        (tmp_path / "parted" / "test" / label / "0.png").write_bytes(encoded(wide))
    given = {"source": "image_folder", "path": str(tmp_path / "parted"), "splits": SHARES | {"test": None}}
    refused(
        tmp_path,
        r"image_size must be set: .*train/ant/0\.png has 6×6 pixels, .*test/ant/0\.png 20×10",
        **given,
    )


def test_what_cannot_be_split_is_named(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images")
    given: dict[str, Any] = {"source": "image_folder", "path": str(folder)}
    refused(
        tmp_path, r"data\.splits\.test must be a share: image folder", **given, splits=SHARES | {"test": None}
    )
    small = SHARES | {"validation": 0.05}
    message = (
        r"'ant' has 10 images, too few .*\(validation takes 0\.04 of them\).*raise data\.splits\.validation"
    )
    refused(tmp_path, message, **given, splits=small)
    (folder / "bee" / "0.png").rename(folder / "0.png")
    refused(tmp_path, r"images/0\.png: images must lie in a folder named after their class", **given)
    given["path"] = str(folder / "none")
    refused(tmp_path, r"images/none: no such directory", **given)

    alone = image_folder(tmp_path / "alone", ("ant",))
    refused(tmp_path, "two classes or more are needed, got ant alone", source="image_folder", path=str(alone))
    parted = tmp_path / "parted"
    image_folder(parted / "test", ("ant", "bee", "cow"), 3)
    given = {"source": "image_folder", "path": str(parted), "splits": SHARES | {"test": None}}
    refused(tmp_path, "parted/test only, none in", **given)
    image_folder(parted / "train")
    refused(tmp_path, "class 'cow' is in the test split only", **given)

    contents, _ = twenty()
    folder = tmp_path / "tables"
    for labels, first in (("ant", "bee"), "'ant'"), ((True, False), "'False'"):
        parquet(folder / "a.parquet", contents[:10], [1, 2] * 5)
        parquet(folder / "b.parquet", contents[10:], labels * 5)
        message = rf"all numbers or all text: .*a\.parquet#0 has 1, .*b\.parquet#\d {first}"
        refused(tmp_path, message, source="parquet", path=str(folder))
    (folder / "a.parquet").rename(folder / "train.parquet")
    refused(tmp_path, r"b\.parquet: beside train\*\.parquet and", source="parquet", path=str(folder))
    (folder / "b.parquet").unlink()
    (folder / "train.parquet").rename(folder / "test.parquet")
    refused(tmp_path, r"tables: test\*\.parquet only", source="parquet", path=str(folder))
