"""Runs a module as `python -m` does, in a process that is terminated when its parent is killed.

usage: python -P run_with_parent.py PARENT MODULE ARGUMENT...
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path

from akgp.io.processes import end_with_parent


def main() -> None:
    parent, *sys.argv = sys.argv[1:]
    # A parent that was killed before this call sends nothing any more.
    if end_with_parent() and os.getppid() != int(parent):
        sys.exit(128 + signal.SIGTERM)
    # As `python -m` does. -P leaves out this file's folder, which would otherwise come first.
    sys.path.insert(0, str(Path.cwd()))
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
