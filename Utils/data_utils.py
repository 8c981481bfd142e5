"""From the raw interaction file to a leave-one-out split.

``load_split`` is what scripts call: it finds or downloads the raw file, reads and filters it into
``Interactions``, and draws (or reads back) the ``LeaveOneOutSplit`` of the wanted seed.
"""

import hashlib
import http.client
import re
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from Utils.errors import UserError
from Utils.files import ANEW, read_npz, require_ids, sha256_of, write_whole
from Utils.seeding import numpy_generator
from Utils.synthetic import synthetic_pairs

NUM_CANDIDATES = 499  # unobserved items ranked with each held-out one; DE-RRD paper, section 5.1
SPLIT_FORMAT = "recdistill leave-one-out split 1"


@dataclass(frozen=True)
class Source:
    """A public ``users.dat``: where it is, what its bytes hash to, which users are kept."""

    url: str
    sha256: str
    min_count: int  # users with fewer distinct items are dropped


SOURCES = {
    "CiteULike": Source(
        url="https://raw.githubusercontent.com/js05212/citeulike-t/HEAD/users.dat",
        sha256="02d5d429b2c0362e0ed79f6ef204666b4092563d21493abf4dfb521e8a7078bf",
        min_count=5,
    ),
    "Foursquare": Source(
        url="https://raw.githubusercontent.com/hieunm44/hyperkdma/HEAD/datasets/Foursquare/users.dat",
        sha256="808c42ee414bdef5990e4f61143e2e02f1d266c59b303f37b4050a99d2536c78",
        min_count=10,
    ),
}
NUMBER = re.compile(rb"-?\d{1,20}")  # int() takes 1_000 and other forms, too
SYNTHETIC = "synthetic"  # the built-in data set, made by Utils/synthetic.py


# ---------------------------------------------------------------------------------------------
# The raw file
# ---------------------------------------------------------------------------------------------


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
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror}); mend that") from error
    if not content:
        raise UserError(f"{path}: the file is empty; put the complete file there")
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


def _items_of(line: bytes, where: str) -> list[int]:
    """Parse one line of ``users.dat`` and return its items."""
    values = []
    for token in line.split():
        if not NUMBER.fullmatch(token):
            text = token.decode(errors="replace")[:40]
            raise UserError(f"{where}: {text!r} is not a number; a line is 'count item item ...'")
        values.append(int(token))
    if not values:
        raise UserError(f"{where}: the line is empty; a user without items is the line '0'")
    count, *items = values
    if count != len(items):
        raise UserError(f"{where}: the count says {count} items but {len(items)} follow; mend it")
    for item in items:
        if not 0 <= item < 2**63:
            raise UserError(f"{where}: item {item} is out of range; ids are 0, 1, 2, ...")
    return items


# ---------------------------------------------------------------------------------------------
# The split
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LeaveOneOutSplit:
    """Training pairs, one validation and one test item a user, and the candidates ranked with them.

    ``train_users``, ``train_items``: (n,) int64. ``valid``, ``test``: (num_users,) int64.
    ``candidates``: (num_users, 499) int32, items that the user never touched, shared by validation
    and test (DE-RRD paper, section 5.1).
    """

    dataset: str
    name: str  # "seed0", "seed1", ... or "published": the last part of a run's folder
    source_sha256: str
    num_users: int
    num_items: int
    train_users: np.ndarray
    train_items: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    candidates: np.ndarray

    def __post_init__(self) -> None:
        """Refuse what native kernels would take as it is, and what the protocol does not have."""
        users, items = counts = self.num_users, self.num_items
        texts = self.dataset, self.name, self.source_sha256
        if not all(isinstance(text, str) for text in texts) or not all(
            isinstance(count, int) and 0 < count < 2**31 for count in counts
        ):
            raise UserError(f"the split's names, or numbers of users and items, are none; {ANEW}")
        where = f"{self.dataset} {self.name}"
        shapes = {"train_users": (None,), "train_items": np.shape(self.train_users)}
        shapes |= {"valid": (users,), "test": (users,), "candidates": (users, NUM_CANDIDATES)}
        for name, shape in shapes.items():
            ids = np.asarray(getattr(self, name))
            wanted = np.int32 if name == "candidates" else np.int64
            require_ids(where, name, ids, shape, users if name == "train_users" else items)
            if ids.dtype != wanted or not ids.size:
                raise UserError(f"{where}: {name} is empty or not of {wanted.__name__}; {ANEW}")
        held_out = np.stack([self.valid, self.test])  # (2, U)
        trained = self.train_users * items + self.train_items
        keys = np.sort(np.append(trained, np.arange(users) * items + held_out))
        if (keys[1:] == keys[:-1]).any():
            raise UserError(f"{where}: a pair of user and item stands there twice; {ANEW}")
        if any((self.candidates == column[:, None]).any() for column in held_out):
            raise UserError(f"{where}: held-out items are among the candidates; {ANEW}")

    @cached_property
    def sha256(self) -> str:
        """The hash of everything that training and evaluation see; checkpoints carry it."""
        digest = hashlib.sha256(f"{self.num_users} {self.num_items}".encode())
        for array in (self.train_users, self.train_items, self.valid, self.test, self.candidates):
            digest.update(np.ascontiguousarray(array, dtype=np.int32).data)
        return digest.hexdigest()

    def describe(self) -> str:
        """Return the statistics in one line."""
        pairs = len(self.train_users)
        total = pairs + 2 * self.num_users
        density = total / (self.num_users * self.num_items)
        return (
            f"{self.dataset} ({self.name}): {self.num_users:,} users, {self.num_items:,} items, "
            f"{total:,} interactions (density {density:.3%}), {pairs:,} of them for training"
        )

    def save(self, path: Path) -> None:
        """Write the split to ``path`` (``.npz``)."""
        with write_whole(path) as file:
            np.savez(
                file,
                format=SPLIT_FORMAT,
                **{name: getattr(self, name) for name in self.__dataclass_fields__},
            )

    @classmethod
    def load(cls, path: Path) -> "LeaveOneOutSplit":
        """Read a split that ``save`` wrote; raises ``UserError`` for any other file."""
        arrays = read_npz(path, ["format", *cls.__dataclass_fields__])
        if arrays.pop("format") != SPLIT_FORMAT:
            raise UserError(f"{path}: not of the format {SPLIT_FORMAT!r}; {ANEW}")
        try:
            return cls(**{k: v.item() if v.ndim == 0 else v for k, v in arrays.items()})
        except UserError as error:
            raise UserError(f"{path}: {error}") from None


def leave_one_out(interactions: Interactions, seed: int, dataset: str = "data") -> LeaveOneOutSplit:
    """Hold out one test and one validation item a user and draw 499 items the user never touched.

    Everything is drawn uniformly, from a generator of this seed (DE-RRD paper, section 5.1).

    Raises
    ------
    UserError
        If a user has fewer than 3 items, or fewer than 499 items are untouched.
    """
    num_users, num_items = len(interactions.user_ids), len(interactions.item_ids)
    counts = np.bincount(interactions.users, minlength=num_users)
    few = np.flatnonzero(counts < 3)
    if few.size:
        raise UserError(
            f"{dataset}: user {interactions.user_ids[few[0]]} has {counts[few[0]]} items and "
            f"leave-one-out needs 3; leave such users out"
        )
    full = np.flatnonzero(num_items - counts < NUM_CANDIDATES)
    if full.size:
        raise UserError(
            f"{dataset}: user {interactions.user_ids[full[0]]} left only "
            f"{num_items - counts[full[0]]} of {num_items:,} items untouched and {NUM_CANDIDATES} "
            f"are drawn as candidates; use a data set with more items"
        )
    rng = numpy_generator(seed, "leave-one-out")
    starts = np.concatenate([[0], np.cumsum(counts)])
    held_out = np.empty((num_users, 2), dtype=np.int64)  # positions of test and validation pairs
    candidates = np.empty((num_users, NUM_CANDIDATES), dtype=np.int32)
    for user in range(num_users):
        start, stop = starts[user], starts[user + 1]
        held_out[user] = start + rng.choice(stop - start, size=2, replace=False)
        # Draw among the numbers of the untouched items, then shift each number past the touched
        # items before it: exact, and without rejection however much a user has touched.
        touched = np.sort(interactions.items[start:stop]) - np.arange(stop - start)
        free = num_items - (stop - start)
        drawn = np.sort(rng.choice(free, size=NUM_CANDIDATES, replace=False, shuffle=False))
        candidates[user] = drawn + np.searchsorted(touched, drawn, side="right")
    train = np.ones(len(interactions.users), dtype=bool)
    train[held_out] = False
    return LeaveOneOutSplit(
        dataset=dataset,
        name=f"seed{seed}",
        source_sha256=interactions.sha256,
        num_users=num_users,
        num_items=num_items,
        train_users=interactions.users[train],
        train_items=interactions.items[train],
        valid=interactions.items[held_out[:, 1]],
        test=interactions.items[held_out[:, 0]],
        candidates=candidates,
    )


def read_published_split(path: Path, dataset: str) -> LeaveOneOutSplit:
    """Read the split that the DE-RRD authors published (``published_split0.npz``).

    Users and items are numbered as here. The authors count one item more than there are, which
    nobody has touched; some candidate lists hold it, so it is kept. Their extra user is not.
    """
    arrays = read_npz(path, ["train", "users", "valid", "test", "candidates", "shape"])
    require_ids(path, "shape", arrays["shape"], (2,), 2**31)
    require_ids(path, "users", arrays["users"], (None,), 2**31)
    users, num_items = arrays["users"], int(arrays["shape"][1])
    if not np.array_equal(users, np.arange(len(users))):
        raise UserError(f"{path}: the users are not numbered 0, 1, 2, ...; take the published file")
    shapes = {"valid": (len(users),), "test": (len(users),)}
    shapes |= {"candidates": (len(users), NUM_CANDIDATES), "train": (None, 2)}
    for name, shape in shapes.items():
        require_ids(path, name, arrays[name], shape, num_items)
    return LeaveOneOutSplit(
        dataset=dataset,
        name="published",
        source_sha256=sha256_of(path),
        num_users=len(users),
        num_items=num_items,
        train_users=arrays["train"][:, 0].astype(np.int64),
        train_items=arrays["train"][:, 1].astype(np.int64),
        valid=arrays["valid"].astype(np.int64),
        test=arrays["test"].astype(np.int64),
        candidates=arrays["candidates"].astype(np.int32),
    )


# ---------------------------------------------------------------------------------------------
# Where data comes from
# ---------------------------------------------------------------------------------------------


def load_split(dataset: str, split: str, seed: int, data_dir: str) -> LeaveOneOutSplit:
    """Return a data set's split, making or downloading what is not in ``data_dir`` yet.

    Parameters
    ----------
    dataset : a name in ``SOURCES``, or ``"synthetic"``.
    split : ``"seed"`` for our own split of this seed, kept as ``loo_seed<seed>.npz`` beside the raw
        file; ``"published"`` for the authors' own, read from ``published_split0.npz``.
    """
    folder = Path(data_dir) / dataset
    if split == "published":
        path = folder / "published_split0.npz"
        if not path.exists():
            raise UserError(
                f"{path}: no such file; put the published split there or use '--split seed'"
            )
        return read_published_split(path, dataset)
    interactions = load_interactions(dataset, data_dir)
    path = folder / f"loo_seed{seed}.npz"
    if path.exists():
        kept = LeaveOneOutSplit.load(path)
        found = (kept.dataset, kept.name, kept.source_sha256)
        if found != (dataset, f"seed{seed}", interactions.sha256):
            raise UserError(f"{path}: of another raw file or seed; delete it to make it anew")
        return kept
    made = leave_one_out(interactions, seed, dataset)
    try:
        made.save(path)
    except UserError as error:  # the same split can be drawn again at any time
        warn(f"the split is not kept: {error}")
    return made


def load_interactions(dataset: str, data_dir: str) -> Interactions:
    """Return the filtered interactions of a data set, downloading its file if it is missing."""
    if dataset == SYNTHETIC:
        users, items = synthetic_pairs()
        digest = hashlib.sha256(users.tobytes() + items.tobytes()).hexdigest()
        return Interactions.from_pairs(users, items, 1, digest, where=SYNTHETIC)
    source = SOURCES[dataset]
    path = Path(data_dir) / dataset / "users.dat"
    if not path.exists():
        download(source.url, source.sha256, path)
    interactions = read_users_dat(path, source.min_count)
    if interactions.sha256 != source.sha256:
        raise UserError(
            f"{path}: not the public file (sha256 {interactions.sha256[:8]}..., not "
            f"{source.sha256[:8]}...), and runs on other data must not stand under its name; "
            f"delete it to have that of {source.url} downloaded"
        )
    return interactions


def download(url: str, sha256: str, path: Path) -> None:
    """Fetch ``url`` to ``path`` with a progress bar; the file appears only if its hash is right."""
    remedy = f"put the file from {url} there"
    try:
        response = urllib.request.urlopen(url, timeout=30)
    except OSError as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is an open response, too
        raise UserError(f"{path}: no such file, and no download ({error}); {remedy}") from error
    print(f"{path}: no such file, so it is downloaded from {url}")
    digest = hashlib.sha256()
    total = int(response.headers.get("Content-Length", 0)) or None
    bar = tqdm(desc=path.name, total=total, unit="B", unit_scale=True, disable=None)
    with response, bar, write_whole(path) as file:
        while chunk := _receive(response, f"{path}: the download broke off; {remedy}"):
            file.write(chunk)
            digest.update(chunk)
            bar.update(len(chunk))
        if digest.hexdigest() != sha256:
            raise UserError(
                f"{path}: the download broke off or is another file (its sha256 differs) and is "
                f"not kept; {remedy}"
            )


def _receive(response: http.client.HTTPResponse, complaint: str) -> bytes:
    try:
        return response.read(1 << 16)
    except (OSError, http.client.HTTPException) as error:  # the network's errors, not the disk's
        raise UserError(complaint) from error


def warn(text: str) -> None:
    """Print one warning line where it does not mix with results."""
    print(f"warning: {text}", file=sys.stderr)
