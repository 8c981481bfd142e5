"""Files of one's own, and data of any size, once for all: arrays that are mapped into memory.

<data folder>/<name>/<digest>/            of a file's bytes and of how it is read: ``Reading``
    import.json  users.npy  items.npy  user_ids.npy  item_ids.npy       ``Interactions``
    split_<name>.npz                                                    the splits drawn from them
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from Utils.errors import UserError
from Utils.files import (
    COMPRESSED,
    disk_errors,
    lock_folder,
    read_json,
    require_ids,
    require_room,
    sha256_of,
    write_array,
    write_json,
    write_whole,
)
from Utils.interactions import Interactions
from Utils.synthetic import Size, make
from Utils.tables import MIN_COUNT, Imported, Reading, parts_of, read_file

FORMAT = "recdistill import 1"
ARRAYS = ("users", "items", "user_ids", "item_ids")


def name_of(path: Path) -> str:
    """Return what a file's data set is called: its name without suffixes, as suits a folder."""
    plain = path.with_suffix("") if path.suffix in COMPRESSED else path
    return re.sub(r"[^\w.-]", "_", plain.stem).strip(".") or "data"


def load_own(path: Path, data_dir: Path, reading: Reading) -> tuple[Imported, Path]:
    """Return what a file holds, and the folder where that is kept; read it first if it is not.

    Raises
    ------
    UserError
        As ``read_file``, and if what was kept is damaged or cannot be written.
    """
    digests = [sha256_of(part) for part in parts_of(path)]
    whole = hashlib.sha256("".join(digests).encode()).hexdigest()
    source = whole if path.is_dir() else digests[0]
    key = [FORMAT, path.name, source, {"min_count": MIN_COUNT} | reading.chosen()]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:8]
    folder = data_dir / name_of(path) / digest
    return _once(folder, source, "U", lambda: read_file(path, source, reading)), folder


def load_made(size: Size, data_dir: Path) -> tuple[Imported, Path]:
    """Return a data set of any size, and the folder where it is kept; make it if it is not there.

    Raises
    ------
    UserError
        If there is no room, and if what was kept is damaged or cannot be written.
    """
    folder = data_dir / size.name / size.sha256[:8]
    if not folder.exists():
        require_room(folder.parent, 4 * 8 * size.pairs)  # users and items, while they are copied

    def made() -> Imported:
        print(f"{size.name} is made, in {folder}", flush=True)
        said = f"{size.name}: {size.users:,} users, {size.items:,} items, {size.pairs:,} pairs"
        return Imported(make(size, folder.parent), False, said)

    return _once(folder, size.sha256, "i", made), folder


def _once(folder: Path, source: str, ids: str, make: Callable[[], Imported]) -> Imported:
    """Return what is kept in a folder; make it first if it is not there.

    ``ids``: of which kind they are, as in ``dtype.kind``.
    """
    if not folder.exists():
        with disk_errors(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with lock_folder(folder.parent, wait=True):
            if not folder.exists():  # nobody else has made it meanwhile
                _keep(make(), folder)
    return _kept(folder, source, ids)


def _keep(imported: Imported, folder: Path) -> None:
    """Write what was read; the folder appears once it is complete."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    with disk_errors(folder):
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        try:
            digests = {}
            for name in ARRAYS:
                path = temporary / f"{name}.npy"
                with write_whole(path) as file:
                    write_array(file, getattr(imported.interactions, name))
                digests[name] = sha256_of(path)
            about = {"format": FORMAT, "source_sha256": imported.interactions.sha256}
            about |= {"in_order": imported.in_order, "said": imported.said, "sha256": digests}
            write_json(temporary / "import.json", about)
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _kept(folder: Path, source_sha256: str, kind_of_ids: str) -> Imported:
    """Return what ``_keep`` wrote, mapped into memory and checked."""
    remedy = f"delete {folder} to have it made anew"
    path = folder / "import.json"
    about = read_json(path, remedy)
    kinds = {"format": str, "source_sha256": str, "in_order": bool, "said": str, "sha256": dict}
    for key, kind in kinds.items():
        if not isinstance(about.get(key), kind):
            raise UserError(f"{path}: lacks {key}; {remedy}")
    if (about["format"], about["source_sha256"]) != (FORMAT, source_sha256):
        raise UserError(f"{path}: is of another format or file; {remedy}")
    arrays = {}
    for name in ARRAYS:
        path = folder / f"{name}.npy"
        if sha256_of(path) != about["sha256"].get(name):
            raise UserError(f"{path}: damaged, its sha256 differs; {remedy}")
        try:
            arrays[name] = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        except ValueError as error:
            raise UserError(f"{path}: is no array; {remedy}") from error
    users, items, user_ids, item_ids = arrays.values()
    for name, ids in (("user_ids", user_ids), ("item_ids", item_ids)):
        if ids.ndim != 1 or ids.dtype.kind != kind_of_ids:
            kind = "texts" if kind_of_ids == "U" else "numbers"
            raise UserError(f"{folder}: {name} are no row of {kind}; {remedy}")
    require_ids(folder, "users", users, (None,), len(user_ids))
    require_ids(folder, "items", items, users.shape, len(item_ids))
    if users.dtype != np.int64 or items.dtype != np.int64 or (users[1:] < users[:-1]).any():
        raise UserError(f"{folder}: users and items are not of int64, user by user; {remedy}")
    found = Interactions(users, items, user_ids, item_ids, source_sha256)
    return Imported(found, about["in_order"], about["said"])
