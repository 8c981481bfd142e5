"""What the DE-RRD paper claims in its section 5, each with a check on our own runs.

A verdict rests on splits, three or more (``decide``). A claim *holds* where p < 0.05 over them for
what it says, however small the gain. Else it *does not hold* where p < 0.05 for the opposite, or
where the 95 % confidence interval ends below an effect as large as the paper's. What is left is
*undecided*, or *not run* as long as runs are missing that could still decide it.

The p-value over users that stands beside a difference decides nothing alone: it does not know the
chance of training. On the published split, runs that differ in the seed of training alone have a
standard deviation of 0.013 in the H@5 of DE, of 0.005 in the student's: as much as most claims are
about.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from experiments.evidence import Evidence, Place, interval
from experiments.plan import (
    ATTENTION,
    DE,
    DE_RRD,
    EXPERIMENTS,
    FULL,
    INTERESTING,
    METHODS,
    ONE_LARGE,
    ONE_SMALL,
    RRD,
    STUDENT,
    TEACHER,
    Cell,
)
from experiments.published import effect
from experiments.results import read_curves, read_timings
from Utils.errors import UserError
from Utils.files import read_npz, require_ids
from Utils.run import read_config

HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided", "not run"
RD, CD = METHODS[1:3]
METRIC = "H@5"
MIN_SPLITS = 3
# What the paper measured on Foursquare alone; of section 5.4 it says "We observe similar tendencies
# on CiteULike dataset".
ON_FOURSQUARE = ("table4", "table5", "figure5", "figure6", "figure7")


class Finding(NamedTuple):
    """A verdict and what it rests on."""

    verdict: str
    detail: str


class Claim(NamedTuple):
    """A sentence of the paper; ``check(evidence, dataset)`` returns a ``Finding``."""

    text: str
    section: str
    experiment: str
    check: Callable[[Evidence, str], Finding]

    def text_on(self, dataset: str) -> str:
        """Return the claim, and where the paper measured it if that is another data set."""
        elsewhere = self.experiment in ON_FOURSQUARE and dataset != "Foursquare"
        return self.text + " (the paper: on Foursquare)" * elsewhere


def decide(
    values: Iterable[float], low: float = 0.0, high: float = np.inf, paper: float | None = None
) -> str:
    """Return the verdict on the claim that a mean over splits is between ``low`` and ``high``.

    It holds where all of the 95 % confidence interval is in between: for the bounds 0 and infinity,
    where the mean is above 0 with p < 0.05 in a two-sided t-test. Else it does not hold where all
    of the interval is outside, or below the paper's own value, ``paper``. Fewer than ``MIN_SPLITS``
    values leave it undecided.
    """
    values = list(values)
    if len(values) < MIN_SPLITS:
        return UNDECIDED
    least, most = interval(values)
    if low < least and most < high:
        return HOLDS
    too_small = paper is not None and most < paper
    return FAILS if most < low or least > high or too_small else UNDECIDED


def combine(verdicts: Iterable[str], any_of: bool = False) -> str:
    """Return the verdict on a claim that all of its parts hold, or that any does."""
    decisive, otherwise = (HOLDS, FAILS) if any_of else (FAILS, HOLDS)
    verdicts = list(verdicts)
    return next((v for v in (decisive, NOT_RUN, UNDECIDED) if v in verdicts), otherwise)


def _above_0(evidence: Evidence, dataset: str, weights: dict[tuple[str, Cell], float]) -> Finding:
    """Return the verdict on the claim that a weighted sum of H@5 is above 0."""
    terms = [(weight, Place(dataset, *key)) for key, weight in weights.items()]
    found, paper = evidence.compare(terms, METRIC), effect(terms, METRIC)
    if found is None:
        return Finding(NOT_RUN, "")
    theirs = "" if paper is None else f", paper {paper:+.4f}"
    return Finding(decide(found.sums, paper=paper), f"{_sum_of(weights)} = {found}{theirs}")


def contrasts(
    claims: Iterable[dict[tuple[str, Cell], float]], any_of: bool = False
) -> Callable[[Evidence, str], Finding]:
    """Return a check that weighted sums of H@5 are above 0: all of them, or any."""
    claims = list(claims)

    def check(evidence: Evidence, dataset: str) -> Finding:
        found = [_above_0(evidence, dataset, weights) for weights in claims]
        details = "; ".join(finding.detail for finding in found if finding.detail)
        return Finding(combine((finding.verdict for finding in found), any_of), details)

    return check


def _sum_of(weights: dict[tuple[str, Cell], float]) -> str:
    """Return a weighted sum in words: what is common to all terms is said once."""
    models = {model for model, _ in weights}
    terms = []
    for (model, cell), weight in weights.items():
        of = "" if len(models) == 1 else f" on {model}"
        times = "" if abs(weight) == 1 else f"{abs(weight):g} "
        if weight:
            terms.append(f"{'+' if weight > 0 else '-'} {times}{cell.label}{of}")
    return " ".join(terms).removeprefix("+ ")


def above(
    model: str, better: Iterable[Cell], worse: Iterable[Cell], any_of: bool = False
) -> Callable[[Evidence, str], Finding]:
    """Return a check that each of ``better`` is above each of ``worse``."""
    worse = list(worse)
    return contrasts(
        [{(model, high): 1.0, (model, low): -1.0} for high in better for low in worse], any_of
    )


def ratio(model: str, cell: Cell, least: float) -> Callable[[Evidence, str], Finding]:
    """Return a check that a cell's mean is ``least`` times the teacher's or more, as rounded."""
    weights = {(model, cell): 1.0, (model, TEACHER): 0.005 - least}

    def check(evidence: Evidence, dataset: str) -> Finding:
        scores = evidence.common([Place(dataset, *key) for key in weights], METRIC)
        if not scores:
            return Finding(NOT_RUN, "")
        mine, teachers = np.mean(list(scores.values()), axis=0)
        verdict, detail = _above_0(evidence, dataset, weights)
        return Finding(verdict, f"{cell.label} / Teacher = {mine / teachers:.3f}; {detail}")

    return check


def peak(
    model: str, cells: Iterable[Cell], expected: Iterable[Cell]
) -> Callable[[Evidence, str], Finding]:
    """Return a check that the best of ``expected`` is above the best other one of ``cells``.

    On the splits that all of them were run on.
    """
    cells, expected = list(cells), list(expected)

    def check(evidence: Evidence, dataset: str) -> Finding:
        scores = evidence.common([Place(dataset, model, cell) for cell in cells], METRIC)
        if not scores:
            return Finding(NOT_RUN, "")
        means = dict(zip(cells, np.mean(list(scores.values()), axis=0), strict=True))
        mine = max(expected, key=means.get)
        other = max((cell for cell in cells if cell not in expected), key=means.get)
        weights = {(model, cell): 0.0 for cell in cells}  # which keeps to the common splits
        verdict, detail = _above_0(
            evidence, dataset, weights | {(model, mine): 1.0, (model, other): -1.0}
        )
        best = max(means, key=means.get)
        return Finding(verdict, f"best: {best.label}, {means[best]:.4f}; {detail}")

    return check


def share(
    model: str, cell: Cell, part: str, low: float, high: float
) -> Callable[[Evidence, str], Finding]:
    """Return a check that lambda times a distillation loss is a share of the base model's loss.

    At the reported epoch, with our tuned lambda, in the runs whose curves are kept. "About" is a
    factor of two.
    """

    def check(evidence: Evidence, dataset: str) -> Finding:
        shares, details = [], []
        for seed, run in evidence.runs(Place(dataset, model, cell)).items():
            if not (run["folder"] / "metrics.csv").exists():
                continue
            curves, best = read_curves(run["folder"] / "metrics.csv"), run["best_epoch"]
            weight = read_config(run["folder"])["settings"].get(f"lmbda_{part}")
            if not {part, "base"} <= curves.keys() or best >= len(curves["base"]) or not weight:
                raise UserError(f"{run['folder']}: curve and settings are not those of {part}")
            found = weight * curves[part] / curves["base"]
            shares.append(found[best])
            details.append(f"{found[0]:.0%} at epoch 0, {found[best]:.0%} at {best} of seed {seed}")
        verdict = decide(shares, low / 2, high * 2) if shares else NOT_RUN
        return Finding(verdict, "; ".join(details))

    return check


def faster(model: str) -> Callable[[Evidence, str], Finding]:
    """Return a check that the student of phi = 0.1 makes lists in less time than phi = 1.0.

    No luck of splits or training is in this: one measurement decides.
    """

    def check(evidence: Evidence, dataset: str) -> Finding:
        path = evidence.logs / dataset / "inference" / f"{model}.json"
        if not path.exists():
            return Finding(NOT_RUN, "")
        rows = {(r["device"], r["phi"]): r["seconds_all_users"] for r in read_timings(path)}
        device = next(iter(rows))[0]
        small, large = (rows.get((device, phi), np.nan) for phi in (0.1, 1.0))
        detail = f"{small:.2f} s against {large:.2f} s for all users ({device})"
        return Finding(HOLDS if small < large else FAILS, detail)

    return check


def groups_gain(model: str) -> Callable[[Evidence, str], Finding]:
    """Return a check that DE raises N@20 of more user groups than attention or one large expert."""
    cells = (DE, ATTENTION, ONE_LARGE)

    def check(evidence: Evidence, dataset: str) -> Finding:
        leads, details = [], []
        for seed in evidence.runs(Place(dataset, model, TEACHER)):
            groups = user_groups(evidence, dataset, model, seed)
            student, *users = (
                evidence.user_values(Place(dataset, model, cell), "N@20", seed)
                for cell in (STUDENT, *cells)
            )
            if groups is None or student is None or any(values is None for values in users):
                continue
            sums = (np.bincount(groups, weights=values - student) for values in users)
            counts = [int(np.sum(gains > 0)) for gains in sums]
            leads.append(counts[0] - max(counts[1:]))
            of = ", ".join(f"{c.label}: {count}" for c, count in zip(cells, counts, strict=True))
            details.append(f"groups of {groups.max() + 1} that gain, seed {seed}: {of}")
        return Finding(decide(leads) if leads else NOT_RUN, "; ".join(details))

    return check


def specialises(model: str) -> Callable[[Evidence, str], Finding]:
    """Return a check that experts and user groups share more information at the end than at 0."""

    def check(evidence: Evidence, dataset: str) -> Finding:
        gains, details = [], []
        for seed in evidence.runs(Place(dataset, model, DE)):
            experts = user_experts(evidence, dataset, model, seed)
            groups = user_groups(evidence, dataset, model, seed)
            if groups is None or len(experts) < 2:
                continue
            shared = {epoch: mutual_information(groups, of) for epoch, of in experts.items()}
            gains.append(shared[max(shared)] - shared[min(shared)])
            values = ", ".join(f"{value:.3f} at epoch {epoch}" for epoch, value in shared.items())
            details.append(f"normalised mutual information, seed {seed}: {values}")
        return Finding(decide(gains) if gains else NOT_RUN, "; ".join(details))

    return check


def user_groups(evidence: Evidence, dataset: str, model: str, seed: int) -> np.ndarray | None:
    """Return each user's group in the teacher's space, ``(U,)``; None if they are not computed."""
    run = evidence.runs(Place(dataset, model, TEACHER)).get(seed)
    path = run and run["folder"] / "user_space.npz"
    if not run or not path.exists():
        return None
    groups = read_npz(path, ["groups"])["groups"]
    require_ids(path, "groups", groups, (_num_users(run),), 128)
    return groups


def user_experts(evidence: Evidence, dataset: str, model: str, seed: int) -> dict[int, np.ndarray]:
    """Return the most probable expert of each user, ``(U,)``, by epoch, in a run of DE."""
    run = evidence.runs(Place(dataset, model, DE)).get(seed)
    files = run["folder"].glob("selection-epoch*.npz") if run else []
    epochs = {int(path.stem.removeprefix("selection-epoch")): path for path in files}
    chosen = {epoch: read_npz(epochs[epoch], ["user"])["user"] for epoch in sorted(epochs)}
    for epoch, experts in chosen.items():
        require_ids(epochs[epoch], "user", experts, (_num_users(run),), 2**15)
    return chosen


def _num_users(run: dict[str, Any]) -> int | None:
    """Return how many users a run has trained on."""
    return read_config(run["folder"])["data"].get("num_users")


def mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """Return how much two labellings tell of each other, 0 to 1: I(a; b) / sqrt(H(a) H(b))."""
    joint = np.zeros((int(a.max()) + 1, int(b.max()) + 1))
    np.add.at(joint, (a, b), 1 / len(a))
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)

    def entropy(p: np.ndarray) -> float:
        return max(-float(np.sum(p[p > 0] * np.log(p[p > 0]))), 0.0)  # -0 rounds to less

    shared = entropy(rows) + entropy(columns) - entropy(joint)
    scale = np.sqrt(entropy(rows) * entropy(columns))
    return shared / scale if scale else 0.0


def _claims_for(model: str) -> list[Claim]:
    """Return the claims that the paper makes of each base model."""
    half = {cell: replace(cell, phi=0.5) for cell in (STUDENT, RD, CD, RRD, DE_RRD)}
    full = {cell: replace(cell, phi=1.0) for cell in half}
    loss = {"BPR": (0.2, 0.2, 0.07, 0.1), "NeuMF": (0.02, 0.05, 10.0, 10.0)}[model]
    words = {"BPR": ("20 %", "7 to 10 %"), "NeuMF": ("2 to 5 %", "1000 %")}[model]
    least = {"BPR": 0.94, "NeuMF": 0.99}[model]
    points = EXPERIMENTS["figure7"]
    experts = [cell for cell in points if dict(cell.changes).keys() == {"num_experts"}]
    lists = [cell for cell in points if "K" in dict(cell.changes)]
    chosen = [cell for cell in experts if dict(cell.changes)["num_experts"] in (10, 20)]
    long = [cell for cell in lists if dict(cell.changes)["K"] in (30, 40)]

    def claim(text: str, section: str, experiment: str, check: Callable) -> Claim:
        return Claim(f"{model}: {text}", section, experiment, check)

    return [
        claim("DE improves the student", "5.2", "table2", above(model, [DE], [STUDENT])),
        claim("RRD improves the student", "5.2", "table2", above(model, [RRD], [STUDENT])),
        claim("RRD is above RD and CD", "5.2", "table2", above(model, [RRD], [RD, CD])),
        claim("DE-RRD is above RD and CD", "5.2", "table2", above(model, [DE_RRD], [RD, CD])),
        claim(
            "DE-RRD is the best: above DE and RRD too",
            "5.2", "table2", above(model, [DE_RRD], [DE, RRD]),
        ),
        claim(
            "DE-RRD is above RD and CD at phi = 0.5 and 1.0 too",
            "5.2, figure 4", "figure4",
            contrasts(
                {(model, size[DE_RRD]): 1.0, (model, size[low]): -1.0}
                for size in (half, full)
                for low in (RD, CD)
            ),
        ),
        claim(
            "taught by DE-RRD, a student of the teacher's size is above it",
            "5.2, figure 4", "figure4", above(model, [full[DE_RRD]], [TEACHER]),
        ),
        claim(
            f"with a tenth of its parameters, DE-RRD reaches {100 * least:.0f} % of the teacher",
            "table 3", "table3", ratio(model, DE_RRD, least),
        ),
        claim(
            "with half of its parameters, DE-RRD reaches 101 % of it",
            "table 3", "table3", ratio(model, half[DE_RRD], 1.01),
        ),
        claim("smaller models make lists in less time", "5.2, table 3", "table3", faster(model)),
        claim(
            "DE is above attention, one large and one small expert",
            "5.3, table 4", "table4", above(model, [DE], [ATTENTION, ONE_LARGE, ONE_SMALL]),
        ),
        claim(
            "RRD is above full ranking and interesting ranking",
            "5.3, table 4", "table4", above(model, [RRD], [FULL, INTERESTING]),
        ),
        claim(
            "interesting ranking is below the student",
            "5.3, table 4", "table4", above(model, [STUDENT], [INTERESTING]),
        ),
        claim(
            f"the loss of DE, weighted, is about {words[0]} of the base model's where DE is best",
            "5.4", "figure7", share(model, DE, "DE", *loss[:2]),
        ),
        claim(
            f"the loss of RRD, weighted, is about {words[1]} where RRD is best",
            "5.4", "figure7", share(model, RRD, "RRD", *loss[2:]),
        ),
        claim("10 or 20 experts are best", "5.4", "figure7", peak(model, experts, chosen)),
        claim("K = 30 or 40 is best", "5.4", "figure7", peak(model, lists, long)),
    ]  # fmt: skip


CLAIMS = [
    *_claims_for("BPR"),
    *_claims_for("NeuMF"),
    Claim(
        "RRD gains more on NeuMF than on BPR",
        "5.2",
        "table2",
        contrasts(
            [
                {
                    ("NeuMF", RRD): 1.0,
                    ("NeuMF", STUDENT): -1.0,
                    ("BPR", RRD): -1.0,
                    ("BPR", STUDENT): 1.0,
                }
            ]
        ),
    ),
    Claim(
        "NeuMF: RD, CD or RRD does harm at phi = 0.5 or 1.0",
        "5.2, figure 4",
        "figure4",
        contrasts(
            (
                {
                    ("NeuMF", replace(STUDENT, phi=phi)): 1.0,
                    ("NeuMF", replace(cell, phi=phi)): -1.0,
                }
                for phi in (0.5, 1.0)
                for cell in (RD, CD, RRD)
            ),
            any_of=True,
        ),
    ),
    Claim(
        "BPR: one small expert is above attention, with fewer parameters",
        "5.3, table 4",
        "table4",
        above("BPR", [ONE_SMALL], [ATTENTION]),
    ),
    Claim(
        "BPR: DE raises N@20 of more user groups than attention and one large expert do",
        "5.3, figure 5",
        "figure5",
        groups_gain("BPR"),
    ),
    Claim(
        "BPR: experts come to be specialised in user groups",
        "5.3, figure 6",
        "figure6",
        specialises("BPR"),
    ),
]
