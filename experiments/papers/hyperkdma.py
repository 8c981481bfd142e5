"""HyperKDMA: Distilling Recommender Systems via Hypernetwork-based Teacher Assistants.

    python -m experiments.run methods --seeds 0-2                     # its table 2, on BPR
    python -m experiments.run methods --model LightGCN --methods Teacher Student DE HyperKDMA+DE
    python -m experiments.run parts --seeds 0-2                       # its table 4

Its tables 2 to 5, the number of assistants and the gates. What our runs have in place of the
paper's settings says ``note``; a cell of its own has the paper's eight assistants.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments import figures, tables
from experiments.claims import above
from experiments.evidence import Evidence, Place
from experiments.paper import (
    NOT_RUN,
    Claim,
    Experiment,
    Finding,
    Paper,
    View,
    beside,
    beside_student,
)
from experiments.papers import derrd
from experiments.papers.hyperkdma_users import gate_figure, more_equal, spread_table
from experiments.plan import STUDENT, TEACHER, Cell, changed
from experiments.printed import lookup
from experiments.settings import SIZES
from experiments.user_space import ACTIVITY, SPACE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRIC = "H@5"
MODELS = ("BPR", "NeuMF", "NGCF", "LightGCN", "SGL")
SETTINGS = [(data, model) for data in ("CiteULike", "Foursquare") for model in MODELS]
NOTES = {
    "Foursquare": "The paper's file with another filter: it keeps all 24,941 users, or those with "
    "five items; here are the 24,934 with ten. So its values are beside ours and not compared."
}

# --- cells ---------------------------------------------------------------------------------------

# As the paper's m = 8 takes machine time that we do not have, assistants have the two sizes of its
# published code, 40 and 60 for students of 20: in all methods, so that they are compared alike. A
# mapping of PHR to a student of d is made by a network that grows with d^2, so that an assistant of
# 60 takes nine times as long to train as the student. Its chains have the smaller one alone.


def two_sizes(model: str) -> str:
    """Return the sizes of two assistants, as a script takes them."""
    dim = SIZES[model]["dim"]
    return f"{2 * dim},{3 * dim}"


def projected_sizes(model: str) -> str:
    """Return the same of assistants that are projected: NGCF's factors are two of its layers."""
    return two_sizes(model) if model != "NGCF" else "80,120"


def one_size(model: str) -> str:
    """Return the smaller of the two."""
    return two_sizes(model).split(",")[0]


def note(view: View) -> str:
    """Return what our runs have in place of the paper's settings."""
    sizes, one = two_sizes(view.model).replace(",", " and "), one_size(view.model)
    return (
        f"Our assistants are two and three times as large as the student, {sizes}, in HyperKDMA "
        "and in the chains of DE: 40 and 60 are those of the published code, where the paper has "
        f"eight. The chains of PHR have that of {one} alone, as larger ones take too long to "
        "train; the paper does not say how many chains have. Products of PHR's network and of "
        "the hypernetwork are in bf16."
    )


class Chain(NamedTuple):
    """The methods that distil by DE, or by PHR, and what is left out of the last."""

    base: Cell
    takd: Cell
    dgkd: Cell
    full: Cell
    no_hypernetwork: Cell
    no_gate: Cell
    fixed_targets: Cell  # ours

    @property
    def methods(self) -> tuple[Cell, ...]:
        """Those of table 2."""
        return self[:4]

    @property
    def parts(self) -> tuple[Cell, ...]:
        """Those of table 4, and ours."""
        return self[3:]


def chain(base: Cell, script: str, **assistants: Any) -> Chain:
    """Return the cells that distil as ``base`` does; ``script`` is HyperKDMA's."""
    takd, dgkd = (
        changed(Cell("", method), f"{method}+{base.label}", **assistants)
        for method in ("TAKD", "DGKD")
    )
    label = f"HyperKDMA+{base.label}"
    full = changed(Cell("", script), label, TA_dims=projected_sizes, precision="bf16")
    return Chain(
        base,
        takd,
        dgkd,
        replace(full, keeps=(("save_gates", "-1"),)),
        changed(full, f"{label} w/o HNet", projection="shared"),
        changed(full, f"{label} w/o GNet", gate="none"),
        changed(full, f"{label}, targets held fixed", detach_targets=True),
    )


# what the row of NeuMF has for the other methods
DE = changed(derrd.DE, "DE", layer=lambda model: "gmf" if model == "NeuMF" else "last")
PHR = changed(Cell("", "PHR"), "PHR", precision="bf16")
WITH_DE = chain(DE, "DETA", TA_dims=two_sizes)
WITH_PHR = chain(PHR, "PHRTA", kd="PHR", TA_dims=one_size, precision="bf16")
CHAINS = (WITH_DE, WITH_PHR)
# at even distances between student and teacher; 8 are the paper's
NUMBERS = {
    m: changed(Cell("", "DETA"), f"HyperKDMA+DE, m = {m}", num_TAs=m, precision="bf16")
    for m in (1, 2, 4, 8, 16)
}

# --- what the paper has --------------------------------------------------------------------------


def printed(_: str, place: Place, metric: str) -> tuple[float | str, str]:
    """Return what the paper has for a cell, and what is wrong with it; empty if it has nothing.

    Those of its HyperKDMA are of m = 8, and stand beside our two sizes as well.
    """
    label = place.cell.label.removesuffix(", m = 8")
    names = ("table2", "table3", "table4")
    found = (lookup(f"hyperkdma_{name}", place, label, metric) for name in names)
    return next((each for each in found if each[0] != ""), ("", ""))


def against(evidence: Evidence, place: Place) -> Place | None:
    """Return what a cell is compared with.

    What lacks a part, or has more assistants, with the whole; HyperKDMA with DGKD, the paper's best
    baseline; other chains with what they distil by; all others with the student.
    """
    for each in CHAINS:
        label, whole = place.cell.label, each.full.label
        if label == whole:
            return beside(place, each.dgkd)
        if label.startswith(whole):
            return beside(place, each.full)
        if label in (each.takd.label, each.dgkd.label):
            return beside(place, each.base)
    return beside_student(evidence, place)


# --- figures of its own --------------------------------------------------------------------------


def numbers_figure(view: View) -> "Figure | None":
    """Draw the main metric against the number of assistants; none is DE alone."""
    scores = figures.scores_by_value(view, {0: WITH_DE.base} | NUMBERS)
    panels = {"number of assistants, m": {"HyperKDMA+DE": scores}}
    return figures.setting_curves(panels, METRIC) if scores else None


# --- claims --------------------------------------------------------------------------------------


def claims_for(model: str) -> list[Claim]:
    """Return the claims that the paper makes of each base model."""
    found = []
    for each in CHAINS:
        base, takd, dgkd, full = each.methods
        with_it = [
            (f"TAKD improves {base.label}", "table 2", "methods", above(model, [takd], [base])),
            ("DGKD is above TAKD", "table 2", "methods", above(model, [dgkd], [takd])),
            (
                "HyperKDMA is the best: above DGKD, TAKD and plain distillation",
                "table 2", "methods", above(model, [full], [dgkd, takd, base]),
            ),
            (
                "all methods improve the student",
                "table 2", "methods", above(model, each.methods, [STUDENT]),
            ),
            (
                "HyperKDMA treats users more equally than plain distillation does",
                "table 3", "equality", more_equal(model, full, base),
            ),
            (
                "HyperKDMA needs its hypernetwork",
                "table 4", "parts", above(model, [full], [each.no_hypernetwork]),
            ),
            (
                "HyperKDMA needs its gates",
                "table 4", "parts", above(model, [full], [each.no_gate]),
            ),
        ]  # fmt: skip
        found += [Claim(f"{model}, {base.label}: {text}", *rest) for text, *rest in with_it]
    better = Claim(f"{model}: PHR is above DE", "table 2", "methods", above(model, [PHR], [DE]))
    return [*found, better]


CLAIMS = [claim for model in dict(map(reversed, SETTINGS)) for claim in claims_for(model)]
CLAIMS.append(
    Claim(
        "on MovieLens-20M, which is no data set here, HyperKDMA is the best as well",
        "5.5, table 5", "methods", lambda *_: Finding(NOT_RUN, ""),
    )
)  # fmt: skip

# --- experiments ---------------------------------------------------------------------------------

EXPERIMENTS = {
    "methods": Experiment(
        "Table 2: methods",
        [TEACHER, STUDENT, *(cell for each in CHAINS for cell in each.methods)],
        metrics=["H@5", "N@5", "H@10", "N@10"],
        tables=[note, tables.comparison],
        figure=figures.printed_figure,
    ),
    "equality": Experiment(
        "Table 3: how equal users are",
        [cell for each in CHAINS for cell in (each.base, each.full)],
        tables=[note, spread_table],
        afterwards=[SPACE],
    ),
    "parts": Experiment(
        "Table 4: parts of HyperKDMA",
        [cell for each in CHAINS for cell in each.parts],
        metrics=["H@5", "N@5"],
        tables=[note, tables.comparison],
    ),
    "assistants": Experiment(
        "Number of assistants",
        [DE, WITH_DE.full, *NUMBERS.values()],
        tables=[note, tables.comparison],
        figure=numbers_figure,
    ),
    "gates": Experiment(
        "Gates: who learns from which assistant",
        [each.full for each in CHAINS],
        figure=gate_figure,
        afterwards=[ACTIVITY],
    ),
}

PAPER = Paper(
    name="hyperkdma",
    title="the HyperKDMA paper",
    metric=METRIC,
    settings=SETTINGS,
    experiments=EXPERIMENTS,
    claims=CLAIMS,
    overview=["methods"],
    printed=printed,
    against=against,
    notes=NOTES,
)
