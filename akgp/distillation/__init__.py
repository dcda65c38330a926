"""Distillation whose weight on the teacher follows from the data: losses, characteristics, weights."""

from akgp.distillation.characteristics import Characteristics, calibration_temperature, measure
from akgp.distillation.losses import Ensemble, distillation_loss, standardized
from akgp.distillation.objective import guided
from akgp.distillation.strategies import strategy_loss
from akgp.distillation.weighting import by_group, log_prior, teacher_weights, wrong_label_probability

__all__ = [
    "Characteristics",
    "Ensemble",
    "by_group",
    "calibration_temperature",
    "distillation_loss",
    "guided",
    "log_prior",
    "measure",
    "standardized",
    "strategy_loss",
    "teacher_weights",
    "wrong_label_probability",
]
