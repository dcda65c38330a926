"""Batch size and learning rate by the number of training images, where params.yaml leaves them out.

A pure function of parameters and counts; the training itself is in akgp.training.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from akgp.params import Params, Training
from akgp.params.training import LARGEST_BATCH

SMALLEST_BATCH = 16
RATE_PER_IMAGE = {"sgd": 0.2 / 128, "adamw": 0.002 / 128}
GENTLER = 0.1
"""Share of that rate where training starts from weights that were trained on other images."""


def resolved(
    training: Training, images: int, *, workers: Iterable[int] = (1,), pretrained: bool = False
) -> Training:
    """`training` with its batch size and learning rate as numbers; those that are given stay.

    The batch is the power of two nearest (in ratio) to the square root of the number of training images,
    from 16 to 128, then the nearest multiple of the numbers of workers. The rate is 0.2 for 128 images
    and proportional to the batch, given or not (Goyal et al. 2017, the linear scaling rule); a tenth of
    that from pretrained weights. So a small set gets many small steps. Measured with 16 to 256 images a
    step and one or two seeds on four sizes and two networks (results/defaults): the rule's batch was best
    or within a point of the best, but for a ShuffleNet with 600 images (16 gained 1.5 points) and a
    narrow ResNet-20 with 40,000 and four epochs (64 gained 1.3). Half the rate lost up to 2 points, twice
    the rate gained up to 1.5. The tenth is common practice for weights of a long training, which were not
    at hand: from weights of four epochs on other classes it lost 4 points. AdamW's rate, a hundredth of
    SGD's, is common practice, too.

    Args:
        images: of the training split, 1 or more.
        workers: the numbers of workers that may share a batch.
        pretrained: the network starts from weights trained on other images. A pruned student does not: it
            starts from weights of its own and has to learn again, with the rate of a new network.
    """
    batch = training.batch_size or _batch_size(images, math.lcm(*workers))
    rate = RATE_PER_IMAGE[training.optimizer] * batch * (GENTLER if pretrained else 1)
    return training.model_copy(
        update={"batch_size": batch, "learning_rate": training.learning_rate or min(rate, 10.0)}
    )


def dense_training(params: Params, network: str, images: int) -> Training:
    """`params.teacher` for a dense network, resolved for as many training images."""
    pretrained = params.networks[network].pretrained
    return resolved(params.teacher, images, workers=params.ray.counts(), pretrained=pretrained)


def student_training(params: Params, images: int) -> Training:
    """`params.distill.training`, resolved for as many training images."""
    return resolved(params.distill.training, images, workers=params.ray.counts())


def qat_training(params: Params, images: int) -> Training:
    """The training of `quantize.qat`: that of the student, shorter, gentler and in fp32.

    In half precision activations would be rounded twice. Neither torch.compile nor a CUDA graph sees the
    scales of weights, which are computed by numpy.
    """
    qat, training = params.quantize.qat, student_training(params, images)
    assert qat is not None and training.learning_rate is not None
    return training.model_copy(
        update={
            "epochs": qat.epochs,
            "learning_rate": qat.learning_rate or GENTLER * training.learning_rate,
            "warmup_epochs": 0.0,
            "precision": "fp32",
            "compile": False,
            "cuda_graphs": False,
        }
    )


def announcement(given: Training, used: Training, images: int) -> str | None:
    """A message with the batch size and rate in use if one was left out; None if both are given."""
    if given.batch_size is not None and given.learning_rate is not None:
        return None
    return (
        f"for {images:,} training images: batch_size {used.batch_size}, learning_rate {used.learning_rate:g}"
    )


def _batch_size(images: int, divisor: int) -> int:
    wanted = min(max(math.sqrt(images), SMALLEST_BATCH), LARGEST_BATCH)
    # Nearest in ratio, hence rounded in the logarithm.
    power = 2 ** round(math.log2(wanted))
    return max(round(power / divisor), 1) * divisor
