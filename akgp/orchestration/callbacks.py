"""Callbacks of Ray Train's controller and of Ray Tune's loop: reported rows go to a file of JSON lines.

Both run on the driver's node, where the file is followed for the progress bar.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from ray import tune
from ray.train import UserCallback


class Rows(UserCallback):
    """The callback of a Ray Train job: appends rank 0's metrics of every report to `file`."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        # All workers report the same epoch; in a driver's bar it would count once for each.
        if metrics and metrics[0]:
            _append(self.file, metrics[0])


class Epochs(tune.Callback):
    """The callback of Ray Tune's trials: appends a trial's metrics, with the epochs of all trials, to `file`.

    Tune pickles its callbacks into the state from which it resumes, and the file is another one then: so
    file and epochs are attributes of the class.
    """

    file: ClassVar[Path]
    epochs: ClassVar[int]  # of a trial

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "epoch" not in result:  # the last report, which only carries the artifacts
            return
        reports = {each: (each.last_result or {}).get("training_iteration", 0) for each in trials}
        reports[trial] = result["training_iteration"]
        # A trial's last report, which carries its artifacts, counts as one more iteration.
        done = sum(min(each, self.epochs) for each in reports.values())
        shown = {key: value for key, value in result.items() if isinstance(value, (int, float))}
        _append(self.file, shown | {"epoch": done})


def _append(file: Path, row: dict[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as rows:
        rows.write(json.dumps(row) + "\n")
