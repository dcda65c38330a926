"""Every route from a network to a runtime, beside other quantizers: a table.

    AKGP_CIFAR10=DIR python -m benchmarks.routes [NETWORK …]

A row a network and way, written as soon as it is measured to the folder of results/routes that is named for
the processor's integer instructions; started again, the missing ones are done. Trained networks are read from
runs/routes and runs/mobile (`cases.TRAINED`); the others are initialized. Needs
`.[openvino,executorch,litert]`, gcc, and for the other quantizers nncf and torchao (executorch brings it),
which may be in an environment of their own: what is not installed is left out.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.routes.cases import CASES, TRAINED, Case
from benchmarks.routes.measuring import COMPILER, C, measured
from benchmarks.routes.table import table
from benchmarks.routes.ways import WAYS
from experiments.machine import kernels
from experiments.resumable import complete

RESULTS = Path("results/routes")


@dataclass(frozen=True)
class Run:
    """What is measured."""

    network: str
    way: str


def all_ways(network: str) -> None:
    """Measure what is missing of a network, in the ways that are installed."""
    if network in TRAINED and not TRAINED[network].exists():
        print(f"{network}: left out, {TRAINED[network]} is not there", flush=True)
        return
    ways = [name for name, way in WAYS.items() if not way.missing()] + [C] * bool(shutil.which(COMPILER))
    with tempfile.TemporaryDirectory() as folder:

        @functools.cache
        def case() -> Case:
            return CASES[network](Path(folder))

        plan = [Run(network, way) for way in ways]
        complete(RESULTS / kernels(), plan, lambda run: measured(case(), run.way), table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(CASES)}")
    for name, way in WAYS.items():
        if missing := way.missing():
            print(f"{name}: left out, {missing} is not installed", flush=True)
    if not shutil.which(COMPILER):
        print(f"{C}: left out, {COMPILER} is not installed", flush=True)
    for network in parser.parse_args().networks or CASES:
        all_ways(network)


if __name__ == "__main__":
    main()
