"""Figures for reports and notebooks; they read in grey, in print and for colour-blind readers."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

# Okabe and Ito's colours; line styles tell the curves apart without them.
STYLES = [
    {"color": "#0072B2", "linestyle": "-"},
    {"color": "#D55E00", "linestyle": "--"},
    {"color": "#009E73", "linestyle": "-."},
    {"color": "#CC79A7", "linestyle": ":"},
    {"color": "#000000", "linestyle": (0, (5, 1, 1, 1, 1, 1))},
]


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
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    return figure
