"""What a paper is here: experiments made of cells, claims, printed values."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments.evidence import Evidence, Place
from experiments.plan import PUBLISHED, STUDENT, TEACHER, Cell, cells_on

if TYPE_CHECKING:  # what draws nothing does without
    from matplotlib.figure import Figure

HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided", "not run"


class Finding(NamedTuple):
    """A verdict and what it rests on."""

    verdict: str
    detail: str


Check = Callable[["Paper", Evidence, str], Finding]  # of a paper, on a data set


class Claim(NamedTuple):
    """A sentence of a paper, and whether our runs bear it out."""

    text: str
    section: str
    experiment: str
    check: Check
    measured_on: str = ""  # the one data set that the paper has it on; empty: all of its own

    def text_on(self, dataset: str) -> str:
        """Return the claim, and where the paper measured it if that is another data set."""
        elsewhere = self.measured_on not in ("", dataset)
        return self.text + f" (the paper: on {self.measured_on})" * elsewhere


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
    # each returns Markdown; none: the comparison with the paper
    tables: Sequence[Callable[["View"], str]] = ()
    # None of what was not run
    figure: Callable[["View"], "Figure | None"] | None = None
    afterwards: Sequence[Afterwards] = ()
    # of our own, seeds from 0, that it is to be run on; 0: not on our own
    splits: int = 5


def beside(place: Place, other: Cell) -> Place:
    """Return the place of another cell, of the size and the split of this one."""
    split = tuple(pair for pair in place.cell.changes if pair[0] in dict(PUBLISHED))
    return place._replace(cell=replace(other, phi=place.cell.phi, changes=other.changes + split))


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


class Row(NamedTuple):
    """A cell's metric, ours and the paper's; a line of the CSV file. Empty texts: no such value."""

    dataset: str
    model: str
    method: str
    phi: float
    metric: str
    runs: int
    mean: float | str
    deviation: float | str
    paper: float | str
    flag: str
    against: str
    gain: float | str
    p_splits: float | str
    p_users: float | str
    no_users: str  # why there is no p_users


@dataclass(frozen=True)
class View:
    """A paper's experiment on a data set and a base model: what tables and figures are made of."""

    paper: Paper
    name: str
    evidence: Evidence
    dataset: str
    model: str

    @property
    def experiment(self) -> Experiment:
        """What the paper has under this name."""
        return self.paper.experiments[self.name]

    @property
    def cells(self) -> list[Cell]:
        """Those that the base model can have."""
        return cells_on(self.model, self.experiment.cells)

    def place(self, cell: Cell) -> Place:
        """Return a cell with this data set and base model."""
        return Place(self.dataset, self.model, cell)

    def runs(self, cell: Cell) -> dict[int, dict[str, Any]]:
        """Return the summaries of a cell's finished runs by seed."""
        return self.evidence.runs(self.place(cell))

    def values(self, cell: Cell) -> dict[int, float]:
        """Return a cell's main metric by seed."""
        return self.evidence.values(self.place(cell), self.paper.metric)

    def shares(self, cell: Cell) -> dict[int, float]:
        """Return a cell's main metric as a share of the teacher's by seed."""
        return self.evidence.shares(self.place(cell), self.paper.metric)

    def printed(self, cell: Cell, metric: str) -> tuple[float | str, str]:
        """Return what the paper has for a cell, and what is wrong with it."""
        return self.paper.printed(self.name, self.place(cell), metric)

    @cached_property
    def rows(self) -> list[Row]:
        """A row for each cell and metric; none if nothing of the experiment was run."""
        metrics = self.experiment.metrics or [self.paper.metric]
        rows = [self._row(cell, metric) for cell in self.cells for metric in metrics]
        return rows if any(row.runs for row in rows) else []

    @property
    def main_rows(self) -> list[Row]:
        """The rows of the main metric."""
        return [row for row in self.rows if row.metric == self.paper.metric]

    def _row(self, cell: Cell, metric: str) -> Row:
        place = self.place(cell)
        values = list(self.evidence.values(place, metric).values())
        other = self.paper.against(self.evidence, place)
        found = other and self.evidence.compare([(1.0, place), (-1.0, other)], metric)
        return Row(
            *(self.dataset, self.model, cell.label, cell.phi, metric, len(values)),
            float(np.mean(values)) if values else "",
            float(np.std(values, ddof=1)) if len(values) > 1 else "",
            *self.printed(cell, metric),
            other.cell.label if found else "",
            *(
                (found.difference, found.p_splits, found.p_users, found.no_users)
                if found
                else ("",) * 4
            ),
        )
