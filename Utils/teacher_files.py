"""Files of given teachers, as other libraries write them: vectors, or lists, under original ids."""

import csv
import gzip
import io
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from Utils.errors import UserError, need
from Utils.files import opened, read_npz, sha256_of

KINDS = ("user", "item")
REMEDY = "write it again, or name another --teacher"
# of arrays, implicit's name and LightFM's; of columns, in lower case and without underscores
ARRAYS = {kind: (f"{kind}_factors", f"{kind}_embeddings") for kind in KINDS}
FOLDERS = {kind: (f"{kind}Factors", f"{kind}_factors") for kind in KINDS}  # Spark's ALS, and others
COLUMNS = {
    "user": ("user", "userid", "uid", "customer", "customerid", "visitor", "visitorid"),
    "item": ("item", "itemid", "iid", "movieid", "product", "productid", "sku"),
    "rank": ("rank", "position", "place"),
    "score": ("score", "rating", "prediction"),
    "vector": ("features", "vector", "factors", "embedding", "embeddings"),
}
OWN = "factors.safetensors"  # in a folder
TABLES = (".parquet", ".csv", ".tsv", ".csv.gz", ".tsv.gz")


class Vectors(NamedTuple):
    """Vectors of users or items: ``ids`` (n,), as text, and ``table`` (n, d) float32, finite."""

    ids: list[str]
    table: np.ndarray


class Ids(NamedTuple):
    """A column of ids: those that differ, as text, and which of them each row has, (n,)."""

    different: list[str]
    rows: np.ndarray


class Rows(NamedTuple):
    """Rows of lists: whose, of what, where in the list (less is better), and scores or None."""

    users: Ids
    items: Ids
    order: np.ndarray
    scores: np.ndarray | None


def is_given(path: Path) -> bool:
    """Return whether a path is, or by its name would be, factors or lists and no checkpoint."""
    if path.is_dir():
        return not (path / "best.pt").exists() and (holds_factors(path) or bool(_parts(path)))
    return holds_factors(path) or path.name.lower().endswith(TABLES)


def holds_factors(path: Path) -> bool:
    """Return whether these are vectors."""
    if path.is_dir():
        return (path / OWN).exists() or any(_tables_of(path, kind) for kind in KINDS)
    return path.suffix.lower() in (".npz", ".safetensors")


def _arrow(module: str = "") -> ModuleType:
    return need(f"pyarrow{module}", "pyarrow", "reading Parquet, CSV or TSV")


def hash_of(files: list[Path]) -> str:
    """Return the SHA-256 of a file, or of the hashes of several, in hexadecimal."""
    hashes = [sha256_of(file) for file in files]
    return hashes[0] if len(hashes) == 1 else sha256("\n".join(hashes).encode()).hexdigest()


# --- vectors -------------------------------------------------------------------------------------


def read_factors(path: Path) -> tuple[dict[str, Vectors], list[Path]]:
    """Return the vectors of ``user`` and ``item``, and the files that they were read from.

    From ``.npz`` as implicit saves it, ``.safetensors``, a folder with ``factors.safetensors``, or
    one with a table of each, ``userFactors`` and ``itemFactors``, as Spark's ALS writes them. Ids
    are arrays or columns, or lines of ``users.txt`` and ``items.txt`` beside a ``.safetensors``;
    without, a vector's is its row. LightFM's biases become dimensions, so that scores stay inner
    products: ``[p, b_u, 1] . [q, 1, b_i]``.

    Raises
    ------
    UserError
        If something is missing, damaged, of another shape, not finite, or there twice.
    """
    if path.is_dir():
        if not (path / OWN).exists():
            return _read_tables(path)
        path = path / OWN
    files = [path]
    names = [name for kind in KINDS for name in (*ARRAYS[kind], f"{kind}_biases", f"{kind}_ids")]
    if path.suffix.lower() == ".npz":
        arrays = read_npz(path, [], REMEDY, optional=names)
    else:
        arrays = _read_safetensors(path)
        for kind in KINDS:
            text = path.with_name(f"{kind}s.txt")
            if text.exists() and f"{kind}_ids" not in arrays:
                arrays[f"{kind}_ids"] = np.array(_lines(text))
                files.append(text)
    return _from_arrays(path, arrays), files


def _from_arrays(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, Vectors]:
    tables = {}
    for kind in KINDS:
        found = [name for name in ARRAYS[kind] if name in arrays]
        if not found:
            raise UserError(f"{path}: holds no {' and no '.join(ARRAYS[kind])}; {REMEDY}")
        tables[kind] = _checked(f"{path}: {found[0]}", arrays[found[0]])
    counts = {kind: len(table) for kind, table in tables.items()}
    for kind, other in (KINDS, KINDS[::-1]):
        if f"{kind}_biases" in arrays:
            where, column = f"{path}: {kind}_biases", arrays[f"{kind}_biases"].reshape(-1, 1)
            _require_length(where, len(column), counts[kind], kind)
            tables[kind] = np.hstack([tables[kind], _checked(where, column)])
            tables[other] = np.hstack([tables[other], np.ones((counts[other], 1), np.float32)])
    return {
        kind: Vectors(_row_ids(path, kind, arrays.get(f"{kind}_ids"), len(table)), table)
        for kind, table in tables.items()
    }


def _row_ids(path: Path, kind: str, ids: np.ndarray | None, count: int) -> list[str]:
    if ids is None:
        return [str(row) for row in range(count)]
    if ids.ndim != 1 or ids.dtype.kind not in "iuU":
        raise UserError(f"{path}: ids of {kind}s are no row of whole numbers or text; {REMEDY}")
    _require_length(f"{path}: ids of {kind}s", len(ids), count, kind)
    return [str(each) for each in ids.tolist()]


def _require_length(where: str, found: int, count: int, kind: str) -> None:
    if found != count:
        raise UserError(f"{where} are {found:,}, but {count:,} {kind}s have vectors; {REMEDY}")


def _checked(where: str, table: np.ndarray) -> np.ndarray:
    """Return vectors as float32, if they are finite numbers, ``(n, d)``."""
    if table.ndim != 2 or table.dtype.kind not in "fiu" or not table.size:
        shape = " x ".join(map(str, table.shape))
        raise UserError(f"{where} is {table.dtype} of {shape}, no table of numbers; {REMEDY}")
    with np.errstate(over="ignore"):
        table = table.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if bad.size:
        raise UserError(
            f"{where} has numbers that are not finite in {bad.size:,} of {len(table):,} rows, the "
            f"first is row {bad[0]:,}; leave such vectors out"
        )
    return table


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    library = need("safetensors.torch", "safetensors", f"{path}: reading it")
    with opened(path, ".safetensors file", REMEDY) as file:
        tensors = library.load(file.read())
    return {
        name: (each.float() if each.is_floating_point() else each).numpy()
        for name, each in tensors.items()
    }


def _lines(path: Path) -> list[str]:
    with opened(path, "text in UTF-8", REMEDY) as file:
        return file.read().decode().replace("\r\n", "\n").removesuffix("\n").split("\n")


def _tables_of(path: Path, kind: str) -> list[Path]:
    """Return the table of a kind in a folder, as the one entry of a list, if there is one."""
    names = [f"{name}{end}" for name in FOLDERS[kind] for end in ("", ".parquet")]
    return [path / name for name in names if (path / name).exists()][:1]


def _read_tables(path: Path) -> tuple[dict[str, Vectors], list[Path]]:
    vectors, files = {}, []
    for kind in KINDS:
        tables = _tables_of(path, kind)
        if not tables:
            raise UserError(f"{path}: holds no {' and no '.join(FOLDERS[kind])}; {REMEDY}")
        wanted = {"id": ("id", *COLUMNS[kind]), "vector": COLUMNS["vector"]}
        columns, parts = _read_parquet(tables[0], wanted)
        ids = _ids(tables[0], columns["id"])
        listed = [ids.different[row] for row in ids.rows]
        vectors[kind] = Vectors(listed, _vectors(tables[0], columns["vector"]))
        files += parts
    return vectors, files


def _vectors(path: Path, column: Any) -> np.ndarray:
    pa, pc = _arrow(), _arrow(".compute")
    column = column.combine_chunks()
    kinds = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list
    if not any(kind(column.type) for kind in kinds) or not len(column):
        raise UserError(f"{path}: its vectors are {column.type}, not lists of numbers; {REMEDY}")
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) > 1 or not lengths[0]:
        found = " and of ".join(str(length) for length in lengths[:2])
        raise UserError(f"{path}: has vectors of {found} numbers; {REMEDY}")
    values = pc.list_flatten(column).to_numpy(zero_copy_only=False)
    return _checked(f"{path}", values.reshape(len(column), -1))


# --- lists ---------------------------------------------------------------------------------------


def read_lists(path: Path) -> tuple[Rows, list[Path]]:
    """Return the rows of lists, and the files that they were read from.

    From Parquet, a file or a folder of parts, or CSV or TSV with a line of names: columns of users,
    of items, and of ranks or scores or both, by their usual names. Ranks decide the order where
    there are some, else scores, the highest first.

    Raises
    ------
    UserError
        If a column is missing or of another type, if a rank or a score is no number, or if a file
        is damaged.
    """
    wanted = {name: COLUMNS[name] for name in ("user", "item", "rank", "score")}
    is_text = path.is_file() and not path.name.lower().endswith(".parquet")
    columns, files = (_read_csv if is_text else _read_parquet)(path, wanted, ("rank", "score"))
    users, items = (_ids(path, columns[kind]) for kind in KINDS)
    numbers = {
        name: _numbers(path, name, columns[name]) for name in ("rank", "score") if name in columns
    }
    if not numbers:
        raise UserError(
            f"{path}: has no column of ranks and none of scores; name one rank or score"
        )
    scores = numbers.get("score")
    order = numbers["rank"] if "rank" in numbers else -scores
    return Rows(users, items, order, None if scores is None else scores.astype(np.float32)), files


def _chosen(
    path: Path, names: Iterable[str], wanted: dict[str, tuple[str, ...]], optional: tuple[str, ...]
) -> dict[str, str]:
    """Return which column is which: ``{"user": "userId", ...}``."""
    names = list(names)
    plain = {name.strip().lower().replace("_", ""): name for name in reversed(names)}
    found = {}
    for meaning, usual in wanted.items():
        columns = [plain[name] for name in usual if name in plain]
        if not columns and meaning not in optional:
            raise UserError(
                f"{path}: has no column named {' or '.join(usual[:3])}, but {', '.join(names)[:80]}"
            )
        if columns:
            found[meaning] = columns[0]
    return found


def _parts(path: Path) -> list[Path]:
    """Return the Parquet files of a table, in order: of a folder, all but hidden ones."""
    if not path.is_dir():
        return [path]
    return sorted(part for part in path.glob("*.parquet") if part.name[0] not in "._")


def _read_parquet(
    path: Path, wanted: dict[str, tuple[str, ...]], optional: tuple[str, ...] = ()
) -> tuple[dict[str, Any], list[Path]]:
    pa, parquet = _arrow(), _arrow(".parquet")
    tables, parts = [], _parts(path)
    for part in parts:
        with opened(part, "Parquet file", REMEDY) as file:
            content = parquet.ParquetFile(file)
            names = _chosen(part, content.schema_arrow.names, wanted, optional)
            table = content.read(columns=list(names.values()))
            table = table.select(list(names.values())).rename_columns(list(names))
            table.validate(full=True)
        if tables and not table.schema.equals(tables[0].schema, check_metadata=False):
            raise UserError(f"{part}: has other columns than {parts[0]}; {REMEDY}")
        tables.append(table)
    if not tables:
        raise UserError(f"{path}: holds no .parquet files; {REMEDY}")
    whole = pa.concat_tables(tables)
    return {name: whole[name] for name in whole.column_names}, parts


def _read_csv(
    path: Path, wanted: dict[str, tuple[str, ...]], optional: tuple[str, ...] = ()
) -> tuple[dict[str, Any], list[Path]]:
    pa, reader = _arrow(), _arrow(".csv")
    name = path.name.lower()
    delimiter = "\t" if ".tsv" in name else ","
    with opened(path, "text in UTF-8", REMEDY) as raw:
        file: Any = gzip.open(raw) if name.endswith(".gz") else raw
        first = io.TextIOWrapper(io.BytesIO(file.readline()), "utf-8-sig")
        names = _chosen(path, next(csv.reader(first, delimiter=delimiter), []), wanted, optional)
        file.seek(0)
        types = {names[meaning]: pa.float64() for meaning in optional if meaning in names}
        types |= {names[kind]: pa.large_string() for kind in KINDS}
        try:
            table = reader.read_csv(
                file,
                reader.ReadOptions(use_threads=False),  # then errors say which row
                reader.ParseOptions(delimiter=delimiter),
                reader.ConvertOptions(column_types=types, include_columns=list(types)),
            )
        except pa.ArrowInvalid as error:
            said = str(error).splitlines()[0]
            raise UserError(f"{path}: {said[:160]}; mend that row (the first is 1)") from None
    return {meaning: table[column] for meaning, column in names.items()}, [path]


def _ids(path: Path, column: Any) -> Ids:
    pa = _arrow()
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        column = column.cast(pa.large_string())  # whose parts fit into one, however long
    elif not pa.types.is_integer(kind):
        raise UserError(f"{path}: ids are {kind}, not whole numbers or text; {REMEDY}")
    column = column.combine_chunks()
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    different = encoded.dictionary.cast(pa.large_string()).to_pylist()
    rows = encoded.indices.cast(pa.int64())
    if rows.null_count:  # no id, which is none of the data's
        rows, different = rows.fill_null(len(different)), [*different, ""]
    return Ids(different, rows.to_numpy(zero_copy_only=False))


def _numbers(path: Path, name: str, column: Any) -> np.ndarray:
    pa = _arrow()
    kinds = pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal
    if not any(kind(column.type) for kind in kinds):
        raise UserError(f"{path}: {name} is {column.type}, not numbers; {REMEDY}")
    values = column.cast(pa.float64()).to_numpy()
    bad = np.flatnonzero(~(np.abs(values) <= np.finfo(np.float32).max))
    if bad.size:
        raise UserError(
            f"{path}: {name} is {values[bad[0]]} in row {bad[0] + 1:,} (the first is 1); leave "
            f"such rows out"
        )
    return values
