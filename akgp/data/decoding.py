"""Decodes images to pixels: upright, opaque, eight bits a channel, resized to one size."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from akgp.data.files import DataError
from akgp.data.formats import decodable, unknown
from akgp.data.tables import Preprocessing

MODES = {"gray": "L", "rgb": "RGB"}
BIT_DEPTHS = (8, 10, 12, 14, 16)
"""Bits a channel of cameras and scanners; files store depths above 8 in 16 bits."""


@dataclass(frozen=True)
class Decoded:
    """pixels: uint8 [H, W, C].

    highest: value, where an image had more than 8 bits a channel and was scaled by `bit_depth`; else None.
    upper_of_16: the highest value, where Pillow has reduced colour of 16 bits a channel to the upper eight.
    frames: whether the file has several frames, of which this is the first.
    """

    pixels: np.ndarray
    highest: int | None = None
    upper_of_16: int | None = None
    frames: bool = False


class DeeperError(DataError):
    """An image has a value that does not fit the given bit depth; `bit_depth` is the one that it needs."""

    def __init__(self, value: int, given: int) -> None:
        self.bit_depth = next(bits for bits in BIT_DEPTHS if value < 2**bits)
        super().__init__(
            f"holds the value {value}, must be below {2**given}: the training images have {given} bits"
        )


def decoded(
    content: bytes | np.ndarray, color: str, size: tuple[int, int] | None, bit_depth: int = 16
) -> Decoded:
    """The image as uint8 [H, W, C], C 1 for `color` 'gray' and 3 for 'rgb'.

    The EXIF orientation is applied, transparency is composited on white, and of several frames the first is
    taken.

    Args:
        content: an encoded image, or pixels, uint8 [H, W] or [H, W, 3].
        size: height and width that it is resized to (bilinear with antialiasing), whatever its
            proportions are; None: as it is.
        bit_depth: how many bits of images with more than 8 bits a channel hold values; the upper eight of
            these remain: value >> (bit_depth − 8).

    Raises:
        DeeperError: a value is 2^bit_depth or higher.
        DataError: it can't be decoded; the caller adds the origin to the message.
    """
    try:
        if isinstance(content, bytes):
            image, properties = _opened(content, bit_depth)
        else:
            image, properties = Image.fromarray(content), {}
        image = _converted(image, MODES[color])
        if size is not None and image.size != size[::-1]:
            image = image.resize(size[::-1], Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
    except DataError:
        raise
    except UnidentifiedImageError:
        assert isinstance(content, bytes)
        raise DataError(f"the image can't be decoded ({unknown(content)})") from None
    except Exception as error:  # of damaged bytes Pillow's decoders raise many kinds
        raise DataError(f"the image can't be decoded ({str(error) or type(error).__name__})") from None
    return Decoded(pixels[:, :, None] if pixels.ndim == 2 else pixels, **properties)


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Suppress Pillow's warnings about metadata and large images in the block: they name no file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_image(file: Path, expected: Preprocessing) -> Tensor:
    """One image file as uint8 [1, C, H, W], decoded like the prepared images.

    Raises:
        DataError: it is missing or no image.
    """
    size, color = expected.image_size, "gray" if expected.channels == 1 else "rgb"
    try:
        with without_warnings():
            pixels = decoded(file.read_bytes(), color, size, expected.bit_depth).pixels
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror})") from None
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    return torch.from_numpy(pixels[None].copy()).permute(0, 3, 1, 2).contiguous()


def _opened(content: bytes, bit_depth: int) -> tuple[Image.Image, dict[str, Any]]:
    """The image in a mode of 8 bits a channel, and the properties of `Decoded`."""
    image: Image.Image = Image.open(io.BytesIO(content), formats=decodable())
    # The second picture of an MPO is the same photo again: a preview, or the other view of a stereo pair.
    properties: dict[str, Any] = {
        "frames": image.format != "MPO" and bool(getattr(image, "is_animated", False))
    }
    # That Pillow drops the lower eight bits of colour shows in the raw mode of its tiles alone, before load.
    reduced = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    image.load()
    with contextlib.suppress(Exception):  # the pixels may be fine where the metadata are damaged
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        values = np.asarray(image)
        return _upper_eight(values, bit_depth), properties | {"highest": int(values.max())}
    if image.mode == "F":
        raise DataError(
            "the image can't be decoded (floating-point pixels, of unknown range: store 8 or 16 bits)"
        )
    if reduced:
        colours = [band for band in image.getbands() if band != "A"]
        properties["upper_of_16"] = max(int(np.asarray(image.getchannel(band)).max()) for band in colours)
    return image, properties


def _upper_eight(values: np.ndarray, bit_depth: int) -> Image.Image:
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest >= 2**16:
        kind = "negative values" if lowest < 0 else "more than 16 bits a channel"
        raise DataError(f"the image can't be decoded ({kind})")
    if highest >= 2**bit_depth:
        raise DeeperError(highest, bit_depth)
    return Image.fromarray((values >> (bit_depth - 8)).astype(np.uint8))


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """The image without transparency, in `mode`."""
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    if image.mode == "LAB":  # Pillow does not convert LAB to gray
        image = image.convert("RGB")
    return image.convert(mode)
