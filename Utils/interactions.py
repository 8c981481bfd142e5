"""Readers: from a raw file to ``Interactions``, renumbered without gaps, the file's ids kept."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from Utils.errors import UserError, warn
from Utils.files import open_plain

NUMBER = re.compile(rb"-?\d{1,20}")  # int() takes 1_000 and other forms, too


@dataclass(frozen=True)
class Interactions:
    """Who touched what, renumbered without gaps and grouped by user.

    ``users``, ``items``: (n,) int64, sorted by user, each user's items in file order.
    ``user_ids``: (num_users,) and ``item_ids``: (num_items,), the ids in the raw file. A file
    with one line for each user names no users: there, the id is the line's index from 0.
    """

    users: np.ndarray
    items: np.ndarray
    user_ids: np.ndarray
    item_ids: np.ndarray
    sha256: str  # of the raw file

    @classmethod
    def from_pairs(
        cls, user_ids: np.ndarray, item_ids: np.ndarray, min_count: int, sha256: str, where: object
    ) -> "Interactions":
        """Keep users with ``min_count`` items and number users and items by first appearance.

        Parameters
        ----------
        user_ids, item_ids : (n,) integer arrays of distinct pairs, in file order.
        where : what to name in the error when no user is left.
        """
        _, inverse, counts = np.unique(user_ids, return_inverse=True, return_counts=True)
        keep = counts[inverse] >= min_count
        if not keep.any():
            raise UserError(
                f"{where}: no user has {min_count} items, the fewest that are kept; is this the "
                f"whole file?"
            )
        users, kept_users = _by_first_appearance(user_ids[keep])
        items, kept_items = _by_first_appearance(item_ids[keep])
        order = np.argsort(users, kind="stable")
        return cls(users[order], items[order], kept_users, kept_items, sha256)


def _by_first_appearance(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each id's number, in order of first appearance, and the ids in that order."""
    distinct, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    return number[inverse], distinct[order]


def read_users_dat(path: Path, min_count: int) -> Interactions:
    """Read a file with a line for each user: ``count item item ...``.

    Repeated items on a line are dropped, counted, and reported as a warning.

    Raises
    ------
    UserError
        With ``file:line``, for a count that does not match, a token that is not a number, or a
        negative id; also for an empty file and when no user has ``min_count`` items.
    """
    content = _content(path)
    rows = [_items_of(line, f"{path}:{n}") for n, line in enumerate(content.splitlines(), 1)]
    distinct = [list(dict.fromkeys(row)) for row in rows]
    repeats = sum(map(len, rows)) - sum(map(len, distinct))
    if repeats:
        first = next(n for n, row in enumerate(rows, 1) if len(set(row)) < len(row))
        warn(f"{path}:{first}: dropped {repeats:,} repeated items in the file, the first here")
    counts = [len(row) for row in distinct]
    users = np.repeat(np.arange(len(counts)), counts)
    items = np.fromiter((item for row in distinct for item in row), np.int64, sum(counts))
    digest = hashlib.sha256(content).hexdigest()
    return Interactions.from_pairs(users, items, min_count, digest, where=path)


def read_sequences(path: Path, min_count: int) -> Interactions:
    """Read a file with lines ``user item item ...``, each user's items in the order of time.

    A user's items may be on one line or on several, one after the other. Items that come again are
    dropped, counted, and reported as a warning.

    Raises
    ------
    UserError
        With ``file:line``, for a token that is not a number, a negative id or a line without an
        item; also for an empty file and when no user has ``min_count`` items.
    """
    content = _content(path)
    users, items = [], []
    for number, line in enumerate(content.splitlines(), 1):
        user, *mine = _ids(line, f"{path}:{number}", "user item item ...", 0) or [0]
        if not mine:
            raise UserError(f"{path}:{number}: no item on the line; a line is 'user item item ...'")
        users += [user] * len(mine)
        items += mine
    pairs = np.array([users, items])
    _, first = np.unique(pairs, axis=1, return_index=True)
    if len(first) < len(users):
        warn(f"{path}: dropped {len(users) - len(first):,} items that a user had before")
    kept = np.sort(first)
    digest = hashlib.sha256(content).hexdigest()
    return Interactions.from_pairs(*pairs[:, kept], min_count, digest, where=path)


def _content(path: Path) -> bytes:
    """Return what a file holds, which is not nothing."""
    try:
        with open_plain(path) as file:
            content = file.read()
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror}); mend that") from error
    if not content:
        raise UserError(f"{path}: the file is empty; put the complete file there")
    return content


def _items_of(line: bytes, where: str) -> list[int]:
    """Parse one line of ``users.dat`` and return its items."""
    values = _ids(line, where, "count item item ...", 1)
    if not values:
        raise UserError(f"{where}: the line is empty; a user without items is the line '0'")
    count, *items = values
    if count != len(items):
        raise UserError(f"{where}: the count says {count} items but {len(items)} follow; mend it")
    return items


def _ids(line: bytes, where: str, form: str, first: int) -> list[int]:
    """Return the numbers of a line of the given form, which are ids from the ``first`` one on."""
    values = []
    for token in line.split():
        if not NUMBER.fullmatch(token):
            text = token.decode(errors="replace")[:40]
            raise UserError(f"{where}: {text!r} is not a number; a line is {form!r}")
        values.append(int(token))
    for value in values[first:]:
        if not 0 <= value < 2**63:
            raise UserError(f"{where}: item {value} is out of range; ids are 0, 1, 2, ...")
    return values
