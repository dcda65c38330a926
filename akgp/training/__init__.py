"""Training: a loop that yields a row an epoch, on one worker or several.

The optimizer is stochastic gradient descent with Nesterov momentum (Sutskever et al. 2013), or AdamW
(Loshchilov & Hutter 2019) with decoupled weight decay; the learning rate follows `learning_rate_factor`; no
weight decay on norms and on parameters of fewer than two dimensions, such as biases. The parameters of an
objective follow the same rules; they are part of a training's state, not of the network. With `params.ema`,
exponential averages over the steps are validated and kept. The modules of `params.freeze` stay as they are.

With several workers each step averages the gradients of equal slices of one global batch of
`params.batch_size`; each worker's BatchNorm normalises its own slice, and worker 0's running statistics are
validated and kept, unless `params.sync_batch_norm` makes them those of the whole batch. Dropout and the like
draw from torch's generator, seeded by (seed, epoch, worker) for the epoch and left as it was.
"""

from akgp.training.errors import TrainingError
from akgp.training.loop import Epoch, merit, train
from akgp.training.objective import Objective, cross_entropy
from akgp.training.schedule import Schedule, learning_rate_factor
from akgp.training.step import autocast_dtype, fast_bf16
from akgp.training.validation import Metrics, evaluate

__all__ = [
    "Epoch",
    "Metrics",
    "Objective",
    "Schedule",
    "TrainingError",
    "autocast_dtype",
    "cross_entropy",
    "evaluate",
    "fast_bf16",
    "learning_rate_factor",
    "merit",
    "train",
]
