"""HetComp: Distillation from Heterogeneous Models for Top-K Recommendation.

    python -m experiments.run ensemble --jobs 1           # six teachers, with states
    python -m experiments.run compression --seeds 0-2     # students of d = 6 and 20
    python -m experiments.run construction                # what the method consists of

The paper's tables are not public, so nothing is printed beside ours. What is known of it: students
of d = 6 learn from the states of six unlike teachers, on 60/20/20 of each user's items; its README
has curves of the test recall of a student without distillation, of DCD and of HetComp, and says
that RRD, MTD, CL-DRD and DCD are compared without the sampling of top-ranked items.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import figures
from experiments.claims import above
from experiments.evidence import Evidence, Place, minutes
from experiments.paper import Claim, Experiment, Paper, View, beside
from experiments.papers import derrd
from experiments.plan import STUDENT, TEACHER, Cell, changed, planned
from experiments.results import markdown_table, mean_of, read_curves
from experiments.settings import SIZES
from experiments.tables import contrasts_table
from experiments.teacher import KINDS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = ("R@10", "N@10", "R@50", "N@50")
MODEL = "BPR"  # of all students
PHIS = {6: 0.03, 20: 0.1}  # d: share of BPR's d = 200; the published code has 6
NOTE = (
    "Nothing of the paper's is beside it: its tables, its teachers and the epochs of their states "
    "are not public. Teachers, states and the importance of a place in their lists are our choice."
)


def _of_kind(kind: str) -> Cell:
    """Return the teacher of a kind, which keeps four states."""
    model = KINDS[kind]
    size = SIZES[model]["teacher_dim"]
    cell = changed(TEACHER, f"{kind}: {model}, d = {size}", split="share", model=model)
    return replace(cell, phi=size / SIZES[MODEL]["teacher_dim"], keeps=(("keep_states", 4),))


def _taught(cell: Cell, label: str, name: str = "six", **changes: Any) -> Cell:
    """Return a cell that learns from all six teachers."""
    six = ",".join(KINDS)
    return changed(cell, label, split="share", teachers=six, name=name, **changes)


TEACHERS = [_of_kind(kind) for kind in KINDS]
ALONE = changed(STUDENT, "w/o KD", split="share")
DCD = _taught(Cell("", "DCD"), "DCD", sampling="top")
HETCOMP = _taught(Cell("", "HetComp"), "HetComp")
COMPARED = [
    _taught(derrd.RRD, "RRD", interesting="top"),
    _taught(Cell("", "MTD"), "MTD"),
    _taught(Cell("", "CLDRD"), "CL-DRD"),
    DCD,
]
PARTS = [
    _taught(HETCOMP, "a state every p epochs", "six-scheduled", construction="scheduled"),
    _taught(HETCOMP, "the last states from the start", "six-final", construction="final"),
    _taught(HETCOMP, "the first stage alone", "six-overall", stages="overall"),
    _taught(HETCOMP, "the second stage alone", "six-rank", stages="rank"),
    _taught(HETCOMP, "with the base model's loss", "six-base", base_loss=True, batch_size=1024),
]


def of_sizes(cells: Iterable[Cell]) -> list[Cell]:
    """Return cells of each size of the student."""
    cells = list(cells)
    return [replace(cell, phi=phi) for phi in PHIS.values() for cell in cells]


def against(_: Evidence, place: Place) -> Place | None:
    """Return what a cell is compared with: parts with the whole, students with that without KD."""
    if place.cell.method == "no_KD":
        return None
    is_part = place.cell.label in [cell.label for cell in PARTS]
    return beside(place, HETCOMP if is_part else ALONE)


# --- tables and figures --------------------------------------------------------------------------


def _size(view: View, cell: Cell) -> str:
    return str(planned(cell, view.dataset, view.model, 0).settings.dim)


def _scores(found: Iterable[dict[str, float]]) -> list[str]:
    """Return the means of metrics over runs; empty texts if there are none."""
    found = list(found)
    return [mean_of(each[m] for each in found) if found else "" for m in METRICS]


def sizes_table(view: View) -> str:
    """Return the teachers, all of them as one, and students: parameters, scores and minutes."""
    table = [["", "d", "parameters", "runs", *METRICS, "minutes"]]
    for cell in view.cells:
        runs = list(view.runs(cell).values())
        line = [cell.label, _size(view, cell)]
        if not runs:
            table.append([*line, "", "0", "not run", *[""] * len(METRICS)])
            continue
        line += [f"{runs[0]['num_parameters'] / 1e6:.3f} M", str(len(runs))]
        line += _scores(run["test"] for run in runs)
        table.append([*line, f"{np.mean(minutes(runs)):.1f}"])
    ensembles = _ensembles(view)
    if ensembles:
        found = [{m: each["metrics"][f"test_{m}"] for m in METRICS} for each in ensembles]
        row = ["all six as one", "", "", str(len(found)), *_scores(found), ""]
        table.insert(1 + sum(cell in TEACHERS for cell in view.cells), row)
    return f"{NOTE}\n\n{markdown_table(table)}"


def _ensembles(view: View) -> list[dict[str, Any]]:
    """Return what a student's runs have kept of their ensemble, one of each split."""
    found: dict[int, dict[str, Any]] = {}
    for cell in of_sizes([HETCOMP, *COMPARED]):
        for seed, run in view.runs(cell).items():
            found.setdefault(seed, run["folder"].read_config()["teachers"][0])
    return list(found.values())


def questions() -> Iterator[tuple[str, Cell, Cell]]:
    """Yield what students are compared for."""
    for d, phi in PHIS.items():
        whole = replace(HETCOMP, phi=phi)
        for cell in (ALONE, *COMPARED):
            yield f"d = {d}: HetComp - {cell.label}", whole, replace(cell, phi=phi)


def differences_table(view: View) -> str:
    """Return HetComp beside each comparison."""
    return contrasts_table(view, questions(), "difference")


def recall_figure(view: View) -> "Figure | None":
    """Draw the test recall against epochs, as the authors' README does; None without all lines."""
    panels: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for d, phi in PHIS.items():
        cells = [replace(cell, phi=phi) for cell in (ALONE, DCD, HETCOMP)]
        found = [view.runs(cell) for cell in cells]
        common = sorted(set.intersection(*map(set, found)))
        if common:
            runs = [each[common[0]] for each in found]
            curves = [read_curves(run["folder"].curves) for run in runs]
            panels[f"d = {d}, split {common[0]}"] = {
                cell.label: (curve["epoch"], curve[f"test_{view.paper.metric}"])
                for cell, curve in zip(cells, curves, strict=True)
            }
    return figures.epoch_curves(panels, f"test {view.paper.metric}") if panels else None


# --- the paper -----------------------------------------------------------------------------------

CLAIMS = [
    Claim(
        f"HetComp is above {other.label}, d = {d}",
        "README, 2", "compression",
        above(MODEL, [replace(HETCOMP, phi=phi)], [replace(other, phi=phi)]),
    )
    for d, phi in PHIS.items()
    for other in (ALONE, DCD)
]  # fmt: skip

PAPER = Paper(
    name="hetcomp",
    title="the HetComp paper",
    metric="R@50",
    settings=[("CiteULike", MODEL)],
    experiments={
        "ensemble": Experiment(
            "Six unlike teachers, and all of them as one",
            TEACHERS,
            tables=[sizes_table],
            splits=3,
        ),
        "compression": Experiment(
            "Six teachers in one small student",
            [*TEACHERS, *of_sizes([ALONE, *COMPARED, HETCOMP])],
            tables=[sizes_table, differences_table],
            figure=recall_figure,
            splits=3,
        ),
        "construction": Experiment(
            "Parts of HetComp",
            [replace(cell, phi=PHIS[6]) for cell in (HETCOMP, *PARTS)],
            tables=[sizes_table],
            splits=3,
        ),
    },
    claims=CLAIMS,
    overview=["compression"],
    against=against,
)
