from __future__ import annotations

import io
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from akgp.data.sources import CIFAR10_CLASSES, open_source
from akgp.data.tables import SPLITS
from akgp.params import Data
from tests.support.data_sets import cifar10_directory
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

CIFAR10 = Path(os.environ.get("AKGP_CIFAR10") or Path(__file__).parents[3] / "shared" / "data" / "cifar10")


@pytest.mark.parametrize("form", ["bytes", "struct", "path", "struct of path"])
def test_parquet_columns(form: str, tmp_path: Path) -> None:
    contents, labels = twenty()
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.png").write_bytes(content)
    images = {
        "bytes": contents,
        "struct": [{"bytes": content, "path": "elsewhere.png"} for content in contents],
        "path": [f"{number}.png" if number % 2 else str(tmp_path / f"{number}.png") for number in range(20)],
        "struct of path": [{"bytes": None, "path": f"{number}.png"} for number in range(20)],
    }[form]
    parquet(tmp_path / "a.parquet", images[:7], pa.array(labels[:7]).dictionary_encode(), ("photo", "kind"))
    parquet(tmp_path / "b.parquet", images[7:], labels[7:], ("photo", "kind"))
    columns = {"image_column": "photo", "label_column": "kind"}
    summary, split, origins = prepared(tmp_path / "out", source="parquet", path=str(tmp_path), **columns)
    found = by_origin(split, origins)
    assert summary.classes == ("ant", "bee") and len(found) == 20
    for number in range(20):
        file = f"a.parquet#{number}" if number < 7 else f"b.parquet#{number - 7}"
        pixels, label = found[f"{tmp_path}/{file}"]
        assert (pixels == pixels_of(number)).all() and label == number % 2


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([11, 3, 7, 3], ("3", "7", "11")),
        ([2.0, 0.0, 1.0, 1.0], ("0", "1", "2")),
        (["11", "3", "7", "3"], ("11", "3", "7")),
        ([True, False, True, False], ("False", "True")),
        (["Ant", "ant", "Ant", "ant"], ("Ant", "ant")),
    ],
)
def test_labels_become_classes(labels: list[Any], classes: tuple[str, ...], tmp_path: Path) -> None:
    images = [encoded(pixels_of(number)) for number in range(40)]
    parquet(tmp_path / "a.parquet", images, labels * 10)
    file = f"{tmp_path}/a.parquet"
    summary, split, origins = prepared(tmp_path / "out", source="parquet", path=file)
    assert summary.classes == classes
    for origin, (_, index) in by_origin(split, origins).items():
        given = (labels * 10)[int(origin.partition("#")[2])]
        assert summary.classes[index] == str(int(given) if isinstance(given, float) else given)


def test_letters_of_two_characters_are_those_of_one(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", twenty()[0] * 2, ["caf\u00e9", "cafe\u0301", "tea", "tea"] * 10)
    assert prepared(tmp_path / "out", source="parquet", path=str(tmp_path))[0].classes == ("café", "tea")


def test_image_folder(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images")
    (folder / "ant" / "deeper").mkdir()
    (folder / "ant" / "0.png").rename(folder / "ant" / "deeper" / "0.PNG")
    (folder / "ant" / ".hidden.png").write_text("no image")
    (folder / "notes.txt").write_text("no image")
    summary, images, origins = prepared(tmp_path / "out", source="image_folder", path=str(folder))
    assert summary.classes == ("ant", "bee") and sum(map(sum, summary.counts.values())) == 20
    for origin, (pixels, label) in by_origin(images, origins).items():
        file = Path(origin)
        assert label == ("bee" in file.parts) and (pixels == pixels_of(100 * label + int(file.stem))).all()


def test_image_folder_with_a_test_split(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    image_folder(folder / "train")
    image_folder(folder / "test", images=3)
    given: dict[str, Any] = {"source": "image_folder", "path": str(folder)}
    splits = SHARES | {"test": None}
    summary, _, origins = prepared(tmp_path / "out", **given, splits=splits)
    assert summary.counts["test"] == (3, 3) and summary.classes == ("ant", "bee")
    assert {"test" in origin.split("/") for origin in origins["test"]} == {True}
    assert not any("test" in origin.split("/") for name in SPLITS[:3] for origin in origins[name])
    refused(tmp_path, r"data\.splits\.test must be null: .* has a test split of its own", **given)
    (folder / "sample" / "ant").mkdir(parents=True)
    (folder / "sample" / "ant" / "0.png").write_bytes(encoded(pixels_of(0)))
    refused(tmp_path, r"/sample: beside test, train there must be no other images", **given, splits=splits)


def test_cifar10_in_a_parquet_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cifar10_directory(tmp_path / "cifar10")
    monkeypatch.setenv("AKGP_CIFAR10", str(folder))
    cifar10: dict[str, Any] = {"source": "cifar10", "splits": SHARES | {"test": None}}
    summary, images, origins = prepared(tmp_path / "out", **cifar10)
    assert summary.classes == CIFAR10_CLASSES and summary.counts["test"] == (1,) * 10
    assert summary.counts["train"] == (6,) * 10 and summary.counts["validation"] == (2,) * 10
    for origin, (pixels, label) in by_origin(images, origins).items():
        row = int(origin.partition("#")[2])
        assert label == row % 10 and (pixels == pixels_of(row, (32, 32))).all()

    parquet(
        folder / "train.parquet", [{"bytes": encoded(pixels_of(0)), "path": None}], [10], ("img", "label")
    )
    refused(tmp_path, r"train\.parquet#0: the label is 10, must be 0 to 9 or one of airplane", **cifar10)
    (folder / "test-00000-of-00001.parquet").unlink()
    refused(tmp_path, r"cifar10: no test\*\.parquet", **cifar10)


@pytest.mark.skipif(not CIFAR10.is_dir(), reason="AKGP_CIFAR10 is not set")
def test_the_real_cifar10() -> None:
    source = open_source(Data(source="cifar10", path=str(CIFAR10)))
    rows = {
        part: sum(pq.read_metadata(file).num_rows for file in CIFAR10.glob(f"{part}*"))
        for part in source.parts
    }
    assert rows == {"train": 50_000, "test": 10_000}
    for samples in source.parts.values():
        reading = iter(samples)
        sample = next(reading)
        assert isinstance(sample.content, bytes) and 0 <= sample.label < 10
        assert Image.open(io.BytesIO(sample.content)).size == (32, 32)
        reading.close()  # type: ignore[attr-defined]


def test_cifar10_from_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision = pytest.importorskip("torchvision")
    monkeypatch.delenv("AKGP_CIFAR10", raising=False)

    def downloaded(root: Path, *, train: bool, download: bool) -> SimpleNamespace:
        numbers = range(100 if train else 10)
        pixels = np.stack([pixels_of(number, (32, 32)) for number in numbers])
        return SimpleNamespace(data=pixels, targets=[number % 10 for number in numbers])

    def offline(root: Path, *, train: bool, download: bool) -> SimpleNamespace:
        raise OSError("no route to host")

    cifar10: dict[str, Any] = {"source": "cifar10", "splits": SHARES | {"test": None}}
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", downloaded)
    from_torchvision = prepared(tmp_path / "out", **cifar10)[0]
    folder = cifar10_directory(tmp_path / "cifar10")
    assert prepared(tmp_path / "other", **cifar10, path=str(folder))[0].digest == from_torchvision.digest
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", offline)
    refused(tmp_path, r"downloaded \(no route to host\): set data\.path or AKGP_CIFAR10", **cifar10)


def test_s3_gives_what_the_disk_gives(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**s3.environment, "XDG_CACHE_HOME": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    folder = image_folder(tmp_path / "images")
    (folder / "ant" / "0.png").rename(folder / "ant" / "0 [1]*.png")
    tables = tmp_path / "tables"
    contents, labels = twenty()
    (tables / "files").mkdir(parents=True)
    for number, content in enumerate(contents):
        (tables / "files" / f"{number}.png").write_bytes(content)
    parquet(tables / "a.parquet", [f"files/{number}.png" for number in range(20)], labels)
    s3.upload(image_folder(tmp_path / "others", ("cow", "dog")), "images-of-others")
    for source, local in (("image_folder", folder), ("parquet", tables)):
        url = s3.upload(local, local.name)
        here = prepared(tmp_path / "here", source=source, path=str(local))[0]
        there, _, origins = prepared(tmp_path / "there", source=source, path=url)
        assert (there.digest, there.classes) == (here.digest, here.classes)
        assert all(origin.startswith(url) for origin in origins["train"])

    refused(
        tmp_path,
        r"s3://.*/nothing: no such directory",
        source="image_folder",
        path=f"s3://{s3.bucket}/nothing",
    )
    refused(tmp_path, "s3://no-such-bucket/x", source="parquet", path="s3://no-such-bucket/x")
