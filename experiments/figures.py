"""Figures for reports and notebooks; they read in grey, in print and for colour-blind readers."""

from __future__ import annotations  # matplotlib's classes are known to those who draw alone

from math import ceil, floor, log10
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.evidence import minutes
from experiments.plan import STUDENT, TEACHER, planned
from Utils.errors import need
from Utils.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from experiments.paper import View
    from experiments.plan import Cell

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


def pyplot() -> ModuleType:
    """Return ``matplotlib.pyplot``, which is imported by who draws, and installed for development.

    Raises
    ------
    UserError
        If it is not installed.
    """
    return need("matplotlib.pyplot", "matplotlib", "a figure")


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all, and let go of it."""
    with write_whole(path) as file:
        figure.savefig(file, dpi=110)
    pyplot().close(figure)


def learning_curves(curves: dict[str, dict[str, np.ndarray]], metric: str) -> Figure:
    """Draw training loss and a validation metric against epochs.

    ``curves``: label -> columns of ``metrics.csv``, each ``(epochs,)``. The marker is the epoch
    with the best validation metric.
    """
    figure, (loss, quality) = pyplot().subplots(1, 2, figsize=(10, 4), layout="constrained")
    for i, (label, columns) in enumerate(curves.items()):
        style = _style(i)
        loss.plot(columns["epoch"], columns["train_loss"], label=label, **style | {"marker": ""})
        _draw_quality(quality, columns["epoch"], columns[f"valid_{metric}"], label, style)
    loss.set(xlabel="epoch", ylabel="training loss (sum over a batch)", yscale="log")
    _say_logarithms(loss.yaxis)
    quality.set(xlabel="epoch", ylabel=f"validation {metric}")
    quality.legend(loc="lower right", frameon=False)
    for axes in (loss, quality):
        _tidy(axes)
    return figure


def quality_curves(
    curves: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]], metric: str
) -> Figure:
    """Draw a validation metric against epochs and against minutes.

    ``curves``: label -> epochs, the minutes until the end of each, and the metric, nan where it was
    not measured: ``(epochs,)`` each. The marker is the epoch with the best validation metric. Of
    runs that take more than ten times as long as others, minutes stand on a logarithmic axis.
    """
    size = (11, max(4, 0.6 + 0.22 * len(curves)))  # the legend has a line for each
    units = ("epoch", "minutes of training and evaluation")
    figure, row = row_of(dict.fromkeys(units), size, sharey=True)
    for k, (axes, unit) in enumerate(zip(row, units, strict=True)):
        for i, (label, (*places, values)) in enumerate(curves.items()):
            _draw_quality(axes, places[k], values, label, _style(i))
        axes.set_xlabel(unit)
        _tidy(axes)
    row[0].set_ylabel(f"validation {metric}")
    ends = [minutes[-1] for _, minutes, _ in curves.values()]
    if max(ends) > 10 * min(ends):
        row[1].set_xscale("log")
        _say_logarithms(row[1].xaxis, steps=(1,))  # over many powers of ten
    handles, labels = row[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    return figure


def _style(i: int) -> dict[str, Any]:
    """Return how the line i is drawn; colours that are used again go with another dash."""
    colour, dash = i % len(STYLES), (i + i // len(STYLES)) % len(STYLES)
    style = {"color": STYLES[colour]["color"], "linestyle": STYLES[dash]["linestyle"]}
    return style | {"marker": MARKERS[dash], "linewidth": 1.4}


def _draw_quality(
    axes: Axes, places: np.ndarray, values: np.ndarray, label: str, style: dict[str, Any]
) -> None:
    """Draw a metric where it was measured, with a marker where it is best."""
    real = ~np.isnan(values)
    places, values = places[real], values[real]
    axes.plot(places, values, label=label, markevery=[int(values.argmax())], **style)


def beside_paper(ours: dict[str, list[float]], paper: dict[str, float], metric: str) -> Figure:
    """Draw methods' values over seeds, their means and deviations, beside the paper's means."""
    figure, axes = pyplot().subplots(figsize=(6.5, 0.9 + 0.36 * len(ours)), layout="constrained")
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


def size_curves(shares: dict[str, dict[float, list[float]]], size: str, metric: str) -> Figure:
    """Draw a test metric against the size of the student.

    ``shares``: method -> size, ``"d"`` or ``"phi"`` -> the metric as a share of the teacher's, over
    seeds. Points are means, bars standard deviations (n - 1), where there is more than one value.
    Sizes that span more than a power of ten stand on a logarithmic axis.
    """
    figure, axes = pyplot().subplots(figsize=(6.5, 4), layout="constrained")
    _draw_means(axes, shares, list(shares))
    share_axis(axes, metric)
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


def time_map(points: dict[str, tuple[list[float], list[float]]], quality: str) -> Figure:
    """Draw what methods reach against the minutes that their training took, a point for each.

    ``points``: method -> minutes, and values of what the axis calls ``quality``, over runs. Points
    are means, bars are those of ``size_curves``. Behind a name stands how many runs there are, if
    not as many as most methods have.
    """
    figure, axes = pyplot().subplots(figsize=(7.25, 4.2), layout="constrained")
    counts = [len(values) for _, values in points.values()]
    usual = max(counts, key=counts.count)
    bars = {}
    for (label, (times, values)), count in zip(points.items(), counts, strict=True):
        place = float(np.mean(times)), float(np.mean(values))
        spread = np.std(values, ddof=1) if count > 1 else np.nan
        axes.errorbar(*place, spread, fmt="o", color="#0072B2", ecolor="0.6", capsize=3)
        runs = "" if count == usual else f" ({count} run{'s' if count > 1 else ''})"
        bars[label + runs] = *place, float(np.nan_to_num(spread))
    axes.set_xscale("log")
    _say_logarithms(axes.xaxis)
    each = f"mean of {usual} runs" if usual > 1 else "one run"
    axes.set_xlabel(f"minutes of training, one thread ({each}, where not said)")
    axes.set_ylabel(quality)
    axes.margins(x=0.12, y=0.1)
    _tidy(axes)
    _label(axes, bars)
    return figure


# offsets of a name from its point, the first the best
SIDES = [(9, 4), (9, -13), (-9, 4), (-9, -13), (9, 16), (-9, 16), (9, -25), (-9, -25)]


def _label(axes: Axes, bars: dict[str, tuple[float, float, float]]) -> None:
    """Write names, each where it covers no other, no point and no bar, or as few as can be.

    ``bars``: name -> x, y, and half of the bar's length.
    """
    from matplotlib.transforms import Bbox

    axes.figure.draw_without_rendering()  # which settles where the axes are
    fixed, texts, boxes = [], {}, {}
    for name, (x, y, half) in bars.items():
        low, high = axes.transData.transform([(x, y - half), (x, y + half)])
        fixed.append(Bbox([low - 8, high + 8]))
        texts[name] = [
            axes.annotate(
                name,
                (x, y),
                side,
                textcoords="offset points",
                ha="left" if side[0] > 0 else "right",
            )
            for side in SIDES
        ]
        boxes[name] = [text.get_window_extent() for text in texts[name]]
    chosen: dict[str, int] = {}
    for name in [*bars, *bars, *bars]:  # again, once all others have a place
        taken = fixed + [boxes[other][side] for other, side in chosen.items() if other != name]
        # what leaves the axes is as bad as what covers another
        covered = [box.count_overlaps(taken) + (box.x1 > axes.bbox.x1) for box in boxes[name]]
        chosen[name] = int(np.argmin(covered))
    for name, side in chosen.items():
        for text in texts[name][:side] + texts[name][side + 1 :]:
            text.remove()


def setting_curves(panels: dict[str, dict[str, dict[float, list[float]]]], metric: str) -> Figure:
    """Draw a metric against each of some settings.

    ``panels``: setting -> label of a line -> value -> scores over seeds. Means and bars are those
    of ``size_curves``. Values that span a power of ten stand on a logarithmic axis, on which 0,
    the student without distillation, has a place at the left end.
    """
    size = (0.6 + 3.1 * len(panels), 3.4)
    figure, row = row_of(panels, size, sharey=True)
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


def epoch_curves(
    panels: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]], quality: str
) -> Figure:
    """Draw what the axis calls ``quality`` against epochs.

    ``panels``: title -> label of a line -> epochs and values, ``(n,)`` each; nan where it was not
    measured. Behind its last one, a line goes on at this height, thin, to where the longest ends.
    """
    figure, row = row_of(panels, (0.6 + 4.2 * len(panels), 3.6), sharey=True)
    for axes, (title, lines) in zip(row, panels.items(), strict=True):
        end = max(epochs[-1] for epochs, _ in lines.values())
        for style, (label, (epochs, values)) in zip(STYLES, lines.items(), strict=False):
            real = ~np.isnan(values)
            epochs, values = epochs[real], values[real]
            axes.plot(epochs, values, label=label, linewidth=1.4, **style)
            axes.plot([epochs[-1], end], [values[-1]] * 2, linewidth=0.7, **style)
        axes.set(title=title, xlabel="epoch")
        _tidy(axes)
    row[0].set_ylabel(quality)
    row[-1].legend(loc="lower right", frameon=False)
    return figure


def row_of(
    panels: dict[str, Any], size: tuple[float, float], **shared: bool
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a row of axes, one for each panel."""
    figure, axes = pyplot().subplots(
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


def share_axis(axes: Axes, metric: str) -> None:
    """Make the y axis a test metric as a share of the teacher's, who is a line at all of it."""
    from matplotlib.ticker import PercentFormatter

    axes.axhline(1, color="0.3", linestyle=":", label="teacher")
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.set_ylabel(f"test {metric}, share of the teacher's")


def _scale(values: set[float]) -> tuple[dict[float, float], dict[float, str]]:
    """Return value -> place on the axis, and place -> text of the tick there.

    Places are the values or, over a power of ten or more, their logarithms; over two, ticks are at
    the powers. 0, which has no logarithm, stands a power of ten below the smallest.
    """
    positive = sorted(value for value in values if value > 0)
    if not positive or positive[-1] < 10 * positive[0]:
        return {value: value for value in values}, {value: f"{value:g}" for value in values}
    places = {value: log10(value) for value in positive}
    first, last = places[positive[0]], places[positive[-1]]
    ticks = {place: f"{value:g}" for value, place in places.items()}
    if last - first >= 2:
        ticks = {power: f"$10^{{{power}}}$" for power in range(ceil(first), floor(last) + 1)}
    if 0 in values:
        places[0], ticks[first - 1] = first - 1, "0"
    return places, ticks


def _say_logarithms(axis: Axis, steps: tuple[int, ...] = (1, 2, 5)) -> None:
    """Have a logarithmic axis say 1, 2, 5, 10, ..."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)


def printed_figure(view: View) -> Figure | None:
    """Draw the main metric of all cells beside the paper's, if any was run."""
    ours = {
        cell.label: list(values.values()) for cell in view.cells if (values := view.values(cell))
    }
    paper = {
        cell.label: value
        for cell in view.cells
        if view.dataset not in view.paper.notes
        and (value := view.printed(cell, view.paper.metric)[0])
    }
    return beside_paper(ours, paper, view.paper.metric) if ours else None


def size_figure(view: View, size: str) -> Figure | None:
    """Draw shares of the teacher's main metric against ``"d"`` or ``"phi"``, if there are lines."""
    lines = shares_by_size(view, size)
    if not any(len(points) > 1 for label, points in lines.items() if label != STUDENT.label):
        return None
    return size_curves(lines, size, view.paper.metric)


def shares_by_size(view: View, size: str) -> dict[str, dict[float, list[float]]]:
    """Return method -> size, ``"d"`` or ``"phi"`` -> shares of the teacher's metric, by run."""
    lines: dict[str, dict[float, list[float]]] = {}
    for cell in view.cells:
        found = view.shares(cell)
        if found and cell != TEACHER:
            dim = planned(cell, view.dataset, view.model, 0).settings.dim
            points = lines.setdefault(cell.label, {})
            points[dim if size == "d" else cell.phi] = list(found.values())
    return lines


def time_figure(view: View) -> Figure | None:
    """Draw the main metric of all cells against the minutes that training took, if any was run."""
    points = {
        cell.label: (minutes(runs.values()), list(view.values(cell).values()))
        for cell in view.cells
        if (runs := view.runs(cell))
    }
    return time_map(points, f"test {view.paper.metric}") if points else None


def scores_by_value(view: View, points: dict[float, Cell]) -> dict[float, list[float]]:
    """Return value -> main metric by run, of cells that differ in the value of a setting.

    All are of the same splits, those that each of the cells was run on that were run at all; empty
    for fewer than three points.
    """
    points = {value: cell for value, cell in points.items() if view.runs(cell)}
    if len(points) < 3:
        return {}
    common = view.evidence.common([view.place(cell) for cell in points.values()], view.paper.metric)
    scores = np.array(list(common.values()))  # (splits, cells)
    return dict(zip(points, scores.T.tolist(), strict=True)) if len(scores) else {}
