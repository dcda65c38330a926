"""What is decoded how: depth of the values over a whole set, colour spaces, frames, damage."""

from __future__ import annotations

import io
import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from akgp.data import DataError, Summary, read_image
from akgp.data.decoding import decoded
from tests.support.images import (
    by_origin,
    encoded,
    image_folder,
    parquet,
    pixels_of,
    prepared,
    refused,
    twenty,
)

GRAY: dict[str, Any] = {"source": "image_folder", "color": "gray"}


def deep_folder(root: Path, highest: int, kind: str = "png", dtype: Any = np.uint16) -> Path:
    """Ten gray images a class with values up to `highest`, which the last one of class bee alone reaches."""
    for label, cap in (("ant", highest // 5), ("bee", highest // 2)):
        (root / label).mkdir(parents=True)
        for number in range(10):
            values = np.random.default_rng(number).integers(0, cap + 1, (6, 6)).astype(dtype)
            if (label, number) == ("bee", 9):
                values[0, 0] = highest
            (root / label / f"{number}.{kind}").write_bytes(encoded(values, kind))
    return root


@pytest.mark.parametrize(
    ("highest", "bit_depth"),
    [(200, 8), (255, 8), (256, 10), (1023, 10), (4095, 12), (4096, 14), (16384, 16), (65535, 16)],
)
def test_values_are_scaled_by_the_range_of_all_images(highest: int, bit_depth: int, tmp_path: Path) -> None:
    folder = deep_folder(tmp_path / "images", highest)
    summary, images, origins = prepared(tmp_path / "out", **GRAY, path=str(folder))
    assert summary.bit_depth == bit_depth
    found = by_origin(images, origins)
    for file in folder.rglob("*.png"):
        given = np.asarray(Image.open(file)).astype(int)
        assert (found[str(file)][0][:, :, 0] == given * 256 // 2**bit_depth).all()
        assert (read_image(file, summary)[0, 0].numpy() == given * 256 // 2**bit_depth).all()
    assert max(pixels.max() for pixels, _ in found.values()) >= 64  # not black


@pytest.mark.parametrize(("kind", "dtype"), [("tiff", np.uint16), ("tiff", np.int32), ("tiff", ">u2")])
def test_every_container_of_deep_values_is_scaled_alike(kind: str, dtype: Any, tmp_path: Path) -> None:
    summary, *_ = prepared(tmp_path / "out", **GRAY, path=str(deep_folder(tmp_path / "a", 4000, kind, dtype)))
    other, *_ = prepared(tmp_path / "png", **GRAY, path=str(deep_folder(tmp_path / "b", 4000)))
    assert (summary.bit_depth, summary.digest) == (12, other.digest)


def test_the_test_split_shares_the_scale_which_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "images"
    deep_folder(folder / "train", 200)
    deep_folder(folder / "test", 3000)
    splits = {"calibration": 0.2, "validation": 0.2}
    assert prepared(tmp_path / "out", **GRAY, path=str(folder), splits=splits)[0].bit_depth == 12
    said = [record.getMessage() for record in caplog.records]
    assert said == ["images of more than 8 bits use 12 of them: scaled to 8"]


def test_one_hot_pixel_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """For its sake all other images, which use 12 bits, keep 4."""
    contents = [encoded(np.full((6, 6), 3000, np.uint16)) for _ in range(200)]
    hot = np.full((6, 6), 3000, np.uint16)
    hot[2, 2] = 65535
    parquet(tmp_path / "a.parquet", [*contents[:-1], encoded(hot)], ["ant", "bee"] * 100)
    prepared(tmp_path / "out", source="parquet", color="gray", path=str(tmp_path / "a.parquet"))
    (said,) = (record.getMessage() for record in caplog.records)
    assert "of 200 images of more than 8 bits 1 have values of 16384 or more, such as" in said
    assert "a.parquet#199: all others become dark" in said


def test_what_is_skipped_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All is read again when an image needs more bits."""
    folder = deep_folder(tmp_path / "images", 3000)
    bad = next((folder / "bee").iterdir()).with_name("0.png")
    bad.write_text("no image")
    prepared(tmp_path / "out", **GRAY, path=str(folder), on_bad_rows="skip")
    assert sum(str(bad) in record.getMessage() for record in caplog.records) == 1


def test_without_deep_images_deep_ones_show_their_upper_eight_bits(tmp_path: Path) -> None:
    summary, *_ = prepared(
        tmp_path / "out", source="image_folder", path=str(image_folder(tmp_path / "images"))
    )
    assert summary.bit_depth == 16


def test_a_picture_beyond_the_range_of_training_is_refused(tmp_path: Path) -> None:
    expected = Summary.model_construct(image_size=(6, 6), channels=1, bit_depth=12)
    (tmp_path / "x.png").write_bytes(encoded(np.full((6, 6), 4096, np.uint16)))
    with pytest.raises(DataError, match=r"x\.png: holds the value 4096, must be below 4096: .* have 12 bits"):
        read_image(tmp_path / "x.png", expected)


def png_of_16_bits(values: np.ndarray) -> bytes:
    """[H, W, 2, 3 or 4] as PNG, which Pillow cannot write."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    kind = {2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colour_of_16_bits_is_refused_where_it_would_be_black(channels: int, tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images")
    values = np.random.default_rng(0).integers(0, 4096, (6, 6, channels))
    if channels != 3:
        values[:, :, -1] = 65535  # opaque
    for number in range(10):
        (folder / "ant" / f"{number}.png").write_bytes(png_of_16_bits(values))
    given: dict[str, Any] = {"source": "image_folder", "path": str(folder)}
    refused(tmp_path, r"ant/\d\.png: 16 bits a channel in colour, but .* at most 4095, so they", **given)
    (folder / "bee" / "0.png").write_bytes(png_of_16_bits(values * 0 + 65535))
    _, images, origins = prepared(tmp_path / "out", **given)
    upper = values[:, :, : 3 if channels > 2 else 1] // 256
    assert (by_origin(images, origins)[f"{folder}/ant/0.png"][0] == upper).all()


# Colour spaces


@pytest.mark.parametrize("color", ["gray", "rgb"])
@pytest.mark.parametrize("mode", ["LAB", "CMYK", "YCbCr", "LA", "PA", "P", "1", "L", "RGBA"])
def test_every_colour_space_becomes_gray_or_rgb(mode: str, color: str) -> None:
    """Of a middle gray, which all of them can hold but one bit, nothing but gray is left."""
    level = 255 if mode == "1" else 128
    file = io.BytesIO()
    Image.new("RGB", (6, 6), (level,) * 3).convert(*(("LAB",) if mode == "LAB" else (mode,))).save(
        file, "tiff"
    )
    assert Image.open(io.BytesIO(file.getvalue())).mode in (mode, "RGBA")
    found = decoded(file.getvalue(), color, (4, 4)).pixels
    assert found.shape == (4, 4, 1 if color == "gray" else 3) and abs(found.astype(int) - level).max() <= 2


# Damage


BAD: dict[str, tuple[Any, str]] = {
    "empty": (b"", r"the image can't be decoded \(the file is empty\)"),
    "half": (encoded(pixels_of(0, (64, 64)), "jpeg")[:900], "the image can't be decoded"),
    "floats": (encoded(np.ones((6, 6), np.float32), "tiff"), r".*floating-point pixels, .*: store 8 or"),
    "negative": (encoded(np.full((6, 6), -4, np.int32), "tiff"), r".*\(negative values\)"),
    "bomb": (
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0),
        r".*\(Image size \(3600000000 pixels\) exceeds limit",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_damage_is_a_bad_row(kind: str, tmp_path: Path) -> None:
    content, message = BAD[kind]
    images, labels = twenty()
    images[4] = content or images[4]
    folder = parquet(tmp_path / "tables" / "a.parquet", images, labels)
    if content:
        refused(tmp_path, rf"a\.parquet#4: {message}", source="parquet", path=str(folder))
    folder = image_folder(tmp_path / "images")
    (folder / "bee" / "7.png").write_bytes(content)
    given: dict[str, Any] = {"source": "image_folder", "path": str(folder)}
    refused(tmp_path, rf"^{folder}/bee/7\.png: {message}", **given)
    assert prepared(tmp_path / "out", **given, on_bad_rows="skip")[0].skipped == 1


def test_what_fails_in_the_conversion_is_a_bad_row_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(image: Image.Image, size: Any, resample: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "resize", failing)
    with pytest.raises(DataError, match=r"the image can't be decoded \(MemoryError\)"):
        decoded(encoded(pixels_of(0)), "rgb", (3, 3))


def test_of_several_frames_the_first_is_taken_which_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = image_folder(tmp_path / "images")
    frames = [Image.new("L", (6, 6), level) for level in (10, 100, 200)]
    for kind in ("gif", "tiff", "webp"):
        more = {"lossless": True} if kind == "webp" else {}
        frames[0].save(folder / "ant" / f"many.{kind}", save_all=True, append_images=frames[1:], **more)
    with caplog.at_level(logging.WARNING):
        _, images, origins = prepared(tmp_path / "out", source="image_folder", path=str(folder))
    found = by_origin(images, origins)
    for kind in ("gif", "tiff", "webp"):
        assert (found[f"{folder}/ant/many.{kind}"][0] == 10).all(), kind
    (record,) = caplog.records
    assert record.getMessage().startswith("3 images have several frames, such as ")


def test_odd_metadata_says_nothing(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Pillow warns of the EXIF data of this file, naming no file."""
    file = tmp_path / "x.jpg"
    content = encoded(pixels_of(0), "jpeg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12\0\x03\0\0")
    file.write_bytes(content)
    read_image(file, Summary.model_construct(image_size=(6, 6), channels=3))
    assert not recwarn.list
