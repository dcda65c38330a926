"""What every kind of operation does to the marks of its operands, in one table by its name.

A rule takes a `Call` and gives the marks of its outputs. What has no rule keeps its operands' units in
their dense layout and gives unmarked outputs: that is right for any operation.
"""

from __future__ import annotations

from akgp.pruning.coupling.rules.call import Call, Result, Rule
from akgp.pruning.coupling.rules.elementwise import POINTWISE, pointwise
from akgp.pruning.coupling.rules.movement import MOVEMENT
from akgp.pruning.coupling.rules.norms import NORMS
from akgp.pruning.coupling.rules.products import PRODUCTS
from akgp.pruning.coupling.rules.reductions import REDUCTIONS

RULES: dict[str, Rule] = {**MOVEMENT, **POINTWISE, **REDUCTIONS, **NORMS, **PRODUCTS}

__all__ = ["RULES", "Call", "Result", "Rule", "pointwise"]
