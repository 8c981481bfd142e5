"""Data sets that are made: the built-in one, and those of any size.

The built-in one is small, offline, the same everywhere, and hard enough to need capacity.
"""

import hashlib
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import numpy as np

from Utils.errors import UserError
from Utils.files import release, room_for
from Utils.interactions import Interactions
from Utils.seeding import numpy_generator
from Utils.split import NUM_CANDIDATES

NUM_USERS = 1000
NUM_ITEMS = 2000
NUM_GROUPS = 50  # interests; a student of 20 dimensions cannot keep them all apart


def synthetic_pairs() -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) users and (n,) items, about 30,000 distinct pairs, always the same.

    Each item belongs to one latent group, each user follows a few groups, items have a long-tailed
    popularity and users a long-tailed activity. A user takes the items with the largest
    ``affinity + log popularity + Gumbel noise``: a draw without replacement in proportion to
    popularity, mostly from the user's own groups.
    """
    rng = np.random.default_rng(20201019)
    group = rng.integers(NUM_GROUPS, size=NUM_ITEMS)
    popularity = 1 / np.arange(10, NUM_ITEMS + 10) ** 1.0
    rng.shuffle(popularity)
    activity = np.clip(rng.lognormal(3.2, 0.6, NUM_USERS), 8, 150).astype(int)
    users, items = [], []
    for user in range(NUM_USERS):
        affinity = np.zeros(NUM_GROUPS)
        followed = rng.choice(NUM_GROUPS, size=rng.integers(2, 6), replace=False)
        affinity[followed] = rng.uniform(4, 6, len(followed))
        noisy = affinity[group] + np.log(popularity) + rng.gumbel(size=NUM_ITEMS)
        taken = np.argpartition(-noisy, activity[user])[: activity[user]]
        taken = taken[np.argsort(-noisy[taken])]
        users.append(np.full(len(taken), user))
        items.append(taken)
    return np.concatenate(users), np.concatenate(items)


FORM = "synthetic:USERSxITEMSxPAIRS"
FEWEST = 5  # items of a user
FOLLOWED = (2, 6)  # groups of a user, from and below
OUTSIDE = 0.15  # of a user's items, more or less, that are of any group
SEED = 20261126
TOGETHER = 1 << 20  # pairs that are drawn at a time, more or less
PATIENCE = 10  # times that what a user has already is drawn again as it was; then, of all items
MADE = "recdistill synthetic 1"  # changes with what is made


class Size(NamedTuple):
    """How large a data set is made. A user has 5 items or more, 20 say, and a few have many."""

    users: int
    items: int
    pairs: int

    @classmethod
    def of(cls, dataset: str) -> "Size":
        """Return the size that ``synthetic:1e6x1e6x2e7`` names: users, items and pairs.

        Raises
        ------
        UserError
            If it is none, or if there is no such data set that can be split.
        """
        numbers = dataset.partition(":")[2].lower().split("x")
        whole = re.compile(r"\d{1,12}(\.\d{1,9})?(e\d{1,2})?")
        if len(numbers) != 3 or not all(map(whole.fullmatch, numbers)):
            raise UserError(f"--dataset {dataset}: write {FORM}, as in synthetic:1e6x1e6x2e7")
        values = [Decimal(number) for number in numbers]
        size = cls(*(int(value) for value in values))
        if list(size) != values or not 0 < min(size) or not max(size[:2]) < 2**31:
            fault = "numbers of users and items are whole, above 0 and below 2,147,483,648"
        elif size.pairs < FEWEST * size.users:
            fault = f"a user has {FEWEST} items or more; name more pairs"
        elif size.pairs > size.users * size.items / 2:
            fault = "more than half of all pairs there are; name fewer, or more items"
        elif size.pairs > size.users * (size.items - NUM_CANDIDATES):
            fault = f"leaves users fewer than {NUM_CANDIDATES} untouched items; name more items"
        else:
            return size
        raise UserError(f"--dataset {dataset}: {fault}")

    @property
    def name(self) -> str:
        """What the data set is called in folders: ``synthetic-1e6x1e6x2e7``."""
        return "synthetic-" + "x".join(map(_short, self))

    @property
    def sha256(self) -> str:
        """The hash of what says all about it."""
        return hashlib.sha256(f"{MADE}: {tuple(self)}".encode()).hexdigest()


def _short(number: int) -> str:
    text = str(number)
    zeros = len(text) - len(text.rstrip("0"))
    return f"{text[:-zeros]}e{zeros}" if zeros > 2 else text


def make(size: Size, folder: Path) -> Interactions:
    """Return a data set of exactly these numbers of users and items, and of pairs within one.

    Items are of sqrt(items) latent groups and have a long-tailed popularity; users have a
    long-tailed activity and follow 2 to 5 groups, of which most of their items are. An item is
    drawn in proportion to popularity, and again if the user has it already. Each block of users has
    a generator of its own, so that one block alone is held; ``folder`` has what is done.
    """
    activity, blocks = _activity(size), _blocks(size)
    starts = np.concatenate([[0], np.cumsum(activity)])
    users, items = (room_for((starts[-1],), np.int64, folder) for _ in range(2))
    catalogue = _Catalogue(size.items)
    for number, block in enumerate(blocks):
        place = slice(starts[block[0]], starts[block[-1] + 1])
        users[place] = np.repeat(block, activity[block])
        items[place] = catalogue.draw(activity[block], numpy_generator(SEED, "pairs", number))
        release(users)
        release(items)
    return Interactions(users, items, np.arange(size.users), np.arange(size.items), size.sha256)


def _activity(size: Size) -> np.ndarray:
    """Return how many items each user has, ``(users,)``: log-normal, from 5 to what may be."""
    drawn = numpy_generator(SEED, "activity").lognormal(0, 0.9, size.users)

    def scaled(by: float) -> np.ndarray:
        return np.clip(drawn * by, FEWEST, size.items - NUM_CANDIDATES).astype(np.int64)

    low, high = 0.0, size.items / drawn.min()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if scaled(middle).sum() <= size.pairs else (low, middle)
    return scaled(low)


def _blocks(size: Size) -> list[np.ndarray]:
    length = max(TOGETHER * size.users // size.pairs, 1)
    return np.split(np.arange(size.users), range(length, size.users, length))


class _Catalogue:
    """Items by group, with what one may be drawn by."""

    def __init__(self, num_items: int) -> None:
        rng = numpy_generator(SEED, "items")
        self.num_items, self.num_groups = num_items, int(num_items**0.5)
        popularity = (np.arange(num_items) + 10 + num_items / 10_000) ** -0.8
        rng.shuffle(popularity)
        group = rng.integers(self.num_groups, size=num_items)
        self.items = np.argsort(group, kind="stable")  # group by group
        self.weights = np.concatenate([[0], np.cumsum(popularity[self.items])])
        self.edges = self.weights[
            np.searchsorted(group[self.items], np.arange(self.num_groups + 1))
        ]

    def draw(self, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return so many distinct items for each of some users, user by user."""
        users = np.repeat(np.arange(len(counts)), counts)
        followed = rng.integers(self.num_groups, size=(len(counts), FOLLOWED[1] - 1))
        number = rng.integers(*FOLLOWED, len(counts))

        def again(whose: np.ndarray) -> np.ndarray:
            # the first group that is followed has the most
            place = (rng.random(len(whose)) ** 2 * number[whose]).astype(int)
            group = followed[whose, place]
            anywhere = rng.random(len(whose)) < OUTSIDE
            low = np.where(anywhere, 0, self.edges[group])
            high = np.where(anywhere, self.weights[-1], self.edges[group + 1])
            at = low + (high - low) * rng.random(len(whose))
            found = np.searchsorted(self.weights, at, side="right") - 1
            return self.items[np.minimum(found, self.num_items - 1)]

        items = again(users)
        for attempt, repeats in enumerate(_repeats(users, items, self.num_items)):
            whose = users[repeats]
            everything = attempt >= PATIENCE
            items[repeats] = (
                rng.integers(self.num_items, size=len(whose)) if everything else again(whose)
            )
        return items


def _repeats(users: np.ndarray, items: np.ndarray, num_items: int) -> Iterator[np.ndarray]:
    """Yield where pairs are that came before, until others have been put there and none is left."""
    places = np.arange(len(users))
    while True:
        keys = users[places] * num_items + items[places]
        order = np.argsort(keys, kind="stable")
        repeated = keys[order][1:] == keys[order][:-1]
        if not repeated.any():
            return
        repeats = np.sort(places[order[1:][repeated]])
        yield repeats
        places = np.flatnonzero(np.isin(users, users[repeats]))
