"""How fast networks train: by threads, how idle threads wait, memory format, and what else the machine does.

`python -m benchmarks.threads` writes results/threads/table.md and table.json. Each variant is a process of
its own, since OpenMP reads its environment once; in each round every variant trains every network for a
moment, one after the other, the others stopped. What else the machine does takes part in the measurement.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
import typer
from torch.nn import functional as F

from akgp.models import build
from akgp.params import Network

RESULTS = Path("results/threads")


class Case(NamedTuple):
    """A network and its training batch: classes are 10, channels 3."""

    architecture: str
    side: int
    batch: int

    def __str__(self) -> str:
        return f"{self.architecture}, {self.side}×{self.side}, batch {self.batch}"


CASES = (
    Case("cifar_resnet20", 8, 64),
    Case("cifar_resnet20", 32, 128),
    Case("resnet18", 64, 32),
    Case("mobilenet_v2", 64, 32),
)


@dataclass(frozen=True)
class Variant:
    """threads: of torch; environment: of OpenMP; channels_last: the memory format of network and images."""

    threads: int
    environment: dict[str, str]
    channels_last: bool

    def __str__(self) -> str:
        said = [f"{self.threads} thread" + "s" * (self.threads > 1)]
        said += [f"{key}={value}" for key, value in self.environment.items()]
        return ", ".join([*said, "channels last" if self.channels_last else "contiguous"])


@dataclass(frozen=True)
class Speed:
    """Images a second of one variant, training one network beside `busy` other processes, in each round."""

    case: Case
    variant: str
    busy: int
    images_per_second: list[float]


def variants(threads: int) -> list[Variant]:
    waits: tuple[dict[str, str], ...] = ({}, {"OMP_WAIT_POLICY": "PASSIVE"}, {"GOMP_SPINCOUNT": "1000"})
    return [Variant(1, {}, last) for last in (True, False)] + [
        Variant(threads, wait, last)
        for wait in waits
        for last in ((True, False) if wait == waits[1] else (True,))
    ]


def work(threads: int, channels_last: bool) -> None:
    """For each line `case seconds` train that long, and say how many images a second were trained."""
    torch.set_num_threads(threads)
    steps = [training_step(case, channels_last) for case in CASES]
    print("ready", flush=True)
    for line in sys.stdin:
        case, seconds = line.split()
        step, batch = steps[int(case)], CASES[int(case)].batch
        step()  # caches and threads warm
        start, done = time.perf_counter(), 0
        while (spent := time.perf_counter() - start) < float(seconds) or not done:
            step()
            done += 1
        print(done * batch / spent, flush=True)


def training_step(case: Case, channels_last: bool) -> Callable[[], None]:
    """One step of a training on noise."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    torch.manual_seed(0)
    network = Network(architecture=case.architecture)
    model = build(network, num_classes=10, in_channels=3, image_size=(case.side, case.side))
    model = model.to(memory_format=memory_format).train()
    inputs = torch.randn(case.batch, 3, case.side, case.side).to(memory_format=memory_format)
    labels = torch.randint(10, (case.batch,))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True)

    def step() -> None:
        loss = F.cross_entropy(model(inputs), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


class Worker:
    """A variant's process, stopped unless it is asked: OpenMP's threads may spin while they have no work."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        command = [sys.executable, "-m", "benchmarks.threads", "--work", str(variant.threads)]
        self.process = subprocess.Popen(
            [*command, "--channels-last" if variant.channels_last else "--contiguous"],
            env=os.environ | variant.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        encoding="utf-8")  # fmt: skip
        self._line()
        self.process.send_signal(signal.SIGSTOP)

    def images_per_second(self, case: Case, seconds: float) -> float:
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        print(CASES.index(case), seconds, file=self.process.stdin, flush=True)
        said = float(self._line())
        self.process.send_signal(signal.SIGSTOP)
        return said

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@contextlib.contextmanager
def beside(count: int) -> Iterator[None]:
    """In this block as many processes compute without a pause."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def measure(threads: int, rounds: int, seconds: float, most: int) -> list[Speed]:
    """Every case by every variant beside 0 … `most` busy processes, in `rounds` rounds of random order."""
    workers = [Worker(variant) for variant in variants(threads)]
    runs = [(case, worker) for case in CASES for worker in workers]
    speeds = []
    try:
        for busy in range(most + 1):
            said: dict[int, list[float]] = {index: [] for index in range(len(runs))}
            with beside(busy):
                for number in range(rounds):
                    for index in random.Random(number).sample(range(len(runs)), len(runs)):
                        case, worker = runs[index]
                        said[index].append(worker.images_per_second(case, seconds))
            speeds += [
                Speed(case, str(worker.variant), busy, said[index])
                for index, (case, worker) in enumerate(runs)
            ]
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()
    return speeds


def table(speeds: list[Speed], about: str) -> str:
    """Markdown: a table for each case, a row for each variant; medians of the rounds (lowest to highest)."""
    lines = ["# Threads and memory format", "", about]
    for case in dict.fromkeys(speed.case for speed in speeds):
        mine = [speed for speed in speeds if speed.case == case]
        counts = sorted({speed.busy for speed in mine})
        lines += ["", f"## {case}", ""]
        lines.append(
            "| images/s | " + " | ".join(f"beside {n} busy" if n else "alone" for n in counts) + " |"
        )
        lines.append("| --- " * (len(counts) + 1) + "|")
        for variant in dict.fromkeys(speed.variant for speed in mine):
            row = [speed.images_per_second for speed in mine if speed.variant == variant]
            cells = [f"{median(each):.0f} ({min(each):.0f}–{max(each):.0f})" for each in row]
            lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(
    threads: int = min(os.cpu_count() or 1, 2),
    rounds: int = 5,
    seconds: float = 1.0,
    busy: int = 2,
    work_with: int = typer.Option(0, "--work", hidden=True),
    channels_last: bool = typer.Option(True, "--channels-last/--contiguous", hidden=True),
) -> None:
    """Measure with one thread and with `threads`, beside 0 … `busy` busy processes."""
    if work_with:
        work(work_with, channels_last)
        return
    load = os.getloadavg()[0]
    speeds = measure(threads, rounds, seconds, busy)
    cpu = torch.cpu.get_capabilities()
    features = " ".join(key for key in ("avx2", "avx512_f", "amx_bf16") if cpu.get(key))
    about = (
        f"`python -m benchmarks.threads --threads {threads} --rounds {rounds} --seconds {seconds:g}`: fp32, "
        f"SGD, medians of {rounds} rounds (lowest–highest). {cpu.get('cpu_name', platform.machine())}, "
        f"{os.cpu_count()} cores, {features}; torch {torch.__version__}; load before {load:.1f}, "
        f"priority {os.nice(0)}."
    )
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "table.md").write_text(table(speeds, about), encoding="utf-8")
    rows = [asdict(speed) | {"case": speed.case._asdict()} for speed in speeds]
    (RESULTS / "table.json").write_text(
        json.dumps({"about": about, "speeds": rows}, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    typer.run(main)
