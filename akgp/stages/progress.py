"""What runs inside Ray Train's controller: it appends each reported row to a file of JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray.train import UserCallback


class Rows(UserCallback):
    """Appends rank 0's metrics of every report to `file`, a line each.

    The controller runs on the driver's node, where `file` is followed for the progress bar.
    """

    def __init__(self, file: str) -> None:
        self.file = file

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        if metrics and metrics[0]:
            with Path(self.file).open("a") as rows:
                rows.write(json.dumps(metrics[0]) + "\n")
