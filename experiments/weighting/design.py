"""What is compared: regimes of the data, teachers, strategies, seeds; and the schedule of all trainings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from akgp.params import Data, Distill, Regime, Splits, Training

IMAGES, IMAGE_SIZE = 7000, 16
DEPTH, WIDTHS, RATIO, ROUND_TO = 8, (24, 48, 96), 0.5, 4
FOLDS = 5
TEACHER_EPOCHS, STUDENT_EPOCHS = 30, 16
WEIGHTS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
PAIRS = ((0, 0), (1, 1), (0, 2), (1, 3), (0, 4), (1, 5))
"""(teacher seed, student seed), in the order in which they are run; the teacher's is the data's too."""

REGIMES = {
    "clean": Regime(subset=IMAGES),
    "symmetric 20 %": Regime(subset=IMAGES, label_noise=0.2),
    "symmetric 40 %": Regime(subset=IMAGES, label_noise=0.4),
    "asymmetric 30 %": Regime(subset=IMAGES, label_noise=0.3, noise="asymmetric"),
    "long tail 1:50": Regime(subset=25_000, imbalance=50.0),  # of which it leaves about as many
}


@dataclass(frozen=True)
class Setting:
    """What a user has: a regime of the data, and a teacher.

    Teachers: `in-sample` is trained on the student's images, `cross-fitted` is five that answer only
    images that they have not seen; `weak` learnt from a tenth of the images, `biased` from labels of
    which 30 % are flipped to a similar class, while the student's are clean.
    """

    regime: str
    teacher: str


SETTINGS = (
    *(Setting(regime, teacher) for regime in REGIMES for teacher in ("in-sample", "cross-fitted")),
    Setting("clean", "weak"),
    Setting("clean", "biased"),
)


@dataclass(frozen=True)
class Cell:
    """A setting with its seeds: all strategies in it see the same images in the same order."""

    setting: Setting
    teacher_seed: int
    student_seed: int

    @property
    def name(self) -> str:
        text = f"{self.setting.regime} {self.setting.teacher} {self.teacher_seed} {self.student_seed}"
        return "-".join(text.replace("%", "").replace(":", "-").split())


@dataclass(frozen=True)
class Arm:
    """A strategy as it is compared: its parameters, and how its weight w0 comes about.

    measured: None: `w0` is given; own: measured by branches of this very training, with `w0` as a guess
    before; shared: by the branches of the first student of this teacher.
    """

    name: str
    distill: dict[str, Any] = field(default_factory=dict)
    longer: float = 1.0
    measured: str | None = None


FIXED = tuple(Arm(f"fixed {w:g}", {"strategy": "fixed", "w0": w}) for w in WEIGHTS)
AKGP = Arm("akgp", {"strategy": "akgp"}, measured="own")
AKGP_LOW = Arm("akgp from 0.3", {"strategy": "akgp", "w0": 0.3}, measured="own")
ARMS = (
    *FIXED,
    Arm("annealed", {"strategy": "annealed"}),
    Arm("wsld", {"strategy": "wsld"}),
    Arm("dkd", {"strategy": "dkd", "temperature": 4.0}),
    Arm("logit_std", {"strategy": "fixed", "logit_std": True}),
    Arm("0.7 + q", {"strategy": "akgp"}),
    Arm("0.7 + q, longer", {"strategy": "akgp"}, longer=1.3),
    AKGP,
    Arm("akgp, w0 shared", {"strategy": "akgp"}, measured="shared"),
    AKGP_LOW,
    Arm("akgp from 0.3, w0 shared", AKGP_LOW.distill, measured="shared"),
)
NO_SHIFT = Arm("fixed 0.7, no logit adjustment", {"strategy": "fixed", "logit_adjustment": "off"})
NO_Q = Arm("akgp, w0 shared, no q", {"strategy": "akgp", "noise_posterior": False}, measured="shared")


def arms(setting: Setting) -> tuple[Arm, ...]:
    """The strategies to compare in a setting: of parts of `akgp`, those that do something there."""
    if "long tail" in setting.regime:
        return (*ARMS, NO_SHIFT)
    return (*ARMS, NO_Q) if "symmetric" in setting.regime else ARMS


def cells() -> Iterator[Cell]:
    """All cells: every setting with the first seeds, then with the second, and so on."""
    for teacher_seed, student_seed in PAIRS:
        for setting in SETTINGS:
            yield Cell(setting, teacher_seed, student_seed)


def measuring(arm: Arm) -> Arm:
    """The arm whose branches measure the w0 that `arm` shares: with the same guess before."""
    return AKGP_LOW if arm.distill.get("w0") == AKGP_LOW.distill["w0"] else AKGP


def first_student(teacher_seed: int) -> int:
    """The student seed with which w0 is measured for all students of a teacher."""
    return next(student for teacher, student in PAIRS if teacher == teacher_seed)


TRAINING: dict[str, Any] = {
    "batch_size": 128,
    "learning_rate": 0.1,
    "weight_decay": 5e-4,
    "augment": {"crop_padding": 2, "flip": True},
    "compile": True,
}
TEACHER = {"epochs": TEACHER_EPOCHS, "keep": "best"} | TRAINING
STUDENT = {"epochs": STUDENT_EPOCHS, "keep": "last"} | TRAINING


def data(regime: str) -> Data:
    return Data(
        source="cifar10",
        image_size=IMAGE_SIZE,
        splits=Splits(calibration=0.14, validation=0.14),
        regime=REGIMES[regime],
    )


def distill(regime: str, arm: Arm) -> Distill:
    """An arm's parameters; on the long tail every strategy has logit adjustment."""
    training = Training.model_validate(STUDENT | {"epochs": round(STUDENT_EPOCHS * arm.longer)})
    given = {"logit_adjustment": "on" if "long tail" in regime else "off"} | arm.distill
    return Distill(**given, training=training)


def common_digest() -> str:
    """Of what all networks share: runs of other data, networks or trainings are not gone on with."""
    regimes = {name: regime.model_dump(mode="json") for name, regime in REGIMES.items()}
    return digest(regimes, IMAGES, IMAGE_SIZE, DEPTH, WIDTHS, RATIO, ROUND_TO, FOLDS, TEACHER, STUDENT)


def digest(*said: Any) -> str:
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:8]
