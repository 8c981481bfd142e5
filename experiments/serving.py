"""A trained model in use: its run, whom it is asked for, and their lists under the original ids."""

import contextlib
import csv
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from experiments.settings import load_script
from Models.fold_in import choose, fold_in
from Models.lists import best_lists
from Models.recommender import Recommender
from Models.teacher import read_teacher
from Utils.errors import UserError, need, warn
from Utils.files import read_lines, write_whole
from Utils.interactions import Interactions
from Utils.run_folder import RunFolder, read_summary
from Utils.sources import split_of
from Utils.split import HeldOut, Split
from Utils.tables import Reading, read_file

ROOM = 2**22  # scores that are held at a time
ROWS = 2**20  # that are written at a time
COLUMNS = ("user", "item", "rank", "score")


@dataclass(frozen=True)
class Served:
    """A finished run: what it says of itself, its data, and its model."""

    folder: RunFolder
    config: dict[str, Any]
    summary: dict[str, Any]
    split: Split
    model: Recommender

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def describe(self) -> str:
        """Return one line: what it is and how good it is."""
        name, metric = type(self.model).__name__, self.split.protocol.selecting
        return (
            f"{name} d={self.model.dim}, {self.summary['method']}, "
            f"{self.model.num_parameters():,} parameters, test {metric} "
            f"{self.summary['test'][metric]:.4f}; {self.split.describe()}"
        )

    @torch.no_grad()
    def factors(self) -> tuple[Tensor, Tensor] | None:
        """Return ``(num_users, d)``, as users are now, and ``(num_items, d)``, if there are such.

        For models of sequences, that is after all items of theirs that are known.
        """
        return self.model.encode_before("next")


def read_run(path: Path, data_dir: str, device: torch.device) -> Served:
    """Return the run that a folder in ``logs/`` or ``checkpoints/``, or its ``best.pt``, is of.

    ``data_dir`` is the folder of the data sets.

    Raises
    ------
    UserError
        If there is no such run, if it has not finished, if its weights are missing or do not fit
        its data, or if a file is broken.
    """
    folder = RunFolder.named(path)
    config = folder.read_config()
    again = f"{config.get('command')} --resume"
    if not folder.summary.exists():
        raise UserError(f"{folder.logs}: holds an unfinished run; this goes on with it: {again}")
    summary = read_summary(folder.summary)
    if not folder.has_weights():
        raise UserError(f"{folder.best}: no weights of a finished run; this makes them: {again}")
    kind = load_script(summary["method"]).Settings
    known = {field.name for field in fields(kind)} & config["settings"].keys()
    settings = {name: config["settings"][name] for name in known} | {"data_dir": data_dir}
    args = kind(**settings)
    split = split_of(args)
    teacher = read_teacher(folder.best, split, device, f"this makes it anew: {again}")
    return Served(folder, config, summary, split, teacher.model)


# ---------------------------------------------------------------------------------------------
# Who is asked for
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Queries:
    """Users, by their original ids, with what they have had and what scores all items for them.

    ``ids``: (Q,), ``seen``: of each, by its place there; ``score``: such places ``(B,)`` to
    ``(B, num_items)``.
    """

    ids: np.ndarray
    seen: HeldOut
    score: Callable[[Tensor], Tensor]


def known_users(served: Served, path: Path | None) -> Queries:
    """Return all users of a run, or those whose ids are in a file, one on a line.

    Raises
    ------
    UserError
        If the file is empty or has an id that was not there at training, with ``file:line``.
    """
    split, factors = served.split, served.factors()
    users = np.arange(split.num_users)
    if path:
        lines = read_lines(path, "name another --users")
        users = _numbers(split.user_ids, np.array(lines))
        for line in np.flatnonzero(users < 0)[:1]:
            raise UserError(
                f"{path}:{line + 1}: user {lines[line]!r} was not there at training; --history "
                f"FILE takes the items of those who are new"
            )
    numbers = torch.from_numpy(users).to(served.device)
    if factors:
        score = products(factors[0][numbers], factors[1])
    else:

        def score(places: Tensor) -> Tensor:
            return served.model.score_all(numbers[places])

    return Queries(split.user_ids[users], split.known.of(users), score)


def new_users(served: Served, path: Path) -> Queries:
    """Return the users of a file of interactions, folded in; print how well that goes.

    Who was there at training is folded in, too, from all items: the known ones and those of the
    file. Items that were not there are dropped and counted.

    Raises
    ------
    UserError
        If the file is broken, if no item of it was there at training, or if nobody can be folded
        into the model.
    """
    split = served.split
    ids, taken = histories(read_history(path), split, path)
    found = choose(served.model, split)
    print(found.describe(split.protocol.selecting), flush=True)
    _, items = served.model.encode()
    return Queries(ids, taken, products(fold_in(items, taken, found.alpha, found.ridge), items))


def products(users: Tensor, items: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what scores all items for some users, by their places: ``(B,) -> (B, I)``."""
    return lambda places: users[places] @ items.T


def histories(found: Interactions, split: Split, path: Path) -> tuple[np.ndarray, HeldOut]:
    """Return the ids of those users who have an item of the split, and their items."""
    items = _numbers(split.item_ids, found.item_ids)[found.items]
    new = np.count_nonzero(items < 0)
    users, items = found.users[items >= 0], items[items >= 0]
    if not len(users):
        raise UserError(f"{path}: no item of it was there at training; are its ids others?")
    numbers = _numbers(split.user_ids, found.user_ids)
    there = np.flatnonzero(numbers >= 0)
    known = split.known.of(numbers[there])
    pairs = [np.append(users, there[known.users]), np.append(items, known.items)]
    users, items = np.unique(pairs, axis=1)
    kept, users = np.unique(users, return_inverse=True)
    lost = len(found.user_ids) - len(kept)
    if new or lost:
        warn(
            f"{path}: dropped {new:,} interactions with items that were not there at training, and "
            f"{lost:,} users who have no others"
        )
    return found.user_ids[kept], HeldOut.of_pairs(users, items, len(kept))


def read_history(path: Path) -> Interactions:
    """Return what users took, be it one item, with ids as text, of any file as of ``--dataset``."""
    return read_file(path, "", Reading(min_count=1)).interactions


def _numbers(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the place of each wanted id among ``ids``, as texts; -1 where it is not there."""
    places = {each: place for place, each in enumerate(ids.astype(str).tolist())}
    return np.array([places.get(each, -1) for each in wanted.astype(str).tolist()], np.int64)


# ---------------------------------------------------------------------------------------------
# Lists
# ---------------------------------------------------------------------------------------------


def lists_of(
    asked: Queries, num_items: int, count: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the best items of some users at a time, and their scores: two ``(B, count)``.

    What a user has had is left out; where fewer items are left, scores of the rest are ``-inf``.
    """
    everyone = torch.arange(len(asked.ids), device=device)
    seen, size = (asked.seen.users, asked.seen.items), max(ROOM // num_items, 1)
    with tqdm(desc="lists", total=len(everyone), unit="user", disable=None) as bar:
        for best in best_lists(asked.score, everyone, seen, count, size):
            yield best
            bar.update(len(best[0]))


def require_format(path: Path) -> None:
    """Raise ``UserError`` if lists cannot be written to a file of this name: before all work."""
    if path.suffix not in FORMATS:
        raise UserError(
            f"--output {path}: lists are written as {' or '.join(FORMATS)}; let its name end so"
        )
    if path.suffix == ".parquet":
        need("pyarrow", "pyarrow", f"{path}: Parquet, unlike --output lists.csv,")


def write_lists(
    path: Path, user_ids: np.ndarray, item_ids: np.ndarray, lists: Iterable[tuple[Tensor, Tensor]]
) -> int:
    """Write lists, a row for each user and item, best first, and return how many rows.

    Columns are ``user`` and ``item``, as in the raw data, ``rank``, from 1, and ``score``. The
    suffix says how: ``.parquet``, which needs pyarrow, or ``.csv``.
    """
    with write_whole(path) as file, FORMATS[path.suffix](file, user_ids, item_ids) as write:
        return sum(map(write, _rows(lists)))


def _rows(lists: Iterable[tuple[Tensor, Tensor]]) -> Iterator[list[np.ndarray]]:
    """Yield places of users, items, ranks and scores, ``(n,)`` each, ``ROWS`` or so at a time."""
    first, columns = 0, []
    for items, scores in lists:
        items, scores = items.cpu().numpy(), scores.cpu().numpy()
        users, ranks = np.nonzero(scores > -np.inf)
        columns.append((first + users, items[users, ranks], ranks + 1, scores[users, ranks]))
        first += len(items)
        if sum(len(column[0]) for column in columns) >= ROWS:
            yield list(map(np.concatenate, zip(*columns, strict=True)))
            columns = []
    if columns:
        yield list(map(np.concatenate, zip(*columns, strict=True)))


@contextlib.contextmanager
def _as_parquet(
    file: BinaryIO, user_ids: np.ndarray, item_ids: np.ndarray
) -> Iterator[Callable[[list[np.ndarray]], int]]:
    """Give what writes rows to a file, and returns how many they are."""
    arrow = need("pyarrow", "pyarrow", "Parquet")
    parquet = need("pyarrow.parquet", "pyarrow", "Parquet")
    ids = arrow.array(user_ids), arrow.array(item_ids)
    types = ids[0].type, ids[1].type, arrow.int32(), arrow.float32()
    schema = arrow.schema(list(zip(COLUMNS, types, strict=True)))

    def write(columns: list[np.ndarray]) -> int:
        users, items = (of.take(arrow.array(n)) for of, n in zip(ids, columns, strict=False))
        ranks, scores = columns[2].astype(np.int32), columns[3].astype(np.float32)
        writer.write_table(arrow.table([users, items, ranks, scores], schema=schema))
        return len(ranks)

    with parquet.ParquetWriter(file, schema) as writer:
        yield write


@contextlib.contextmanager
def _as_csv(
    file: BinaryIO, user_ids: np.ndarray, item_ids: np.ndarray
) -> Iterator[Callable[[list[np.ndarray]], int]]:
    """Give the same of a CSV; scores have six digits."""
    text = io.TextIOWrapper(file, "utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)

    def write(columns: list[np.ndarray]) -> int:
        users, items, ranks, scores = columns
        ids = user_ids[users].tolist(), item_ids[items].tolist()
        writer.writerows(zip(*ids, ranks.tolist(), (f"{s:.6g}" for s in scores), strict=True))
        return len(ranks)

    yield write
    text.detach()


FORMATS = {".parquet": _as_parquet, ".csv": _as_csv}
