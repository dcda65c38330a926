"""Distillation whose weight on the teacher follows from the data: loss, characteristics, weights."""

from akgp.distillation.characteristics import Characteristics, calibration_temperature, measure
from akgp.distillation.losses import Ensemble, distillation_loss
from akgp.distillation.weighting import by_group, log_prior, teacher_weights, wrong_label_probability

__all__ = [
    "Characteristics",
    "Ensemble",
    "by_group",
    "calibration_temperature",
    "distillation_loss",
    "log_prior",
    "measure",
    "teacher_weights",
    "wrong_label_probability",
]
