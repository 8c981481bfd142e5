"""Where a script's settings are from: the command line, ``settings.csv``, its own block.

The table has a row for each data set, base model, method and size that is tuned apart. It says
where it is from: published, or the best on the validation set in a search of
``experiments.tune``, whose log is in ``experiments/tuning/``.
"""

import csv
import importlib
import os
from dataclasses import fields
from math import log
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from experiments import ROOT
from Models import MODELS
from Utils.errors import UserError, require_known
from Utils.settings import RunSettings, method_of
from Utils.sources import DATASETS, IN_ORDER, dataset_name, is_own, refuse_reading, require_dataset
from Utils.tables import MIN_COUNT

TABLE = Path(__file__).with_suffix(".csv")
# d of teacher and student (phi = 0.1), from the parameters in table 3 of the DE-RRD paper
SIZES = {name: {"teacher_dim": 200, "dim": 20} for name in MODELS}
SIZES["NeuMF"] = {"teacher_dim": 250, "dim": 25}
SIZES["Popularity"] = {"teacher_dim": 1, "dim": 1}
SIZES |= {name: {"teacher_dim": 100, "dim": 50} for name in ("Caser", "SASRec")}  # the RD paper's
OF_SEQUENCES = "Toys"  # whose rows are those of models of sequences
RUN_SETTINGS = {field.name for field in fields(RunSettings)}

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


def load_script(method: str) -> ModuleType:
    """Return the module of ``main_<method>.py``."""
    require_known("method", method, (path.stem[5:] for path in ROOT.glob("main_*.py")))
    return importlib.import_module(f"main_{method}")


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


def find_row(block: dict[str, Any], dataset: str, model: str, method: str, dim: int) -> Row | None:
    """Return the row that applies, if any.

    That of exactly this data set, model, method and size comes first; what the script's ``block``
    is of needs none. Where data set or model are others than the block's, the row of the nearest
    size stands in for one that is missing, and the block's data set for one without rows; for
    models of sequences, of which the block's has no order, ``OF_SEQUENCES`` does.
    """
    if (dataset, model, dim) == (block["dataset"], block["model"], block["dim"]):
        return None
    for data in (dataset, block["dataset"], OF_SEQUENCES):
        own = (data, model) == (block["dataset"], block["model"])  # the block stands in there
        rows = [row for row in read_table() if row[:3] == (data, model, method)]
        rows = [row for row in rows if row.dim == dim or not own]
        if rows:
            return min(rows, key=lambda row: abs(log(row.dim / dim)))
    return None


def resolve(kind: type[Settings], given: dict[str, Any]) -> tuple[Settings, str]:
    """Return a script's settings, and a line that says where they are from.

    First what is ``given``, then the table's row (``find_row``), then the script's block, whose
    numbers are for the data set, model and size that stand there. Public data in an order of time
    are split by it, as are any for a model of sequences. A base model of other usual sizes than the
    block's has those.

    Raises
    ------
    UserError
        If the data set or the base model is unknown, if it is said how to read what is built in, or
        if the row has what the script cannot use.
    """
    block = {field.name: field.default for field in fields(kind)}
    dataset, model = (given.get(name, block[name]) for name in ("dataset", "model"))
    require_dataset(dataset)
    require_known("--model", model, MODELS)
    usual = SIZES.get(model, {}) if model != block["model"] else {}
    sizes = {name: size for name, size in usual.items() if name in block}
    method, dim = method_of(kind), (block | sizes | given)["dim"]
    if dataset in IN_ORDER or MODELS[model].in_order:
        sizes["split"] = "time"  # unless told otherwise
    if is_own(dataset):
        sizes["min_count"] = MIN_COUNT
    args, of_row = kind(**(sizes | given)), {}
    refuse_reading(dataset, args)
    row = find_row(block, dataset_name(dataset), model, method, dim)
    if row:
        try:
            of_row = parse(row.settings, kind)
            of_row = {name: value for name, value in of_row.items() if name not in given}
            args = kind(**(sizes | of_row | given))
        except UserError as error:
            raise _refusal(row.line, error) from error
    chosen = {name: value for name, value in given.items() if name not in RUN_SETTINGS}
    said = []
    if chosen:
        said.append(f"given: {_in_words(chosen)}")
    if of_row:
        place = f"{os.path.relpath(TABLE)}:{row.line}, for {' '.join(row[:3])} d={row.dim}"
        said.append(f"tuned ({place}; {row.source}): {_in_words(of_row)}")
    elif model != block["model"] and "lr" in block:
        said.append(f"no row for {model} in {TABLE.name}, so the numbers are {block['model']}'s")
    elif dataset not in DATASETS and "lr" in block:
        name, whose = dataset_name(dataset), block["dataset"]
        said.append(f"no row for {name} in {TABLE.name}, so the numbers are {whose}'s")
    return args, "; ".join([*said, f"all else as in main_{method}.py"])


def _in_words(values: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items())
