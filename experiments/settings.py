"""The tuned settings: ``settings.csv`` has a row for each data set, base model, method and size.

A row says where it is from: published, or the best on the validation set in a search of
``experiments.tune``, whose log is in ``experiments/tuning/``.
"""

import csv
from dataclasses import fields, replace
from math import log
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from Models import MODELS
from Utils.errors import UserError, require_known

TABLE = Path(__file__).with_suffix(".csv")
# d of teacher and student (phi = 0.1), from the parameters in table 3 of the DE-RRD paper
SIZES = {"BPR": {"teacher_dim": 200, "dim": 20}, "NeuMF": {"teacher_dim": 250, "dim": 25}}
FALLBACK = "CiteULike"  # whose rows stand in for those of a data set that has none

Settings = TypeVar("Settings")


class Row(NamedTuple):
    """A row of the table; ``settings`` are ``name=value``, with a space between them."""

    dataset: str
    model: str
    method: str
    dim: int
    settings: str
    source: str


def read_table() -> list[Row]:
    """Return the rows of ``settings.csv``."""
    with open(TABLE) as file:
        return [Row(**row | {"dim": int(row["dim"])}) for row in csv.DictReader(file)]


def write_table(rows: list[Row]) -> None:
    """Replace ``settings.csv``."""
    with open(TABLE, "w") as file:
        csv.writer(file, lineterminator="\n").writerows([Row._fields, *rows])


def parse(settings: str) -> dict[str, Any]:
    """Return what ``name=value name=value`` says: whole numbers, other numbers, or texts."""
    values: dict[str, Any] = {}
    for part in settings.split():
        name, _, text = part.partition("=")
        for kind in (int, float, str):
            try:
                values[name] = kind(text)
                break
            except ValueError:
                continue
    return values


def find_row(dataset: str, model: str, method: str, dim: int) -> Row | None:
    """Return the row that applies: of these names, and of the size nearest in ratio."""
    for data in (dataset, FALLBACK):
        rows = [row for row in read_table() if row[:3] == (data, model, method)]
        if rows:
            return min(rows, key=lambda row: abs(log(row.dim / dim)))
    return None


def with_defaults(method: str, args: Settings) -> Settings:
    """Return a script's settings with every ``None`` replaced by its tuned value; say which.

    What the script's block or the command line sets stays as it is.

    Raises
    ------
    UserError
        If the base model is unknown, or if a setting has a value in neither place.
    """
    args, said = resolve(method, args)
    if said:
        print(said)
    return args


def resolve(method: str, args: Settings) -> tuple[Settings, str]:
    """Return what ``with_defaults`` returns, and what it says."""
    require_known("--model", args.model, MODELS)

    def fill(values: dict[str, Any]) -> dict[str, Any]:
        names = {field.name for field in fields(args) if getattr(args, field.name) is None}
        return {name: value for name, value in values.items() if name in names}

    args, said = replace(args, **fill(SIZES.get(args.model, {}))), ""
    row = find_row(args.dataset, args.model, method, args.dim) if args.dim else None
    taken = fill(parse(row.settings)) if row else {}
    if taken:
        args = replace(args, **taken)
        values = " ".join(f"{name}={value}" for name, value in taken.items())
        said = f"tuned for {' '.join(row[:3])} d={row.dim} ({row.source}): {values}"
    optional = {"patience", *(option for model in MODELS.values() for option in model.options)}
    missing = fill(dict.fromkeys(field.name for field in fields(args))).keys() - optional
    if missing:
        raise UserError(
            f"no value for {', '.join(f'--{name}' for name in sorted(missing))}: give it, or add "
            f"a row for {args.model} {method} to {TABLE.name}"
        )
    return args, said
