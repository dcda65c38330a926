"""The schema of params.yaml: the meaning, unit and range of every parameter.

Sections are frozen pydantic models, a module each; the validated section is the object that a function
receives. Nothing else of the project is imported, so that validation stays quick.
"""

from akgp.params.base import REMOTE, Section
from akgp.params.cluster import Ray
from akgp.params.compression import (
    SCHEDULED,
    Deploy,
    Download,
    Evaluate,
    Limit,
    Precision,
    Prune,
    Qat,
    Quantize,
    Schedule,
)
from akgp.params.data import CIFAR10_VARIABLE, Data, Regime, Splits
from akgp.params.device import Device
from akgp.params.distill import W0, Distill
from akgp.params.files import dump, load, read_yaml, validate
from akgp.params.network import CIFAR_RESNETS, Network
from akgp.params.release import Release
from akgp.params.schema import Params
from akgp.params.sweep import Range, Sweep
from akgp.params.training import Augment, Training
from akgp.params.validation import RETIRED, ParamsError
from akgp.params.values import ABSENT, differences, number_type, shown, with_values
from akgp.params.without_effect import without_effect

__all__ = [
    "ABSENT",
    "CIFAR10_VARIABLE",
    "CIFAR_RESNETS",
    "REMOTE",
    "RETIRED",
    "SCHEDULED",
    "W0",
    "Augment",
    "Data",
    "Deploy",
    "Device",
    "Distill",
    "Download",
    "Evaluate",
    "Limit",
    "Network",
    "Params",
    "ParamsError",
    "Precision",
    "Prune",
    "Qat",
    "Quantize",
    "Range",
    "Ray",
    "Regime",
    "Release",
    "Schedule",
    "Section",
    "Splits",
    "Sweep",
    "Training",
    "differences",
    "dump",
    "load",
    "number_type",
    "read_yaml",
    "shown",
    "validate",
    "with_values",
    "without_effect",
]
