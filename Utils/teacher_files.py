"""Files of given teachers, as other libraries write them: vectors, or lists, under original ids."""

from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from Utils.errors import UserError, need
from Utils.files import COMPRESSED, opened, read_lines, read_npz, sha256_of
from Utils.tables import NAMES, PARQUET, batches_of, codes_of, open_table, parts_of, usual_columns

KINDS = ("user", "item")
REMEDY = "write it again, or name another --teacher"
# of arrays, implicit's name and LightFM's
ARRAYS = {kind: (f"{kind}_factors", f"{kind}_embeddings") for kind in KINDS}
FOLDERS = {kind: (f"{kind}Factors", f"{kind}_factors") for kind in KINDS}  # Spark's ALS, and others
COLUMNS = {kind: NAMES[kind] for kind in KINDS} | {
    "rank": "rank position place",
    "score": "score rating prediction",
    "vector": "features vector factors embedding embeddings",
}
OWN = "factors.safetensors"  # in a folder
TEXTS = tuple(f".{form}{end}" for form in ("csv", "tsv") for end in ("", *COMPRESSED))


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
        return not (path / "best.pt").exists() and (
            holds_factors(path) or any(part.suffix in PARQUET for part in path.rglob("*"))
        )
    return holds_factors(path) or path.name.lower().endswith(PARQUET + TEXTS)


def holds_factors(path: Path) -> bool:
    """Return whether these are vectors."""
    if path.is_dir():
        return (path / OWN).exists() or any(_tables_of(path, kind) for kind in KINDS)
    return path.suffix.lower() in (".npz", ".safetensors")


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
                arrays[f"{kind}_ids"] = np.array(read_lines(text, REMEDY))
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
        wanted = {kind: f"id {COLUMNS[kind]}", "vector": COLUMNS["vector"]}
        names, columns = _read(tables[0], wanted)
        ids = _ids(tables[0], names[kind], columns[kind])
        listed = [ids.different[row] for row in ids.rows]
        vectors[kind] = Vectors(listed, _vectors(tables[0], columns["vector"]))
        files += parts_of(tables[0])
    return vectors, files


def _vectors(path: Path, columns: list[Any]) -> np.ndarray:
    pa, pc = (need(name, "pyarrow", f"{path}: Parquet") for name in ("pyarrow", "pyarrow.compute"))
    column = pa.concat_arrays(columns)
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

    From any table that ``open_table`` opens: columns of users, of items, and of ranks or scores or
    both, by their usual names. Ranks decide the order where there are some, else scores, the
    highest first.

    Raises
    ------
    UserError
        If a column is missing or of another type, if a rank or a score is no number, or if a file
        is damaged.
    """
    wanted = {kind: COLUMNS[kind] for kind in (*KINDS, "rank", "score")}
    names, columns = _read(path, wanted, optional=("rank", "score"))
    users, items = (_ids(path, names[kind], columns.pop(kind)) for kind in KINDS)
    numbers = {kind: _finite(path, names[kind], column) for kind, column in columns.items()}
    if not numbers:
        raise UserError(
            f"{path}: has no column of ranks and none of scores; name one rank or score"
        )
    scores = numbers.get("score")
    order = numbers["rank"] if "rank" in numbers else -scores
    return Rows(
        users, items, order, None if scores is None else scores.astype(np.float32)
    ), parts_of(path)


def _read(
    path: Path, wanted: dict[str, str], optional: tuple[str, ...] = ()
) -> tuple[dict[str, str], dict[str, list[Any]]]:
    """Return which column is which, ``{"user": "userId", ...}``, and of each its batches."""
    table = open_table(path)
    found = {kind: usual_columns(table.names, usual) for kind, usual in wanted.items()}
    for kind, names in found.items():
        if len(names) > 1:
            raise UserError(f"{path}: which is the {kind}, {' or '.join(names)}? Leave one out")
        if not names and kind not in optional:
            usual, there = " or ".join(wanted[kind].split()[:3]), ", ".join(table.names)[:80]
            raise UserError(f"{path}: has no column named {usual}, but {there or 'no columns'}")
    chosen = {kind: names[0] for kind, names in found.items() if names}
    batches = list(batches_of(path, table, chosen))
    return chosen, {kind: [batch[kind] for batch in batches] for kind in chosen}


def _ids(path: Path, name: str, columns: list[Any]) -> Ids:
    rows, different = codes_of(path, name, columns)
    missing = [""] * bool((rows < 0).any())  # no id, which is none of the data's
    return Ids([*different.tolist(), *missing], rows)


def _finite(path: Path, name: str, columns: list[Any]) -> np.ndarray:
    values = np.concatenate([column.to_numpy(zero_copy_only=False) for column in columns])
    bad = np.flatnonzero(~(np.abs(values) <= np.finfo(np.float32).max))
    if bad.size:
        raise UserError(
            f"{path}: {name} is {values[bad[0]]} in row {bad[0] + 1:,} (the first is 1); leave "
            f"such rows out"
        )
    return values
