"""The tuned settings: ``settings.csv`` has a row for each data set, base model, method and size.

A row says where it is from: published, or the best on the validation set in a search of
``experiments.tune``, whose log is in ``experiments/tuning/``.
"""

import csv
import os
from dataclasses import fields, replace
from math import log
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

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
    line: int = 0  # where it stands in the file, not a column


COLUMNS = list(Row._fields[:-1])


def read_table() -> list[Row]:
    """Return the rows of ``settings.csv``.

    Raises
    ------
    UserError
        If the file is no table of these columns, with the line where it is not.
    """
    try:
        text = TABLE.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{TABLE}: cannot read ({error.strerror}); restore it") from error
    except UnicodeDecodeError as error:
        line = 1 + error.object.count(b"\n", 0, error.start)
        raise _refusal(line, "not UTF-8; save the file in this encoding") from error
    lines = enumerate(text.splitlines() or [""], 1)
    (_, head), *rows = [(n, _cells(n, line)) for n, line in lines if n == 1 or line.strip()]
    if head != COLUMNS:
        raise _refusal(1, f"the columns are {','.join(head)}; they must be {','.join(COLUMNS)}")
    return [_row(line, cells) for line, cells in rows]


def _cells(line: int, text: str) -> list[str]:
    """Return the cells of a line; a text ends on the line where it begins."""
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise _refusal(line, f"broken quotes ({error}); close them, double those inside") from error


def _row(line: int, cells: list[str]) -> Row:
    if len(cells) != len(COLUMNS):
        raise _refusal(
            line, f"{len(cells)} columns, not {len(COLUMNS)}; put a text with commas into quotes"
        )
    *names, dim, settings, source = cells
    if not (dim.isdecimal() and int(dim)):
        raise _refusal(line, f"dim={dim}: not a whole number above 0; write it like 20")
    return Row(*names, int(dim), settings, source, line)


def _refusal(line: int, fault: object) -> UserError:
    return UserError(f"{os.path.relpath(TABLE)}:{line}: {fault}")


def write_table(rows: list[Row]) -> None:
    """Replace ``settings.csv``."""
    with open(TABLE, "w", encoding="utf-8") as file:
        lines = [COLUMNS, *(row[: len(COLUMNS)] for row in rows)]
        csv.writer(file, lineterminator="\n").writerows(lines)


def parse(settings: str, kind: type) -> dict[str, Any]:
    """Return what ``name=value name=value`` says, of the types that a script's settings have.

    Raises
    ------
    UserError
        If ``kind`` has no such setting, or one of another type.
    """
    kinds, values = get_type_hints(kind), {}
    for part in settings.split():
        name, equals, text = part.partition("=")
        if not equals or name in values:
            raise UserError(f"{part}: write each setting once, like lr=0.001")
        require_known("setting", name, [field.name for field in fields(kind)])
        values[name] = _value(name, text, kinds[name])
    return values


def _value(name: str, text: str, kind: Any) -> Any:
    """Return a text as a value of a setting's annotation, such as ``float | None``."""
    if kind is bool or get_origin(kind) is Literal:
        require_known(name, text, get_args(kind) or ("True", "False"))
        return text == "True" if kind is bool else text
    for number, wanted in (
        (int, "whole number; write one, like 10"),
        (float, "number; write one, like 0.001"),
    ):
        if number in (kind, *get_args(kind)):
            try:
                return number(text)
            except ValueError:
                raise UserError(f"{name}={text}: not a {wanted}") from None
    return text


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
        If the base model is unknown, if a setting has a value in neither place, or if the row
        has what the script cannot use.
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
    taken = {}
    if row:
        try:
            taken = fill(parse(row.settings, type(args)))
            args = replace(args, **taken)
        except UserError as error:
            raise _refusal(row.line, error) from error
    if taken:
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
