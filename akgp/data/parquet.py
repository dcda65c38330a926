"""Assigns Parquet files to splits, and reads their rows as samples.

Files may lie in one folder (as in Hugging Face's layout data/train-*.parquet), in a folder for each split,
or in folders KEY=VALUE (Hive partitions), of which one key may be the label.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import unquote

from akgp.data.cache import Files
from akgp.data.files import DataError, printable
from akgp.data.folders import SPLIT_NAMES
from akgp.data.samples import Sample, Samples
from akgp.params import REMOTE

SUFFIXES = (".parquet", ".pq")
ROWS_AT_ONCE = 256
BY_NAME = (
    ("train", re.compile("train")),
    ("test", re.compile("test")),
    ("validation", re.compile("val(id(ation)?)?(?![a-z])")),
)
"""The beginning of the names of a split's files, in any case."""
WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
SHARD = re.compile(r"^(.*)-(\d+)-of-(\d+)")
"""What a set that is split over files says in their names: train-00002-of-00005.parquet."""
HUGGING_FACE = b"huggingface"
"""Where `datasets` describes its columns in a file's metadata."""
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # how Hive and Spark name the folder of rows without a value


@dataclass(frozen=True)
class Table:
    """A Parquet file: its address, and the keys and values of the KEY=VALUE folders above it."""

    address: str
    keys: dict[str, str | None]


def is_table(name: str) -> bool:
    """Whether a file is a table: not Spark's and others' metadata, whose names begin with '_'."""
    return name.lower().endswith(SUFFIXES) and not name.rpartition("/")[2].startswith("_")


def tables_by_split(path: str, names: Iterable[str]) -> dict[str, list[Table]]:
    """The Parquet files below `path`, or `path` itself, by split.

    Args:
        names: of all files, relative to `path`; the one name "" if it is a file.

    Raises:
        DataError: there are none, or they lie in several folders, or some but not all belong to a split, or
            a file of a set is missing.
    """
    root = path.rstrip("/")
    names = list(names)
    _require_whole_sets(path, names)
    grouped: dict[str | None, list[Table]] = {}
    places: dict[str, str] = {}
    for name in names:
        address = f"{root}/{name}" if name else root
        if not is_table(address):
            continue
        folder, keys, splits = _folder(name)
        places.setdefault(folder, address)
        if len(splits) > 1:
            raise DataError(
                f"{printable(address)}: belongs to two splits by its name, {' and '.join(splits)}"
            )
        grouped.setdefault(next(iter(splits), None), []).append(Table(address, keys))
    if not grouped:
        raise DataError(f"{path}: no .parquet files")
    if len(places) > 1:
        first, second, *_ = map(printable, places.values())
        raise DataError(f"{path}: Parquet files in several folders ({first}, {second}): set data.path to one")
    others = grouped.pop(None, [])
    if others and grouped:
        raise DataError(
            f"{printable(others[0].address)}: beside train*.parquet and test*.parquet there must be no other "
            ".parquet files"
        )
    by_split = {split: tables for split, tables in grouped.items() if split} or {"train": others}
    if "train" not in by_split:
        raise DataError(f"{path}: {'*.parquet and '.join(by_split)}*.parquet only, no training files")
    return {split: by_split[split] for split in ("train", "validation", "test") if split in by_split}


def _require_whole_sets(path: str, names: Iterable[str]) -> None:
    """Check that all of the files are there of which one says how many there are."""
    given: dict[tuple[str, str], set[int]] = defaultdict(set)
    for match in map(SHARD.match, filter(is_table, names)):
        if match:
            given[match[1], match[3]].add(int(match[2]))
    for (name, count), numbers in given.items():
        if len(numbers) < int(count):
            there = ", ".join(map(str, sorted(numbers)[:10]))
            raise DataError(
                f"{path}: of the files {printable(name)}-*-of-{count} {len(numbers)} are there ({there}), "
                "the others are missing: add them, or rename these"
            )


def _folder(name: str) -> tuple[str, dict[str, str | None], list[str]]:
    """A file's folder without the steps that name a split or a key; the keys; the splits that are named."""
    *steps, last = name.split("/")
    others: list[str] = []
    keys: dict[str, str | None] = {}
    splits: list[str] = []
    for step in steps:
        key, equals, value = step.partition("=")
        split = SPLIT_NAMES.get((value if equals and key == "split" else step).lower())
        if split:
            splits.append(split)
        elif equals:
            keys[key] = None if value == NO_VALUE else unquote(value)
        else:
            others.append(step)
    splits += [split for split, begins in BY_NAME if last and begins.match(last.lower())]
    return "/".join(others), keys, list(dict.fromkeys(splits))


def samples(
    files: Files, tables: dict[str, list[Table]], image_column: str, label_column: str
) -> dict[str, Samples]:
    """The rows of each split; both columns of every file are checked first.

    Raises:
        DataError: a column is missing, there twice, or of another type.
    """
    # Values of folders are text. They are numbers only if all are, or "1" and "cat" would be mixed labels;
    # 01 is none, or it would be the class of 1.
    values = [
        value
        for named in tables.values()
        for table in named
        if (value := table.keys.get(label_column)) is not None
    ]
    numbers = all(WHOLE.fullmatch(value) for value in values)
    by_split: dict[str, Samples] = {}
    for split, named in tables.items():
        readers = [_reader(files, table, image_column, label_column, numbers) for table in named]
        by_split[split] = Samples(partial(_rows, readers), partial(_rows, readers, image_column=None))
    return by_split


def hugging_face_names(files: Files, tables: dict[str, list[Table]], label_column: str) -> tuple[str, ...]:
    """Names of the classes 0, 1, … as Hugging Face's ClassLabel has them; empty if no file says them."""
    with files.parquet(tables["train"][0].address) as first:
        written = (first.schema_arrow.metadata or {}).get(HUGGING_FACE)
    try:
        names = json.loads(written)["info"]["features"][label_column]["names"] if written else ()
    except (ValueError, KeyError, TypeError):  # described otherwise
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def may_hold_paths(files: Files, tables: dict[str, list[Table]], image_column: str) -> bool:
    """Whether the image column may name image files instead of holding images."""
    with files.parquet(next(iter(tables.values()))[0].address) as parquet:
        kind = parquet.schema_arrow.field(image_column).type
    return _is_text(kind) or not _is_bytes(kind)  # a struct {bytes, path} may do both


def _rows(readers: list[partial[Iterator[Sample]]], **changed: Any) -> Iterator[Sample]:
    for reader in readers:
        yield from reader(**changed)


def _reader(
    files: Files, table: Table, image_column: str, label_column: str, numbers: bool
) -> partial[Iterator[Sample]]:
    """The reader of one file's rows, with its columns already checked."""
    with files.parquet(table.address) as parquet:
        schema = parquet.schema_arrow
    file = printable(table.address)
    _check_column(file, schema, "image_column", image_column, _may_be_images, IMAGES_ARE)
    if label_column in schema.names or label_column not in table.keys:
        _check_column(file, schema, "label_column", label_column, _may_be_labels, "integers or text")
        return partial(_table_rows, files, table.address, label_column, None, image_column=image_column)
    value = table.keys[label_column]
    given = int(value) if value and numbers else value
    return partial(_table_rows, files, table.address, None, given, image_column=image_column)


IMAGES_ARE = "encoded images, paths, or {bytes, path}"


def _check_column(file: str, schema: Any, key: str, column: str, fits: Any, needed: str) -> None:
    places = schema.get_all_field_indices(column)
    if not places:
        columns = ", ".join(schema.names)
        raise DataError(f"{file}: no column {column!r} (data.{key}), the columns are {columns}")
    if len(places) > 1:
        raise DataError(
            f"{file}: {len(places)} columns are called {column!r} (data.{key}): rename all but one"
        )
    kind = schema.field(places[0]).type
    if not fits(kind):
        raise DataError(f"{file}: column {column!r} (data.{key}) holds {kind}, must hold {needed}")


def _may_be_images(kind: Any) -> bool:
    import pyarrow.types as is_

    if not is_.is_struct(kind):
        return _is_bytes(kind) or _is_text(kind)
    fields = {"bytes": _is_bytes, "path": _is_text}
    known = [field for field in kind if field.name in fields]
    return (
        len({field.name for field in known}) == len(known)
        and all(fields[field.name](field.type) or is_.is_null(field.type) for field in known)
        and any(not is_.is_null(field.type) for field in known)
    )


def _is_bytes(kind: Any) -> bool:
    import pyarrow.types as is_

    return is_.is_binary(kind) or is_.is_large_binary(kind) or is_.is_binary_view(kind)


def _may_be_labels(kind: Any) -> bool:
    import pyarrow.types as is_

    if is_.is_dictionary(kind):
        kind = kind.value_type
    return is_.is_integer(kind) or is_.is_floating(kind) or is_.is_boolean(kind) or _is_text(kind)


def _is_text(kind: Any) -> bool:
    import pyarrow.types as is_

    return is_.is_string(kind) or is_.is_large_string(kind) or is_.is_string_view(kind)


def _table_rows(
    files: Files, file: str, label_column: str | None, label: object, *, image_column: str | None
) -> Iterator[Sample]:
    """The rows of one file; without a label column all have `label`, without one of images none."""
    folder, row, origin = file.rpartition("/")[0], 0, printable(file)
    columns = [column for column in (image_column, label_column) if column]
    with files.parquet(file) as parquet:
        for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=columns):
            images: list[bytes | DataError] = [b""] * len(batch)
            if image_column:
                images = _contents(files, batch.column(image_column).to_pylist(), folder)
            labels = batch.column(label_column).to_pylist() if label_column else [label] * len(images)
            for content, given in zip(images, labels, strict=True):
                yield Sample(content, given, f"{origin}#{row}")
                row += 1


def _contents(files: Files, cells: list[Any], folder: str) -> list[bytes | DataError]:
    """The images of a column's cells, which are bytes, {bytes, path}, or paths relative to `folder`."""
    values = [(cell.get("bytes") or cell.get("path")) if isinstance(cell, dict) else cell for cell in cells]
    paths = {
        value: value
        if value.startswith("/") or REMOTE.match(value)
        else f"{folder}/{value}"
        if folder
        else value
        for value in values
        if isinstance(value, str) and value
    }
    read = dict(zip(paths, files.read(list(paths.values())), strict=True))
    return [
        (read[value] if isinstance(value, str) else value) if value else DataError("no image")
        for value in values
    ]
