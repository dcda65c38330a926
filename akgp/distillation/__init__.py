"""Distillation with a teacher's weight that follows the data: losses, weights, training."""

from akgp.distillation.cross_fit import Teacher, cross_fitted, folds, out_of_fold
from akgp.distillation.describe import sentence, shares_sentence, weight_sentence
from akgp.distillation.distillation_data import DistillationData, TeacherOutputs, ask_teachers
from akgp.distillation.losses import Ensemble, distillation_loss, standardized
from akgp.distillation.profile.calibration import calibration_temperature
from akgp.distillation.profile.data_profile import DataProfile, profile_data
from akgp.distillation.profile.record import recorded
from akgp.distillation.run import (
    Distillation,
    Distilled,
    compute_of,
    training_of,
)
from akgp.distillation.strategies import distillation_objective, teacher_weights
from akgp.distillation.strategies.heads import check_heads
from akgp.distillation.strategies.self_distillation import SelfDistillation, self_distillation_loss
from akgp.distillation.strategies.several_teachers import LearnedTeachers
from akgp.distillation.teacher_weight.answers import (
    WeightEstimate,
    estimate_w0,
    stacked_weight,
    stacked_weights,
)
from akgp.distillation.teacher_weight.branches import train_measured
from akgp.distillation.teacher_weight.per_sample import log_prior, weights_by_class, wrong_label_probability
from akgp.distillation.teachers import TeacherFn, frozen_teacher, weighted_ensemble

__all__ = [
    "DataProfile",
    "Distillation",
    "DistillationData",
    "Distilled",
    "Ensemble",
    "LearnedTeachers",
    "SelfDistillation",
    "Teacher",
    "TeacherFn",
    "TeacherOutputs",
    "WeightEstimate",
    "ask_teachers",
    "calibration_temperature",
    "check_heads",
    "compute_of",
    "cross_fitted",
    "distillation_loss",
    "distillation_objective",
    "estimate_w0",
    "folds",
    "frozen_teacher",
    "log_prior",
    "out_of_fold",
    "profile_data",
    "recorded",
    "self_distillation_loss",
    "sentence",
    "shares_sentence",
    "stacked_weight",
    "stacked_weights",
    "standardized",
    "teacher_weights",
    "train_measured",
    "training_of",
    "weight_sentence",
    "weighted_ensemble",
    "weights_by_class",
    "wrong_label_probability",
]
