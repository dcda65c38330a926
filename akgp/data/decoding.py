"""Encoded images to pixels: upright, opaque, eight bits a channel, of one size."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from akgp.data.storage import DataError
from akgp.data.tables import Summary

MODES = {"gray": "L", "rgb": "RGB"}


def decoded(content: bytes | np.ndarray, color: str, size: tuple[int, int] | None) -> np.ndarray:
    """The image as uint8 [H, W, C], C 1 for `color` 'gray' and 3 for 'rgb'.

    A photo is turned as its EXIF orientation says; what is transparent shows white; of 16 bits a
    channel the upper eight remain. Of several frames the first is taken.

    Args:
        content: an encoded image, or pixels, uint8 [H, W] or [H, W, 3].
        size: height and width that it is resized to (bilinear with antialiasing), whatever its
            proportions are; None: as it is.

    Raises:
        DataError: it can't be decoded; the message lacks the origin, which the caller knows.
    """
    image = _opened(content) if isinstance(content, bytes) else Image.fromarray(content)
    image = image.convert(MODES[color])
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def read_image(file: Path, summary: Summary) -> Tensor:
    """One image file as uint8 [1, C, H, W], as the prepared ones are.

    Raises:
        DataError: it is missing or no image.
    """
    height, width = summary.image_size
    try:
        pixels = decoded(file.read_bytes(), "gray" if summary.channels == 1 else "rgb", (height, width))
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror})") from None
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    return torch.from_numpy(pixels[None].copy()).permute(0, 3, 1, 2).contiguous()


def _opened(content: bytes) -> Image.Image:
    """The decoded image, in a mode that converts to gray and RGB without loss of meaning."""
    try:
        image: Image.Image = Image.open(io.BytesIO(content))
        image.load()
    except UnidentifiedImageError:
        raise DataError("the image can't be decoded (of no known format)") from None
    except Exception as error:  # of damaged bytes Pillow's decoders raise many kinds
        raise DataError(f"the image can't be decoded ({error})") from None
    with contextlib.suppress(Exception):  # damaged metadata say nothing about the pixels
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() >= 2**16:
            raise DataError("the image can't be decoded (more than 16 bits a channel)")
        return Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        raise DataError("the image can't be decoded (floating-point pixels)")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA"))
    return image
