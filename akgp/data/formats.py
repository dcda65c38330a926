"""Tells image files by the ending of their name or their first bytes, and which formats Pillow may decode.

Nothing is read or decoded here.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from akgp.data.files import printable

HEAD_BYTES = 64
"""How many first bytes of a file `begins_like_an_image` needs."""

IMAGE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".png",
        ".apng",
        ".bmp",
        ".dib",
        ".gif",
        ".webp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".avif",
        ".avifs",
        ".heic",
        ".heif",
        ".jp2",
        ".j2k",
        ".j2c",
        ".jpx",
        ".jxl",
        ".qoi",
        ".tga",
        ".pcx",
        ".dds",
    ]
)
"""Files with these endings are images, even if damaged; others are if their first bytes are an image's."""

RAW_SUFFIXES = frozenset(
    [
        ".3fr",
        ".arw",
        ".cr2",
        ".cr3",
        ".dcr",
        ".dng",
        ".erf",
        ".iiq",
        ".kdc",
        ".mef",
        ".mrw",
        ".nef",
        ".nrw",
        ".orf",
        ".pef",
        ".raf",
        ".rw2",
        ".sr2",
        ".srw",
        ".x3f",
    ]
)
"""Raw photos: they begin like a TIFF, but Pillow would read their thumbnail."""

# JPEG, PNG, GIF, WebP, TIFF; BMP with the known sizes of its header, JPEG 2000, QOI, DDS; JPEG XL, AVIF and
# HEIF; PNM with width and height, as P1 alone begins many texts.
BEGINNINGS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF.{4}WEBP|II[*+]\0|MM\0[*+]"
    rb"|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0|\0\0\0\x0cjP  |\xff\x4f\xff\x51|qoif|DDS \x7c"
    rb"|\xff\x0a|\0\0\0\x0cJXL |.{4}ftyp(?:avi[fs]|hei[cmsx]|hev[cx]|mif1|msf1)"
    rb"|P[1-6]\s(?:\s*#[^\n]*\n)*\s*\d+\s+\d+\s",
    re.DOTALL,
)

NOT_PICTURES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IM", "IMT", "IPTC", "MPEG", "PCD", "SPIDER", "WMF"})
"""Formats of Pillow that are never tried: for EPS it starts Ghostscript, most others have no signature or no
decoder."""

DECODERS = {"pillow_heif": ("register_heif_opener",), "pillow_jxl": ()}
"""Packages that add formats to Pillow if installed, and their functions to call for it."""

MISSING = (
    (re.compile(rb".{4}ftyp(?:hei[cmsx]|hev[cx]|mif1|msf1)", re.DOTALL), "HEIC", "pillow-heif"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL ", re.DOTALL), "JPEG XL", "pillow-jxl-plugin"),
)


def begins_like_an_image(head: bytes) -> bool:
    """Whether a file whose first `HEAD_BYTES` are `head` is an image."""
    return BEGINNINGS.match(head) is not None


def ending(name: str) -> str:
    """The ending of a file's name in lower case, such as '.png'; '' if it has none."""
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


@functools.cache
def decodable() -> tuple[str, ...]:
    """The formats that Pillow may try, including those of installed packages."""
    from PIL import Image

    for package, called in DECODERS.items():
        try:
            module = importlib.import_module(package)
        except ImportError:
            continue
        for function in called:
            getattr(module, function)()
    Image.init()
    return tuple(name for name in Image.ID if name not in NOT_PICTURES)


def unknown(content: bytes) -> str:
    """Why an image that no decoder recognises can't be decoded, for a message."""
    if not content:
        return "the file is empty"
    for begins, name, package in MISSING:
        if begins.match(content):
            return f"of format {name}: `pip install {package}` brings its decoder"
    return "of no known format"


ENDINGS_NAMED = 8


def not_taken(names: Iterable[str], skipped: Mapping[str, str]) -> dict[str, int]:
    """How many files were not taken, by ending or reason, most frequent first; rare ones as "others".

    Args:
        names: of the files.
        skipped: reason by name of what was not looked into.
    """
    counts = Counter(printable(ending(name)) or "no ending" for name in names) + Counter(skipped.values())
    most = counts.most_common(ENDINGS_NAMED)
    rest = counts.total() - sum(count for _, count in most)
    return dict(most) | ({"others": rest} if rest else {})
