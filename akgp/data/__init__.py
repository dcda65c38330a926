"""Images: from a source to prepared splits on disk, and from there to batches on the device."""

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
