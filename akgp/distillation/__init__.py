"""Distillation whose weight on the teacher follows from the data: losses, characteristics, weights."""

from akgp.distillation.cross_fit import cross_fitted, folds, out_of_fold
from akgp.distillation.describe import sentence
from akgp.distillation.learned import LearnedTeachers
from akgp.distillation.losses import Ensemble, distillation_loss, standardized
from akgp.distillation.objective import TeacherFn, distillation_objective, frozen_teacher, weighted_ensemble
from akgp.distillation.profile.calibration import calibration_temperature
from akgp.distillation.profile.data_profile import DataProfile, profile_data
from akgp.distillation.profile.record import recorded
from akgp.distillation.self_distillation import SelfDistillation, self_distillation_loss
from akgp.distillation.strategies import strategy_loss
from akgp.distillation.teacher_weight.answers import WeightEstimate, stacked_weight, stacked_weights
from akgp.distillation.teacher_weight.branches import branch_epochs, train_measured
from akgp.distillation.teacher_weight.per_sample import (
    log_prior,
    teacher_weights,
    weights_by_class,
    wrong_label_probability,
)

__all__ = [
    "DataProfile",
    "Ensemble",
    "LearnedTeachers",
    "SelfDistillation",
    "TeacherFn",
    "WeightEstimate",
    "branch_epochs",
    "calibration_temperature",
    "cross_fitted",
    "distillation_loss",
    "distillation_objective",
    "folds",
    "frozen_teacher",
    "log_prior",
    "out_of_fold",
    "profile_data",
    "recorded",
    "self_distillation_loss",
    "sentence",
    "stacked_weight",
    "stacked_weights",
    "standardized",
    "strategy_loss",
    "teacher_weights",
    "train_measured",
    "weighted_ensemble",
    "weights_by_class",
    "wrong_label_probability",
]
