"""Users in the HyperKDMA paper: how equal they are, its table 3, and whose assistants are whose."""

from __future__ import annotations  # matplotlib's classes are known to those who draw alone

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from experiments.claims import decide
from experiments.evidence import Comparison, Evidence, Place
from experiments.figures import setting_curves
from experiments.paper import NOT_RUN, Check, Finding, Paper, View
from experiments.plan import Cell, planned
from experiments.results import kept, markdown_table, mean_of
from experiments.tables import number
from experiments.teacher import assistant_sizes
from experiments.user_space import activity, user_groups
from Utils.errors import UserError
from Utils.files import ANEW, read_npz

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def spread(evidence: Evidence, place: Place, metric: str) -> dict[int, float]:
    """Return by seed how far a metric is apart between groups of users, where groups are known.

    The standard deviation over all users, each of whom has the mean of the group:
    ``sqrt(sum over groups of n_g (mean_g - mean)^2 / U)``. So a group counts as many times as it
    has users: some have one, whose metric is luck.
    """
    found = {}
    for seed in evidence.runs(place):
        groups = user_groups(evidence, place.dataset, place.model, seed)
        values = evidence.user_values(place, metric, seed)
        if groups is None or values is None:
            continue
        group = np.unique(groups, return_inverse=True)[1]  # numbered without gaps
        means = np.bincount(group, values) / np.bincount(group)
        found[seed] = float(means[group].std())
    return found


def spread_table(view: View) -> str:
    """Return table 3, ours beside the paper's."""
    metrics = ("H@5", "N@5")
    table = [["method", "runs", *(head for metric in metrics for head in (metric, "paper"))]]
    for cell in view.cells:
        line = [cell.label]
        for metric in metrics:
            values = spread(view.evidence, view.place(cell), metric).values()
            line += [] if len(line) > 1 else [str(len(values))]
            line += [mean_of(values), number(view.printed(cell, f"std_{metric}")[0])]
        table.append(line)
    return (
        "Standard deviations of a metric over groups of users; the less, the more equal. The "
        "paper's groups are not known to us, so that its values are of something else. Ours are 20 "
        "of similar users, by k-means of the teacher's embeddings, as in the DE-RRD paper; each "
        f"counts as many times as it has users.\n\n{markdown_table(table)}"
    )


def more_equal(model: str, better: Cell, worse: Cell) -> Check:
    """Return a check that groups of users differ less in the main metric with ``better``."""

    def check(paper: Paper, evidence: Evidence, dataset: str) -> Finding:
        mine, others = (
            spread(evidence, Place(dataset, model, cell), paper.metric) for cell in (better, worse)
        )
        gains = [others[seed] - mine[seed] for seed in mine if seed in others]
        if not gains:
            return Finding(NOT_RUN, "")
        said = Comparison(tuple(gains), np.nan, "")
        detail = f"standard deviation over groups: {worse.label} - {better.label} = {said}"
        return Finding(decide(gains), detail)

    return check


# gates of -> the axis that they are drawn against
AXES = {"user": "items of a user, from", "item": "users of an item, from"}


def gate_panels(view: View) -> dict[str, dict[str, dict[float, list[float]]]]:
    """Return axis -> assistant -> least number of pairs -> mean gate by run, of the last epoch.

    Users, and items, are in a group with those that are in 1, 2 or 3, 4 to 7, ... pairs of
    training; items may be in none.
    """
    panels = {axis: defaultdict(lambda: defaultdict(list)) for axis in AXES.values()}
    for cell in view.cells:
        of = planned(cell, view.dataset, view.model, 0).settings
        sizes = assistant_sizes(of.num_TAs, of.TA_dims, of.dim, of.teacher_dim)
        for seed, run in view.runs(cell).items():
            counts = activity(view.evidence, view.dataset, view.model, seed)
            if counts is None or not kept(run, "gates"):
                continue
            path = list(kept(run, "gates").values())[-1]
            for kind, gates in read_npz(path, list(AXES)).items():
                if gates.shape != (len(counts[kind]), len(sizes)):
                    raise UserError(f"{path}: {kind} does not fit the data; {ANEW}")
                least = np.where(counts[kind], 2.0 ** np.floor(np.log2(counts[kind].clip(1))), 0)
                for value in np.unique(least):
                    means = gates[least == value].mean(axis=0, dtype=np.float64)
                    for size, mean in zip(sizes, means.tolist(), strict=True):
                        label = f"{cell.label.removeprefix('HyperKDMA+')}, d = {size}"
                        panels[AXES[kind]][label][float(value)].append(mean)
    return {axis: dict(lines) for axis, lines in panels.items() if lines}


def gate_figure(view: View) -> Figure | None:
    """Draw the mean gate of each assistant by how active users and how popular items are."""
    panels = gate_panels(view)
    if not panels:
        return None
    figure = setting_curves(panels, view.paper.metric)
    figure.axes[0].set_ylabel("mean gate")
    return figure
