"""Sources, splits and batches against sklearn, Pillow and NumPy, the remote ones through a real S3 server."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from akgp.data import DataError, Images, Summary, read_image, read_split, read_summary
from akgp.data.splitting import stratified_split
from akgp.data.tables import read_true_labels, write_split
from tests.support.images import (
    by_origin,
    encoded,
    image_folder,
    pixels_of,
    prepared,
)


def test_digits_are_sklearns_in_disjoint_stratified_splits(tmp_path: Path) -> None:
    splits = {"test": 0.25, "calibration": 0.1, "validation": 0.15}
    summary, images, origins = prepared(tmp_path, color="gray", splits=splits)
    digits = load_digits()
    found = by_origin(images, origins)
    assert found.keys() == {f"digits#{row}" for row in range(1797)}
    for row, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        pixels, index = found[f"digits#{row}"]
        assert np.abs(pixels[:, :, 0] - image * 255 / 16).max() <= 0.5 and summary.classes[index] == str(
            label
        )

    sizes = np.bincount(digits.target)
    shares = {"test": 0.25, "calibration": 0.075, "validation": 0.1125, "train": 0.5625}
    for name, share in shares.items():
        counts = np.bincount(images[name].labels.numpy(), minlength=10)
        assert np.abs(counts - sizes * share).max() < 1, name
        assert abs(counts.sum() - 1797 * share) < 2, name
        assert summary.counts[name] == tuple(counts)
    train = images["train"].pixels.numpy() / 255
    assert (summary.mean, summary.std) == (pytest.approx((train.mean(),)), pytest.approx((train.std(),)))
    assert (summary.image_size, summary.channels, summary.skipped) == ((8, 8), 1, 0)
    assert summary.imbalance == max(summary.counts["train"]) / min(summary.counts["train"])


def test_the_seed_decides_the_splits(tmp_path: Path) -> None:
    first, again, other = (
        prepared(tmp_path / str(run), seed, color="gray")[0].digest for run, seed in enumerate((3, 3, 4))
    )
    assert first == again != other


@pytest.mark.parametrize("seed", range(3))
def test_every_class_gives_every_split_its_share(seed: int) -> None:
    sizes = np.random.default_rng(seed).integers(10, 60, 100)
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(100), sizes))
    shares = {"train": 0.57, "calibration": 0.1, "validation": 0.13, "test": 0.2}
    split = stratified_split(labels, shares, seed)
    assert sorted(np.concatenate(list(split.values()))) == list(range(len(labels)))
    for name, share in shares.items():
        assert np.abs(np.bincount(labels[split[name]], minlength=100) - sizes * share).max() < 1
        assert abs(len(split[name]) - len(labels) * share) < 3


def decoded_as(tmp_path: Path, content: bytes, size: tuple[int, int], channels: int = 3) -> np.ndarray:
    """[H, W, C] by read_image."""
    (tmp_path / "image").write_bytes(content)
    expected = Summary.model_construct(image_size=size, channels=channels)
    return read_image(tmp_path / "image", expected)[0].permute(1, 2, 0).numpy()


def test_photos_are_turned_as_their_orientation_says(tmp_path: Path) -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 16:] = 255  # bright on the right
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    upright = decoded_as(tmp_path, encoded(pixels, "jpeg", exif=exif, quality=95), (32, 16))
    assert np.abs(upright.astype(int) - np.rot90(pixels, -1)).max() < 16


def test_transparency_shows_white(tmp_path: Path) -> None:
    pixels = np.dstack([pixels_of(0), np.random.default_rng(9).integers(0, 256, (6, 6), dtype=np.uint8)])
    colour, alpha = pixels[:, :, :3].astype(float), pixels[:, :, 3:] / 255
    found = decoded_as(tmp_path, encoded(pixels), (6, 6))
    assert np.abs(found - (colour * alpha + 255 * (1 - alpha))).max() < 1.5

    palette = Image.fromarray(np.arange(36, dtype=np.uint8).reshape(6, 6) % 3).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    file = io.BytesIO()
    palette.save(file, "png", transparency=bytes([255, 0, 255]))
    found = decoded_as(tmp_path, file.getvalue(), (6, 6))
    colours = np.array([[10, 20, 30], [255, 255, 255], [70, 80, 90]])
    assert (found == colours[np.arange(36).reshape(6, 6) % 3]).all()


def test_of_16_bits_the_upper_8_remain(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 2**16, (6, 6), dtype=np.uint16)
    assert (decoded_as(tmp_path, encoded(pixels), (6, 6), 1)[:, :, 0] == pixels // 256).all()
    assert (decoded_as(tmp_path, encoded(pixels), (6, 6)) == (pixels // 256)[:, :, None]).all()


def test_a_single_image_is_read_as_the_prepared_ones(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images")
    for color in ("rgb", "gray"):
        given: dict[str, Any] = {
            "source": "image_folder",
            "path": str(folder),
            "image_size": 5,
            "color": color,
        }
        summary, images, origins = prepared(tmp_path / color, **given)
        for origin, pixels in zip(origins["train"], images["train"].pixels, strict=True):
            assert torch.equal(read_image(Path(origin), summary)[0], pixels)


def test_a_split_survives_the_disk(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (5000, 3, 4, 5), dtype=torch.uint8)
    images = Images(pixels, torch.randint(7, (5000,)))
    write_split(tmp_path, "train", images, [str(number) for number in range(5000)])
    again = read_split(tmp_path, "train")
    assert torch.equal(again.pixels, pixels) and torch.equal(again.labels, images.labels)
    assert again.pixels.is_contiguous() and again.labels.dtype == torch.int64


def test_damaged_artifacts_are_named(tmp_path: Path) -> None:
    noise = torch.randint(
        0, 256, (50, 1, 8, 8), dtype=torch.uint8
    )  # stored as it is: only the checksum tells
    write_split(tmp_path, "test", Images(noise, torch.arange(50)), ["x"] * 50)
    file = tmp_path / "test.parquet"
    whole = file.read_bytes()
    for damaged in (b"", whole[:-20], whole[:1600] + bytes([whole[1600] ^ 1]) + whole[1601:]):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"^{file}: .*; `dvc repro data` writes it again$"):
            read_split(tmp_path, "test")
    pq.write_table(pa.table({"label": [1]}), file)
    with pytest.raises(DataError, match=r"test\.parquet: must hold pixels and label"):
        read_split(tmp_path, "test")
    pq.write_table(pa.table({"origin": ["x"]}), file)
    with pytest.raises(DataError, match=r"test\.parquet: must hold label; `dvc repro data`"):
        read_true_labels(tmp_path, "test")
    with pytest.raises(DataError, match=r"train\.parquet: no such file or directory; `dvc repro data`"):
        read_true_labels(tmp_path, "train")
    with pytest.raises(DataError, match=r"train\.parquet: no such file or directory; `dvc repro data`"):
        read_split(tmp_path, "train")
    (tmp_path / "summary.json").write_text('{"classes": []}')
    with pytest.raises(DataError, match=r"summary\.json: can't be read .*; `dvc repro data`"):
        read_summary(tmp_path)


def test_gray_images_return_whatever_their_strides(tmp_path: Path) -> None:
    """A contiguous tensor of one channel has strides that Arrow would take for another order of axes."""
    pixels = torch.arange(2 * 3 * 4, dtype=torch.uint8).reshape(2, 1, 3, 4)
    write_split(tmp_path, "train", Images(pixels, torch.tensor([0, 1])), ["a", "b"])
    assert torch.equal(read_split(tmp_path, "train").pixels, pixels)
