"""What the tests of data share."""

from __future__ import annotations

from pathlib import Path

from tests.support.images import (
    encoded,
    parquet,
    pixels_of,
)


def cifar10_directory(root: Path) -> Path:
    """A directory in CIFAR-10's layout: ten training images of each class, one test image."""
    for part, count in (("train", 100), ("test", 10)):
        contents = [encoded(pixels_of(number, (32, 32))) for number in range(count)]
        images = [{"bytes": content, "path": f"{number}.png"} for number, content in enumerate(contents)]
        labels = [number % 10 for number in range(count)]
        parquet(root / f"{part}-00000-of-00001.parquet", images, labels, ("img", "label"))
    return root
