"""Images: from a source to prepared splits on disk, and from there to batches on the device.

Reading: `sources` opens `folders`, `parquet` and `files` (through a `cache`) as `samples` with `labels`;
`formats` and `decoding` know images, `reading` all of a source, `sampling` some of it.

Preparing: `prepare` draws `splitting`, applies `corruptions` and writes `tables`.

In a training: `images` in memory, `normalization`, `batches`, `augmentation` (`trivial_augment`, `mixing`),
and `views` that are drawn once.
"""

from akgp.data.batches import Batch, BatchSource, IndexedSource
from akgp.data.decoding import read_image
from akgp.data.files import DataError
from akgp.data.images import Images
from akgp.data.prepare import prepare
from akgp.data.tables import Preprocessing, Summary, read_split, read_summary

__all__ = [
    "Batch",
    "BatchSource",
    "DataError",
    "Images",
    "IndexedSource",
    "Preprocessing",
    "Summary",
    "prepare",
    "read_image",
    "read_split",
    "read_summary",
]
