"""Small image sets in every form that a source takes, and what is read of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from akgp.data import DataError, Images, Summary, prepare, read_split, read_summary
from akgp.data.tables import SPLITS
from akgp.params import Data

SHARES = {"calibration": 0.2, "validation": 0.2, "test": 0.2}


def pixels_of(number: int, size: tuple[int, int] = (6, 6)) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "png", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def image_folder(root: Path, classes: tuple[str, ...] = ("ant", "bee"), images: int = 10) -> Path:
    """PNG files CLASS/i.png; pixels_of(100 class + i)."""
    for position, label in enumerate(classes):
        (root / label).mkdir(parents=True)
        for number in range(images):
            (root / label / f"{number}.png").write_bytes(encoded(pixels_of(100 * position + number)))
    return root


def parquet(file: Path, images: list[Any], labels: Any, names: tuple[str, str] = ("image", "label")) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(zip(names, (images, labels), strict=True))), file)
    return file.parent


def twenty() -> tuple[list[bytes], list[Any]]:
    """Encoded pixels_of(0 … 19) and their labels, 'ant' and 'bee' by turns."""
    return [encoded(pixels_of(number)) for number in range(20)], ["ant", "bee"] * 10


def prepared(
    directory: Path, seed: int = 0, **data: Any
) -> tuple[Summary, dict[str, Images], dict[str, list[str]]]:
    """Summary, images and origins by split, after they were on the disk."""
    directory.mkdir(exist_ok=True)
    summary = prepare(Data.model_validate({"splits": SHARES} | data), seed, directory)
    assert read_summary(directory) == summary
    origins = {name: pq.read_table(directory / f"{name}.parquet")["origin"].to_pylist() for name in SPLITS}
    return summary, {name: read_split(directory, name) for name in SPLITS}, origins


def by_origin(images: dict[str, Images], origins: dict[str, list[str]]) -> dict[str, tuple[np.ndarray, int]]:
    """(pixels [H, W, C], label) of all splits by origin."""
    found = [
        (origin, (pixels.permute(1, 2, 0).numpy(), int(label)))
        for name in SPLITS
        for origin, pixels, label in zip(origins[name], images[name].pixels, images[name].labels, strict=True)
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def refused(root: Path, message: str, **data: Any) -> None:
    """prepare must say `message`, and write nothing."""
    (root / "refused").mkdir(exist_ok=True)
    with pytest.raises(DataError, match=message):
        prepare(Data.model_validate({"splits": SHARES} | data), 0, root / "refused")
    assert not list((root / "refused").iterdir())
