"""A network of the user's own, by `module:function`: imported and called, or where in its files that failed.

The module lies in the working directory, which is the workspace in a stage, or is installed.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from akgp.io.errors import one_line
from akgp.models.spec import ModelError, Spec

CHANNELS = ("in_channels", "in_chans")
"""What a function may call the number of input channels; the second is timm's."""
INSTALLED = [Path(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib", "platlib")]
OURS = Path(__file__).resolve().parents[1]


def users_own(spec: Spec) -> nn.Module:
    """The network that `module:function` makes, called with num_classes, and the channels if it names them.

    Raises:
        ModelError: it cannot be imported, called with these, or gives no network; names the line.
    """
    function = _imported(spec.architecture)
    options = {"num_classes": spec.num_classes} | channels_option(function, spec.in_channels)
    if not _takes(function, "num_classes", or_any=True):
        raise ModelError(f"architecture: {spec.architecture} must take the argument num_classes")
    try:
        model = function(**options)
    except Exception as error:  # whatever the user's function raises
        call = f"{spec.architecture}({', '.join(f'{key}={value}' for key, value in options.items())})"
        raise ModelError(f"architecture: {call} raised {one_line(error)}{at(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"architecture: {spec.architecture} must return a torch.nn.Module, got {type(model).__name__}"
        )
    return model


def channels_option(function: Callable[..., Any], channels: int) -> dict[str, int]:
    """The number of input channels by the name under which `function` takes it; empty if it names none.

    What `**kwargs` passes on cannot be seen; of timm's functions it is known, and 3 is their default.
    """
    for name in CHANNELS:
        if _takes(function, name):
            return {name: channels}
    is_timms = getattr(function, "__module__", "").partition(".")[0] == "timm"
    return {"in_chans": channels} if is_timms and channels != 3 and _takes(function, "", or_any=True) else {}


def at(error: BaseException) -> str:
    """`; my_nets.py:12, in forward`: the last place of the user's that the error has come through, if any."""
    where = place(error)
    return f"; {where}" if where else ""


def at_in(text: str) -> str:
    """As `at`, by the stack that a library has written into its message."""
    lines = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', text)
    users = [f"{_shown(file)}:{line}, in {name}" for file, line, name in lines if _is_users(file)]
    return f"; {users[-1]}" if users else ""


def place(error: BaseException) -> str | None:
    """The last line of the user's code in the error's traceback: file on the import path, line, function."""
    if isinstance(error, SyntaxError) and error.filename and _is_users(error.filename):
        return f"{_shown(error.filename)}:{error.lineno}"
    frames = [
        f"{_shown(frame.f_code.co_filename)}:{line}, in {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if _is_users(frame.f_code.co_filename)
    ]
    return frames[-1] if frames else None


def _imported(architecture: str) -> Callable[..., Any]:
    module, _, name = architecture.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the user's module raises
        raise ModelError(
            f"architecture: {architecture!r} cannot be imported from {here}: {one_line(error)}{at(error)}"
        ) from error
    return function


def _takes(function: Any, argument: str, *, or_any: bool = False) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # not callable, or built in: the call will tell
        return or_any
    return argument in parameters or (or_any and any(p.kind is p.VAR_KEYWORD for p in parameters.values()))


def _is_users(filename: str) -> bool:
    file = Path(filename)
    return file.is_file() and not any(file.is_relative_to(folder) for folder in (*INSTALLED, OURS))


def _shown(filename: str) -> str:
    """The file as it is called below the folder of the import path that holds it."""
    file = Path(filename)
    inside = [file.relative_to(folder) for folder in map(Path, sys.path) if file.is_relative_to(folder)]
    return str(min(inside, key=lambda path: len(path.parts), default=file))
