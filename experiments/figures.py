"""Figures for reports and notebooks; they read in grey, in print and for colour-blind readers."""

from math import ceil, floor, log10
from typing import Any

import numpy as np

from Utils.errors import UserError

try:
    from matplotlib import pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter
except ModuleNotFoundError as error:
    raise UserError(
        "figures need matplotlib: .venv/bin/pip install --requirement requirements-dev.txt"
    ) from error

# Okabe and Ito's colours; line styles tell the curves apart without them.
STYLES = [
    {"color": "#0072B2", "linestyle": "-"},
    {"color": "#D55E00", "linestyle": "--"},
    {"color": "#009E73", "linestyle": "-."},
    {"color": "#CC79A7", "linestyle": ":"},
    {"color": "#000000", "linestyle": (0, (5, 1, 1, 1, 1, 1))},
    {"color": "#56B4E9", "linestyle": (0, (8, 2))},
    {"color": "#E69F00", "linestyle": (0, (1, 1))},
]
MARKERS = "osD^v*>"  # one for each style


def learning_curves(curves: dict[str, dict[str, np.ndarray]], metric: str = "H@5") -> Figure:
    """Draw training loss and a validation metric against epochs.

    ``curves``: label -> columns of ``metrics.csv``, each ``(epochs,)``. The dot is the epoch with
    the best validation metric.
    """
    figure, (loss, quality) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for i, (label, columns) in enumerate(curves.items()):
        style = STYLES[i % len(STYLES)] | {"linewidth": 1.4}
        epochs, values = columns["epoch"], columns[f"valid_{metric}"]
        loss.plot(epochs, columns["train_loss"], label=label, **style)
        quality.plot(epochs, values, label=label, **style)
        best = int(values.argmax())
        quality.plot(epochs[best], values[best], "o", color=style["color"])
    loss.set(xlabel="epoch", ylabel="training loss (sum over a batch)", yscale="log")
    loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    loss.yaxis.set_major_formatter("{x:g}")
    loss.yaxis.set_minor_formatter(NullFormatter())
    quality.set(xlabel="epoch", ylabel=f"validation {metric}")
    quality.legend(loc="lower right", frameon=False)
    for axes in (loss, quality):
        _tidy(axes)
    return figure


def beside_paper(
    ours: dict[str, list[float]], paper: dict[str, float], metric: str = "H@5"
) -> Figure:
    """Draw methods' values over seeds, their means and deviations, beside the paper's means."""
    figure, axes = plt.subplots(figsize=(6.5, 0.9 + 0.36 * len(ours)), layout="constrained")
    for place, values in enumerate(ours.values()):
        spread = np.std(values, ddof=1) if len(values) > 1 else 0
        said = {"label": "ours"} if place == 0 else {}
        axes.errorbar(
            np.mean(values), place, xerr=spread, fmt="o", color="#0072B2", capsize=3, **said
        )
        axes.plot(values, [place] * len(values), ".", color="0.4", markersize=4, zorder=3)
    places = [place for place, method in enumerate(ours) if method in paper]
    values = [paper[list(ours)[place]] for place in places]
    if places:
        axes.plot(values, places, "D", color="#D55E00", fillstyle="none", label="paper")
    axes.set_yticks(range(len(ours)), ours)
    axes.set_ylim(len(ours) - 0.5, -0.5)  # the first on top
    axes.set_xlabel(f"test {metric}")
    figure.legend(loc="outside right center", frameon=False)
    _tidy(axes)
    return figure


def size_curves(
    shares: dict[str, dict[float, list[float]]], size: str, metric: str = "H@5"
) -> Figure:
    """Draw a test metric against the size of the student, as figure 4 of the DE-RRD paper.

    ``shares``: method -> size, ``"d"`` or ``"phi"`` -> the metric as a share of the teacher's, over
    seeds. Points are means, bars standard deviations (n - 1), where there is more than one value.
    Sizes that span more than a power of ten stand on a logarithmic axis.
    """
    figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
    _draw_means(axes, shares, list(shares))
    _share_axis(axes, metric)
    ticks = sorted({each for values in shares.values() for each in values})
    if ticks[-1] > 10 * ticks[0]:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(ticks, [f"{each:g}" for each in ticks])
    symbol = r"$\phi$" if size == "phi" else size
    axes.set_xlabel(f"size of the student, {symbol}")
    figure.legend(loc="outside right center", frameon=False)
    _tidy(axes)
    return figure


def time_map(points: dict[str, tuple[list[float], list[float]]], metric: str = "H@5") -> Figure:
    """Draw a test metric against the minutes that training took, a point for each method.

    ``points``: method -> minutes, and the metric as a share of the teacher's, over seeds. Points
    are means, bars are those of ``size_curves``.
    """
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for label, (minutes, shares) in points.items():
        spread = np.std(shares, ddof=1) if len(shares) > 1 else np.nan
        place = float(np.mean(minutes)), float(np.mean(shares))
        axes.errorbar(*place, spread, fmt="o", color="#0072B2", capsize=3)
        runs = f"{label} ({len(shares)})"
        axes.annotate(runs, place, xytext=(6, 5), textcoords="offset points")
    _share_axis(axes, metric)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("minutes of training, one thread (in brackets: runs)")
    axes.margins(x=0.15)
    figure.legend(loc="outside lower right", frameon=False)
    _tidy(axes)
    return figure


def setting_curves(
    panels: dict[str, dict[str, dict[float, list[float]]]], metric: str = "H@5"
) -> Figure:
    """Draw a metric against each of some settings, as figure 7 of the DE-RRD paper.

    ``panels``: setting -> label of a line -> value -> scores over seeds. Means and bars are those
    of ``size_curves``. Values that span two powers of ten stand on a logarithmic axis, on which 0,
    the student without distillation, has a place at the left end.
    """
    size = (0.6 + 3.1 * len(panels), 3.4)
    figure, row = _row_of(panels, size, sharey=True)
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
    for axes, (setting, lines) in zip(row, panels.items(), strict=True):
        places, ticks = _scale({value for scores in lines.values() for value in scores})
        _draw_means(
            axes,
            {
                label: {places[value]: given for value, given in scores.items()}
                for label, scores in lines.items()
            },
            labels,
        )
        axes.set_xticks(list(ticks), ticks.values())
        axes.set_xlabel(setting)
        if places.get(0):  # it has no logarithm: break the axis
            at = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "center"}
            axes.text(places[0] + 0.5, 0, "//", **at, backgroundcolor="white")
        _tidy(axes)
    row[0].set_ylabel(f"test {metric}")
    drawn: dict[str, Any] = {}  # over all panels
    for axes in row:
        handles, labels = axes.get_legend_handles_labels()
        drawn |= dict(zip(labels, handles, strict=True))
    figure.legend(
        drawn.values(), drawn, loc="outside upper center", ncols=len(drawn), frameon=False
    )
    return figure


def selection_maps(coordinates: np.ndarray, experts: dict[str, np.ndarray]) -> Figure:
    """Draw each user's most probable expert, as figure 6 of the DE-RRD paper.

    ``coordinates``: ``(U, 2)``; ``experts``: label of a panel -> ``(U,)`` int. The experts that
    most users have, over all panels, are told apart by colour and shape, all others are grey.
    The legend counts the users in the last panel.
    """
    figure, row = _row_of(experts, (4 * len(experts), 4.8))
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
    coordinates: np.ndarray, groups: np.ndarray, gains: dict[str, np.ndarray], metric: str = "N@20"
) -> Figure:
    """Draw where users gain by distillation and where they lose, as figure 5 of the DE-RRD paper.

    ``coordinates``: ``(U, 2)``; ``groups``: ``(U,)`` int; ``gains``: label of a panel -> ``(U,)``
    differences of the metric. Users have the colour of their group's mean, on one scale for
    all panels; crosses are users of groups that lose. Means beyond those of 98% of the users, such
    as outliers have that form a group of their own, take the last colour.
    """
    figure, row = _row_of(gains, (0.8 + 4 * len(gains), 4))
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


def _row_of(
    panels: dict[str, Any], size: tuple[float, float], **shared: bool
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a row of axes, one for each panel."""
    figure, axes = plt.subplots(
        1, len(panels), figsize=size, squeeze=False, layout="constrained", **shared
    )
    return figure, list(axes[0])


def _draw_means(axes: Axes, scores: dict[str, dict[float, list[float]]], labels: list[str]) -> None:
    """Draw label -> place -> values as means with a bar of a standard deviation on either side.

    A label has one style in all axes of a figure: that of its place in ``labels``.
    """
    for label, by_place in scores.items():
        i = labels.index(label)
        places = sorted(by_place)
        values = [by_place[place] for place in places]
        axes.errorbar(
            places,
            [np.mean(each) for each in values],
            [np.std(each, ddof=1) if len(each) > 1 else np.nan for each in values],
            label=label,
            marker=MARKERS[i % len(MARKERS)],
            capsize=3,
            linewidth=1.4,
            **STYLES[i % len(STYLES)],
        )


def _share_axis(axes: Axes, metric: str) -> None:
    """Make the y axis a test metric as a share of the teacher's, who is a line at all of it."""
    axes.axhline(1, color="0.3", linestyle=":", label="teacher")
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.set_ylabel(f"test {metric}, share of the teacher's")


def _scale(values: set[float]) -> tuple[dict[float, float], dict[float, str]]:
    """Return value -> place on the axis, and place -> text of the tick there.

    Places are the values or, over two powers of ten or more, their logarithms. 0, which has none,
    stands a power of ten below the smallest.
    """
    positive = sorted(value for value in values if value > 0)
    if not positive or positive[-1] < 100 * positive[0]:
        return {value: value for value in values}, {value: f"{value:g}" for value in values}
    places = {value: log10(value) for value in positive}
    first, last = places[positive[0]], places[positive[-1]]
    ticks = {power: f"$10^{{{power}}}$" for power in range(ceil(first), floor(last) + 1)}
    if 0 in values:
        places[0], ticks[first - 1] = first - 1, "0"
    return places, ticks


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)


def _hide_scales(axes: Axes) -> None:
    """Leave a map without scales: lengths along principal components have no unit."""
    axes.set(xticks=[], yticks=[], xlabel="first principal component", ylabel="second")
    axes.set_aspect("equal", adjustable="datalim")
