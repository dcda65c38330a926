"""What is compared: regimes of the data, teachers, strategies, seeds; and the schedule of all trainings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from akgp.params import Data, Distill, Regime, Splits, Training

WEIGHTS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
SEARCHED = "fixed, searched"
"""Not trained, only told of: the fixed weight that is best on validation images, at the cost of them all."""


@dataclass(frozen=True)
class Setting:
    """What a user has: a regime of the data, and a teacher.

    Teachers: `in-sample` is trained on the student's images, `cross-fitted` is five that answer only
    images that they have not seen; `weak` learnt from a tenth of the images, `biased` from labels of
    which 30 % are flipped to a similar class, while the student's are clean; `large` is a network of
    more parameters, `strong` learnt from four times as many images, none of them the student's; `several`
    are in-sample, weak and biased together, `unequal` in-sample, weak and strong.
    """

    regime: str
    teacher: str


@dataclass(frozen=True)
class Cell:
    """A setting with its seeds: all strategies in it see the same images in the same order."""

    setting: Setting
    teacher_seed: int
    student_seed: int

    @property
    def name(self) -> str:
        return folder_name(self.setting.regime, self.setting.teacher, self.teacher_seed, self.student_seed)


@dataclass(frozen=True)
class Arm:
    """A strategy as it is compared: its parameters, and how its weight w0 comes about.

    name: as in the trials that are recorded; `self`, `confidence` and `learned` were strategies' names then.

    measured: None: `w0` is given; answers: by what teacher and dense network say of the calibration images;
    own: by branches of this very training, with `w0` as a guess before; both: likewise, with what the
    answers say as the guess; shared: by the branches of the first student of this teacher; first: by two
    short trainings from the pruned network, before the training begins.
    """

    name: str
    distill: dict[str, Any] = field(default_factory=dict)
    longer: float = 1.0
    measured: str | None = None


def fixed(*weights: float) -> tuple[Arm, ...]:
    return tuple(Arm(f"fixed {w:g}", {"strategy": "fixed", "w0": w}) for w in weights)


HIGH, LOW = {"strategy": "akgp", "w0": 0.7}, {"strategy": "akgp", "w0": 0.3}
AKGP = Arm("akgp from 0.7", HIGH, measured="own")
AKGP_LOW = Arm("akgp from 0.3", LOW, measured="own")
ARMS = (
    *fixed(*WEIGHTS),
    Arm("annealed", {"strategy": "annealed"}),
    Arm("wsld", {"strategy": "wsld"}),
    Arm("dkd", {"strategy": "dkd", "temperature": 4.0}),
    Arm("logit_std", {"strategy": "fixed", "w0": 0.7, "logit_std": True}),
    Arm("0.7 + q", HIGH),
    Arm("0.7 + q, longer", HIGH, longer=1.3),
    Arm("0.3 + q", LOW),
    AKGP,
    AKGP_LOW,
    Arm("akgp from 0.3, w0 shared", LOW, measured="shared"),
    Arm("akgp from 0.3, w0 first", LOW, measured="first"),
)
NO_SHIFT = Arm("fixed 0.7, no logit adjustment", {"strategy": "fixed", "w0": 0.7, "logit_adjustment": "off"})
NO_Q = Arm("akgp from 0.3, w0 shared, no q", LOW | {"noise_posterior": False}, measured="shared")

REGIMES = {
    "clean": Regime(),
    "symmetric 20 %": Regime(label_noise=0.2),
    "symmetric 40 %": Regime(label_noise=0.4),
    "asymmetric 30 %": Regime(label_noise=0.3, noise="asymmetric"),
    "long tail 1:50": Regime(imbalance=50.0),
}


@dataclass(frozen=True)
class Design:
    """One experiment: its data, networks, schedules, and what is compared on them.

    subset: training images by regime, None: all; a long tail leaves about a third of its own.
    pairs: (teacher seed, student seed), in the order in which they are run; the teacher's is the data's too.
    held_out: share of the training images for calibration, and as much for validation.
    special: what is compared in a regime, or with a teacher, alone.
    duels: strategies to compare two at a time, the first with the second, over all settings.
    teacher, student: `Training` parameters; `cuda_graphs` is chosen by the device.
    channels_last: on a processor, where it slows the smallest networks; on a GPU always.
    """

    settings: tuple[Setting, ...]
    pairs: tuple[tuple[int, int], ...]
    arms: tuple[Arm, ...]
    image_size: int
    subset: dict[str, int]
    held_out: float
    depth: int
    widths: tuple[int, int, int]
    ratio: float
    round_to: int
    teacher: dict[str, Any]
    student: dict[str, Any]
    folds: int = 5
    special: dict[str, tuple[Arm, ...]] = field(default_factory=dict)
    duels: tuple[tuple[str, str], ...] = ()
    channels_last: bool = False

    @property
    def regimes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(setting.regime for setting in self.settings))

    def arms_of(self, setting: Setting) -> tuple[Arm, ...]:
        """The strategies to compare in a setting."""
        return self.arms + self.special.get(setting.regime, ()) + self.special.get(setting.teacher, ())

    def strategies(self) -> tuple[str, ...]:
        """The names of all strategies, those of single settings last."""
        return tuple(
            dict.fromkeys(arm.name for arms in (self.arms, *map(self.arms_of, self.settings)) for arm in arms)
        )

    def cells(self) -> Iterator[Cell]:
        """All cells: every setting with the first seeds, then with the second, and so on."""
        for teacher_seed, student_seed in self.pairs:
            for setting in self.settings:
                yield Cell(setting, teacher_seed, student_seed)

    def first_student(self, teacher_seed: int) -> int:
        """The student seed with which w0 is measured for all students of a teacher."""
        return next(student for teacher, student in self.pairs if teacher == teacher_seed)

    def data(self, regime: str) -> Data:
        return Data(
            source="cifar10",
            image_size=self.image_size,
            splits=Splits(calibration=self.held_out, validation=self.held_out),
            regime=REGIMES[regime].model_copy(update={"subset": self.subset.get(regime)}),
        )

    def distill(self, regime: str, arm: Arm) -> Distill:
        """An arm's parameters; on the long tail every strategy has logit adjustment."""
        epochs = round(self.student["epochs"] * arm.longer)
        training = Training.model_validate(self.student | {"epochs": epochs})
        given = {"logit_adjustment": "on" if "long tail" in regime else "off"} | arm.distill
        return Distill(**given, training=training)

    @property
    def digest(self) -> str:
        """Of what all networks share: runs of other data, networks or trainings are not resumed."""
        regimes = {name: self.data(name).model_dump(mode="json") for name in self.regimes}
        shared = (self.depth, self.widths, self.ratio, self.round_to, self.teacher, self.student, self.folds)
        return digest(regimes, shared)


GRID_TRAINING: dict[str, Any] = {
    "precision": "fp32",
    "batch_size": 128,
    "learning_rate": 0.1,
    "weight_decay": 5e-4,
    "augment": {"crop_padding": 2, "flip": True},
}
GRID = Design(
    settings=(
        *(Setting(regime, teacher) for regime in REGIMES for teacher in ("in-sample", "cross-fitted")),
        Setting("clean", "weak"),
        Setting("clean", "biased"),
    ),
    pairs=((0, 0), (1, 1), (0, 2), (2, 3), (2, 4)),
    arms=ARMS,
    special={"long tail 1:50": (NO_SHIFT,), "symmetric 20 %": (NO_Q,), "symmetric 40 %": (NO_Q,)},
    duels=(
        *((AKGP_LOW.name, rival) for rival in ("fixed 0.1", "fixed 0.7", SEARCHED, "0.7 + q, longer")),
        ("0.3 + q", "fixed 0.3"),
        ("0.7 + q", "fixed 0.7"),
    ),
    image_size=16,
    subset=dict.fromkeys(REGIMES, 7000) | {"long tail 1:50": 25_000},
    held_out=0.14,
    depth=8,
    widths=(24, 48, 96),
    ratio=0.5,
    round_to=4,
    teacher={"epochs": 30, "keep": "best"} | GRID_TRAINING,
    student={"epochs": 16, "keep": "last"} | GRID_TRAINING,
)
"""Every strategy in every setting, on a part of the images and a small network."""

LONGER = 1.3
"""What `akgp` costs that measures w0 by branches, and for how long its rivals may train."""
ANSWERS = Arm("akgp, w0 from answers", LOW, measured="answers")
ANSWERS_LONGER = replace(ANSWERS, name=f"{ANSWERS.name}, longer", longer=LONGER)
BOTH = Arm("akgp, branches from answers", LOW, measured="both")
LABEL_HEAVY, TEACHER_HEAVY = "fixed 0.1, longer", "0.7 + q, longer"
LONG = replace(
    GRID,
    settings=(
        *(Setting("clean", teacher) for teacher in ("in-sample", "weak", "strong", "biased", "large")),
        *(Setting(regime, "in-sample") for regime in ("symmetric 40 %", "asymmetric 30 %", "long tail 1:50")),
        *(Setting(regime, "cross-fitted") for regime in ("clean", "symmetric 40 %")),
        *(Setting("clean", teacher) for teacher in ("several", "unequal")),
    ),
    pairs=((0, 0), (1, 1), (0, 2)),
    arms=(
        *fixed(0.0, 0.1, 0.3, 0.7, 0.9),
        ANSWERS,
        AKGP_LOW,
        Arm(LABEL_HEAVY, {"strategy": "fixed", "w0": 0.1}, longer=LONGER),
        Arm(TEACHER_HEAVY, HIGH, longer=LONGER),
        ANSWERS_LONGER,
    ),
    special={
        "in-sample": (Arm("self", {"strategy": "self_distillation"}),),
        **dict.fromkeys(("weak", "strong", "biased", "large"), (BOTH,)),
        **dict.fromkeys(
            ("several", "unequal"),
            (Arm("confidence", {"strategy": "ca_mkd"}), Arm("learned", {"strategy": "amtml_kd"})),
        ),
    },
    duels=(
        (LABEL_HEAVY, "fixed 0.1"),
        (ANSWERS_LONGER.name, ANSWERS.name),
        *((ANSWERS.name, f"fixed {w:g}") for w in (0.0, 0.1, 0.3, 0.7)),
        (ANSWERS.name, SEARCHED),
        *((ANSWERS_LONGER.name, rival) for rival in (LABEL_HEAVY, TEACHER_HEAVY, AKGP_LOW.name, SEARCHED)),
        *((AKGP_LOW.name, rival) for rival in (LABEL_HEAVY, TEACHER_HEAVY)),
    ),
    teacher=GRID.teacher | {"precision": "bf16"},
    student=GRID.student | {"precision": "bf16", "epochs": 32},
)
"""At equal compute, and at twice the schedule: does a costlier strategy win over one that trains longer?"""

FULL_TRAINING: dict[str, Any] = {
    "batch_size": 256,
    "learning_rate": 0.2,
    "weight_decay": 5e-4,
    "augment": {"crop_padding": 4, "flip": True},
}
FULL = Design(
    settings=tuple(
        Setting(regime, teacher)
        for regime in ("clean", "symmetric 40 %")
        for teacher in ("in-sample", "large")
    ),
    pairs=((0, 0), (1, 1), (0, 2), (1, 3)),
    arms=(*fixed(0.0, 0.7, 0.9), ANSWERS),
    special={"in-sample": (AKGP_LOW,)},
    image_size=32,
    subset={},
    held_out=0.1,
    depth=32,
    widths=(16, 32, 64),
    ratio=0.5,
    round_to=8,
    teacher={"epochs": 40, "keep": "best"} | FULL_TRAINING,
    student={"epochs": 32, "keep": "last"} | FULL_TRAINING,
    duels=tuple((ANSWERS.name, f"fixed {w:g}") for w in (0.0, 0.7, 0.9)),
    channels_last=True,
)
"""The confirmation: ResNet-32 pruned to half its filters, all images; for a GPU."""

DESIGNS = {"grid": GRID, "long": LONG, "full": FULL}


def folder_name(*parts: object) -> str:
    return "-".join(" ".join(map(str, parts)).replace("%", "").replace(":", "-").split())


def digest(*said: Any) -> str:
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:8]
