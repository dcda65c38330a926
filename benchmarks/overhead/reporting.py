"""The page of the experiment: what each stage and each epoch costs with Ray Train and DVC, and without."""

from __future__ import annotations

import os
import platform
import statistics
import time
from importlib.metadata import version
from typing import Any

import torch

from akgp.params import Params

Taken = dict[str, Any]
WARM_UP = 1  # rounds left out of the medians


def table(
    measured: dict[str, dict[str, Taken]], params: Params, same: bool, loads: list[float], options: list[str]
) -> str:
    """The page.

    Args:
        measured: by `plain`, `dvc`, `jobs` and perhaps `long`: what these took, by stage.
        same: whether the plain loop's networks are those of `dvc repro`, byte for byte.
        loads: the machine's load average before, between and after.
    """
    return (
        "\n\n".join(
            [
                "# What orchestration costs",
                _circumstances(params, loads, options),
                f"The networks of both are {'the same, byte for byte' if same else '**not the same**'}.",
                "## By stage",
                _stages(measured["plain"], measured["dvc"]),
                "Seconds of the wall clock, and of the processor (all processes, Ray's and DVC's included). "
                "`plain` is the stage's computation called in one process that has imported torch, which is "
                "its `start`; that of `dvc repro` is DVC's own. `fixed` is what `dvc repro` takes beyond "
                "that: starting Python, Ray and the worker, their imports, checkpoints, ending them, and "
                "DVC's own part.",
                "## By epoch",
                _epochs(measured),
                "Medians over the epochs but the first. `loop`: training and validation. `report`: until the "
                "next epoch begins: the state written and its digest, the checkpoint copied to the storage, "
                "Ray Train told.",
            ]
        )
        + "\n"
    )


def _circumstances(params: Params, loads: list[float], options: list[str]) -> str:
    machine = torch.cpu.get_capabilities().get("cpu_name", platform.machine())
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "dvc"))
    return (
        f"`{' '.join(['python -m benchmarks.overhead', *options])}`, {time.strftime('%Y-%m-%d')}, seed "
        f"{params.seed}; {os.cpu_count()} cores ({machine}), {params.ray.cpus_per_worker} for a worker; "
        f"{packages}. Load average before, between and after: {', '.join(f'{load:.1f}' for load in loads)}."
    )


def _stages(plain: dict[str, Taken], dvc: dict[str, Taken]) -> str:
    rows = [
        "| stage | plain, s | dvc repro, s | fixed, s | plain, cpu s | dvc repro, cpu s | fixed, cpu s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    none = {"seconds": 0.0, "cpu": 0.0}
    rows += [_row(name, plain.get(name, none), taken) for name, taken in dvc.items()]
    alone, all_of_it = (
        {key: sum(taken[key] for taken in part.values()) for key in none} for part in (plain, dvc)
    )
    rows += [_row("**all**", alone, all_of_it), ""]
    time_share, cpu_share = (1 - alone[key] / all_of_it[key] for key in none)
    rows.append(
        f"Orchestration's share of the whole: **{time_share:.0%}** of the time, {cpu_share:.0%} of the "
        "processor's."
    )
    return "\n".join(rows)


def _row(name: str, plain: Taken, dvc: Taken) -> str:
    cells = [
        f"{value:.1f}"
        for key in ("seconds", "cpu")
        for value in (plain[key], dvc[key], dvc[key] - plain[key])
    ]
    return f"| {name} | {' | '.join(cells)} |"


def _epochs(measured: dict[str, dict[str, Taken]]) -> str:
    rows = [
        "| training | epochs | first, s | plain loop, s | loop, s | report, ms | of an epoch |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for where, data in (("jobs", "digits"), ("long", "10,000 images of CIFAR-10")):
        for name, taken in measured.get(where, {}).items():
            loop, between = (taken[key][WARM_UP:] for key in ("loop", "between"))
            bare = measured["plain"][name]["loop"][WARM_UP:] if where == "jobs" else None
            share = statistics.median(b / a for a, b in zip(loop, between, strict=True))
            rows.append(
                f"| {name}, {data} | {len(taken['loop'])} | {taken['loop'][0]:.2f} "
                f"| {f'{statistics.median(bare):.3f}' if bare else '–'} | {statistics.median(loop):.3f} "
                f"| {1000 * statistics.median(between):.1f} | {100 * share:.1f} % |"
            )
    return "\n".join(rows)
