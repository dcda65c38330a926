"""Filter pruning: criteria that score filters, the choice of widths, and the surgery that removes filters.

`surgery` has `prune`; `schedule` calls it several times, `blocks` removes whole blocks before, `sensitivity`
cuts each layer alone. `coupling` finds the channels that can only go together (`narrowing` and `noise`
prepare for that).

What to remove: `choice`, by an `amount`. `scoring` asks `criteria` and `group_criteria`, of which some need
`evidence` of images; `bounds` says which widths there may be, `budget` finds those within a `costs`,
`latency` those within milliseconds (`knapsack`, `table_correction`), `int8_bytes` counts; `selection` names
the units.

The cut: `cutting` removes `entries` of parameters; `exact_cut` repeats it until `verification` finds no
difference from the network with these channels set to zero (`masking`, `features`). `record` says what was
removed, also since the `dense_reference`; `module_progress` shows a person who waits how far it is.
"""

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
