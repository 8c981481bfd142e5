"""The cells that tables and figures are made of, and the run of a script that each of them is."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from experiments.settings import SIZES, load_script, resolve
from experiments.teacher import checkpoints_of
from Models import MODELS
from Models.recommender import Recommender
from Utils.errors import UserError, require_known
from Utils.run_folder import RunFolder


@dataclass(frozen=True)
class Cell:
    """What a table's row, or a figure's point, is made of: a method and what differs for it.

    ``phi`` is the student's parameters as a share of the teacher's. ``changes`` are settings of the
    script that are not those of the table of tuned settings, as pairs of name and value; a value
    may be a function of the base model, and ``{seed}`` and ``{dataset}`` in it are the run's.
    Unless there is a ``name`` among them, they make the run's name. ``keeps`` are such settings
    that change no number but say what a run keeps. A cell that ``needs_factors`` is not on other
    base models.
    """

    label: str
    method: str
    phi: float = 0.1
    changes: tuple[tuple[str, Any], ...] = ()
    keeps: tuple[tuple[str, Any], ...] = ()
    needs_factors: bool = False


TEACHER, STUDENT = Cell("Teacher", "no_KD", phi=1.0), Cell("Student", "no_KD")
# the split that a paper's authors have published, and the rule of their code
PUBLISHED = (("split", "published"), ("selection", "published_code"))


def changed(cell: Cell, label: str = "", **changes: Any) -> Cell:
    """Return a cell with further settings of its own; without ``label``, the label says which."""
    said = ", ".join(f"{name} = {value:g}" for name, value in changes.items() if not label)
    every = dict(cell.changes) | changes
    return replace(cell, label=label or f"{cell.label}, {said}", changes=tuple(every.items()))


@dataclass(frozen=True)
class PlannedRun:
    """A run of a script: its settings, complete, and where it is."""

    cell: Cell
    settings: Any
    folder: RunFolder
    flags: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        """The shell command, without ``python``, and without where it runs."""
        return [f"main_{self.cell.method}.py", *self.flags]

    def is_done(self) -> bool:
        """Return whether it has finished; raise ``UserError`` if its folder holds another run."""
        if not self.folder.summary.exists():
            return False
        self.folder.refuse_other(self.settings)
        return True

    def teachers(self, others: Iterable["PlannedRun"] = ()) -> list["PlannedRun"]:
        """Return the runs that train its teachers: the usual one, or those of ``others`` it names.

        None for a run that has no teacher, and where another command makes it.
        """
        mine = self.settings
        if not hasattr(mine, "teacher_dim"):
            return []
        if mine.split == "published":  # seeds are of training there, and one teacher teaches all
            return [planned(replace(TEACHER, changes=PUBLISHED), mine.dataset, mine.model, 0)]
        named = mine.teacher or mine.teachers
        if named:
            folders = {checkpoints_of(name, mine) for name in named.split(",")}
            return [run for run in others if run.folder.checkpoints in folders]
        split = tuple(pair for pair in self.cell.changes if pair[0] == "split")
        return [planned(replace(TEACHER, changes=split), mine.dataset, mine.model, mine.seed)]


def has_factors(model: str) -> bool:
    """Return whether a base model's scores are inner products of vectors that it keeps."""
    return MODELS[model].assign is not Recommender.assign


def cells_on(model: str, cells: Iterable[Cell]) -> list[Cell]:
    """Return those of some cells that a base model can have."""
    return [cell for cell in cells if has_factors(model) or not cell.needs_factors]


def planned(cell: Cell, dataset: str, model: str, seed: int) -> PlannedRun:
    """Return the run of a cell on a split of a data set.

    Changes that equal the tuned settings are none: such a point shares the run of the method.
    """
    kind = load_script(cell.method).Settings
    dim = round(cell.phi * SIZES[model]["teacher_dim"])
    flags: dict[str, Any] = {"dataset": dataset, "model": model, "seed": seed, "dim": dim}
    usual = resolve(kind, flags)[0]
    changes, keeps = (_unusual(usual, pairs, seed) for pairs in (cell.changes, cell.keeps))
    flags |= changes | keeps
    if changes.get("split") == "published" and seed and hasattr(usual, "teacher"):
        teacher = planned(replace(TEACHER, changes=PUBLISHED), dataset, model, 0)
        flags["teacher"] = str(teacher.folder.checkpoints)
    name = [
        value.replace(",", "-") if isinstance(value, str) else f"{key}-{value:g}"
        for key, value in changes.items()
        if key not in ("split", "selection", "model")
    ]
    if name and "name" not in changes:
        flags["name"] = "-".join(name)
    settings = resolve(kind, flags)[0]
    given = (f"--{name}" + f"={value}" * (value is not True) for name, value in flags.items())
    return PlannedRun(cell, settings, RunFolder.of(settings), tuple(given))


def _unusual(usual: Any, pairs: Iterable[tuple[str, Any]], seed: int) -> dict[str, Any]:
    """Return those of a cell's settings, on the base model of the usual ones, that differ."""
    values = {key: value(usual.model) if callable(value) else value for key, value in pairs}
    values = {
        key: value.format(seed=seed, dataset=usual.dataset) if isinstance(value, str) else value
        for key, value in values.items()
    }
    return {key: value for key, value in values.items() if getattr(usual, key) != value}


def plan(
    cells: Iterable[Cell],
    dataset: str,
    model: str,
    seeds: Iterable[int],
    labels: Iterable[str] = (),
) -> list[PlannedRun]:
    """Return the runs of an experiment's cells, seed by seed; of those named ``labels``, if any.

    Raises
    ------
    UserError
        If there is no such base model or cell, or none that the base model can have.
    """
    require_known("--model", model, SIZES)
    cells = cells_on(model, cells)
    if not cells:
        raise UserError(f"{model} can have none of it: all is of base models that keep factors")
    for label in labels:
        require_known("--methods", label, (cell.label for cell in cells))
    chosen = [cell for cell in cells if cell.label in (labels or (cell.label,))]
    runs = [planned(cell, dataset, model, seed) for seed in seeds for cell in chosen]
    # points of a grid may be the same run, and one teacher is for all seeds of a published split
    return list({run.folder: run for run in runs if not _has_another_seeds_teacher(run)}.values())


def _has_another_seeds_teacher(run: PlannedRun) -> bool:
    settings = run.settings
    return run.cell.label == TEACHER.label and settings.split == "published" and settings.seed != 0
