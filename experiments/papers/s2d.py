"""S2D, a method of our own: what it gains and by what, and the size of the student.

    python -m experiments.run controls --seeds 0-4       # start, loss, teacher
    python -m experiments.run sizes
    python -m experiments.run teachers --seeds 0-4       # BPR, iALS, and both as one

It stands beside the methods of the DE-RRD paper, whose values and comparisons hold here, too.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import figures
from experiments.evidence import footnotes, minutes
from experiments.paper import Experiment, View
from experiments.papers import derrd
from experiments.papers.derrd import CONVERGED, DE_RRD, IR_RRD, METHODS, RRD, S2D, SVD, converged_at
from experiments.plan import STUDENT, TEACHER, Cell, changed
from experiments.results import markdown_table, mean_of
from experiments.tables import Contrast, contrast, contrasts_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PHIS = (0.05, 0.1, 0.2, 0.5, 1.0)  # for BPR: d = 10, 20, 40, 100, 200


def _spectral(cell: Cell, label: str, **changes: Any) -> Cell:
    """Return a cell that starts from the teacher's best factors of the student's size."""
    return replace(changed(cell, label, start="spectral", **changes), needs_factors=True)


# loss -> its cell from a random start and from a spectral one; the first two have no teacher in
# the loss. BPR from a spectral start is RRD without weight. What was searched for each is said in
# the README.
CONTROLS = {
    "BPR": (STUDENT, _spectral(RRD, "BPR, spectral", lmbda_RRD=0.0, K=1, L=1)),
    "softmax, no teacher": (
        changed(S2D, "softmax, no teacher, random", start="random", w=1.0, reg=0.01),
        changed(S2D, "softmax, no teacher, spectral", w=1.0, reg=0.001),
    ),
    "RRD": (RRD, _spectral(RRD, "RRD, spectral", reg=1e-4)),
    "DE-RRD": (
        changed(DE_RRD, "DE-RRD, random", lr=0.003),
        _spectral(DE_RRD, "DE-RRD, spectral"),
    ),
    "S2D": (changed(S2D, "S2D, random", start="random", reg=1e-4), S2D),
}
# RRD that learns as far down the teacher's lists as S2D does: T weighs what is drawn
DEEP = [
    changed(RRD, "RRD, T = 100", T=100.0),
    changed(RRD, "RRD, all of the first 300", K=300, interesting="top"),
]
SAMPLED = changed(S2D, "S2D, sampled softmax", num_samples=1000)

# teachers of full size, trained to convergence, by the place of their weights
BPR = replace(CONVERGED, label="BPR, d = 200, converged")
IALS = changed(TEACHER, "iALS, d = 200", model="iALS")
_IALS_AT = "checkpoints/{dataset}/iALS-d200/no_KD/seed{seed}"
FROM_IALS = changed(S2D, "S2D from iALS", teacher=_IALS_AT, name="iALS")
FROM_BOTH = changed(
    S2D, "S2D from BPR + iALS", teachers=f"{converged_at('BPR')},{_IALS_AT}", name="BPR-iALS"
)
TAUGHT = [replace(cell, phi=phi) for phi in (0.1, 0.05) for cell in (FROM_BOTH, FROM_IALS)]


def questions() -> Iterator[Contrast]:
    """Yield what the controls are compared for."""
    for loss, (random, spectral) in CONTROLS.items():
        yield f"the start: {loss}, spectral - random", spectral, random
    for start in (0, 1):
        cells = {loss: pair[start] for loss, pair in CONTROLS.items()}
        where = f"{('random', 'spectral')[start]} start"
        alone = cells["softmax, no teacher"]
        yield f"the teacher: S2D - softmax without a teacher, {where}", cells["S2D"], alone
        for loss in ("RRD", "DE-RRD"):
            yield f"the teacher: {loss} - BPR, {where}", cells[loss], cells["BPR"]
            yield f"the loss, with a teacher: S2D - {loss}, {where}", cells["S2D"], cells[loss]
        yield f"the loss, without: softmax - BPR, {where}", alone, cells["BPR"]
    start_alone = CONTROLS["BPR"][1]
    for loss in ("RRD", "DE-RRD"):
        random = CONTROLS[loss][0]
        yield f"a start in place of a loss: BPR, spectral - {loss}, random", start_alone, random
    yield "a start in place of a loss: BPR, spectral - DE-RRD as published", start_alone, DE_RRD
    yield "the search: DE-RRD, random - as published", CONTROLS["DE-RRD"][0], DE_RRD
    yield "all: S2D - DE-RRD as published", S2D, DE_RRD
    yield "all: S2D - IR-RRD as published", S2D, IR_RRD
    yield "what is left: S2D - teacher", S2D, TEACHER
    for deep in DEEP:
        yield f"how far down: {deep.label} - as published", deep, RRD
        yield f"the loss, as far down: S2D, random - {deep.label}", CONTROLS["S2D"][0], deep
    yield "a sampled softmax - the whole", SAMPLED, S2D


def controls_table(view: View) -> str:
    """Return H@5 of each loss from either start."""
    table = [["loss", "start", "runs", "H@5", "of the teacher's", "best epoch", "minutes"]]
    cells = [
        (loss, start, cell)
        for loss, pair in CONTROLS.items()
        for start, cell in zip(("random", "spectral"), pair, strict=True)
    ]
    cells += [(deep.label, "random", deep) for deep in DEEP]
    for loss, start, cell in [*cells, ("S2D, sampled softmax", "spectral", SAMPLED)]:
        runs = view.runs(cell).values()
        if not runs:
            table.append([loss, start, "0", "not run", "", "", ""])
            continue
        share = np.mean(list(view.shares(cell).values()))
        line = [loss, start, str(len(runs)), mean_of(view.values(cell).values()), f"{share:.1%}"]
        line += [f"{np.mean([run['best_epoch'] for run in runs]):.0f}"]
        table.append([*line, f"{np.mean(minutes(runs)):.1f}"])
    return markdown_table(table)


def answers_table(view: View) -> str:
    """Return the answers that the runs give; what has no runs is left out."""
    return contrasts_table(view, questions(), "what makes the difference")


def teachers_table(view: View) -> str:
    """Return what students of a tenth, and of a twentieth, reach of the best single teacher."""
    head = ["", "d", "runs", "H@5", "of iALS's", "- iALS", "p, splits", "p, users"]
    table, reasons = [head], []
    best = view.values(IALS)
    if not best:
        return "Not run."
    for cell in [BPR, IALS, replace(S2D, label="S2D from BPR, patience 30"), *TAUGHT]:
        values, d = view.values(cell), str(round(200 * cell.phi))
        if not values:
            table.append([cell.label, d, "0", "not run", "", "", "", ""])
            continue
        line = [cell.label, d, str(len(values)), mean_of(values.values()), "", "", "", ""]
        common = values.keys() & best.keys()
        if common and cell is not IALS:
            line[4] = f"{np.mean([values[s] / best[s] for s in common]):.1%}"
            terms = [(1.0, view.place(cell)), (-1.0, view.place(IALS))]
            found = view.evidence.compare(terms, "H@5")
            difference, _, *ps = contrast(found)
            line[5:] = difference, *ps
            reasons.append((cell.label, found.no_users))
        table.append(line)
    return markdown_table(table) + footnotes(reasons)


def shares_by_time(view: View) -> dict[str, tuple[list[float], list[float]]]:
    """Return method -> minutes and shares of the teacher's H@5, by run, for a tenth of its size."""
    points = {}
    for cell in METHODS:
        runs, found = view.runs(cell), view.shares(cell)
        if found:
            points[cell.label] = minutes(runs[seed] for seed in found), list(found.values())
    return points


def share_figure(view: View) -> "Figure | None":
    """Draw all methods' shares against the minutes that training took, if S2D was run."""
    points = shares_by_time(view)
    if S2D.label not in points:
        return None
    figure = figures.time_map(points, "")
    figures.share_axis(figure.axes[0], view.paper.metric)
    figure.legend(loc="outside lower right", frameon=False)
    return figure


PAPER = replace(
    derrd.PAPER,
    name="s2d",
    title="S2D, our own method",
    experiments={
        "controls": Experiment(
            "What makes S2D good: start, loss, teacher",
            [TEACHER, *(cell for pair in CONTROLS.values() for cell in pair), *DEEP, SAMPLED],
            tables=[controls_table, answers_table],
            figure=share_figure,
        ),
        "teachers": Experiment(
            "A student of a tenth beside the best single teacher of full size",
            [BPR, IALS, S2D, *TAUGHT],
            tables=[teachers_table],
        ),
        "sizes": Experiment(
            "Sizes of the student, S2D and others",
            [TEACHER, *(replace(c, phi=p) for c in (STUDENT, DE_RRD, S2D, SVD) for p in PHIS)],
            figure=partial(figures.size_figure, size="d"),
        ),
    },
    claims=(),
    overview=["teachers", "controls"],
    headline="",
)
