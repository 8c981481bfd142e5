"""What finished runs say about a table's cells, and how sure that is."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import ttest_1samp

from experiments.plan import Cell, planned
from Utils.data_utils import warn
from Utils.errors import UserError
from Utils.evaluation import user_metrics
from Utils.files import read_json, read_npz
from Utils.run import refuse_other_settings


class Place(NamedTuple):
    """A cell with the data set and the base model that it is run on."""

    dataset: str
    model: str
    cell: Cell


class Comparison(NamedTuple):
    """A difference of means over common splits, and the p-values that there is none.

    ``p_splits`` is nan for a single split, ``p_users`` where ranks are not kept.
    """

    difference: float
    splits: int
    p_splits: float
    p_users: float

    def __str__(self) -> str:
        sure = [
            f"p = {value:.2g} over {what}"
            for what, value in (("splits", self.p_splits), ("users", self.p_users))
            if not np.isnan(value)
        ]
        return f"{self.difference:+.4f} ({', '.join([splits_of(self.splits), *sure])})"


class Evidence:
    """The finished runs below a folder of logs, found by cell.

    A run that was made with other settings than the plan's is left out, with a warning.
    """

    def __init__(self, logs: Path = Path("logs")) -> None:
        self.logs = logs
        self.runs, self.users = cache(self._runs), cache(self._users)

    def _runs(self, place: Place) -> dict[int, dict[str, Any]]:
        """Return the summaries of a cell's finished runs by seed, with ``folder`` each."""
        folder = self.logs / planned(place.cell, place.dataset, place.model, 0).folder.parent
        stem = "published" if dict(place.cell.changes).get("split") == "published" else "seed"
        found = {}
        for path in sorted(folder.glob(f"{stem}*/summary.json")):
            summary = read_json(path)
            run = planned(place.cell, place.dataset, place.model, summary["seed"])
            try:
                refuse_other_settings(path.parent, run.settings)
            except UserError as error:
                warn(f"left out: {error}")
                continue
            found[summary["seed"]] = summary | {"folder": path.parent}
        return found

    def values(self, place: Place, metric: str = "H@5") -> dict[int, float]:
        """Return a test metric by seed."""
        return {seed: run["test"][metric] for seed, run in self.runs(place).items()}

    def _users(self, folder: Path) -> dict[str, np.ndarray] | None:
        """Return a run's test metrics of each user, ``(U,)``; None if its ranks are not kept."""
        if not (folder / "ranks.npz").exists():
            return None
        ranks = torch.from_numpy(read_npz(folder / "ranks.npz", ["test"])["test"])
        return {name: values.numpy() for name, values in user_metrics(ranks).items()}

    def user_values(self, place: Place, metric: str, seed: int) -> np.ndarray | None:
        """Return a test metric of each user in one run, ``(U,)``; None if it is not known.

        Ranks are those of one epoch, so they do not know a metric that is reported from another.
        """
        run = self.runs(place).get(seed)
        users = self.users(run["folder"]) if run else None
        if users is None or abs(users[metric].mean() - run["test"][metric]) > 1e-5:
            return None
        return users[metric]

    def compare(self, terms: Iterable[tuple[float, Place]], metric: str) -> Comparison | None:
        """Return the weighted sum of cells' metrics; None if they have no split in common.

        Two-sided t-tests that the sum is 0: over splits, and over users, whose metrics are averaged
        over the splits first. For the weights 1 and -1, these are paired t-tests.
        """
        terms = list(terms)
        found = [self.values(place, metric) for _, place in terms]
        seeds = sorted(set.intersection(*(set(values) for values in found)))
        if not seeds:
            return None
        weights = [weight for weight, _ in terms]
        sums = [
            sum(w * values[seed] for w, values in zip(weights, found, strict=True))
            for seed in seeds
        ]
        users = [[self.user_values(place, metric, seed) for _, place in terms] for seed in seeds]
        p_users = np.nan
        if all(values is not None for row in users for values in row):
            each = np.mean(
                [sum(w * v for w, v in zip(weights, row, strict=True)) for row in users], axis=0
            )
            p_users = _p_value(each)
        return Comparison(float(np.mean(sums)), len(seeds), _p_value(sums), p_users)


def splits_of(count: int) -> str:
    """Return how many splits these are, in words."""
    return f"{count} split{'s' if count > 1 else ''}"


def _p_value(values: Iterable[float]) -> float:
    """Return the p-value of a t-test that the mean is 0; nan for fewer than two values."""
    values = np.asarray(values)
    if len(values) < 2 or not np.any(values != values[0]):
        return float("nan") if len(values) < 2 or values[0] else 1.0
    return float(ttest_1samp(values, 0).pvalue)
