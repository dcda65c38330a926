"""Filter pruning: criteria that score filters, the choice of widths, and the surgery that removes filters."""

from akgp.params import Limit
from akgp.pruning.amount import Reached
from akgp.pruning.blocks import residual_blocks, without_blocks
from akgp.pruning.bounds import Rules
from akgp.pruning.coupling.preparation import NothingRemoved, PruningError
from akgp.pruning.criteria import CRITERIA, coupled_scores, fpgm_scores, l1_scores, l2_scores, random_scores
from akgp.pruning.int8_bytes import int8_bytes
from akgp.pruning.record import Layer, Pruned, layers_table
from akgp.pruning.schedule import partial_amount, prune_gradually
from akgp.pruning.sensitivity import Point, Sensitivity
from akgp.pruning.surgery import prune, require_names

__all__ = [
    "CRITERIA",
    "Layer",
    "Limit",
    "NothingRemoved",
    "Point",
    "Pruned",
    "PruningError",
    "Reached",
    "Rules",
    "Sensitivity",
    "coupled_scores",
    "fpgm_scores",
    "int8_bytes",
    "l1_scores",
    "l2_scores",
    "layers_table",
    "partial_amount",
    "prune",
    "prune_gradually",
    "random_scores",
    "require_names",
    "residual_blocks",
    "without_blocks",
]
