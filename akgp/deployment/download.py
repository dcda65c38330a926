"""The download format: an int8 file in fewer bytes, restored bit for bit.

Weights are coded by their entropy, apart from the rest of the file. It is the size of a download, not of the
network in memory, and nothing runs faster.

    magic       8 bytes, MAGIC
    digest      32 bytes, SHA-256 of the file
    lengths     three uint32, little-endian: of `rest` as coded, then of `rest` and of `weights` as decoded
    rest        LZMA1: a line of JSON with the place, size and distinct values of each weight tensor (a bit
                for each of 256, in hexadecimal), then the file without these
    weights     LZMA1: of every weight in turn, the rank of its value among the distinct ones of its tensor

Ranks, not values, since they are distributed alike in all layers: one adaptive model serves them all. LZMA's
literal coder without contexts (lc = lp = pb = 0) is an adaptive binary range coder, within 2 % of the
entropy, and every platform has it.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import struct
from typing import Any

import numpy as np
import onnx

MAGIC = b"AKGPdl1\n"
SUFFIX = ".akgp"
HEADER = struct.Struct("<8s32sIII")
REST: list[dict[str, Any]] = [{"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME}]
WEIGHTS: list[dict[str, Any]] = [REST[0] | {"lc": 0, "lp": 0, "pb": 0}]


class DownloadError(ValueError):
    """A file is not of the download format, or damaged: one line that names it."""


def pack(content: bytes) -> bytes:
    """An ONNX file in the download format; its int8 tensors are coded by their entropy."""
    rest, ranks, places, end = bytearray(), bytearray(), [], 0
    for raw in _weights(content):
        start = content.index(raw, end)
        values, rank = np.unique(np.frombuffer(raw, np.uint8), return_inverse=True)
        present = np.isin(np.arange(256), values)
        places.append([start - end, len(raw), np.packbits(present).tobytes().hex()])
        rest += content[end:start]
        ranks += rank.astype(np.uint8).tobytes()
        end = start + len(raw)
    rest += content[end:]
    table = json.dumps(places, separators=(",", ":")).encode() + b"\n"
    coded = _coded(table + rest, REST)
    head = HEADER.pack(
        MAGIC, hashlib.sha256(content).digest(), len(coded), len(table) + len(rest), len(ranks)
    )
    return head + coded + _coded(bytes(ranks), WEIGHTS)


def unpack(packed: bytes, name: str) -> bytes:
    """The file that was packed, bit for bit.

    Args:
        name: what an error calls it.

    Raises:
        DownloadError: it is not of this format, or damaged.
    """
    if len(packed) < HEADER.size or not packed.startswith(MAGIC):
        raise DownloadError(f"{name}: not in the download format that `akgp pack` writes")
    _, digest, coded, rest_length, ranks_length = HEADER.unpack_from(packed)
    body = packed[HEADER.size :]
    try:
        table, rest = _decoded(body[:coded], REST, rest_length).split(b"\n", 1)
        ranks = np.frombuffer(_decoded(body[coded:], WEIGHTS, ranks_length), np.uint8)
        content, read, used = bytearray(), 0, 0
        for skipped, size, present in json.loads(table):
            values = np.flatnonzero(np.unpackbits(np.frombuffer(bytes.fromhex(present), np.uint8)))
            content += rest[read : read + skipped]
            content += values.astype(np.uint8)[ranks[used : used + size]].tobytes()
            read, used = read + skipped, used + size
        content += rest[read:]
    except (lzma.LZMAError, EOFError, ValueError, IndexError) as error:
        raise DownloadError(f"{name}: damaged ({error}): download it again") from None
    if hashlib.sha256(content).digest() != digest:
        raise DownloadError(f"{name}: damaged (another digest): download it again")
    return bytes(content)


def compressed(content: bytes) -> dict[str, int]:
    """Bytes of a file by general compressors at their strongest setting."""
    import pyarrow

    return {
        "zstd": len(pyarrow.Codec("zstd", compression_level=22).compress(content)),
        "xz": len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)),
    }


def _weights(content: bytes) -> list[bytes]:
    """The bytes of every int8 tensor with more than one value, in the order in which the file holds them."""
    tensors = onnx.load_from_string(content).graph.initializer
    return [
        each.raw_data
        for each in tensors
        if each.data_type == onnx.TensorProto.INT8 and len(each.raw_data) > 1
    ]


def _coded(content: bytes, filters: list[dict[str, Any]]) -> bytes:
    return lzma.compress(content, lzma.FORMAT_RAW, filters=filters)


def _decoded(coded: bytes, filters: list[dict[str, Any]], length: int) -> bytes:
    # Raw streams do not say where they end: as much as was coded is asked for.
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)
    content = decoder.decompress(coded, length)
    if len(content) != length:
        raise EOFError(f"{len(content)} of {length} bytes")
    return content
