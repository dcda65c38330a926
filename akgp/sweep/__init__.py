"""`akgp sweep`: a search by Ray Tune and Optuna over the parameters of prune and distill.

Trials are compared on the validation split by top-1 or, on a long tail, by its mean over classes.
The test split is never read.
"""

from akgp.sweep.identity import outdated
from akgp.sweep.results import Trial, apply, best, pareto_front, table
from akgp.sweep.search import run

__all__ = ["Trial", "apply", "best", "outdated", "pareto_front", "run", "table"]
