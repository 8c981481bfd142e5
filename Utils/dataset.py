"""Mini-batches for training: shuffled pairs with a fresh negative for each; users; items."""

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from Utils.errors import UserError
from Utils.seeding import torch_generator
from Utils.split import Split


class Pairs(NamedTuple):
    """A batch of training pairs of user and item, with a negative item each: three ``(B,)``."""

    users: Tensor
    positives: Tensor
    negatives: Tensor


class Users(NamedTuple):
    """A batch of distinct users: ``(B,)``."""

    users: Tensor


class Items(NamedTuple):
    """A batch of distinct items: ``(B,)``."""

    items: Tensor


Batch = Pairs | Users | Items


class PairSampler:
    """Training pairs in random order, each with one uniform negative, redrawn every epoch.

    A negative is any item outside the user's *training* items; held-out items may be drawn, as in
    the DE-RRD authors' code: excluding them would tell the model which items are held out.
    Nothing of size users x items is held: draws are looked up among the sorted training pairs.
    """

    batch: ClassVar[type] = Pairs

    def __init__(
        self, split: Split, batch_size: int, seed: int, device: torch.device | str
    ) -> None:
        users, items = torch.from_numpy(split.train_users), torch.from_numpy(split.train_items)
        if torch.bincount(users).max() >= split.num_items:
            raise UserError(f"{split.dataset}: a user has all items, so no negative can be drawn")
        keys = (users * split.num_items + items).sort().values.to(device)
        self.keys, self.users, self.items = keys, keys // split.num_items, keys % split.num_items
        self.num_items, self.batch_size, self.seed = split.num_items, batch_size, seed

    def epoch(self, epoch: int) -> Iterator[Pairs]:
        """Yield batches until every pair was seen once."""
        generator = torch_generator(self.seed, "batches", epoch, self.keys.device)
        order = torch.randperm(len(self.keys), generator=generator, device=self.keys.device)
        negatives = self._negatives(generator)
        columns = (self.users[order], self.items[order], negatives[order])
        batches = zip(*(column.split(self.batch_size) for column in columns), strict=True)
        yield from (Pairs(*batch) for batch in batches)

    def _negatives(self, generator: torch.Generator) -> Tensor:
        """Return a non-training item for each training pair, ``(n,)``, by rejection."""
        negatives = torch.empty_like(self.keys)
        todo = torch.arange(len(self.keys), device=self.keys.device)
        while len(todo):
            draws = torch.randint(
                self.num_items, todo.shape, generator=generator, device=todo.device
            )
            negatives[todo] = draws
            todo = todo[self._is_training_pair(self.users[todo] * self.num_items + draws)]
        return negatives

    def _is_training_pair(self, keys: Tensor) -> Tensor:
        place = torch.searchsorted(self.keys, keys).clamp_max_(len(self.keys) - 1)
        return self.keys[place] == keys


class UserSampler:
    """All users in random order, a few at a time."""

    batch: ClassVar[type] = Users

    def __init__(
        self, split: Split, batch_size: int, seed: int, device: torch.device | str
    ) -> None:
        (self.kind,) = self.batch._fields
        self.count, self.batch_size = getattr(split, f"num_{self.kind}"), batch_size
        self.seed, self.device = seed, device

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield batches until everyone was seen once."""
        generator = torch_generator(self.seed, f"batches of {self.kind}", epoch, self.device)
        order = torch.randperm(self.count, generator=generator, device=self.device)
        yield from map(self.batch, order.split(self.batch_size))


class ItemSampler(UserSampler):
    """All items in random order, a few at a time."""

    batch: ClassVar[type] = Items


class Whole(NamedTuple):
    """All of the data at once."""


class WholeSampler:
    """One batch an epoch, for models that are solved for and not trained in steps."""

    batch: ClassVar[type] = Whole

    def __init__(
        self, split: Split, batch_size: int, seed: int, device: torch.device | str
    ) -> None:
        pass

    def epoch(self, epoch: int) -> Iterator[Whole]:
        """Yield the one batch."""
        yield Whole()


class TrainingItems:
    """Each user's training items, to be looked up a few users at a time."""

    def __init__(self, split: Split, device: torch.device | str) -> None:
        users, items = (
            torch.from_numpy(ids).to(device) for ids in (split.train_users, split.train_items)
        )
        self.items = items.int()  # user by user
        self.counts = torch.bincount(users, minlength=split.num_users)
        self.starts = self.counts.cumsum(0) - self.counts

    def of(self, users: Tensor, width: int = 0) -> tuple[Tensor, Tensor]:
        """Return the items of some users, and which are theirs: ``(B, n)`` each.

        n is the longest user's number, or ``width`` if that is more. Rows are filled up with
        any items, and who has none has nothing else.
        """
        counts = self.counts[users].unsqueeze(1)
        place = torch.arange(max(int(counts.max()), width), device=users.device)
        real = place < counts
        index = self.starts[users].unsqueeze(1) + place * real
        return self.items[index.clamp_max_(len(self.items) - 1)], real  # the last may have none


def distinct(entities: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct users or items of a batch and the weight of each, two ``(n,)``.

    On a CPU every value comes once, with weight 1. Elsewhere, where their number is not known
    without waiting for the device, repeats stay in and weigh 0.
    """
    if entities.device.type != "cpu":
        return distinct_by_weight(entities)
    values = entities.unique()
    return values, torch.ones(len(values))


def distinct_by_weight(entities: Tensor) -> tuple[Tensor, Tensor]:
    """Return all values, sorted, and a weight: 1 for the first of each, 0 for its repeats."""
    values = entities.flatten().sort().values
    return values, (values.diff(prepend=values[:1] - 1) != 0).float()


def chunks_of_pairs(
    rows: np.ndarray, columns: np.ndarray, num_rows: int, size: int, device: torch.device | str
) -> list[tuple[Tensor, Tensor]]:
    """Return pairs by chunks of ``size`` rows: the rows, counted within the chunk, and columns."""
    rows, columns = (torch.from_numpy(ids).to(device) for ids in (rows, columns))
    order = rows.argsort(stable=True)
    rows, columns = rows[order], columns[order]
    counts = torch.bincount(rows, minlength=num_rows).split(size)
    counts = [int(count.sum()) for count in counts]
    return list(zip((rows % size).split(counts), columns.split(counts), strict=True))
