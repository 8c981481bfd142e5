"""DE-RRD: A Knowledge Distillation Framework for Recommender System (Kang et al., CIKM 2020).

    python -m experiments.run table2 --seeds 0-4 --jobs 2
    python -m experiments.run table2 --model NeuMF --methods Teacher Student DE RRD DE-RRD
    python -m experiments.run curves --seeds 0-2         # the authors' published split

Its tables 2 to 5, figures 4 to 7, and what its section 5 claims. IR-RRD, which is of a later paper,
and SVD and S2D, which are ours, stand beside its methods.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from experiments import figures, tables
from experiments.claims import above, contrasts, faster, peak, ratio, share
from experiments.evidence import Evidence, Place
from experiments.paper import (
    Afterwards,
    Check,
    Claim,
    Experiment,
    Paper,
    View,
    beside,
    beside_student,
)
from experiments.papers.derrd_users import expert_figure, gain_figure, groups_gain, specialises
from experiments.plan import PUBLISHED, STUDENT, TEACHER, Cell, changed, has_factors
from experiments.printed import lookup
from experiments.results import markdown_table
from experiments.settings import SIZES
from experiments.user_space import SPACE
from Utils.split import LEAVE_ONE_OUT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRIC = "H@5"
SETTINGS = [(data, model) for data in ("CiteULike", "Foursquare") for model in ("BPR", "NeuMF")]
NOTES = {"Foursquare": "Another crawl than the paper's, which is not public: do not compare."}

# --- cells ---------------------------------------------------------------------------------------


def selection_at(model: str) -> str:
    """Return when to keep which expert is whose, for figure 6: where users have their own."""
    return "0,20,-1" if has_factors(model) else ""


SELECTION = (("save_selection", selection_at),)
RD, CD, RRD = Cell("RD", "RD"), Cell("CD", "CD"), Cell("RRD", "URRD")
DE, DE_RRD = Cell("DE", "DE", keeps=SELECTION), Cell("DE-RRD", "DERRD", keeps=SELECTION)
SVD = Cell("SVD", "SVD", needs_factors=True)
IR_RRD, S2D = Cell("IR-RRD", "IRRRD"), Cell("S2D", "S2D")
OF_THE_PAPER = [STUDENT, RD, CD, DE, RRD, DE_RRD]  # as in its table 2
METHODS = [*OF_THE_PAPER, SVD, IR_RRD, S2D]

ATTENTION = changed(DE, "DE (a) Attention", expert_selection="attention")
ONE_LARGE, ONE_SMALL = (
    replace(changed(DE, f"DE ({letter}) One expert ({size})", expert_selection=kind), keeps=())
    for letter, size, kind in (("b", "large", "one_large"), ("c", "small", "one_small"))
)
FULL = changed(RRD, "RRD (d) Full ranking", ranking="full")
INTERESTING = changed(RRD, "RRD (e) Interesting ranking", ranking="interesting")

# a teacher that was not stopped before it was done, and students of it
CONVERGED = changed(TEACHER, "Teacher, converged", patience=100, name="converged")


def converged_at(model: str) -> str:
    """Return where that teacher's weights are."""
    dim = SIZES[model]["teacher_dim"]
    return f"checkpoints/{{dataset}}/{model}-d{dim}/no_KD-converged/seed{{seed}}"


def of_converged(cell: Cell) -> Cell:
    """Return a cell that is taught by it."""
    return changed(cell, f"{cell.label}, teacher converged", teacher=converged_at, name="converged")


PHIS = (0.1, 0.5, 1.0)
LAMBDAS = (1e-4, 1e-3, 1e-2, 1e-1)
GRID = {(de, rrd): changed(DE_RRD, lmbda_DE=de, lmbda_RRD=rrd) for de in LAMBDAS for rrd in LAMBDAS}
# figure 7: its panels, and the value of each point
POINTS = {
    "λ of DE": {value: changed(DE, lmbda_DE=value) for value in LAMBDAS},
    "experts M": {value: changed(DE, num_experts=value) for value in (5, 10, 20, 30)},
    "λ of RRD": {value: changed(RRD, lmbda_RRD=value) for value in LAMBDAS},
    "K = L": {value: changed(RRD, K=value, L=value) for value in (10, 20, 30, 40, 50)},
}

# --- what the paper has --------------------------------------------------------------------------


def printed(experiment: str, place: Place, metric: str) -> tuple[float | str, str]:
    """Return what the paper has for a cell, and what is wrong with it; empty if it has nothing.

    Figures have no numbers, but points that are in a table as well have them. For the published
    split, it is what the authors' logs have.
    """
    cell = place.cell
    places = {"table2": cell.label, "table4": cell.label}
    if experiment == "table3":
        places = {"table3": f"{cell.label} phi={cell.phi:.1f}"}
    elif experiment == "table5":
        de, rrd = (f"1e{round(np.log10(value))}" for _, value in cell.changes)
        places = {"table5": f"DE-RRD lambda_DE={de} lambda_RRD={rrd}"}
    elif experiment == "curves":
        places = {"logs": cell.label}
    elif cell.phi != STUDENT.phi and cell != TEACHER:
        return "", ""
    found = (lookup(f"derrd_{name}", place, label, metric) for name, label in places.items())
    return next((each for each in found if each[0] != ""), ("", ""))


def against(evidence: Evidence, place: Place) -> Place | None:
    """Return what the paper compares a cell with on H@5, of the cell's size and split.

    An ablation with its method; RRD, DE-RRD and IR-RRD with the best baseline, RD or CD, of those
    with most common splits; all others, and these without a baseline, with the student.
    """
    cell = place.cell
    method = cell.label.split(" (")[0]
    if method != cell.label:
        return beside(place, next(c for c in METHODS if c.label == method))
    if cell.method in (RRD.method, DE_RRD.method, IR_RRD.method):
        gains = {
            beside(place, other): (-found.splits, found.difference)
            for other in (RD, CD)
            if (found := evidence.compare([(1.0, place), (-1.0, beside(place, other))], METRIC))
        }
        if gains:  # the baseline with most common splits; of two, the better leaves less
            return min(gains, key=gains.get)
    return beside_student(evidence, place)


# --- tables and figures of its own ---------------------------------------------------------------


def lambda_table(view: View) -> str:
    """Return table 5, ours with the paper's in brackets: a row for each lambda_DE."""
    table = [["lambda_DE", *(f"lambda_RRD = {value:g}" for value in LAMBDAS)]]
    for de in LAMBDAS:
        line = [f"{de:g}"]
        for rrd in LAMBDAS:
            paper, _ = view.printed(GRID[de, rrd], METRIC)
            ours = tables.mean_of(view.values(GRID[de, rrd]).values())
            line.append(ours + (f" ({paper:.4f})" if paper != "" else ""))
        table.append(line)
    return markdown_table(table)


def panels(view: View) -> dict[str, dict[str, dict[float, list[float]]]]:
    """Return figure 7's panels of which more than the student and the tuned value was run.

    The points of a panel are of the same splits, those that all of its cells were run on.
    """
    found = {}
    for title, cells in POINTS.items():
        scores = figures.scores_by_value(view, {0: STUDENT} | cells)
        if scores:
            found[title] = {cells[max(cells)].label.split(",")[0]: scores}
    return found


def setting_figure(view: View) -> "Figure | None":
    """Draw figure 7, if one of its panels was run."""
    found = panels(view)
    return figures.setting_curves(found, METRIC) if found else None


STOPPING = [
    [replace(each, phi=phi) for each in (STUDENT, cell, of_converged(cell))]
    for phi in (0.1, 0.2, 0.5, 1.0)
    for cell in (DE_RRD, S2D)
]


def stopping_questions() -> Iterator[tables.Contrast]:
    """Yield what depends on when the teacher stops."""
    yield "the teacher: converged - patience 30", CONVERGED, TEACHER
    for alone, usual, longer in STOPPING:
        where = f"{usual.label}, phi = {usual.phi:g}"
        yield f"{where}: teacher converged - patience 30", longer, usual
        yield f"{where}: teacher converged - student alone", longer, alone
        yield f"{where}: teacher converged - that teacher", longer, CONVERGED


def stopping_table(view: View) -> str:
    """Return what depends on when the teacher stops; what has no runs is left out."""
    return tables.contrasts_table(view, stopping_questions(), "what makes the difference")


# --- claims --------------------------------------------------------------------------------------

# What the paper measured on Foursquare alone; of section 5.4 it says "We observe similar tendencies
# on CiteULike dataset".
ON_FOURSQUARE = ("table4", "table5", "figure5", "figure6", "figure7")


def claim(text: str, section: str, experiment: str, check: Check) -> Claim:
    """Return a claim of the paper, and where it has measured it."""
    measured_on = "Foursquare" if experiment in ON_FOURSQUARE else ""
    return Claim(text, section, experiment, check, measured_on)


def claims_for(model: str) -> list[Claim]:
    """Return the claims that the paper makes of each base model."""

    def of(text: str, section: str, experiment: str, check: Check) -> Claim:
        return claim(f"{model}: {text}", section, experiment, check)

    half, full = ({cell: replace(cell, phi=phi) for cell in (RD, CD, DE_RRD)} for phi in (0.5, 1.0))
    loss = {"BPR": (0.2, 0.2, 0.07, 0.1), "NeuMF": (0.02, 0.05, 10.0, 10.0)}[model]
    words = {"BPR": ("20 %", "7 to 10 %"), "NeuMF": ("2 to 5 %", "1000 %")}[model]
    least = {"BPR": 0.94, "NeuMF": 0.99}[model]
    experts, lists = POINTS["experts M"], POINTS["K = L"]
    return [
        of("DE improves the student", "5.2", "table2", above(model, [DE], [STUDENT])),
        of("RRD improves the student", "5.2", "table2", above(model, [RRD], [STUDENT])),
        of("RRD is above RD and CD", "5.2", "table2", above(model, [RRD], [RD, CD])),
        of("DE-RRD is above RD and CD", "5.2", "table2", above(model, [DE_RRD], [RD, CD])),
        of(
            "DE-RRD is the best: above DE and RRD too",
            "5.2", "table2", above(model, [DE_RRD], [DE, RRD]),
        ),
        of(
            "DE-RRD is above RD and CD at phi = 0.5 and 1.0 too",
            "5.2, figure 4", "figure4",
            contrasts(
                {(model, size[DE_RRD]): 1.0, (model, size[low]): -1.0}
                for size in (half, full)
                for low in (RD, CD)
            ),
        ),
        of(
            "taught by DE-RRD, a student of the teacher's size is above it",
            "5.2, figure 4", "stopping", above(model, [of_converged(full[DE_RRD])], [CONVERGED]),
        ),
        of(
            f"with a tenth of its parameters, DE-RRD reaches {100 * least:.0f} % of the teacher",
            "table 3", "table3", ratio(model, DE_RRD, least),
        ),
        of(
            "with half of its parameters, DE-RRD reaches 101 % of it",
            "table 3", "stopping", ratio(model, of_converged(half[DE_RRD]), 1.01, CONVERGED),
        ),
        of("smaller models make lists in less time", "5.2, table 3", "table3", faster(model)),
        of(
            "DE is above attention, one large and one small expert",
            "5.3, table 4", "table4", above(model, [DE], [ATTENTION, ONE_LARGE, ONE_SMALL]),
        ),
        of(
            "RRD is above full ranking and interesting ranking",
            "5.3, table 4", "table4", above(model, [RRD], [FULL, INTERESTING]),
        ),
        of(
            "interesting ranking is below the student",
            "5.3, table 4", "table4", above(model, [STUDENT], [INTERESTING]),
        ),
        of(
            f"the loss of DE, weighted, is about {words[0]} of the base model's where DE is best",
            "5.4", "figure7", share(model, DE, "DE", *loss[:2]),
        ),
        of(
            f"the loss of RRD, weighted, is about {words[1]} where RRD is best",
            "5.4", "figure7", share(model, RRD, "RRD", *loss[2:]),
        ),
        of(
            "10 or 20 experts are best",
            "5.4", "figure7", peak(model, experts.values(), [experts[10], experts[20]]),
        ),
        of(
            "K = 30 or 40 is best",
            "5.4", "figure7", peak(model, lists.values(), [lists[30], lists[40]]),
        ),
    ]  # fmt: skip


GAINS_MORE = {("NeuMF", RRD): 1.0, ("NeuMF", STUDENT): -1.0, ("BPR", RRD): -1.0}
HARM = [
    {("NeuMF", replace(STUDENT, phi=phi)): 1.0, ("NeuMF", replace(cell, phi=phi)): -1.0}
    for phi in (0.5, 1.0)
    for cell in (RD, CD, RRD)
]
CLAIMS = [
    *claims_for("BPR"),
    *claims_for("NeuMF"),
    claim(
        "RRD gains more on NeuMF than on BPR",
        "5.2", "table2", contrasts([GAINS_MORE | {("BPR", STUDENT): 1.0}]),
    ),
    claim(
        "NeuMF: RD, CD or RRD does harm at phi = 0.5 or 1.0",
        "5.2, figure 4", "figure4", contrasts(HARM, any_of=True),
    ),
    claim(
        "BPR: one small expert is above attention, with fewer parameters",
        "5.3, table 4", "table4", above("BPR", [ONE_SMALL], [ATTENTION]),
    ),
    claim(
        "BPR: DE raises N@20 of more user groups than attention and one large expert do",
        "5.3, figure 5", "figure5", groups_gain("BPR", [DE, ATTENTION, ONE_LARGE]),
    ),
    claim(
        "BPR: experts come to be specialised in user groups",
        "5.3, figure 6", "figure6", specialises("BPR", DE),
    ),
]  # fmt: skip

# --- experiments ---------------------------------------------------------------------------------

TIMES = Afterwards("experiments.inference", "{dataset}/inference/{model}.json")
OF_A_TESLA = "The paper's times are of a Tesla P40."

EXPERIMENTS = {
    "table2": Experiment(
        "Table 2: methods, phi = 0.1",
        [TEACHER, *METHODS],
        metrics=LEAVE_ONE_OUT.metrics,
        figure=figures.printed_figure,
    ),
    "figure4": Experiment(
        "Figure 4: sizes of the student",
        [TEACHER, *(replace(cell, phi=phi) for cell in OF_THE_PAPER for phi in PHIS)],
        figure=partial(figures.size_figure, size="phi"),
    ),
    "table3": Experiment(
        "Table 3: size and inference time",
        [TEACHER, *(replace(DE_RRD, phi=phi) for phi in PHIS)],
        tables=[tables.comparison, partial(tables.inference, cell=DE_RRD, note=OF_A_TESLA)],
        afterwards=[TIMES],
    ),
    "table4": Experiment(
        "Table 4: other design choices",
        [STUDENT, DE, ATTENTION, ONE_LARGE, ONE_SMALL, RRD, FULL, INTERESTING],
        metrics=["H@5", "N@5", "H@10", "N@10"],
    ),
    "table5": Experiment(
        "Table 5: both lambdas of DE-RRD", list(GRID.values()), tables=[lambda_table]
    ),
    "figure5": Experiment(
        "Figure 5: gain by group of users",
        [STUDENT, ATTENTION, ONE_LARGE, DE],
        figure=gain_figure,
        afterwards=[SPACE],
    ),
    "figure6": Experiment(
        "Figure 6: which expert is whose",
        [replace(DE, needs_factors=True)],  # elsewhere, users have no experts of their own
        figure=expert_figure,
        afterwards=[SPACE],
    ),
    "figure7": Experiment(
        "Figure 7: lambdas, number of experts, K",
        [STUDENT, *(cell for points in POINTS.values() for cell in points.values())],
        figure=setting_figure,
    ),
    "stopping": Experiment(
        "When the teacher stops: patience 30, or converged",
        list(dict.fromkeys([TEACHER, CONVERGED, *(cell for each in STOPPING for cell in each)])),
        tables=[tables.comparison, stopping_table],
    ),
    # the runs whose learning curves the authors published, and DE-RRD and SVD beside them
    "curves": Experiment(
        "The authors' published split",
        [replace(cell, changes=PUBLISHED) for cell in (TEACHER, *METHODS) if cell not in (RD, CD)],
        metrics=LEAVE_ONE_OUT.metrics,
        tables=[partial(tables.comparison, theirs="their logs")],
        splits=0,
    ),
}

PAPER = Paper(
    name="derrd",
    title="the DE-RRD paper",
    metric=METRIC,
    settings=SETTINGS,
    experiments=EXPERIMENTS,
    claims=CLAIMS,
    overview=["table2", "curves"],
    headline="table2",
    printed=printed,
    against=against,
    notes=NOTES,
)
