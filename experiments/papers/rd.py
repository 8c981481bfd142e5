"""RD, where it comes from: Ranking Distillation of models of sequences.

    python -m experiments.run sequences --dataset Toys --model Caser --seeds 0-2
    python -m experiments.run weights --dataset Toys --model Caser --seeds 0-2
    python -m experiments.run balance --dataset Toys --model Caser

The paper's data, Gowalla and Foursquare, are not public in whole, so nothing is printed beside
ours; its claims are about a student of half the teacher's size. All seeds are of training, on one
split by time: p-values "over splits" are over trainings here.
"""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from experiments import figures, tables
from experiments.claims import above, ratio
from experiments.evidence import Evidence, Place
from experiments.paper import Claim, Experiment, Paper, View, beside, beside_student
from experiments.papers import derrd
from experiments.plan import STUDENT, TEACHER, changed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRIC = "MAP"
DATASETS = ("Toys", "Beauty", "AmazonVideoGames")  # most is run on the first
MODELS = ("Caser", "SASRec")
HALF = 0.5  # phi
NOTE = (
    "The paper's data are not public in whole, so none of its numbers is beside these. Seeds are "
    "of training, on one split: p-values over splits are over trainings."
)
# a number an item; 100 is the usual size of teachers here
POPULARITY = changed(replace(TEACHER, phi=0.01), "Popularity", model="Popularity")
OURS = "All times are ours, on a CPU."
ALONE, RD = (replace(cell, phi=HALF) for cell in (STUDENT, derrd.RD))
# the authors' lambda and T, and the weight decay of the student without a teacher
AUTHORS = changed(
    RD, "RD, the authors' values", lmbda_RD=1.0, T=1.0,
    reg=lambda model: 0.0 if model == "SASRec" else 0.001,
)  # fmt: skip
WEIGHTS = [
    changed(RD, f"RD, {weights} weights", weights=weights)
    for weights in ("uniform", "position", "discrepancy")
]
POINTS = {
    "λ": {value: changed(RD, lmbda_RD=value) for value in (0.01, 0.03, 0.1, 1.0)},
    "K": {value: changed(RD, K=value) for value in (5, 10, 20)},
}


def note(_: View) -> str:
    """Return what the tables are of."""
    return NOTE


def against(evidence: Evidence, place: Place) -> Place | None:
    """Return what a cell is compared with: other weights with the hybrid ones."""
    if place.cell.label in [cell.label for cell in WEIGHTS]:
        return beside(place, RD)
    return beside_student(evidence, place)


def balance_figure(view: View) -> "Figure | None":
    """Draw the main metric against lambda and K; 0 is the student alone."""
    panels = {
        setting: {"RD": scores}
        for setting, cells in POINTS.items()
        if (scores := figures.scores_by_value(view, {0: ALONE} | cells))
    }
    return figures.setting_curves(panels, METRIC) if panels else None


def claims_for(model: str) -> list[Claim]:
    """Return what the paper claims of each of its base models."""
    claims = [
        ("RD improves the student", "4.2", "sequences", above(model, [RD], [ALONE])),
        (
            "a student of half the size is as good as its teacher (98 % or more)",
            "4.2", "sequences", ratio(model, RD, 0.98),
        ),
        (
            "hybrid weights are better than either alone, and than none",
            "4.4", "weights", above(model, [RD], WEIGHTS),
        ),
    ]  # fmt: skip
    return [Claim(f"{model}: {text}", *rest) for text, *rest in claims]


PAPER = Paper(
    name="rd",
    title="the RD paper",
    metric=METRIC,
    settings=[(dataset, model) for dataset in DATASETS for model in MODELS],
    experiments={
        "sequences": Experiment(
            "Models of sequences: a teacher, a student of half its size, and RD",
            [POPULARITY, TEACHER, ALONE, RD, AUTHORS],
            metrics=["MAP", "P@1", "P@5", "P@10", "N@5", "N@10"],
            tables=[note, tables.comparison, partial(tables.inference, cell=RD, note=OURS)],
            splits=3,
            afterwards=[derrd.TIMES],
        ),
        "weights": Experiment(
            "What RD weighs its items by",
            [RD, *WEIGHTS],
            tables=[note, tables.comparison],
            splits=3,
        ),
        "balance": Experiment(
            "RD's lambda and K",
            [ALONE, RD, *(cell for cells in POINTS.values() for cell in cells.values())],
            tables=[note, tables.comparison],
            figure=balance_figure,
            splits=1,
        ),
    },
    claims=[claim for model in MODELS for claim in claims_for(model)],
    overview=["sequences"],
    against=against,
)
