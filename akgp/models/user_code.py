"""Builds a user's network by `module:function`, and names the line of the user's code behind an error.

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
"""Names of the argument for the number of input channels; the second is timm's."""
INSTALLED = [Path(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib", "platlib")]
OURS = Path(__file__).resolve().parents[1]


def user_network(spec: Spec) -> nn.Module:
    """The network that `module:function` returns for num_classes and, if it takes them, the input channels.

    Raises:
        ModelError: it can't be imported or called, or returns no network; names the line.
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
    """{argument: channels} with the name by which `function` takes the input channels; {} if by none.

    What `**kwargs` is passed on to can't be seen, except that timm's functions take in_chans (by default 3).
    """
    for name in CHANNELS:
        if _takes(function, name):
            return {name: channels}
    is_timms = getattr(function, "__module__", "").partition(".")[0] == "timm"
    return {"in_chans": channels} if is_timms and channels != 3 and _takes(function, "", or_any=True) else {}


def at(error: BaseException) -> str:
    """The last line of the user's code in the traceback, as `; my_nets.py:12, in forward`; empty if none."""
    line = user_line(error)
    return f"; {line}" if line else ""


def at_in(text: str) -> str:
    """As `at`, from a stack trace that a library has written into its message."""
    lines = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', text)
    users = [f"{_shown(file)}:{line}, in {name}" for file, line, name in lines if _is_users(file)]
    return f"; {users[-1]}" if users else ""


def user_line(error: BaseException) -> str | None:
    """The last line of the user's code in an error's traceback: file, line, function; None if none."""
    # A file with a syntax error has no frame, since it never ran.
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
        sys.path.append(here)  # at the end: installed packages take precedence
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
    except (TypeError, ValueError):  # not callable, or built in: calling it will show
        return or_any
    return argument in parameters or (or_any and any(p.kind is p.VAR_KEYWORD for p in parameters.values()))


def _is_users(filename: str) -> bool:
    file = Path(filename)
    return file.is_file() and not any(file.is_relative_to(folder) for folder in (*INSTALLED, OURS))


def _shown(filename: str) -> str:
    """The file relative to the folder of the import path that holds it; of several, the deepest."""
    file = Path(filename)
    inside = [file.relative_to(folder) for folder in map(Path, sys.path) if file.is_relative_to(folder)]
    return str(min(inside, key=lambda path: len(path.parts), default=file))
