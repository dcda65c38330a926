"""Pruning to what a user has: a section `prune` of params.yaml, of which some amounts are measured.

`akgp.pruning` counts MACs, parameters and values. The bytes of a file, its milliseconds in a runtime and the
memory of a microcontroller are measured here: networks are pruned, exported and quantized until one fits.
"""

from akgp.budgets.by_params import WITHOUT_BLOCKS, prune_by_params, require_pruned_names
from akgp.budgets.deployed import Deployed

__all__ = ["WITHOUT_BLOCKS", "Deployed", "prune_by_params", "require_pruned_names"]
