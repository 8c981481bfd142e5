"""What finished runs say about a table's cells, and how sure that is."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from experiments.plan import TEACHER, Cell, planned
from experiments.results import read_ranks
from Utils.errors import UserError, warn
from Utils.evaluation import user_metrics
from Utils.run_folder import RunFolder, read_summary
from Utils.split import protocol_of


class Place(NamedTuple):
    """A cell with the data set and the base model that it is run on."""

    dataset: str
    model: str
    cell: Cell


class Comparison(NamedTuple):
    """A weighted sum of cells' metrics on each of their common splits, and a test over users.

    ``p_users`` is nan where ``no_users`` says why there is no such test.
    """

    sums: tuple[float, ...]
    p_users: float
    no_users: str

    @property
    def splits(self) -> int:
        """The number of common splits."""
        return len(self.sums)

    @property
    def difference(self) -> float:
        """The mean over splits; for the weights 1 and -1, a difference."""
        return float(np.mean(self.sums))

    @property
    def p_splits(self) -> float:
        """The p-value over splits that the mean is 0; nan for a single split, or equal sums."""
        return _p_value(self.sums)

    def __str__(self) -> str:
        parts = [splits_of(self.splits)]
        if self.splits > 1:
            low, high = interval(self.sums)
            parts.append(f"95 % interval {low:+.4f} to {high:+.4f}")
        for value, what in ((self.p_splits, "splits"), (self.p_users, "users")):
            if not np.isnan(value):
                parts.append(f"p = {value:.2g} over {what}")
        if self.no_users:
            parts.append(f"no test over users: {self.no_users}")
        return f"{self.difference:+.4f} ({', '.join(parts)})"


class Evidence:
    """The finished runs below a folder of logs, found by cell.

    A run that was made with other settings than the plan's is left out, with a warning.
    """

    def __init__(self, logs: Path = Path("logs")) -> None:
        self.logs = logs
        self.runs, self.users = cache(self._runs), cache(self._users)

    def _runs(self, place: Place) -> dict[int, dict[str, Any]]:
        """Return the summaries of a cell's finished runs by seed, with ``folder`` each."""
        first = planned(place.cell, place.dataset, place.model, 0)
        folder = self.logs / first.folder.logs.relative_to("logs").parent
        stem = first.settings.split
        found = {}
        for path in sorted(folder.glob(f"{stem}*/summary.json")):
            summary = read_summary(path)
            run = planned(place.cell, place.dataset, place.model, summary["seed"])
            folder = RunFolder.at(path.parent)
            try:
                folder.refuse_other(run.settings)
            except UserError as error:
                warn(f"left out: {error}")
                continue
            found[summary["seed"]] = summary | {"folder": folder}
        return found

    def values(self, place: Place, metric: str) -> dict[int, float]:
        """Return a test metric by seed."""
        return {seed: run["test"][metric] for seed, run in self.runs(place).items()}

    def shares(self, place: Place, metric: str) -> dict[int, float]:
        """Return seed -> a test metric as a share of the teacher's on the same split.

        Not all was run on the same splits, and splits differ by more than methods do.
        """
        mine, teacher = (self.values(at, metric) for at in (place, place._replace(cell=TEACHER)))
        return {seed: mine[seed] / teacher[seed] for seed in mine if seed in teacher}

    def common(self, places: Iterable[Place], metric: str) -> dict[int, np.ndarray]:
        """Return each cell's test metric, ``(cells,)``, by seed: the splits that all have."""
        found = [self.values(place, metric) for place in places]
        seeds = sorted(set.intersection(*map(set, found)))
        return {seed: np.array([values[seed] for values in found]) for seed in seeds}

    def _users(self, folder: RunFolder) -> dict[str, np.ndarray]:
        """Return a run's test metrics of each user who is measured, ``(U,)``."""
        ranks, starts = read_ranks(folder.ranks)
        found = user_metrics(torch.from_numpy(ranks), starts, protocol_of(folder.logs.name))
        return {name: values.numpy() for name, values in found.items()}

    def user_values(self, place: Place, metric: str, seed: int) -> np.ndarray | None:
        """Return a test metric of each user in one run, ``(U,)``; None if it is not known."""
        if seed not in self.runs(place):
            return None
        return self._run_values(self.runs(place)[seed], metric)[0]

    def _run_values(self, run: dict[str, Any], metric: str) -> tuple[np.ndarray | None, str]:
        """Return a test metric of each user in a run, or None and why it is not known.

        Ranks are those of one epoch, so they do not know a metric that is reported from another.
        """
        folder = run["folder"]
        try:
            values = self.users(folder)[metric]
        except UserError as error:
            return None, str(error).replace(f"{folder.logs.parents[2]}/", "")
        if not abs(values.mean() - run["test"][metric]) <= 1e-5:  # or nan, before the first
            where = folder.ranks.relative_to(folder.logs.parents[2])
            return None, f"{where}: of another epoch than its {metric}"
        return values, ""

    def compare(self, terms: Iterable[tuple[float, Place]], metric: str) -> Comparison | None:
        """Return the weighted sum of cells' metrics; None if they have no split in common.

        Two-sided t-tests that the sum is 0: over splits, and over users, whose metrics are averaged
        over the splits first. For the weights 1 and -1, these are paired t-tests.
        """
        weights, places = zip(*terms, strict=True)
        scores = self.common(places, metric)
        if not scores:
            return None
        # metrics are kept with six digits: what differs beyond is noise, on which t-tests stumble
        sums = tuple(round(float(np.dot(weights, values)), 9) for values in scores.values())
        users = [
            [self._run_values(self.runs(place)[seed], metric) for place in places]
            for seed in scores
        ]
        reasons = [reason for row in users for _, reason in row if reason]
        if reasons:
            return Comparison(sums, np.nan, reasons[0])
        each = np.mean(
            [sum(w * v for w, (v, _) in zip(weights, row, strict=True)) for row in users], axis=0
        )
        return Comparison(sums, _p_value(each), "")

    def user_gains(
        self, run: dict[str, Any], other: dict[str, Any], metric: str
    ) -> tuple[np.ndarray | None, str]:
        """Return by how much a test metric of each user is above that in another run, ``(U,)``.

        None and why, if it is not known of both, or if they are not of one split.
        """
        splits = [
            (r["folder"].logs.name, r["folder"].read_config()["data"].get("split_sha256"))
            for r in (run, other)
        ]
        if splits[0] != splits[1]:
            return None, "another split"
        (mine, fault), (theirs, other_fault) = (self._run_values(r, metric) for r in (run, other))
        if mine is None or theirs is None:
            return None, fault or other_fault
        if len(mine) != len(theirs):
            return None, f"ranks of {len(mine):,} users, not {len(theirs):,}"
        return mine - theirs, ""


def footnotes(reasons: Iterable[tuple[str, str]]) -> str:
    """Return why rows have no test over users, a paragraph for each reason, to follow a table.

    ``reasons`` are pairs of a row's label and its reason, which may be empty.
    """
    rows = defaultdict(list)
    for label, reason in reasons:
        if reason:
            rows[reason].append(label)
    return "".join(
        f"\n\nNo test over users of {', '.join(labels)}: {reason}."
        for reason, labels in rows.items()
    )


def minutes(runs: Iterable[dict[str, Any]]) -> list[float]:
    """Return how long each run trained and evaluated."""
    return [(run["train_seconds"] + run["eval_seconds"]) / 60 for run in runs]


def splits_of(count: int) -> str:
    """Return how many splits these are, in words."""
    return f"{count} split{'s' if count > 1 else ''}"


def interval(values: Iterable[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of a mean, by Student's t; infinite for one value."""
    from scipy.stats import t  # takes seconds to import, which most commands can do without

    values = np.asarray(values)
    if len(values) < 2:
        return -np.inf, np.inf
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def user_test(metric: str) -> tuple[str, Callable[[np.ndarray], float]]:
    """Return the name of the paired test over users that suits a metric, and the test itself.

    It makes a two-sided p-value from users' differences, ``(U,)``. A hit is 0 or 1, so of hits all
    is said by how many users gain one and how many lose one (McNemar, exact). Of other metrics, it
    is the mean that tables show, and users are thousands: Student's t.
    """
    return ("exact McNemar", _sign_test) if metric.startswith("H@") else ("paired t", _p_value)


def _sign_test(differences: np.ndarray) -> float:
    """Return the probability of as uneven a number of gains, if gains and losses are as likely."""
    from scipy.stats import binomtest

    gains, losses = int((differences > 0).sum()), int((differences < 0).sum())
    return float(binomtest(gains, gains + losses).pvalue) if gains + losses else 1.0


def _p_value(values: Iterable[float]) -> float:
    """Return the p-value of a t-test that the mean is 0; nan for fewer than two values."""
    from scipy.stats import ttest_1samp

    values = np.asarray(values)
    if len(values) < 2 or not np.any(values != values[0]):
        return float("nan") if len(values) < 2 or values[0] else 1.0
    return float(ttest_1samp(values, 0).pvalue)
