"""Splits: what is trained on, what is held out, and how a model is measured on it.

One class serves all of them; ``leave_one_out`` and ``by_share`` draw one, ``read_published_split``
reads one. What is held out may be of any length for a user, and none.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from Utils.errors import UserError
from Utils.files import (
    ANEW,
    in_chunks,
    read_npz,
    release,
    require_ids,
    room_for,
    sha256_of,
    write_npz,
    write_whole,
)
from Utils.interactions import Interactions
from Utils.seeding import numpy_generator

NUM_CANDIDATES = 499  # unobserved items ranked with each held-out one; DE-RRD paper, section 5.1
# of a user's items, those held out for validation and for the test
SHARES = {"share": (0.2, 0.2), "time": (0.1, 0.2)}
FORMAT = "recdistill split 1"
PAIRS = 1 << 20  # that are compared, more or less, at a time
USERS = 2048  # whose candidates are put in order at a time


@dataclass(frozen=True)
class Protocol:
    """How a model is measured on a split, and when training stops.

    ``rules``: name of a rule -> the cut-offs of ``letters[0]`` that are followed, each with an
    epoch of its own, and the patience in evaluations. The first cut-off, the same in all rules, is
    the one that selects the weights that are kept.
    """

    letters: tuple[str, ...]  # H, N, M: see ``Utils.evaluation``
    cutoffs: tuple[int, ...]
    every: int  # epochs from one evaluation to the next
    rules: dict[str, tuple[tuple[int, ...], int]]
    whole: tuple[str, ...] = ()  # metrics of all ranks, without a cut-off

    @property
    def metrics(self) -> list[str]:
        """The names of all metrics: ``H@5``, ..."""
        return [f"{letter}@{n}" for n in self.cutoffs for letter in self.letters] + [*self.whole]

    @property
    def selecting(self) -> str:
        """The metric whose best value on the validation set selects the weights."""
        return f"{self.letters[0]}@{next(iter(self.rules.values()))[0][0]}"


# DE-RRD paper, section 5.1, and the rule of its authors' code
LEAVE_ONE_OUT = Protocol(
    letters=("H", "N", "M"),
    cutoffs=(5, 10, 20),
    every=1,
    rules={"paper": ((5,), 30), "published_code": ((5, 10, 20), 20)},
)
# cut-offs, interval and patience of HetComp's code
FULL_RANKING = Protocol(
    letters=("R", "N", "P", "MAP"), cutoffs=(10, 50), every=10, rules={"paper": ((50,), 5)}
)


# cut-offs of the RD paper, without 3; which metric selects, interval and patience are ours
NEXT_ITEMS = Protocol(
    letters=("N", "R", "P"),
    cutoffs=(1, 5, 10),
    every=5,
    rules={"paper": ((10,), 10)},
    whole=("MAP",),
)


def protocol_of(split_name: str) -> Protocol:
    """Return the protocol of a split by its name: what a run's folder says."""
    for start, protocol in (("share", FULL_RANKING), ("time", NEXT_ITEMS)):
        if split_name.startswith(start):
            return protocol
    return LEAVE_ONE_OUT


def name_of_measured(split_name: str, number: int) -> str:
    """Return what a split is called of which so many users are measured: ``seed0-users10000``."""
    return f"{split_name}-users{number}"


def has_all_users(split_name: str) -> bool:
    """Return whether each user has one held-out item in each part, by the split's name."""
    return protocol_of(split_name) is LEAVE_ONE_OUT and "-users" not in split_name


@dataclass(frozen=True)
class HeldOut:
    """Held-out items, user by user: those of user u are ``items[starts[u]:starts[u + 1]]``.

    ``starts``: (num_users + 1,) int64, from 0 to n. ``items``: (n,) int64.
    """

    starts: np.ndarray
    items: np.ndarray

    @classmethod
    def of_pairs(cls, users: np.ndarray, items: np.ndarray, num_users: int) -> "HeldOut":
        """Return pairs, (n,) and (n,), that are sorted by user."""
        return cls(np.searchsorted(users, np.arange(num_users + 1)), items)

    @classmethod
    def one_each(cls, items: np.ndarray) -> "HeldOut":
        """Return one item for each user: ``items`` is (num_users,)."""
        return cls(np.arange(len(items) + 1), items)

    @property
    def counts(self) -> np.ndarray:
        """How many items each user has: (num_users,)."""
        return np.diff(self.starts)

    @property
    def users(self) -> np.ndarray:
        """The user of each item: (n,)."""
        return np.repeat(np.arange(len(self.starts) - 1), self.counts)

    def places(self, users: np.ndarray) -> np.ndarray:
        """Return where the items of some users stand, user by user: (n,)."""
        counts = self.counts[users]
        first = np.cumsum(counts) - counts
        return np.arange(counts.sum()) + np.repeat(self.starts[:-1][users] - first, counts)

    def of(self, users: np.ndarray) -> "HeldOut":
        """Return those of some users alone, who are numbered by their place there.

        Of users in a row, nothing is copied.
        """
        if _are_in_a_row(users):
            edges = self.starts[users[0] : users[-1] + 2]
            return HeldOut(edges - edges[0], self.items[edges[0] : edges[-1]])
        starts = np.concatenate([[0], np.cumsum(self.counts[users])])
        return HeldOut(starts, self.items[self.places(users)])

    def only(self, users: np.ndarray) -> "HeldOut":
        """Return those of some users, a mask ``(num_users,)``; the others have none."""
        starts = np.concatenate([[0], np.cumsum(self.counts * users)])
        return HeldOut(starts, self.items[users[self.users]])


def _are_in_a_row(ids: np.ndarray) -> bool:
    return len(ids) > 0 and bool((np.diff(ids) == 1).all())


@dataclass(frozen=True)
class Split:
    """Training pairs, and the items held out for validation and for the test.

    ``user_ids``: (num_users,), ``item_ids``: (num_items,), as in the raw file; users and items are
    numbered by their place there. ``train_users``, ``train_items``: (n,) int64, user by user, each
    user's in the raw file's order. ``candidates``: (num_users, 499) int32, items that the user
    never touched, with which both held-out items are ranked; or None: held-out items are ranked
    with all items that the user has not trained on. Where some users alone are measured, the
    others have no held-out items and no row of candidates.
    """

    dataset: str
    name: str  # "seed0", "share0", ... or "published": the last part of a run's folder
    source_sha256: str
    user_ids: np.ndarray
    item_ids: np.ndarray
    train_users: np.ndarray
    train_items: np.ndarray
    valid: HeldOut
    test: HeldOut
    candidates: np.ndarray | None
    unused: HeldOut | None = None  # neither trained on nor ranked, and yet known of the users

    def __post_init__(self) -> None:
        """Refuse what native kernels would take as it is, and what the protocol does not have."""
        texts = self.dataset, self.name, self.source_sha256
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f"the split's names are none; {ANEW}")
        where = f"{self.dataset} {self.name}"
        for name, ids in (("user_ids", self.user_ids), ("item_ids", self.item_ids)):
            if ids.ndim != 1 or not 0 < len(ids) < 2**31:
                raise UserError(f"{where}: {name} are no row of ids; {ANEW}")
        self._check_ids(where)
        self._check_pairs(where)

    def _check_ids(self, where: str) -> None:
        users, items = self.num_users, self.num_items
        wanted = {
            "train_users": (self.train_users, (None,), users),
            "train_items": (self.train_items, np.shape(self.train_users), items),
        }
        for part in ("valid", "test"):
            held_out = getattr(self, part)
            bound = np.size(held_out.items) + 1
            wanted[f"{part}_items"] = (held_out.items, (None,), items)
            wanted[f"{part}_starts"] = (held_out.starts, (users + 1,), bound)
        for name, (ids, shape, bound) in wanted.items():
            require_ids(where, name, ids, shape, bound)
            if ids.dtype != np.int64 or not ids.size:
                raise UserError(f"{where}: {name} is empty or not of int64; {ANEW}")
        for part in ("valid", "test"):
            starts, count = getattr(self, part).starts, len(getattr(self, part).items)
            if starts[0] != 0 or starts[-1] != count or (np.diff(starts) < 0).any():
                raise UserError(f"{where}: {part}_starts do not go from 0 to {count}; {ANEW}")
        if (self.train_users[1:] < self.train_users[:-1]).any():
            raise UserError(f"{where}: training pairs are not user by user; {ANEW}")
        if (self.candidates is None) != (self.protocol is not LEAVE_ONE_OUT):
            raise UserError(f"{where}: has candidates, or lacks them, against its name; {ANEW}")
        if self.candidates is None:
            return
        shape = (len(self.valid.items), NUM_CANDIDATES)
        require_ids(where, "candidates", self.candidates, shape, items)
        if self.candidates.dtype != np.int32:
            raise UserError(f"{where}: candidates are not of int32; {ANEW}")
        counts = self.valid.counts
        fewest = 1 if has_all_users(self.name) else 0
        if not np.isin(counts, (fewest, 1)).all() or (counts != self.test.counts).any():
            raise UserError(f"{where}: not one held-out item a user, to rank with them; {ANEW}")

    def _check_pairs(self, where: str) -> None:
        everyone, parts = np.arange(self.num_users), [self.train, self.valid, self.test]
        parts += [self.unused] if self.unused else []
        size = max(PAIRS * self.num_users // len(self.train_items), 1)
        for users in np.split(everyone, range(size, self.num_users, size)):
            some = [part.of(users) for part in parts]
            keys = np.concatenate([part.users * self.num_items + part.items for part in some])
            keys.sort()
            if (keys[1:] == keys[:-1]).any():
                raise UserError(f"{where}: a pair of user and item stands there twice; {ANEW}")
        if self.candidates is None:
            return
        held_out, first = np.stack([self.valid.items, self.test.items], axis=1), 0
        for some in in_chunks(self.candidates):
            mine, first = held_out[first : first + len(some)], first + len(some)
            if any((some == mine[:, part : part + 1]).any() for part in (0, 1)):
                raise UserError(f"{where}: held-out items are among the candidates; {ANEW}")

    @property
    def num_users(self) -> int:
        """The number of users."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """The number of items."""
        return len(self.item_ids)

    @property
    def protocol(self) -> Protocol:
        """How models are measured here."""
        return protocol_of(self.name)

    @property
    def train(self) -> HeldOut:
        """The training items of each user."""
        return HeldOut.of_pairs(self.train_users, self.train_items, self.num_users)

    @property
    def known(self) -> HeldOut:
        """All items of each user: of training, validation and test, and what is not used."""
        parts = [self.train, self.valid, self.test, *([self.unused] if self.unused else [])]
        users, items = (
            np.concatenate([getattr(p, of) for p in parts]) for of in ("users", "items")
        )
        order = np.argsort(users, kind="stable")
        return HeldOut.of_pairs(users[order], items[order], self.num_users)

    def of_users(self, users: np.ndarray) -> "Split":
        """Return the data of some users alone, who are numbered by their place there.

        Of users in a row, the large arrays are not copied.
        """
        train, candidates = self.train.of(users), self.candidates
        if candidates is not None:
            rows = self.valid.places(users)
            in_a_row = _are_in_a_row(rows)
            candidates = candidates[rows[0] : rows[-1] + 1] if in_a_row else candidates[rows]
        return replace(
            self,
            user_ids=self.user_ids[users],
            train_users=train.users,
            train_items=train.items,
            valid=self.valid.of(users),
            test=self.test.of(users),
            candidates=candidates,
            unused=self.unused and self.unused.of(users),
        )

    def measuring(self, number: int, seed: int) -> "Split":
        """Return the same training pairs with ``number`` of the users measured, drawn by ``seed``.

        What is held out of the others is neither trained on nor ranked.

        Raises
        ------
        UserError
            If no more users than these are measured anyhow.
        """
        measured = np.flatnonzero(self.test.counts)
        if number >= len(measured):
            raise UserError(
                f"--eval_users {number}: no sample, as {len(measured):,} users of {self.dataset} "
                f"({self.name}) are measured; use fewer, or 0 for all"
            )
        draw = numpy_generator(seed, "measured users").choice
        chosen = np.zeros(self.num_users, dtype=bool)
        chosen[draw(measured, number, replace=False)] = True
        valid, test = (part.only(chosen) for part in (self.valid, self.test))
        others = [part.only(~chosen) for part in (self.valid, self.test)]
        users, items = (
            np.concatenate([getattr(p, of) for p in others]) for of in ("users", "items")
        )
        order = np.argsort(users, kind="stable")
        return replace(
            self,
            name=name_of_measured(self.name, number),
            valid=valid,
            test=test,
            candidates=self._candidates_of(chosen[self.valid.users]),
            unused=HeldOut.of_pairs(users[order], items[order], self.num_users),
        )

    def _candidates_of(self, rows: np.ndarray) -> np.ndarray | None:
        """Return some rows of the candidates, by a mask, without the others in memory."""
        if self.candidates is None:
            return None
        kept, first = [], 0
        for part in in_chunks(self.candidates):
            kept.append(part[rows[first : first + len(part)]])
            first += len(part)
        return np.concatenate(kept)

    @cached_property
    def sha256(self) -> str:
        """The hash of everything that training and evaluation see; checkpoints carry it."""
        digest = sha256(f"{self.num_users} {self.num_items}".encode())
        seen = [self.train_users, self.train_items, self.valid.items, self.test.items]
        if self.candidates is None:
            seen += [self.valid.starts, self.test.starts]
        else:
            seen += [self.candidates]
        for part in (part for array in seen for part in in_chunks(array)):
            digest.update(np.ascontiguousarray(part, dtype=np.int32).data)
        return digest.hexdigest()

    def describe(self) -> str:
        """Return the statistics in one line."""
        pairs = len(self.train_users)
        total = pairs + sum(len(p.items) for p in (self.valid, self.test, self.unused) if p)
        density = total / (self.num_users * self.num_items)
        measured = np.count_nonzero(self.test.counts)
        of_them = "" if measured == self.num_users else f", {measured:,} users are measured"
        return (
            f"{self.dataset} ({self.name}): {self.num_users:,} users, {self.num_items:,} items, "
            f"{total:,} interactions (density {density:.3%}), {pairs:,} of them for training"
            f"{of_them}"
        )

    def save(self, path: Path) -> None:
        """Write the split to ``path`` (``.npz``)."""
        names = ("dataset", "name", "source_sha256", "user_ids", "item_ids")
        arrays = {name: getattr(self, name) for name in (*names, "train_users", "train_items")}
        for part in ("valid", "test"):
            held_out = getattr(self, part)
            arrays |= {f"{part}_starts": held_out.starts, f"{part}_items": held_out.items}
        nobody = np.empty((0, 0), np.int32)
        arrays["candidates"] = nobody if self.candidates is None else self.candidates
        with write_whole(path) as file:
            write_npz(file, {"format": FORMAT} | arrays)

    @classmethod
    def load(cls, path: Path) -> "Split":
        """Read a split that ``save`` wrote; raises ``UserError`` for any other file."""
        texts = ["dataset", "name", "source_sha256"]
        plain = ["user_ids", "item_ids", "train_users", "train_items", "candidates"]
        ragged = [f"{part}_{of}" for part in ("valid", "test") for of in ("starts", "items")]
        arrays = read_npz(path, ["format", *texts, *plain, *ragged])
        if arrays["format"] != FORMAT:
            raise UserError(f"{path}: not of the format {FORMAT!r}; {ANEW}")
        try:
            return cls(
                **{name: arrays[name].item() if arrays[name].ndim == 0 else "" for name in texts},
                **{name: arrays[name] for name in plain[:-1]},
                valid=HeldOut(arrays["valid_starts"], arrays["valid_items"]),
                test=HeldOut(arrays["test_starts"], arrays["test_items"]),
                candidates=arrays["candidates"] if arrays["candidates"].size else None,
            )
        except UserError as error:
            raise UserError(f"{path}: {error}") from None


def leave_one_out(
    interactions: Interactions, seed: int, dataset: str = "data", folder: Path | None = None
) -> Split:
    """Hold out one test and one validation item a user and draw 499 items the user never touched.

    Everything is drawn uniformly, from a generator of this seed (DE-RRD paper, section 5.1).
    ``folder``: where candidates are that are too many for memory, as long as the split is there.

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
            f"leave-one-out needs 3; leave such users out (of your own file: --min_count 3)"
        )
    full = np.flatnonzero(num_items - counts < NUM_CANDIDATES)
    if full.size:
        raise UserError(
            f"{dataset}: user {interactions.user_ids[full[0]]} left only "
            f"{num_items - counts[full[0]]} of {num_items:,} items untouched and {NUM_CANDIDATES} "
            f"are drawn as candidates; use --split share, or a data set with more items"
        )
    rng = numpy_generator(seed, "leave-one-out")
    starts = np.concatenate([[0], np.cumsum(counts)])
    held_out = np.empty((num_users, 2), dtype=np.int64)  # positions of test and validation pairs
    candidates = room_for((num_users, NUM_CANDIDATES), np.int32, folder)
    touched = HeldOut(starts, interactions.items)
    for users in np.split(np.arange(num_users), range(USERS, num_users, USERS)):
        for user, count in zip(users.tolist(), counts[users].tolist(), strict=True):
            held_out[user] = rng.choice(count, 2, replace=False)
            candidates[user] = rng.choice(
                num_items - count, NUM_CANDIDATES, replace=False, shuffle=False
            )
        _number_all_items(candidates[users[0] : users[-1] + 1], touched.of(users))
        release(candidates)
    held_out += starts[:-1, None]
    train = np.ones(len(interactions.users), dtype=bool)
    train[held_out] = False
    return _cut(
        interactions,
        train,
        dataset,
        f"seed{seed}",
        valid=HeldOut.one_each(interactions.items[held_out[:, 1]]),
        test=HeldOut.one_each(interactions.items[held_out[:, 0]]),
        candidates=candidates,
    )


def _number_all_items(drawn: np.ndarray, touched: HeldOut) -> None:
    """Turn numbers among a user's untouched items into numbers among all, sorted; in place.

    ``drawn``: (users, n) int32. Each number is shifted past the touched items before it: exact, and
    without rejection however much a user has touched.
    """
    drawn.sort(axis=1)
    (num_users, width), users, far = drawn.shape, touched.users, 2**31  # beyond any item
    items = users * far + touched.items
    items.sort()
    items -= np.arange(len(items)) - touched.starts[users]  # the user's touched ones before it
    whole = np.arange(num_users)[:, None] * far + drawn
    place = np.searchsorted(whole.ravel(), items) + users  # a row ends with one that is none
    width += 1
    begins = np.bincount(place, minlength=num_users * width).reshape(num_users, width)
    drawn += begins[:, :-1].cumsum(axis=1)


def name_of_shares(kind: str, number: str, valid: float, test: float) -> str:
    """Return what a split by shares is called: ``share0``; ``time-15-15`` with unusual shares.

    Raises
    ------
    UserError
        If the shares leave nothing for one of the parts.
    """
    if not (valid > 0 and test > 0 and valid + test < 1):
        raise UserError(
            f"--valid_share {valid:g} --test_share {test:g}: leave nothing for one of validation, "
            f"test and training; use shares like {' and '.join(map(str, SHARES[kind]))}"
        )
    unusual = f"-{100 * valid:g}-{100 * test:g}" * ((valid, test) != SHARES[kind])
    return f"{kind}{number}{unusual}"


def by_share(
    interactions: Interactions,
    seed: int,
    dataset: str = "data",
    valid: float = SHARES["share"][0],
    test: float = SHARES["share"][1],
) -> Split:
    """Hold out a share of each user's items for the test and one for validation, rounded down.

    Which, a generator of this seed decides. Held-out items that nobody trains on are dropped, and
    a user who is left without an item in one of the two parts is not measured (as in HetComp's
    code).

    Raises
    ------
    UserError
        If nobody has an item in both parts, or if the shares are none.
    """
    name = name_of_shares("share", str(seed), valid, test)
    users = interactions.users
    counts = np.bincount(users, minlength=len(interactions.user_ids))
    chance = numpy_generator(seed, "split by shares").random(len(users))
    order = np.lexsort((chance, users))  # each user's pairs shuffled, users in order
    place = np.empty_like(order)
    place[order] = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    # how many of the user's are held out
    last, both = ((counts * share).astype(np.int64) for share in (test, valid))
    last, both = last[users], (last + both)[users]
    parts = {"test": place < last, "valid": (place >= last) & (place < both)}
    return _hold_out(interactions, parts, dataset, name)


def by_time(
    interactions: Interactions,
    seed: int = 0,
    dataset: str = "data",
    valid: float = SHARES["time"][0],
    test: float = SHARES["time"][1],
) -> Split:
    """Hold out the last share of each user's items for the test, and the share before it.

    Rounded down, but one at least of each; nothing is drawn. So a user's training items come before
    those for validation, and these before the test's. Held-out items that nobody trains on are
    dropped, as by shares.

    Source: the public code of the RD paper trains on the first 70 % and tests on the last 20 %.

    Raises
    ------
    UserError
        If nobody has an item in both held-out parts, or if the shares are none.
    """
    name = name_of_shares("time", "", valid, test)
    users = interactions.users
    counts = np.bincount(users, minlength=len(interactions.user_ids))
    left = np.repeat(np.cumsum(counts), counts) - np.arange(len(users))  # 1 for a user's last one
    last, before = (np.maximum((counts * share).astype(int), 1)[users] for share in (test, valid))
    parts = {"test": left <= last, "valid": (left > last) & (left <= last + before)}
    return _hold_out(interactions, parts, dataset, name)


def _hold_out(
    interactions: Interactions, parts: dict[str, np.ndarray], dataset: str, name: str
) -> Split:
    """Return the split with the pairs of two masks, ``test`` and ``valid``, held out.

    Without items that nobody trains on, and without users who are left with none in one part.
    """
    users, items = interactions.users, interactions.items
    num_users, num_items = len(interactions.user_ids), len(interactions.item_ids)
    train = ~(parts["test"] | parts["valid"])
    warm = np.bincount(items[train], minlength=num_items)[items] > 0
    has = [np.bincount(users[part & warm], minlength=num_users) > 0 for part in parts.values()]
    measured = warm & (has[0] & has[1])[users]
    if not measured.any():
        raise UserError(
            f"{dataset}: nobody is left with an item for validation and one for the test, beside "
            f"those for training; use a data set with longer lists"
        )
    held_out = {
        part: HeldOut.of_pairs(users[mask & measured], items[mask & measured], num_users)
        for part, mask in parts.items()
    }
    return _cut(interactions, train, dataset, name, **held_out, candidates=None)


def _cut(
    interactions: Interactions, train: np.ndarray, dataset: str, name: str, **held_out: Any
) -> Split:
    """Return the split with the pairs that the mask ``train`` has, (n,), for training."""
    return Split(
        dataset,
        name,
        interactions.sha256,
        interactions.user_ids,
        interactions.item_ids,
        interactions.users[train],
        interactions.items[train],
        **held_out,
    )


def read_published_split(path: Path, dataset: str) -> Split:
    """Read the split that the DE-RRD authors published (``published_split0.npz``).

    Users and items are numbered as here, and have these numbers for ids. The authors count one item
    more than there are, which nobody has touched; some candidate lists hold it, so it is kept.
    Their extra user is not.
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
    return Split(
        dataset=dataset,
        name="published",
        source_sha256=sha256_of(path),
        user_ids=np.arange(len(users)),
        item_ids=np.arange(num_items),
        train_users=arrays["train"][:, 0].astype(np.int64),
        train_items=arrays["train"][:, 1].astype(np.int64),
        valid=HeldOut.one_each(arrays["valid"].astype(np.int64)),
        test=HeldOut.one_each(arrays["test"].astype(np.int64)),
        candidates=arrays["candidates"].astype(np.int32),
    )
