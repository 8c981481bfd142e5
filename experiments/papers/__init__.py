"""The papers whose experiments are here: each module of this package is one, and has ``PAPER``.

A name with an underscore is no paper's: ``<paper>_<part>.py`` is a part of that paper.
"""

import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from experiments.claims import Claim
from experiments.evidence import Evidence, Place
from experiments.plan import PUBLISHED, STUDENT, TEACHER, Cell
from experiments.tables import View, comparison
from Utils.errors import UserError, require_known

if TYPE_CHECKING:  # what draws nothing does without
    from matplotlib.figure import Figure


class Afterwards(NamedTuple):
    """What ``python -m module`` makes of the runs: a file below ``logs/``.

    Of a teacher, it is made for each seed from its weights, and ``file`` lies beside its logs. The
    data set and the base model may stand in ``file`` as ``{dataset}`` and ``{model}``.
    """

    module: str
    file: str
    of_teacher: bool = False
    minutes: float | None = None  # estimated; None: nobody knows


@dataclass(frozen=True)
class Experiment:
    """A table or a figure of a paper: which runs it is made of, and what is made of them."""

    title: str
    cells: Sequence[Cell]
    # shown beside the paper's; none: the main one alone
    metrics: Sequence[str] = ()
    # each returns Markdown
    tables: Sequence[Callable[[View], str]] = (comparison,)
    # None of what was not run
    figure: Callable[[View], "Figure | None"] | None = None
    afterwards: Sequence[Afterwards] = ()
    # of our own, seeds from 0, that it is to be run on; 0: not on our own
    splits: int = 5


def beside(place: Place, other: Cell) -> Place:
    """Return the place of another cell, of the size and the split of this one."""
    split = tuple(pair for pair in place.cell.changes if pair[0] in dict(PUBLISHED))
    return place._replace(cell=replace(other, phi=place.cell.phi, changes=split))


def beside_student(_: Evidence, place: Place) -> Place | None:
    """Return the student that a cell is compared with; None for student and teacher themselves."""
    if place.cell.label in (TEACHER.label, STUDENT.label):
        return None
    return beside(place, STUDENT)


@dataclass(frozen=True)
class Paper:
    """What a paper has, and what it says."""

    # that of its module
    name: str
    # in a sentence, such as "the X paper"
    title: str
    # the one that claims, figures and gains are of, such as "H@5"
    metric: str
    # data sets and base models, the main ones first
    settings: Sequence[tuple[str, str]]
    experiments: dict[str, Experiment]
    claims: Sequence[Claim] = ()
    # experiments whose tables are in results/README.md
    overview: Sequence[str] = ()
    # the experiment of which the README has a table and a figure, if any
    headline: str = ""
    # (experiment, cell, metric) -> what the paper has, and what is wrong with it; empty: nothing
    printed: Callable[[str, Place, str], tuple[float | str, str]] = lambda *_: ("", "")
    # what a cell is compared with; None: with nothing
    against: Callable[[Evidence, Place], Place | None] = beside_student
    # data set -> why its numbers are not the paper's
    notes: Mapping[str, str] = field(default_factory=dict)

    def effect(self, terms: Iterable[tuple[float, Place]]) -> float | None:
        """Return the paper's weighted sum of cells' main metrics.

        None if it lacks one, if one is flagged, or if its data set is another than ours of that
        name.
        """
        total = 0.0
        for weight, place in terms:
            value, flag = self.printed("", place, self.metric)
            if value == "" or flag or place.dataset in self.notes:
                return None
            total += weight * value
        return total


@cache
def papers() -> dict[str, Paper]:
    """Return the papers by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    found = [import_module(f"{__name__}.{name}").PAPER for name in names if "_" not in name]
    return {paper.name: paper for paper in found}


def find(name: str) -> tuple[Paper, str]:
    """Return an experiment's paper and its name there.

    ``name`` is ``<paper>/<experiment>``, or ``<experiment>`` alone where one paper has it.

    Raises
    ------
    UserError
        If there is none of this name, or more than one.
    """
    every = {
        f"{paper.name}/{e}": (paper, e) for paper in papers().values() for e in paper.experiments
    }
    fitting = [full for full, (_, alone) in every.items() if name in (full, alone)]
    if len(fitting) > 1:
        raise UserError(f"experiment {name!r} is of several papers: {'; '.join(fitting)}")
    if not fitting:
        require_known("experiment", name, names())
    return every[fitting[0]]


def names() -> list[str]:
    """Return the experiments as short as they can be called, paper by paper."""
    every = [(paper.name, e) for paper in papers().values() for e in paper.experiments]
    alone = [e for _, e in every]
    return [e if alone.count(e) == 1 else f"{paper}/{e}" for paper, e in every]
