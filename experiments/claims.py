"""Claims of papers, each with a check on our own runs: what checks are made of.

A verdict rests on splits, three or more (``decide``). A claim *holds* where p < 0.05 over them for
what it says, however small the gain. Else it *does not hold* where p < 0.05 for the opposite, or
where the 95 % confidence interval ends below an effect as large as the paper's. What is left is
*undecided*, or *not run* as long as runs are missing that could still decide it.

The p-value over users that stands beside a difference decides nothing alone: it does not know the
chance of training. Runs on one split that differ in the seed of training alone have a standard
deviation of 0.005 to 0.013 in H@5: as much as most claims are about.
"""

from collections.abc import Iterable

import numpy as np

from experiments.evidence import Evidence, Place, interval
from experiments.paper import FAILS, HOLDS, NOT_RUN, UNDECIDED, Check, Finding, Paper
from experiments.plan import TEACHER, Cell
from experiments.results import read_curves, read_timings
from Utils.errors import UserError

MIN_SPLITS = 3


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


def _above_0(
    paper: Paper, evidence: Evidence, dataset: str, weights: dict[tuple[str, Cell], float]
) -> Finding:
    """Return the verdict on the claim that a weighted sum of the main metric is above 0."""
    terms = [(weight, Place(dataset, *key)) for key, weight in weights.items()]
    found, effect = evidence.compare(terms, paper.metric), paper.effect(terms)
    if found is None:
        return Finding(NOT_RUN, "")
    theirs = "" if effect is None else f", paper {effect:+.4f}"
    return Finding(decide(found.sums, paper=effect), f"{_sum_of(weights)} = {found}{theirs}")


def contrasts(claims: Iterable[dict[tuple[str, Cell], float]], any_of: bool = False) -> Check:
    """Return a check that weighted sums of the main metric are above 0: all of them, or any."""
    claims = list(claims)

    def check(paper: Paper, evidence: Evidence, dataset: str) -> Finding:
        found = [_above_0(paper, evidence, dataset, weights) for weights in claims]
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


def above(model: str, better: Iterable[Cell], worse: Iterable[Cell], any_of: bool = False) -> Check:
    """Return a check that each of ``better`` is above each of ``worse``."""
    worse = list(worse)
    return contrasts(
        [{(model, high): 1.0, (model, low): -1.0} for high in better for low in worse], any_of
    )


def ratio(model: str, cell: Cell, least: float, teacher: Cell = TEACHER) -> Check:
    """Return a check that a cell's mean is ``least`` times the teacher's or more, as rounded."""
    weights = {(model, cell): 1.0, (model, teacher): 0.005 - least}

    def check(paper: Paper, evidence: Evidence, dataset: str) -> Finding:
        scores = evidence.common([Place(dataset, *key) for key in weights], paper.metric)
        if not scores:
            return Finding(NOT_RUN, "")
        mine, teachers = np.mean(list(scores.values()), axis=0)
        verdict, detail = _above_0(paper, evidence, dataset, weights)
        return Finding(verdict, f"{cell.label} / {teacher.label} = {mine / teachers:.3f}; {detail}")

    return check


def peak(model: str, cells: Iterable[Cell], expected: Iterable[Cell]) -> Check:
    """Return a check that the best of ``expected`` is above the best other one of ``cells``.

    On the splits that all of them were run on.
    """
    cells, expected = list(cells), list(expected)

    def check(paper: Paper, evidence: Evidence, dataset: str) -> Finding:
        scores = evidence.common([Place(dataset, model, cell) for cell in cells], paper.metric)
        if not scores:
            return Finding(NOT_RUN, "")
        means = dict(zip(cells, np.mean(list(scores.values()), axis=0), strict=True))
        mine = max(expected, key=means.get)
        other = max((cell for cell in cells if cell not in expected), key=means.get)
        weights = {(model, cell): 0.0 for cell in cells}  # which keeps to the common splits
        verdict, detail = _above_0(
            paper, evidence, dataset, weights | {(model, mine): 1.0, (model, other): -1.0}
        )
        best = max(means, key=means.get)
        return Finding(verdict, f"best: {best.label}, {means[best]:.4f}; {detail}")

    return check


def share(model: str, cell: Cell, part: str, low: float, high: float) -> Check:
    """Return a check that lambda times a distillation loss is a share of the base model's loss.

    At the reported epoch, with our tuned lambda, in the runs whose curves are kept. "About" is a
    factor of two.
    """

    def check(_: Paper, evidence: Evidence, dataset: str) -> Finding:
        shares, details = [], []
        for seed, run in evidence.runs(Place(dataset, model, cell)).items():
            if not run["folder"].curves.exists():
                continue
            curves, best = read_curves(run["folder"].curves), run["best_epoch"]
            weight = run["folder"].read_config()["settings"].get(f"lmbda_{part}")
            if not {part, "base"} <= curves.keys() or best >= len(curves["base"]) or not weight:
                raise UserError(f"{run['folder'].logs}: curve and settings are not those of {part}")
            found = weight * curves[part] / curves["base"]
            shares.append(found[best])
            details.append(f"{found[0]:.0%} at epoch 0, {found[best]:.0%} at {best} of seed {seed}")
        verdict = decide(shares, low / 2, high * 2) if shares else NOT_RUN
        return Finding(verdict, "; ".join(details))

    return check


def faster(model: str) -> Check:
    """Return a check that the student of phi = 0.1 makes lists in less time than phi = 1.0.

    No luck of splits or training is in this: one measurement decides.
    """

    def check(_: Paper, evidence: Evidence, dataset: str) -> Finding:
        path = evidence.logs / dataset / "inference" / f"{model}.json"
        if not path.exists():
            return Finding(NOT_RUN, "")
        rows = {(r["device"], r["phi"]): r["seconds_all_users"] for r in read_timings(path)}
        device = next(iter(rows))[0]
        small, large = (rows.get((device, phi), np.nan) for phi in (0.1, 1.0))
        detail = f"{small:.2f} s against {large:.2f} s for all users ({device})"
        return Finding(HOLDS if small < large else FAILS, detail)

    return check
