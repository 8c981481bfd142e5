"""Figures: what is drawn is what was given."""

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from experiments.figures import (
    MARKERS,
    STYLES,
    beside_paper,
    epoch_curves,
    learning_curves,
    quality_curves,
    setting_curves,
    size_curves,
    time_map,
)
from experiments.papers.derrd_users import gain_maps, selection_maps


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture
def coordinates() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def line(axes: Axes, label: str) -> np.ndarray:
    """Return the points (n, 2) of the curve with error bars that has this label."""
    (found,) = (each for each in axes.containers if each.get_label() == label)
    return found.lines[0].get_xydata()


def bars(axes: Axes, label: str) -> list[list[float]]:
    """Return the two ends of each error bar that is drawn."""
    (found,) = (each for each in axes.containers if each.get_label() == label)
    return [ends[:, 1].tolist() for ends in found.lines[2][0].get_segments() if len(ends)]


def tick_labels(axes: Axes) -> dict[float, str]:
    texts = [text.get_text() for text in axes.get_xticklabels()]
    return dict(zip(axes.get_xticks().tolist(), texts, strict=True))


def test_ours_stand_beside_the_papers():
    figure = beside_paper({"A": [0.3, 0.5], "B": [0.2], "C": [0.6]}, {"A": 0.45, "C": 0.55}, "H@5")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["A", "B", "C"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top
    means = [each.lines[0].get_xydata()[0].tolist() for each in axes.containers]
    assert means == [[0.4, 0], [0.2, 1], [0.6, 2]]
    ends = axes.containers[0].lines[2][0].get_segments()[0][:, 0]
    assert ends == pytest.approx([0.4 - 0.02**0.5, 0.4 + 0.02**0.5])
    (papers,) = (curve for curve in axes.lines if curve.get_label() == "paper")
    assert papers.get_xydata().tolist() == [[0.45, 0], [0.55, 2]]
    assert legend_texts(figure) == ["paper", "ours"]


def test_a_label_has_one_style_in_all_panels():
    panels = {"a": {"A": {1: [0.1], 2: [0.2]}}, "b": {"B": {1: [0.3]}, "A": {1: [0.4]}}}
    first, second = setting_curves(panels, "H@5").axes
    colours = {
        (axes, each.get_label()): each.lines[0].get_color()
        for axes in (first, second)
        for each in axes.containers
    }
    assert colours[first, "A"] == colours[second, "A"] != colours[second, "B"]


def test_styles_tell_as_many_lines_apart_as_there_are():
    assert len({style["color"] for style in STYLES}) == len(STYLES)
    assert len({str(style["linestyle"]) for style in STYLES}) == len(STYLES)
    assert len(set(MARKERS)) == len(MARKERS) == len(STYLES)


def test_learning_curves_mark_the_best_epoch():
    columns = {"epoch": [0, 1, 2], "train_loss": [9, 4, 2], "valid_H@5": [0.1, 0.3, 0.2]}
    columns = {name: np.array(values) for name, values in columns.items()}
    loss, quality = learning_curves({"DE": columns}, "H@5").axes
    assert loss.lines[0].get_xydata().tolist() == [[0, 9], [1, 4], [2, 2]]
    assert loss.get_yscale() == "log"
    (curve,) = quality.lines
    assert curve.get_xydata().tolist() == [[0, 0.1], [1, 0.3], [2, 0.2]]
    assert curve.get_marker() == "o"
    assert curve.get_markevery() == [1]
    assert loss.lines[0].get_marker() == ""


def test_quality_stands_against_epochs_and_minutes():
    nan = np.nan
    curves = {
        "slow": (np.arange(3), np.array([10.0, 20, 30]), np.array([0.1, 0.3, 0.2])),
        "fast": (np.arange(3), np.array([1.0, 2, 2.5]), np.array([0.2, nan, 0.4])),
    }
    figure = quality_curves(curves, "R@50")
    epochs, times = figure.axes
    assert [line.get_xydata().tolist() for line in epochs.lines] == [
        [[0, 0.1], [1, 0.3], [2, 0.2]],
        [[0, 0.2], [2, 0.4]],
    ]
    assert [line.get_xdata().tolist() for line in times.lines] == [[10, 20, 30], [1, 2.5]]
    assert [line.get_markevery() for line in times.lines] == [[1], [1]]
    assert epochs.get_ylabel() == "validation R@50"
    assert legend_texts(figure) == ["slow", "fast"]
    assert times.get_xscale() == "log"
    (_, times) = quality_curves({"slow": curves["slow"]}, "R@50").axes
    assert times.get_xscale() == "linear"


def test_as_many_runs_as_anybody_compares_have_a_style_each():
    curve = np.arange(2), np.arange(1.0, 3), np.array([0.1, 0.2])
    (axes, _) = quality_curves({str(i): curve for i in range(30)}, "H@5").axes
    styles = {(line.get_color(), line.get_marker()) for line in axes.lines}
    assert len(styles) == 30


# --- curves over sizes and settings --------------------------------------------------------------


def test_curves_go_on_at_their_last_height_to_where_the_longest_ends():
    nan = np.nan
    lines = {
        "short": (np.arange(4.0), np.array([0.1, nan, 0.3, nan])),
        "long": (np.arange(11.0), np.array([0.2, *[nan] * 9, 0.6])),
    }
    figure = epoch_curves({"left": lines, "right": lines}, "test R@50")
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("left", "right")
    assert left.get_ylabel() == "test R@50"
    short, rest, long, end = (line.get_xydata().tolist() for line in left.lines)
    assert short == [[0, 0.1], [2, 0.3]]
    assert rest == [[2, 0.3], [10, 0.3]]
    assert long == [[0, 0.2], [10, 0.6]]
    assert end == [[10, 0.6], [10, 0.6]]
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["short", "long"]


def test_size_curves_are_means_with_standard_deviations():
    scores = {"DE": {1.0: [0.5], 0.1: [0.2, 0.4, 0.6]}, "no_KD": {0.1: [0.1], 1.0: [0.4]}}
    figure = size_curves(scores, "phi", metric="N@20")
    (axes,) = figure.axes
    assert line(axes, "DE") == pytest.approx(np.array([[0.1, 0.4], [1.0, 0.5]]))
    assert line(axes, "no_KD") == pytest.approx(np.array([[0.1, 0.1], [1.0, 0.4]]))
    assert bars(axes, "DE") == [pytest.approx([0.2, 0.6])]  # n - 1; none for a single value
    assert bars(axes, "no_KD") == []
    (teacher,) = (each for each in axes.lines if each.get_label() == "teacher")
    assert list(teacher.get_ydata()) == [1, 1]
    assert teacher.get_linestyle() == ":"
    assert sorted(legend_texts(figure)) == ["DE", "no_KD", "teacher"]
    assert axes.get_ylabel() == "test N@20, share of the teacher's"
    assert axes.get_xlabel() == r"size of the student, $\phi$"
    assert tick_labels(axes) == {0.1: "0.1", 1.0: "1"}


def test_sizes_over_more_than_a_power_of_ten_stand_on_a_logarithmic_axis():
    (axes,) = size_curves({"S2D": {10: [0.2], 20: [0.3], 200: [0.4]}}, "d", "H@5").axes
    assert axes.get_xscale() == "log"
    assert tick_labels(axes) == {10: "10", 20: "20", 200: "200"}
    assert axes.get_xlabel() == "size of the student, d"
    (axes,) = size_curves({"DE": {0.1: [0.2], 1.0: [0.3]}}, "phi", "H@5").axes
    assert axes.get_xscale() == "linear"


def test_a_method_stands_at_its_minutes():
    points = {"DE": ([30, 50], [0.8, 0.9]), "RD": ([5, 5], [0.7, 0.7]), "S2D": ([2], [0.95])}
    (axes,) = time_map(points, "test H@5").axes
    places = [each.lines[0].get_xydata()[0].tolist() for each in axes.containers]
    assert places == [[40, pytest.approx(0.85)], [5, pytest.approx(0.7)], [2, 0.95]]
    assert [text.get_text() for text in axes.texts] == ["DE", "RD", "S2D (1 run)"]
    assert "mean of 2 runs, where not said" in axes.get_xlabel()
    assert axes.get_ylabel() == "test H@5"
    assert axes.get_xscale() == "log"


def test_names_of_methods_that_are_close_cover_nothing():
    points = {
        "first": ([10, 12], [0.5, 0.52]),
        "second": ([11, 12], [0.5, 0.51]),
        "third": ([9, 9], [0.49, 0.52]),
        "far to the right": ([90, 90], [0.5, 0.5]),
    }
    figure = time_map(points, "test H@5")
    (axes,) = figure.axes
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    places = axes.transData.transform([each.lines[0].get_xydata()[0] for each in axes.containers])
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
        assert not any(box.contains(*place) for place in places)
        assert box.x1 <= axes.bbox.x1


def test_each_setting_has_a_panel_with_its_own_scale():
    panels = {
        "lambda_DE": {
            "BPR": {0.1: [0.3, 0.5], 0: [0.2], 0.001: [0.25], 0.005: [0.4]},
            "NeuMF": {0.1: [0.1]},
        },
        "K": {"BPR": {0: [0.2], 10: [0.3], 50: [0.4]}},
        "T": {"BPR": {1: [0.2], 100: [0.3]}},
        "lambda_RD": {"BPR": {0: [0.2], 0.03: [0.3], 0.1: [0.4], 1: [0.1]}},
    }
    figure = setting_curves(panels, "H@5")
    assert [axes.get_xlabel() for axes in figure.axes] == list(panels)
    assert legend_texts(figure) == ["BPR", "NeuMF"]
    weight, count, scale, fewer = figure.axes
    places = [-4, -3, np.log10(0.005), -1]  # 0 is a power of ten below the smallest
    means = [0.2, 0.25, 0.4, 0.4]
    assert line(weight, "BPR") == pytest.approx(np.array([places, means]).T)
    assert bars(weight, "BPR") == [pytest.approx([0.4 - 0.02**0.5, 0.4 + 0.02**0.5])]
    assert line(weight, "NeuMF").tolist() == [[-1, 0.1]]
    powers = {power: f"$10^{{{power}}}$" for power in (-3, -2, -1)}
    assert tick_labels(weight) == {-4: "0"} | powers
    assert [text.get_text() for text in weight.texts] == ["//"]
    assert weight.texts[0].get_position()[0] == -3.5
    assert line(count, "BPR").tolist() == [[0, 0.2], [10, 0.3], [50, 0.4]]
    assert tick_labels(count) == {0: "0", 10: "10", 50: "50"}
    assert line(scale, "BPR").tolist() == [[0, 0.2], [2, 0.3]]
    assert not count.texts
    assert not scale.texts
    assert list(tick_labels(fewer).values()) == ["0.03", "0.1", "1", "0"]  # values, not powers
    assert tick_labels(fewer)[0] == "1"
    assert [text.get_text() for text in fewer.texts] == ["//"]
    assert weight.get_ylim() == count.get_ylim()


# --- maps of users -------------------------------------------------------------------------------


def test_the_most_frequent_experts_have_a_colour_and_a_shape(coordinates):
    # Expert 9 - i has i + 1 of 55 users; the last five users have expert 20.
    chosen = np.repeat([*range(9, -1, -1), 20], [*range(1, 11), 5])
    figure = selection_maps(coordinates, {"epoch 0": np.zeros(60, int), "done": chosen})
    first, last = figure.axes
    assert first.get_title() == "epoch 0: 1 experts in use"
    assert last.get_title() == "done: 11 experts in use"
    counts = {0: 10, 1: 9, 2: 8, 3: 7, 4: 6}  # then 5 and 20, of 5 users each
    named = {f"expert {expert}: {count}" for expert, count in counts.items()}
    texts = legend_texts(figure)
    assert named | {"expert 5: 5", "expert 20: 5", "all others: 10"} == {*texts}
    assert texts[0] == "expert 0: 10"
    assert figure.legends[0].get_title().get_text() == "users in the panel 'done'"
    kinds = {
        (to_hex(points.get_facecolor()[0]), points.get_paths()[0].vertices.tobytes())
        for points in last.collections
    }
    colours, shapes = zip(*kinds, strict=True)
    assert len(set(colours)) == len(set(shapes)) == len(STYLES) + 1
    for points in last.collections:
        name = points.get_label().split(":")[0]
        if name.startswith("expert"):
            mine = coordinates[chosen == int(name.split()[1])]
            assert np.array_equal(points.get_offsets(), mine)
    mine = next(points for points in last.collections if "others" in points.get_label())
    assert np.array_equal(mine.get_offsets(), coordinates[(chosen > 5) & (chosen < 20)])
    # an expert keeps its colour from panel to panel
    assert np.array_equal(first.collections[0].get_facecolor(), last.collections[0].get_facecolor())
    assert len(first.collections[0].get_offsets()) == 60


def test_gains_are_means_of_groups_on_one_symmetric_scale(coordinates):
    groups = np.repeat([0, 2, 7, 3], [30, 15, 10, 5])
    means = {"DE": [0.5, 0.0, -0.25, -0.125], "DE-attention": [-1.0, 0.5, -0.5, 0.25]}
    noise = np.tile([-0.5, 0.5, 0.25, -0.25, 0], 12)  # 0 on average over each group
    sizes = [30, 15, 10, 5]
    gains = {label: np.repeat(mean, sizes) + noise for label, mean in means.items()}
    figure = gain_maps(coordinates, groups, gains, "H@10")
    *panels, bar = figure.axes
    titles = ["DE: 1 groups gain, 2 lose", "DE-attention: 2 groups gain, 2 lose"]
    assert [axes.get_title() for axes in panels] == titles
    for axes, label in zip(panels, means, strict=True):
        expected = np.repeat(means[label], sizes)
        drawn = {}
        shapes = {}
        for points in axes.collections:
            assert points.get_clim() == (-1, 1)
            assert points.get_cmap().name == "PuOr"
            shape = points.get_paths()[0].vertices.tobytes()
            for place, value in zip(points.get_offsets(), points.get_array(), strict=True):
                drawn[tuple(place.tolist())] = value
                shapes.setdefault(value < 0, set()).add(shape)
        places = [tuple(place) for place in coordinates.tolist()]
        assert [drawn[place] for place in places] == pytest.approx(expected)
        assert len(drawn) == 60
        assert len(shapes[True]) == len(shapes[False]) == 1
        assert shapes[True] != shapes[False]
    assert bar.get_ylabel().startswith("mean gain in H@10")


def test_an_outlier_does_not_stretch_the_scale_of_gains():
    groups = np.repeat([0, 1, 2], [500, 499, 1])
    gains = np.repeat([0.25, -0.125, -1.0], [500, 499, 1])
    places = np.random.default_rng(0).normal(size=(1000, 2))
    figure = gain_maps(places, groups, {"DE": gains}, "N@20")
    assert {points.get_clim() for points in figure.axes[0].collections} == {(-0.25, 0.25)}
