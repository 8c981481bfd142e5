"""What papers print, as read from ``papers/printed/``.

``<paper>_<table>.csv`` has the values, ``<paper>_flags.csv`` what is known to be wrong with them.
"""

from functools import cache
from pathlib import Path

from experiments.evidence import Place
from experiments.results import finite, read_rows

FOLDER = Path(__file__).parent / "papers/printed"
KEY = ("dataset", "base_model", "method", "metric")


@cache
def table(name: str) -> dict[tuple[str, str, str, str], float]:
    """Return a printed table: (data set, model, method, metric) -> value."""
    rows = read_rows(FOLDER / f"{name}.csv", dict.fromkeys(KEY, str) | {"value": finite})
    return {tuple(row[part] for part in KEY): row["value"] for row in rows}


@cache
def flags(paper: str) -> dict[tuple[str, str, str, str, str], str]:
    """Return what is known to be wrong in a paper's tables: (table, *key) -> what."""
    rows = read_rows(FOLDER / f"{paper}_flags.csv", dict.fromkeys(("table", *KEY, "issue"), str))
    return {tuple(row[part] for part in ("table", *KEY)): row["issue"] for row in rows}


def lookup(name: str, place: Place, label: str, metric: str) -> tuple[float | str, str]:
    """Return what a table has for a cell that it calls ``label``, and what is wrong with it.

    Both are empty if it has nothing.
    """
    key = (place.dataset, place.model, label, metric)
    if key not in table(name):
        return "", ""
    return table(name)[key], flags(name.partition("_")[0]).get((name, *key), "")
