"""What the DE-RRD paper's tables have for a cell, as read from ``published/``."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np

from experiments.evidence import Place
from experiments.plan import TEACHER
from experiments.results import finite, read_rows

FOLDER = Path(__file__).with_name("published")
KEY = ("dataset", "base_model", "method", "metric")
NOTES = {"Foursquare": ["Another crawl than the paper's, which is not public: do not compare."]}


@cache
def table(name: str) -> dict[tuple[str, str, str, str], float]:
    """Return a table of the paper: (data set, model, method, metric) -> value."""
    rows = read_rows(FOLDER / f"{name}.csv", dict.fromkeys(KEY, str) | {"value": finite})
    return {tuple(row[part] for part in KEY): row["value"] for row in rows}


@cache
def flags() -> dict[tuple[str, str, str, str, str], str]:
    """Return what is known to be wrong in the paper's tables."""
    rows = read_rows(FOLDER / "flags.csv", dict.fromkeys(("table", *KEY, "issue"), str))
    return {tuple(row[part] for part in ("table", *KEY)): row["issue"] for row in rows}


def paper_value(experiment: str, place: Place, metric: str) -> tuple[float | str, str]:
    """Return what the paper has for a cell, and what is wrong with it; empty if it has nothing.

    Figures have no numbers, but points that are in a table as well have them. For the published
    split, it is what the authors' logs have.
    """
    cell, changes = place.cell, dict(place.cell.changes)
    tables = {"table2": cell.label, "table4": cell.label}
    if experiment == "table3":
        tables = {"table3": f"{cell.label} phi={cell.phi:.1f}"}
    elif experiment == "table5":
        powers = {key: f"1e{round(np.log10(value))}" for key, value in changes.items()}
        de, rrd = powers["lmbda_DE"], powers["lmbda_RRD"]
        tables = {"table5": f"DE-RRD lambda_DE={de} lambda_RRD={rrd}"}
    elif experiment == "curves":
        tables = {"logs": cell.label}
    elif cell.phi != 0.1 and cell != TEACHER:
        return "", ""
    for name, label in tables.items():
        key = (place.dataset, place.model, label, metric)
        if key in table(name):
            return table(name)[key], flags().get((f"derrd_{name}", *key), "")
    return "", ""


def effect(terms: Iterable[tuple[float, Place]], metric: str) -> float | None:
    """Return the paper's weighted sum of cells' metrics.

    None if it lacks one, if one is flagged, or if its data set is another than ours of that name.
    """
    total = 0.0
    for weight, place in terms:
        value, flag = paper_value("table2", place, metric)
        if value == "" or flag or place.dataset in NOTES:
            return None
        total += weight * value
    return total
