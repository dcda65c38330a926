"""Parquet as users have it: Hugging Face's layout, hive folders, splits by name, odd columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from akgp.data import DataError
from akgp.data.parquet import tables_by_split
from tests.support.images import SHARES, by_origin, encoded, parquet, pixels_of, prepared, refused, twenty

OWN_TEST: dict[str, Any] = {"splits": SHARES | {"test": None}}


def given(folder: Path | str, **more: Any) -> dict[str, Any]:
    return {"source": "parquet", "path": str(folder)} | more


def by_split(*names: str) -> dict[str, list[str]]:
    found = tables_by_split("/d", names)
    return {split: [table.address.removeprefix("/d/") for table in tables] for split, tables in found.items()}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("a.parquet", "b.pq"), {"train": ["a.parquet", "b.pq"]}),
        (("data/train-0-of-1.parquet", "README.md"), {"train": ["data/train-0-of-1.parquet"]}),
        (
            ("data/test-0.parquet", "data/train-0.parquet", "data/validation-0.parquet"),
            {"train": ["data/train-0.parquet"], "validation": ["data/validation-0.parquet"],
             "test": ["data/test-0.parquet"]},
        ),
        (("Train.PARQUET", "Test.parquet", "val.pq"),
         {"train": ["Train.PARQUET"], "validation": ["val.pq"], "test": ["Test.parquet"]}),
        (("default/train/0000.parquet", "default/test/0000.parquet"),
         {"train": ["default/train/0000.parquet"], "test": ["default/test/0000.parquet"]}),
        (("split=train/0.parquet", "split=valid/0.parquet"),
         {"train": ["split=train/0.parquet"], "validation": ["split=valid/0.parquet"]}),
        (("label=x/0.parquet", "label=y/0.parquet", "_SUCCESS", "_metadata.parquet"),
         {"train": ["label=x/0.parquet", "label=y/0.parquet"]}),
        (("values.parquet",), {"train": ["values.parquet"]}),
    ],
)  # fmt: skip
def test_layouts(names: tuple[str, ...], expected: dict[str, list[str]]) -> None:
    assert by_split(*names) == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a/x.parquet", "b/y.parquet"), r"^/d: Parquet files in several folders \(/d/a/x\.parquet, /d/b/y"),
        (("x.parquet", "b/y.parquet"), r"several folders .*: set data\.path to one"),
        (("train/test-0.parquet",), r"^/d/train/test-0\.parquet: belongs to two splits .*, train and test"),
        (("train.parquet", "rest.parquet"), r"^/d/rest\.parquet: beside train\*\.parquet and test"),
        (
            ("test.parquet", "val.parquet"),
            r"^/d: test\*\.parquet and validation\*\.parquet only, no training",
        ),
        (("a.csv",), r"^/d: no \.parquet files"),
        (
            ("data/train-00000-of-00003.parquet", "data/train-00002-of-00003.parquet", "data/test-0-of-1.pq"),
            r"^/d: of the files data/train-\*-of-00003 2 are there \(0, 2\), "
            r"the others are missing: add them, or rename these$",
        ),
    ],
)
def test_what_is_ambiguous_is_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        by_split(*names)


def test_the_layout_of_hugging_face(tmp_path: Path) -> None:
    contents, labels = twenty()
    names = pa.array(labels).dictionary_encode()
    for kind, split in ((pa.binary(), "train"), (pa.large_binary(), "validation"), (pa.binary(), "test")):
        image = pa.array(
            [{"bytes": content, "path": None} for content in contents],
            pa.struct([("bytes", kind), ("path", pa.string())]),
        )
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(pa.table({"image": image, "label": names}), tmp_path / f"data/{split}-0.parquet")
    (tmp_path / "README.md").write_text("")
    summary, images, origins = prepared(tmp_path / "out", **given(tmp_path, **OWN_TEST))
    assert summary.classes == ("ant", "bee") and summary.not_taken == {".md": 1}
    assert summary.counts == {
        "train": (8, 8), "calibration": (2, 2), "validation": (10, 10), "test": (10, 10),
    }  # fmt: skip
    assert all("validation-0" in origin for origin in origins["validation"])
    for origin, (pixels, label) in by_origin(images, origins).items():
        row = int(origin.partition("#")[2])
        assert (pixels == pixels_of(row)).all() and label == row % 2


def test_the_class_names_of_hugging_face(tmp_path: Path) -> None:
    """By number; a name without an image is no class, and what is said otherwise names nothing."""
    contents, _ = twenty()
    for names, classes in ((["ant", "wasp", "bee"], ("ant", "bee")), (["ant"], ("0", "2")), (3, ("0", "2"))):
        features = {"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}}
        table = pa.table({"image": contents, "label": [0, 2] * 10})
        described = table.replace_schema_metadata({"huggingface": json.dumps(features)})
        pq.write_table(described, tmp_path / "a.parquet")
        summary, images, origins = prepared(tmp_path / "out", **given(tmp_path / "a.parquet"))
        assert summary.classes == classes
        for origin, (_, label) in by_origin(images, origins).items():
            assert label == int(origin.partition("#")[2]) % 2


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (("x", "y%20z"), ("x", "y z")),
        (("10", "9"), ("9", "10")),
        (("10", "b"), ("10", "b")),
        (("01", "1"), ("01", "1")),
    ],
)
def test_labels_in_the_names_of_folders(
    values: tuple[str, str], classes: tuple[str, str], tmp_path: Path
) -> None:
    contents, _ = twenty()
    for number, value in enumerate(values):
        (tmp_path / f"kind={value}").mkdir()
        rows = contents[number::2]
        pq.write_table(pa.table({"image": rows}), tmp_path / f"kind={value}" / "part-0.parquet")
    columns = {"label_column": "kind"}
    summary, images, origins = prepared(tmp_path / "out", **given(tmp_path, **columns))
    assert summary.classes == classes
    for origin, (pixels, label) in by_origin(images, origins).items():
        folder, row = origin.split("kind=")[1].split("/")[0], int(origin.partition("#")[2])
        assert (pixels == pixels_of(2 * row + values.index(folder))).all()
        assert classes[label] == folder.replace("%20", " ")


def test_labels_of_folders_may_not_be_negative(tmp_path: Path) -> None:
    """Kaggle's and Hugging Face's sets have −1 where the labels of the test are secret."""
    for value in ("1", "2", "-1"):
        parquet(tmp_path / f"label={value}" / "0.parquet", twenty()[0], [0] * 20, ("image", "other"))
    message = (
        r"label=-1/.*the label is -1, must be .*; where −1 is for unlabelled images, leave their files out"
    )
    refused(tmp_path, message, **given(tmp_path))


def test_a_folder_of_no_label_is_a_bad_row(tmp_path: Path) -> None:
    contents, _ = twenty()
    for value in ("x", "y", "__HIVE_DEFAULT_PARTITION__"):
        parquet(tmp_path / f"label={value}" / "0.parquet", contents, [0] * 20, ("image", "other"))
    refused(tmp_path, r"PARTITION__/0\.parquet#0: the label is missing\n", **given(tmp_path))
    refused(tmp_path, r"no column 'kind' \(data\.label", **given(tmp_path, label_column="kind"))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (pa.struct([("bytes", pa.list_(pa.int64()))]), r"holds struct<bytes: list<.*>, must hold encoded"),
        (pa.struct([("bytes", pa.int64()), ("path", pa.string())]), r"holds struct<bytes: int64"),
        (pa.struct([("bytes", pa.null())]), r"holds struct<bytes: null>"),
        (pa.struct([("other", pa.binary())]), r"holds struct<other: binary>"),
        (pa.struct([("bytes", pa.binary()), ("bytes", pa.binary())]), r"holds struct<bytes: binary, bytes"),
        (pa.list_(pa.uint8()), r"holds list<"),
        (pa.dictionary(pa.int32(), pa.binary()), r"holds dictionary<"),
    ],
)  # fmt: skip
def test_image_columns_of_other_types_are_refused(kind: pa.DataType, message: str, tmp_path: Path) -> None:
    schema = pa.schema([("image", kind), ("label", pa.int64())])
    pq.write_table(schema.empty_table(), tmp_path / "a.parquet")
    refused(tmp_path, rf"a\.parquet: column 'image' \(data\.image_column\) {message}", **given(tmp_path))


@pytest.mark.parametrize("doubled", ["image", "label", "other"])
def test_two_columns_of_one_name_are_refused_if_they_matter(doubled: str, tmp_path: Path) -> None:
    contents, labels = twenty()
    columns = {"image": pa.array(contents), "label": pa.array(labels), "other": pa.array(labels)}
    names = [*columns, doubled]
    table = pa.Table.from_arrays([columns[name] for name in names], names=names)
    pq.write_table(table, tmp_path / "a.parquet")
    if doubled == "other":
        assert prepared(tmp_path / "out", **given(tmp_path))[0].classes == ("ant", "bee")
    else:
        message = (
            rf"a\.parquet: 2 columns are called '{doubled}' \(data\.{doubled}_column\): rename all but one"
        )
        refused(tmp_path, message, **given(tmp_path))


def test_files_that_a_column_names_are_taken_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for number in range(20):
        (tmp_path / "files" / f"{number}.png").write_bytes(encoded(pixels_of(number)))
    parquet(tmp_path / "a.parquet", [f"files/{number}.png" for number in range(20)], [0, 1] * 10)
    (tmp_path / "notes.txt").write_text("")
    assert prepared(tmp_path / "out", **given(tmp_path))[0].not_taken == {".txt": 1}
    inside = parquet(tmp_path / "inside" / "a.parquet", *twenty())
    (inside / "b.png").write_bytes(encoded(pixels_of(0)))
    assert prepared(tmp_path / "out", **given(inside))[0].not_taken == {".png": 1}


def test_of_many_classes_a_message_names_ten() -> None:
    from akgp.data.labels import label_of

    classes = tuple(f"class{number}" for number in range(1203))
    with pytest.raises(DataError) as error:
        label_of(1203, classes)
    assert len(str(error.value)) < 200 and str(error.value).endswith("class9, … (1203 in all)")
