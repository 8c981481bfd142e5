"""Users in the DE-RRD paper: groups, experts that are specialised in them; its figures 5 and 6."""

from __future__ import annotations  # matplotlib's classes are known to those who draw alone

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.claims import decide
from experiments.evidence import Evidence, Place
from experiments.figures import MARKERS, STYLES, row_of
from experiments.paper import NOT_RUN, Check, Finding, Paper, View
from experiments.plan import STUDENT, TEACHER, Cell
from experiments.results import count_of, kept
from experiments.user_space import SPACE, user_groups
from Utils.errors import UserError
from Utils.files import ANEW, read_npz, require_ids

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def groups_gain(model: str, cells: Sequence[Cell]) -> Check:
    """Return a check that the first of ``cells`` raises N@20 of more user groups than the others.

    Above the student without distillation.
    """

    def check(_: Paper, evidence: Evidence, dataset: str) -> Finding:
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


def specialises(model: str, cell: Cell) -> Check:
    """Return a check that experts and user groups share more information at the end than at 0."""

    def check(_: Paper, evidence: Evidence, dataset: str) -> Finding:
        gains, details = [], []
        for seed in evidence.runs(Place(dataset, model, cell)):
            experts = user_experts(evidence, Place(dataset, model, cell), seed)
            groups = user_groups(evidence, dataset, model, seed)
            if groups is None or len(experts) < 2:
                continue
            shared = {epoch: mutual_information(groups, of) for epoch, of in experts.items()}
            gains.append(shared[max(shared)] - shared[min(shared)])
            values = ", ".join(f"{value:.3f} at epoch {epoch}" for epoch, value in shared.items())
            details.append(f"normalised mutual information, seed {seed}: {values}")
        return Finding(decide(gains) if gains else NOT_RUN, "; ".join(details))

    return check


def user_experts(evidence: Evidence, place: Place, seed: int) -> dict[int, np.ndarray]:
    """Return the most probable expert of each user, ``(U,)``, by epoch, in a run of DE."""
    run = evidence.runs(place).get(seed)
    chosen = {}
    for epoch, path in (kept(run, "selection") if run else {}).items():
        chosen[epoch] = read_npz(path, ["user"])["user"]
        require_ids(path, "user", chosen[epoch], (count_of(run, "num_users"),), 2**15)
    return chosen


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


def _space(view: View) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the coordinates ``(U, 2)`` and groups ``(U,)`` of seed 0's users, if computed."""
    groups = user_groups(view.evidence, view.dataset, view.model, 0)
    if groups is None:
        return None
    path = view.runs(TEACHER)[0]["folder"].logs / SPACE.file
    coordinates = read_npz(path, ["coordinates"])["coordinates"]
    if coordinates.shape != (len(groups), 2):
        raise UserError(f"{path}: coordinates and groups do not fit; {ANEW}")
    return coordinates, groups


def gain_figure(view: View) -> Figure | None:
    """Draw the gain in N@20 of each group over the first cell, by all others; of seed 0."""
    space = _space(view)
    student, *others = view.cells
    base = view.evidence.user_values(view.place(student), "N@20", 0)
    if space is None or base is None:
        return None
    gains = {
        cell.label: users - base
        for cell in others
        if (users := view.evidence.user_values(view.place(cell), "N@20", 0)) is not None
    }
    return gain_maps(*space, gains, "N@20") if gains else None


def expert_figure(view: View) -> Figure | None:
    """Draw which expert is whose at each epoch that the first cell's run has kept; of seed 0."""
    space = _space(view)
    if space is None or not view.cells:
        return None
    experts = user_experts(view.evidence, view.place(view.cells[0]), 0)
    chosen = {f"epoch {epoch}": users for epoch, users in experts.items()}
    return selection_maps(space[0], chosen) if chosen else None


def selection_maps(coordinates: np.ndarray, experts: dict[str, np.ndarray]) -> Figure:
    """Draw each user's most probable expert, as figure 6 of the paper.

    ``coordinates``: ``(U, 2)``; ``experts``: label of a panel -> ``(U,)`` int. The experts that
    most users have, over all panels, are told apart by colour and shape, all others are grey.
    The legend counts the users in the last panel.
    """
    figure, row = row_of(experts, (4 * len(experts), 4.8))
    used, counts = np.unique(np.concatenate(list(experts.values())), return_counts=True)
    shown = used[counts.argsort()[::-1]][: len(STYLES)]
    for axes, (label, chosen) in zip(row, experts.items(), strict=True):
        axes.set_title(f"{label}: {len(np.unique(chosen))} experts in use")
        for expert, style, marker in zip(shown, STYLES, MARKERS, strict=False):
            users = chosen == expert
            named = {"label": f"expert {expert}: {users.sum():,}", "marker": marker}
            axes.scatter(*coordinates[users].T, s=9, color=style["color"], linewidths=0, **named)
        users = ~np.isin(chosen, shown)
        named = {"label": f"all others: {users.sum():,}", "marker": "."}
        axes.scatter(*coordinates[users].T, s=9, color="0.8", linewidths=0, zorder=0, **named)
        _hide_scales(axes)
    figure.legend(
        *row[-1].get_legend_handles_labels(),
        title=f"users in the panel '{label}'",
        loc="outside lower center",
        ncols=4,
        markerscale=2.5,
        frameon=False,
    )
    return figure


def gain_maps(
    coordinates: np.ndarray, groups: np.ndarray, gains: dict[str, np.ndarray], metric: str
) -> Figure:
    """Draw where users gain by distillation and where they lose, as figure 5 of the paper.

    ``coordinates``: ``(U, 2)``; ``groups``: ``(U,)`` int; ``gains``: label of a panel -> ``(U,)``
    differences of the metric. Users have the colour of their group's mean, on one scale for
    all panels; crosses are users of groups that lose. Means beyond those of 98% of the users, such
    as outliers have that form a group of their own, take the last colour.
    """
    figure, row = row_of(gains, (0.8 + 4 * len(gains), 4))
    group = np.unique(groups, return_inverse=True)[1]  # numbered without gaps
    sizes = np.bincount(group)
    means = {label: np.bincount(group, gain) / sizes for label, gain in gains.items()}
    limit = np.quantile(np.abs([mean[group] for mean in means.values()]), 0.98)
    for axes, (label, mean) in zip(row, means.items(), strict=True):
        axes.set_title(f"{label}: {(mean > 0).sum()} groups gain, {(mean < 0).sum()} lose")
        for number in sizes.argsort()[::-1]:  # small groups lie on top
            users = group == number
            points = axes.scatter(
                *coordinates[users].T,
                c=mean[group[users]],
                s=16,
                marker="X" if mean[number] < 0 else "o",
                cmap="PuOr",
                vmin=-limit,
                vmax=limit,
                edgecolors="0.6",
                linewidths=0.3,
            )
        _hide_scales(axes)
    name = f"mean gain in {metric} of the user's group (cross: loss)"
    figure.colorbar(points, ax=row, label=name, extend="both")
    return figure


def _hide_scales(axes: Axes) -> None:
    """Leave a map without scales: lengths along principal components have no unit."""
    axes.set(xticks=[], yticks=[], xlabel="first principal component", ylabel="second")
    axes.set_aspect("equal", adjustable="datalim")
