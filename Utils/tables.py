"""Any table: CSV, TSV, Parquet, RecBole's ``.inter``; and lines of items.

``open_table`` opens one, for whoever reads tables; ``read_file`` turns one into ``Interactions``
whose ids are text. Tables are read in record batches by pyarrow, an optional package; of each batch
only numbers are kept, and the texts that are new.
"""

import contextlib
import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from Utils.errors import UserError, need, warn
from Utils.files import COMPRESSED, open_plain
from Utils.interactions import Interactions, read_sequences, read_users_dat

PARQUET = (".parquet", ".pq")
USERS = "users.dat"  # lines of which each is of a user
ORDER = "order"  # --time_column: the rows are in the order of time
MIN_COUNT = 5
BLOCK = 1 << 24  # bytes of a text in a batch
ROWS = 1 << 20  # of a Parquet file in a batch
LONGEST = 256  # characters of an id: in an array, each takes as much room as the longest
MISSING = ("", "NaN", "nan", "NULL", "null")  # texts that stand for nothing
# usual names of columns, without case and punctuation; the first one that is there is taken
NAMES = {
    "user": "user userid uid username customer customerid client clientid member memberid reviewer "
    "reviewerid account accountid visitor visitorid person personid",
    "item": "item itemid iid movie movieid product productid parentasin asin sku article articleid "
    "book bookid isbn song songid track trackid artist artistid business businessid venue venueid "
    "poi poiid anime animeid game gameid recipe recipeid news newsid",
    "rating": "rating ratings score stars overall",
    "time": "timestamp time datetime date ts unixreviewtime reviewtime createdat eventtime",
}


@dataclass
class Reading:
    """How a file of one's own is read; with a built-in data set there is nothing to choose."""

    # of your own file: users with fewer distinct items are dropped; None: 5
    min_count: int | None = None
    # of your own file: what is rated lower is dropped; None: ratings are not looked at
    min_rating: float | None = None
    # of your own file: the column of users; empty: found by its usual names
    user_column: str = ""
    # the column of items
    item_column: str = ""
    # the column of ratings, for --min_rating
    rating_column: str = ""
    # the column of times, numbers or ISO dates; order: the rows are in the order of time
    time_column: str = ""

    def chosen(self) -> dict[str, Any]:
        """Return what is chosen: name -> value."""
        values = {field.name: getattr(self, field.name) for field in fields(Reading)}
        return {name: value for name, value in values.items() if value not in (None, "")}


class Imported(NamedTuple):
    """What a file gave; ``said`` is a line about it: columns, sizes, what was dropped."""

    interactions: Interactions
    in_order: bool  # each user's items are in the order of time
    said: str


class Table(NamedTuple):
    """A file as it can be read: its columns, and record batches of those that are wanted.

    Lines without columns have no ``names``.
    """

    names: list[str]
    batches: Callable[[list[str]], Iterator[Any]]


def read_file(path: Path, sha256: str, reading: Reading) -> Imported:
    """Return the interactions of a file, or of a folder of Parquet files.

    Users and items are numbered by first appearance; ids are text. Each user's items are in the
    order of time where it is known, else in the file's; of a pair that comes again, the first one
    stays. ``sha256`` is the file's.

    Raises
    ------
    UserError
        If pyarrow is needed and missing, if the file is no such table, if a column is not found or
        of a wrong type, or if no user has enough items.
    """
    table = open_table(path)
    if table.names:
        return _of_table(path, sha256, reading, table)
    return _of_lines(path, sha256, reading)


@contextlib.contextmanager
def _complaints(path: Path, meaning: Callable[[str], str]) -> Iterator[None]:
    """Say in one line what pyarrow, or the system, has against a file."""
    try:
        yield
    except (ValueError, KeyError, OSError) as error:  # pyarrow's are of these kinds
        fault = getattr(error, "strerror", None) or (str(error).splitlines() or [""])[0]
        raise UserError(f"{path}{meaning(fault)}") from error


def _unreadable(fault: str) -> str:
    return f": cannot be read ({fault}); mend the file"


def _of_lines(path: Path, sha256: str, reading: Reading) -> Imported:
    """Return what the readers of lines without columns have read, with ids as text."""
    for name, value in reading.chosen().items():
        if name != "min_count":
            raise UserError(f"--{name} {value}: {path} has no columns; leave it out")
    by_users = _plain_name(path) == USERS
    read = read_users_dat if by_users else read_sequences
    with _complaints(path, _unreadable):
        found = read(path, reading.min_count or MIN_COUNT)
    ids = {name: getattr(found, name).astype(str) for name in ("user_ids", "item_ids")}
    found = replace(found, sha256=sha256, **ids)
    form = "count item item ..." if by_users else "user item item ..."
    return Imported(found, not by_users, f"{path}: lines of '{form}'; {_sizes(found)}")


def _sizes(found: Interactions) -> str:
    return (
        f"{len(found.user_ids):,} users, {len(found.item_ids):,} items, "
        f"{len(found.users):,} interactions"
    )


# ---------------------------------------------------------------------------------------------
# Files as tables
# ---------------------------------------------------------------------------------------------


def open_table(path: Path) -> Table:
    """Return a text whose first line names its columns, a Parquet file, or a folder of such.

    Raises
    ------
    UserError
        If it cannot be read, now or batch by batch, or if pyarrow is needed and missing.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file; correct the path")
    if path.is_dir() or path.suffix.lower() in PARQUET:
        return _parquet(path)
    with _complaints(path, _unreadable):
        head = _first_line(path)
    name = _plain_name(path)
    delimiter = "\t" if name.endswith((".tsv", ".inter")) else max(",\t;|", key=head.count)
    if name == USERS or delimiter not in head:
        return Table([], lambda _: iter(()))
    return _text(path, head, delimiter, "" if name.endswith(".inter") else '"')


def _plain_name(path: Path) -> str:
    return path.stem if path.suffix in COMPRESSED else path.name


def _first_line(path: Path) -> str:
    """Return the first line of a text that is not empty."""
    with open_plain(path) as file:
        start = file.read(1 << 16)
    line = next((line for line in start.splitlines() if line.strip()), b"")
    if not line:
        raise UserError(f"{path}: the file is empty; put the complete file there")
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}:1: not UTF-8; save the file in this encoding") from None


def _text(path: Path, head: str, delimiter: str, quote: str) -> Table:
    """Return a text whose first line, ``head``, names its columns."""
    arrow = need("pyarrow", "pyarrow", f"{path}: reading tables")
    reader = need("pyarrow.csv", "pyarrow", f"{path}: reading tables")
    style = {"delimiter": delimiter, "quoting": csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE}

    def meaning(fault: str) -> str:
        row = re.search(r"Row #(\d+): (.*)", fault)
        place = f":{_line_of(path, int(row[1]), style)}" if row else ""
        fault = row[2] if row else fault
        if "UTF8" in fault:
            return f"{place}: not UTF-8; save the file in this encoding"
        if "Expected" in fault:
            fault = f"{fault.partition(':')[0].lower()}, or a quote is not closed"
        return f"{place}: {fault}; mend the file"

    def batches(columns: list[str]) -> Iterator[Any]:
        types = dict.fromkeys(columns, arrow.string())
        with _complaints(path, meaning):
            yield from reader.open_csv(
                str(path),
                reader.ReadOptions(block_size=BLOCK, use_threads=False),  # or no row is named
                reader.ParseOptions(
                    delimiter=delimiter, quote_char=quote or False, newlines_in_values=True
                ),
                reader.ConvertOptions(column_types=types, include_columns=columns),
            )

    return Table(next(csv.reader([head], **style)), batches)


def _line_of(path: Path, row: int, style: dict[str, Any]) -> int:
    """Return the line where a row ends; rows are counted from 1, without empty lines."""
    with open_plain(path) as file, io.TextIOWrapper(file, "utf-8-sig", "replace", "") as text:
        reader = csv.reader(text, **style)
        with contextlib.suppress(csv.Error):
            for record in reader:
                row -= bool(record)
                if not row:
                    break
        return reader.line_num


def parts_of(path: Path) -> list[Path]:
    """Return the files of which a data set is made: itself, or the Parquet files of a folder.

    Raises
    ------
    UserError
        If there is none.
    """
    if not path.is_dir():
        return [path]
    every = sorted(part for suffix in PARQUET for part in path.rglob(f"*{suffix}"))
    parts = [part for part in every if part.name[0] not in "._"]
    if not parts:
        raise UserError(f"{path}: this folder has no Parquet file; name the file itself")
    return parts


def _parquet(path: Path) -> Table:
    """Return a Parquet file, or all of a folder, in the order of their names."""
    reader = need("pyarrow.parquet", "pyarrow", f"{path}: Parquet")
    parts = parts_of(path)
    with _complaints(parts[0], _unreadable):
        schema = reader.read_schema(parts[0])

    def batches(columns: list[str]) -> Iterator[Any]:
        for part in parts:
            with _complaints(part, _unreadable), reader.ParquetFile(part) as file:
                for name in columns:
                    first, found = schema.field(name).type, file.schema_arrow.field(name).type
                    if found != first:
                        raise UserError(
                            f"{part}: {name} is of {found}, and of {first} in {parts[0].name}; "
                            f"write all parts alike"
                        )
                yield from file.iter_batches(ROWS, columns=columns)

    return Table(schema.names, batches)


# ---------------------------------------------------------------------------------------------
# From a table to interactions
# ---------------------------------------------------------------------------------------------


def _choose(path: Path, names: list[str], reading: Reading) -> dict[str, str]:
    """Return the columns that are read, by what they are: ``{"user": "userId", ...}``.

    Raises
    ------
    UserError
        If one is not found, or not alone of its name, or if a choice changes nothing.
    """
    if reading.rating_column and reading.min_rating is None:
        raise UserError(
            f"--rating_column {reading.rating_column}: ratings are looked at with --min_rating "
            f"only; give both or neither"
        )
    shown = ", ".join(names)
    shown = shown if len(shown) <= 200 else f"{shown[:197]}..."
    kinds = [kind for kind in NAMES if kind != "rating" or reading.min_rating is not None]
    found = {kind: _find(path, kind, names, reading, shown) for kind in kinds}
    if not (found["user"] or found["item"]):
        raise UserError(
            f"{path}: no header with a user and an item column, but {shown}; put a first line like "
            f"user,item,rating,timestamp there, or use --user_column and --item_column"
        )
    for kind, name in found.items():
        if not name and kind != "time":
            raise UserError(
                f"{path}: has no {kind} column of a usual name, but {shown}; name it {kind}, or "
                f"with --dataset use --{kind}_column NAME, which says which it is"
            )
    chosen = {kind: name for kind, name in found.items() if name}
    if len(set(chosen.values())) < len(chosen):
        raise UserError(f"{path}: one column is chosen twice: {_in_words(chosen)}")
    return chosen


def _find(path: Path, kind: str, names: list[str], reading: Reading, shown: str) -> str:
    """Return the column of a kind, by its usual names or the one that is asked for; or nothing."""
    asked = getattr(reading, f"{kind}_column")
    if not asked:
        found = usual_columns(names, NAMES[kind])
    else:
        found = [name for name in names if asked in (name, _bare(name))]
        if not found and (kind, asked) != ("time", ORDER):
            raise UserError(f"--{kind}_column {asked}: {path} has no such column, but {shown}")
    if len(found) > 1:
        raise UserError(
            f"{path}: which is the {kind} column, {' or '.join(found)}? Name each differently, and "
            f"one with --{kind}_column"
        )
    return found[0] if found else ""


def usual_columns(names: list[str], usual: str) -> list[str]:
    """Return the columns of that usual name which comes first, of those that are there."""
    plain = {name: re.sub(r"[\W_]", "", _bare(name).casefold()) for name in names}
    alike = ([name for name in names if plain[name] == each] for each in usual.split())
    return next(filter(None, alike), [])


def _bare(name: str) -> str:
    return re.sub(r":(token|float)(_seq)?$", "", name)


def _in_words(chosen: dict[str, str]) -> str:
    return ", ".join(f"{kind} from {name}" for kind, name in chosen.items())


def _of_table(path: Path, sha256: str, reading: Reading, table: Table) -> Imported:
    """Return the interactions of a table, and warn of rows that are none."""
    columns = _choose(path, table.names, reading)
    rows, lost = 0, Counter[str]()
    read: dict[str, list[Any]] = {"user": [], "item": [], "time": []}
    for of in batches_of(path, table, columns):
        rows += len(of["user"])
        for kind in ("rating", "time"):
            if kind in of:
                there = of[kind].is_valid()
                lost[f"rows without a {kind}"] += there.false_count
                of = {each: column.filter(there) for each, column in of.items()}
        if "rating" in of:
            enough = of.pop("rating").to_numpy() >= reading.min_rating
            lost[f"rows rated below {reading.min_rating:g}"] += np.count_nonzero(~enough)
            of = {each: column.filter(enough) for each, column in of.items()}
        for kind, column in of.items():
            read[kind].append(column)
    times = _times(path, columns["time"], read.pop("time")) if "time" in columns else None
    users, user_ids = codes_of(path, columns["user"], read.pop("user"))
    items, item_ids = codes_of(path, columns["item"], read.pop("item"))
    lost["rows without a user"] = np.count_nonzero(users < 0)
    lost["rows without an item"] = np.count_nonzero((items < 0) & (users >= 0))
    users, items = _by_user(users, items, times)
    first = _is_first(users.astype(np.int64) * len(item_ids) + items)
    lost["repeated pairs"] = np.count_nonzero(~first)
    users, items = users[first], items[first]
    if any(number for what, number in lost.items() if not what.startswith("rows rated")):
        warn(f"{path}: dropped {_listed(lost)}")
    counts, min_count = np.bincount(users, minlength=len(user_ids)), reading.min_count or MIN_COUNT
    enough = counts >= min_count
    if not enough.any():
        raise UserError(
            f"{path}: no user has {min_count} items, the fewest that are kept, in {rows:,} rows; "
            f"use a smaller --min_count, or the whole file"
        )
    lost[f"users with fewer than {min_count} items"] = np.count_nonzero(counts * ~enough)
    kept = enough[users]
    users, items = users[kept], items[kept]
    seen = np.bincount(items, minlength=len(item_ids)) > 0
    users, items = (np.cumsum(enough) - 1)[users], (np.cumsum(seen) - 1)[items]
    found = Interactions(users, items, user_ids[enough], item_ids[seen], sha256)
    dropped = f"; dropped {_listed(lost)}" if lost.total() else ""
    said = f"{path}: {_in_words(columns)}; {_sizes(found)} of {rows:,} rows{dropped}"
    return Imported(found, times is not None or reading.time_column == ORDER, said)


def _listed(lost: Counter[str]) -> str:
    return ", ".join(f"{number:,} {what}" for what, number in lost.items() if number)


def batches_of(path: Path, table: Table, columns: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield columns of a batch of rows, ``{"user": ..., ...}``, of those that are named.

    Users and items are dictionaries of text, vectors what they are in the file, all else numbers
    or dates.

    Raises
    ------
    UserError
        If a column is of a wrong type or has a value of none, or if there are no rows.
    """
    rows = 0
    for batch in table.batches(list(columns.values())):
        rows += len(batch)
        yield {
            kind: _column(path, kind, name, batch.column(name)) for kind, name in columns.items()
        }
    if not rows:
        raise UserError(f"{path}: has a header and no rows; put the complete file there")


def _column(path: Path, kind: str, name: str, column: Any) -> Any:
    """Return a column of a batch: ids as a dictionary of text, vectors as they are, else numbers.

    What is missing is null, of numbers and times also NaN and texts that stand for nothing.

    Raises
    ------
    UserError
        If the column is of a type, or has a value, that is no such thing.
    """
    if kind == "vector":
        return column
    arrow, compute = need("pyarrow", "pyarrow", name), need("pyarrow.compute", "pyarrow", name)
    types, is_time = arrow.types, kind == "time"
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if types.is_string_view(column.type):
        column = column.cast(arrow.string())
    of = column.type
    text = types.is_string(of) or types.is_large_string(of)
    if kind in ("user", "item"):
        if not (text or types.is_integer(of)):
            lost = "; where some are missing, pandas' Int64 keeps whole numbers"
            raise UserError(
                f"{path}: {name} is of {of}, and an id is text or a whole number; write it as one"
                f"{lost * types.is_floating(of)}"
            )
        coded = column.dictionary_encode()
        words = coded.dictionary.cast(arrow.string())
        return arrow.DictionaryArray.from_arrays(coded.indices, words)
    if text:
        nothing = compute.is_in(column, arrow.array(MISSING, of))
        column = _parsed(path, kind, name, compute.if_else(nothing, None, column))
    elif is_time and types.is_date(of):
        column = column.cast(arrow.timestamp("ms"))
    elif not (types.is_integer(of) or types.is_floating(of) or types.is_decimal(of)):
        if not (is_time and types.is_timestamp(of)):
            remedy = f"; name another --{kind}_column" * (kind in NAMES) + f", or {ORDER}" * is_time
            raise UserError(f"{path}: {name} is of {of}, which is no {kind}{remedy}")
    if not is_time or types.is_decimal(of):
        column = column.cast(arrow.float64())
    if types.is_floating(column.type):
        column = compute.if_else(compute.is_nan(column), None, column)
    return column


def _parsed(path: Path, kind: str, name: str, column: Any) -> Any:
    """Return texts as numbers, or as times: whole numbers, numbers, or ISO dates."""
    arrow = need("pyarrow", "pyarrow", name)
    forms = [arrow.int64(), arrow.float64(), arrow.timestamp("ns"), arrow.timestamp("ns", "UTC")]
    odd = []
    for form in forms if kind == "time" else forms[1:2]:
        try:
            return column.cast(form)
        except arrow.ArrowInvalid as error:
            found = re.search(r"'(.*)'", str(error), re.DOTALL)
            odd.append(found[1] if found else "")
    first = column.drop_null()[0].as_py()
    value = next((each for each in odd if each != first), first)  # of the form that got furthest
    wanted = "number" + f" or ISO date; --time_column {ORDER} takes none" * (kind == "time")
    raise UserError(f"{path}: {name} has {value[:40]!r}, which is no {wanted}")


def _times(path: Path, name: str, columns: list[Any]) -> np.ndarray:
    """Return the times of all batches, (n,), in a unit that they share."""
    arrow = need("pyarrow", "pyarrow", name)
    dated = {arrow.types.is_timestamp(column.type) for column in columns if len(column)}
    if len(dated) > 1:
        raise UserError(f"{path}: {name} has both numbers and dates; write all times alike")
    if dated == {True}:
        columns = [column.cast(arrow.int64()) for column in columns]
    return np.concatenate([column.to_numpy() for column in columns])


def codes_of(path: Path, name: str, columns: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each id, (n,), -1 where it is missing, and the ids, as text."""
    arrow, compute = need("pyarrow", "pyarrow", name), need("pyarrow.compute", "pyarrow", name)
    columns = arrow.chunked_array(columns).unify_dictionaries().chunks
    words = columns[0].dictionary
    with _complaints(path, lambda _: f": {name} has ids that are not UTF-8; write it as text"):
        words.validate(full=True)
    if (compute.max(compute.utf8_length(words)).as_py() or 0) > LONGEST:
        raise UserError(
            f"{path}: {name} has ids of more than {LONGEST} characters; is it the right column?"
        )
    if compute.any(compute.match_substring_regex(words, r"[\x00\r\n]")).as_py():
        raise UserError(
            f"{path}: {name} has an id with a line's end or a NUL in it; is a quote not closed?"
        )
    ids = np.array(words.to_pylist(), dtype=np.str_)
    number = np.where(np.isin(ids, MISSING), -1, np.arange(len(ids)))
    codes = np.concatenate([column.indices.fill_null(-1).to_numpy() for column in columns])
    return np.append(number, -1).astype(np.int32)[codes], ids


def _by_user(
    users: np.ndarray, items: np.ndarray, times: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs that have both, user by user, each user's in the order of time."""
    there = (users >= 0) & (items >= 0)
    users, items = users[there], items[there]
    if times is not None:
        order = np.argsort(times[there], kind="stable")
        users, items = users[order], items[order]
    order = np.argsort(users, kind="stable")
    return users[order], items[order]


def _is_first(keys: np.ndarray) -> np.ndarray:
    """Return where each key stands for the first time."""
    first = np.zeros(len(keys), bool)
    first[np.unique(keys, return_index=True)[1]] = True
    return first
