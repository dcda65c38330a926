"""The pipeline as users run it, `dvc repro`: what each stage takes, from its start to the next one's.

`python -m benchmarks.overhead.piped FILE` in a workspace; writes to FILE what each stage took. The processor
time is that of all processes below `dvc`, sampled: what one takes after its last sample is missed.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from akgp.io.atomic import write_json

SAMPLE_SECONDS = 0.2
STARTED = re.compile(r"Running stage '(.+)':")


def run(root: Path) -> dict[str, dict[str, Any]]:
    """seconds and cpu of each stage, of dvc before the first as `start` and after the last as `end`.

    Raises:
        RuntimeError: dvc failed; with what it wrote.
    """
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "dvc", "repro"], cwd=root, text=True, bufsize=1,
        stdout=subprocess.PIPE, stderr=(root / "stderr").open("w", encoding="utf-8"),
    encoding="utf-8")  # fmt: skip
    assert process.stdout is not None
    usage: dict[tuple[int, float], float] = {}
    sampler = threading.Thread(target=_sample, args=(process.pid, usage), daemon=True)
    sampler.start()
    marks, committed = [("start", begun, 0.0)], ("end", begun, 0.0)
    for line in process.stdout:
        if found := STARTED.match(line):
            marks.append((found[1], time.perf_counter(), sum(usage.values())))
        elif line.startswith("Updating lock file"):
            committed = ("end", time.perf_counter(), sum(usage.values()))
    if process.wait() != 0:
        raise RuntimeError((root / "stderr").read_text(encoding="utf-8"))
    sampler.join()
    marks += [committed, ("", time.perf_counter(), sum(usage.values()))]
    return {
        name: {"seconds": stop - start, "cpu": after - before}
        for (name, start, before), (_, stop, after) in itertools.pairwise(marks)
    }


def _sample(process: int, usage: dict[tuple[int, float], float]) -> None:
    """Keep the processor seconds of every process at or below `process`, until it ends."""
    while True:
        try:
            top = psutil.Process(process)
            if top.status() == psutil.STATUS_ZOMBIE:
                return
            below = [top, *top.children(recursive=True)]
        except psutil.Error:
            return
        for each in below:
            try:
                times = each.cpu_times()
                usage[each.pid, each.create_time()] = times.user + times.system
            except psutil.Error:  # it has just ended
                continue
        time.sleep(SAMPLE_SECONDS)


if __name__ == "__main__":
    write_json(Path(sys.argv[1]), run(Path.cwd()))
