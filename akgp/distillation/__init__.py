"""Distillation whose weight on the teacher follows from the data: losses, characteristics, weights."""

from akgp.distillation.branches import branch_epochs, train_measured
from akgp.distillation.characteristics import Characteristics, calibration_temperature, measure
from akgp.distillation.crossfit import cross_fitted, folds, out_of_fold
from akgp.distillation.learned import LearnedTeachers
from akgp.distillation.losses import Ensemble, distillation_loss, standardized
from akgp.distillation.objective import Guide, guide, guided, together
from akgp.distillation.record import recorded
from akgp.distillation.self_distillation import SelfDistillation, self_distillation_loss
from akgp.distillation.stacking import Measured, stacked_weight, stacked_weights
from akgp.distillation.strategies import strategy_loss
from akgp.distillation.weighting import by_group, log_prior, teacher_weights, wrong_label_probability
from akgp.distillation.words import sentence

__all__ = [
    "Characteristics",
    "Ensemble",
    "Guide",
    "LearnedTeachers",
    "Measured",
    "SelfDistillation",
    "branch_epochs",
    "by_group",
    "calibration_temperature",
    "cross_fitted",
    "distillation_loss",
    "folds",
    "guide",
    "guided",
    "log_prior",
    "measure",
    "out_of_fold",
    "recorded",
    "self_distillation_loss",
    "sentence",
    "stacked_weight",
    "stacked_weights",
    "standardized",
    "strategy_loss",
    "teacher_weights",
    "together",
    "train_measured",
    "wrong_label_probability",
]
