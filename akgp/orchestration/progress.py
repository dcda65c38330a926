"""The progress bar of a stage, which follows the rows that its job's controller writes."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from akgp.io.terminal import UnbrokenStderr
from akgp.stages.notices import NOTICES
from akgp.workspace import Task

log = logging.getLogger(__name__)

SHOWN = ("loss", "val_top1", "images_per_second")


@contextlib.contextmanager
def bar(task: Task, steps: int) -> Iterator[Path]:
    """A progress bar that follows the rows which the job's controller appends to the yielded file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        file.touch()
        done = threading.Event()
        shown = tqdm(
            total=steps,
            desc=f"{task.label:<18}",
            unit="step",
            file=UnbrokenStderr(),
            dynamic_ncols=True,
            bar_format="{desc}{percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} "
            "[{elapsed}<{remaining}]{postfix}",
        )
        follower = threading.Thread(target=_follow, args=(file, shown, done), daemon=True)
        follower.start()
        try:
            yield file
        finally:
            done.set()
            follower.join()
            shown.close()


def _follow(file: Path, bar: tqdm[Any], done: threading.Event) -> None:
    with file.open(encoding="utf-8") as rows:
        while True:
            last = done.is_set()  # before reading: rows written until then are still shown
            for line in rows:
                row = json.loads(line)
                if notices := row.pop(NOTICES, None):
                    _log(notices)
                if not row:
                    continue
                bar.set_postfix_str(
                    " ".join(f"{key} {row[key]:.4g}" for key in SHOWN if key in row), refresh=False
                )
                # By the row's epoch: a resumed job starts at the epoch where it was.
                bar.update(int(row.get("epoch", bar.n + 1)) - bar.n)
            if last:
                return
            time.sleep(0.2)


def _log(messages: list[str]) -> None:
    with logging_redirect_tqdm():  # above the bar, which is drawn again below
        for message in messages:
            log.warning("%s", message)
