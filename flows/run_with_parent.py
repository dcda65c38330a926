"""A module run as by `python -m`, in a process that is terminated when the one that started it is killed.

usage: python -P run_with_parent.py PARENT MODULE ARGUMENT...
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
from pathlib import Path


def main() -> None:
    parent, *sys.argv = sys.argv[1:]
    control, parent_death_signal = getattr(ctypes.CDLL(None), "prctl", None), 1  # prctl(2) is Linux's
    if control is not None:
        control(parent_death_signal, signal.SIGTERM)
        if os.getppid() != int(parent):
            sys.exit(128 + signal.SIGTERM)
    sys.path.insert(0, str(Path.cwd()))
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
