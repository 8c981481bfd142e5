"""Which runs make each table and figure: the DE-RRD paper's, and those of our own method."""

import importlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments.settings import SIZES, resolve
from Models import MODELS
from Models.recommender import Recommender
from Utils.errors import UserError, require_known
from Utils.run import refuse_other_settings, run_folder

ROOT = Path(__file__).resolve().parents[1]
PHIS = (0.1, 0.5, 1.0)  # the student's parameters as a share of the teacher's
SIZE_PHIS = (0.05, 0.1, 0.2, 0.5, 1.0)  # for BPR: d = 10, 20, 40, 100, 200


@dataclass(frozen=True)
class Cell:
    """What a table's row, or a figure's point, is made of: a method and what differs for it.

    ``changes`` are settings of the script that are not those of the table of tuned settings, as
    pairs of name and value.
    """

    label: str
    method: str
    phi: float = 0.1
    changes: tuple[tuple[str, Any], ...] = ()


TEACHER, STUDENT = Cell("Teacher", "no_KD", phi=1.0), Cell("Student", "no_KD")
DE, RRD, DE_RRD = Cell("DE", "DE"), Cell("RRD", "URRD"), Cell("DE-RRD", "DERRD")
SVD, IR_RRD, S2D = Cell("SVD", "SVD"), Cell("IR-RRD", "IRRRD"), Cell("S2D", "S2D")
# as in the paper's table 2; IR-RRD is of a later paper, SVD and S2D are ours
METHODS = [
    *(STUDENT, Cell("RD", "RD"), Cell("CD", "CD"), DE, RRD, DE_RRD),
    *(SVD, IR_RRD, S2D),
]


def _changed(cell: Cell, label: str = "", **changes: Any) -> Cell:
    said = ", ".join(f"{name} = {value:g}" for name, value in changes.items() if not label)
    return replace(cell, label=label or f"{cell.label}, {said}", changes=tuple(changes.items()))


ATTENTION, ONE_LARGE, ONE_SMALL = (
    _changed(DE, f"DE ({letter}) {label}", expert_selection=kind)
    for letter, label, kind in (
        ("a", "Attention", "attention"),
        ("b", "One expert (large)", "one_large"),
        ("c", "One expert (small)", "one_small"),
    )
)
FULL, INTERESTING = (
    _changed(RRD, f"RRD ({letter}) {label}", ranking=kind)
    for letter, label, kind in (
        ("d", "Full ranking", "full"),
        ("e", "Interesting ranking", "interesting"),
    )
)
# loss -> its cell from a random start and from a spectral one; the first two have no teacher in
# the loss. BPR from a spectral start is RRD without weight. What was searched for each is said in
# the README.
CONTROLS = {
    "BPR": (STUDENT, _changed(RRD, "BPR, spectral", start="spectral", lmbda_RRD=0.0, K=1, L=1)),
    "softmax, no teacher": (
        _changed(S2D, "softmax, no teacher, random", start="random", w=1.0, reg=0.01),
        _changed(S2D, "softmax, no teacher, spectral", w=1.0, reg=0.001),
    ),
    "RRD": (RRD, _changed(RRD, "RRD, spectral", start="spectral", reg=1e-4)),
    "DE-RRD": (
        _changed(DE_RRD, "DE-RRD, random", lr=0.003),
        _changed(DE_RRD, "DE-RRD, spectral", start="spectral"),
    ),
    "S2D": (_changed(S2D, "S2D, random", start="random", reg=1e-4), S2D),
}
SAMPLED = _changed(S2D, "S2D, sampled softmax", num_samples=1000)
PUBLISHED = (("split", "published"), ("selection", "published_code"))
LAMBDAS = (1e-4, 1e-3, 1e-2, 1e-1)

EXPERIMENTS: dict[str, list[Cell]] = {
    "table2": [TEACHER, *METHODS],
    "figure4": [TEACHER, *(replace(cell, phi=phi) for cell in METHODS[:6] for phi in PHIS)],
    "table3": [TEACHER, *(replace(DE_RRD, phi=phi) for phi in PHIS)],
    "table4": [STUDENT, DE, ATTENTION, ONE_LARGE, ONE_SMALL, RRD, FULL, INTERESTING],
    "table5": [_changed(DE_RRD, lmbda_DE=de, lmbda_RRD=rrd) for de in LAMBDAS for rrd in LAMBDAS],
    "figure5": [STUDENT, ATTENTION, ONE_LARGE, DE],
    "figure6": [DE],
    "figure7": [
        STUDENT,
        *(_changed(DE, lmbda_DE=value) for value in LAMBDAS),
        *(_changed(DE, num_experts=value) for value in (5, 10, 20, 30)),
        *(_changed(RRD, lmbda_RRD=value) for value in LAMBDAS),
        *(_changed(RRD, K=value, L=value) for value in (10, 20, 30, 40, 50)),
    ],
    "controls": [TEACHER, *(cell for pair in CONTROLS.values() for cell in pair), SAMPLED],
    "sizes": [
        TEACHER,
        *(replace(c, phi=p) for c in (STUDENT, DE_RRD, S2D, SVD) for p in SIZE_PHIS),
    ],
    # the runs whose learning curves the authors published, and DE-RRD and SVD beside them
    "curves": [
        replace(cell, changes=PUBLISHED)
        for cell in (TEACHER, *METHODS)
        if cell.label not in ("RD", "CD")
    ],
}


@dataclass(frozen=True)
class PlannedRun:
    """A run of a script: its settings, complete, and its folder below ``logs/``."""

    cell: Cell
    settings: Any
    folder: Path
    flags: tuple[str, ...]

    @property
    def summary(self) -> Path:
        """The file that a finished run has."""
        return "logs" / self.folder / "summary.json"

    @property
    def weights(self) -> Path:
        """The weights that a finished run leaves, not under version control."""
        return "checkpoints" / self.folder / "best.pt"

    @property
    def command(self) -> list[str]:
        """The shell command, without ``python``, and without where it runs."""
        return [f"main_{self.cell.method}.py", *self.flags]

    def is_done(self) -> bool:
        """Return whether it has finished; raise ``UserError`` if its folder holds another run."""
        if not self.summary.exists():
            return False
        refuse_other_settings(self.summary.parent, self.settings)
        return True

    def teacher(self) -> "PlannedRun | None":
        """Return the run that trains the teacher; None for one that has no teacher."""
        if not hasattr(self.settings, "teacher_dim"):
            return None
        mine = self.settings
        if mine.split == "published":  # seeds are of training there, and one teacher teaches all
            return planned(replace(TEACHER, changes=PUBLISHED), mine.dataset, mine.model, 0)
        return planned(TEACHER, mine.dataset, mine.model, mine.seed)


def load_script(method: str) -> ModuleType:
    """Return the module of ``main_<method>.py``."""
    require_known("method", method, (path.stem[5:] for path in ROOT.glob("main_*.py")))
    return importlib.import_module(f"main_{method}")


def has_factors(model: str) -> bool:
    """Return whether a base model's scores are inner products of vectors that it keeps."""
    return MODELS[model].assign is not Recommender.assign


def cells_of(experiment: str, model: str) -> list[Cell]:
    """Return an experiment's cells that a base model can have.

    SVD and a spectral start need a student of inner products, which S2D's always is; figure 6 needs
    users who have experts of their own.
    """
    if has_factors(model):
        return EXPERIMENTS[experiment]
    cells = [
        cell
        for cell in EXPERIMENTS[experiment]
        if cell.method != "SVD" and ("start", "spectral") not in cell.changes
    ]
    return cells if experiment != "figure6" else []


def planned(cell: Cell, dataset: str, model: str, seed: int) -> PlannedRun:
    """Return the run of a cell on a split of a data set.

    Changes that equal the tuned settings are none: such a point shares the run of the method.
    """
    kind = load_script(cell.method).Settings
    dim = round(cell.phi * SIZES[model]["teacher_dim"])
    flags: dict[str, Any] = {"dataset": dataset, "model": model, "seed": seed, "dim": dim}
    usual = resolve(cell.method, kind(**flags))[0]
    changes = {key: value for key, value in cell.changes if getattr(usual, key) != value}
    flags |= changes
    selects = changes.get("expert_selection", "gumbel") in ("gumbel", "attention")
    if hasattr(usual, "save_selection") and has_factors(model) and selects:
        flags["save_selection"] = "0,20,-1"  # which expert is whose, for figure 6
    if changes.get("split") == "published" and seed and hasattr(usual, "teacher"):
        teacher = planned(replace(TEACHER, changes=PUBLISHED), dataset, model, 0)
        flags["teacher"] = str(teacher.weights.parent)
    name = [
        value if isinstance(value, str) else f"{key}-{value:g}"
        for key, value in changes.items()
        if key not in ("split", "selection")
    ]
    if name:
        flags["name"] = "-".join(name)
    settings = resolve(cell.method, kind(**flags))[0]
    split = "published" if settings.split == "published" else f"seed{seed}"
    folder = run_folder(settings, cell.method, split)
    return PlannedRun(cell, settings, folder, tuple(f"--{k}={v}" for k, v in flags.items()))


def plan(
    experiment: str, dataset: str, model: str, seeds: Iterable[int], labels: Iterable[str] = ()
) -> list[PlannedRun]:
    """Return the runs of an experiment, seed by seed; of the cells named ``labels``, if any.

    Raises
    ------
    UserError
        If there is no such experiment, base model or cell.
    """
    require_known("experiment", experiment, EXPERIMENTS)
    require_known("--model", model, SIZES)
    cells = cells_of(experiment, model)
    if not cells:
        raise UserError(f"{experiment} is of base models that encode users apart, not of {model}")
    for label in labels:
        require_known("--methods", label, (cell.label for cell in cells))
    runs = [
        planned(cell, dataset, model, seed)
        for seed in seeds
        for cell in cells
        if cell.label in (labels or (cell.label,))
    ]
    # one teacher on the published split, and points of a grid that are the same run
    runs = [
        r
        for r in runs
        if not (r.cell.label == "Teacher" and r.settings.split == "published" and r.settings.seed)
    ]
    return list({run.folder: run for run in runs}.values())
