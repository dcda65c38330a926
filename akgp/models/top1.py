"""Which images a network classifies as they are labelled: the one rule, by which all accuracies count.

How it is counted differs, and with it the last bit. In training each worker sums what is right of its
images by class, and whole numbers are exact however many workers add them; `akgp.evaluation` has all logits
in one place, and takes means.
"""

from __future__ import annotations

from torch import Tensor


def is_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the largest logit is the label's, bool [N]; of equal ones the lowest class counts.

    Args:
        logits: [N, C].
        labels: int64 [N], on the same device.
    """
    return logits.argmax(1) == labels
