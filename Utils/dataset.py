"""Mini-batches for training: shuffled pairs with a fresh negative for each; users; items."""

from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from Utils.errors import UserError
from Utils.processes import own, whole_of
from Utils.seeding import torch_generator
from Utils.split import NEXT_ITEMS, Split

TOGETHER = 64  # batches whose pairs are put in order at a time
LOOKED_UP = 1 << 20  # drawn items that are looked up at a time


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


class Sequences(NamedTuple):
    """A batch of windows: their numbers ``(B,)``, the items that follow, and negatives.

    ``targets``: (B, T), ``others``: (B, N) items outside the user's training items.
    """

    users: Tensor
    targets: Tensor
    others: Tensor


class Asked(NamedTuple):
    """Who is asked for items, and what each has had: windows, in the place of a split's users.

    ``train_users``, ``train_items``: (n,) int64, window by window: all that its user trained on.
    """

    dataset: str
    train_users: np.ndarray
    train_items: np.ndarray
    num_users: int
    num_items: int


Batch = Pairs | Users | Items | Sequences


def _in_steps(order: Tensor, batch_size: int, total: int) -> Sequence[Tensor]:
    """Cut a random order into batches; a share of a ``total`` into as many as the whole has.

    Raises
    ------
    UserError
        If there is not something for each.
    """
    if len(order) == total:
        return order.split(batch_size)
    steps = -(-total // batch_size)
    if len(order) < steps:
        raise UserError(
            f"--batch_size {batch_size}: an epoch has {steps:,} steps, and the share of a process "
            f"is {len(order):,}; use larger batches or fewer processes"
        )
    return order.tensor_split(steps)


class PairSampler:
    """Training pairs in random order, each with one uniform negative, redrawn every epoch.

    A negative is any item outside the user's *training* items; held-out items may be drawn, as in
    the DE-RRD authors' code: excluding them would tell the model which items are held out.
    """

    batch: ClassVar[type] = Pairs

    def __init__(
        self, split: Split, batch_size: int, seed: int, device: torch.device | str
    ) -> None:
        self.negatives = Negatives(split, device)
        self.users = torch.from_numpy(split.train_users).to(device)  # those of the sorted pairs
        self.batch_size, self.seed = batch_size, seed
        self.total = len(whole_of(split).train_users)

    def epoch(self, epoch: int) -> Iterator[Pairs]:
        """Yield batches until every pair was seen once."""
        device, num_items = self.users.device, self.negatives.num_items
        generator = torch_generator(self.seed, own("batches"), epoch, device)
        order = torch.randperm(len(self.users), generator=generator, device=device)
        negatives = self.negatives.draw(self.users, generator)
        steps = _in_steps(order, self.batch_size, self.total)
        for first in range(0, len(steps), TOGETHER):  # all at once would be held twice
            some = steps[first : first + TOGETHER]
            pairs, sizes = torch.cat(some), list(map(len, some))
            keys = self.negatives.keys[pairs]
            columns = (keys // num_items, keys % num_items, negatives[pairs].long())
            batches = zip(*(column.split(sizes) for column in columns), strict=True)
            yield from (Pairs(*batch) for batch in batches)


class UserSampler:
    """All users in random order, a few at a time."""

    batch: ClassVar[type] = Users

    def __init__(
        self, split: Split | Asked, batch_size: int, seed: int, device: torch.device | str
    ) -> None:
        (self.kind,) = self.batch._fields
        self.count, self.batch_size = getattr(split, f"num_{self.kind}"), batch_size
        self.total = getattr(whole_of(split), f"num_{self.kind}")
        self.seed, self.device = seed, device

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield batches until everyone was seen once."""
        purpose = own(f"batches of {self.kind}")
        generator = torch_generator(self.seed, purpose, epoch, self.device)
        order = torch.randperm(self.count, generator=generator, device=self.device)
        yield from map(self.batch, _in_steps(order, self.batch_size, self.total))


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


class Windows:
    """What came before: windows of training sequences, and each user's latest items.

    A window has L items and the T that follow. It slides over a user's training items, as they are
    ordered in the split, from the last T back by ``step`` at a time, as long as there is an item
    before these; where there are fewer than L, the number ``num_items``, which is no item, stands
    at the start. Behind the windows stand what came before each user's validation and test items,
    and before the next one that he will take.

    Attributes
    ----------
    users : (num_windows + 3 num_users,), whose they are.
    items : (num_windows + 3 num_users, L) int64, the items.
    targets : (num_windows, T), those that follow.

    Raises
    ------
    UserError
        If the split is none by time, or if nobody has more than T training items.
    """

    def __init__(self, split: Split, L: int, T: int, step: int = 1) -> None:
        if split.protocol is not NEXT_ITEMS:
            raise UserError(
                f"--split {split.name.rstrip('0123456789')}: sequences are needed, so take --split "
                f"time, with data that have an order"
            )
        counts = np.bincount(split.train_users, minlength=split.num_users)
        number = np.maximum(counts - T + step - 1, 0) // step
        if not number.any():
            raise UserError(
                f"{split.dataset}: nobody has more than {T} items for training, of which {T} are "
                f"targets (--num_targets); use fewer, or longer sequences"
            )
        known = split.known
        whole, starts = known.items, known.starts
        whose = np.repeat(np.arange(split.num_users), number)
        back = np.repeat(np.cumsum(number), number) - np.arange(1, len(whose) + 1)  # 0 is the last
        ends = starts[whose] + counts[whose] - T - step * back  # of the L, where the T begin
        everyone = np.arange(split.num_users)
        before = [starts[:-1] + counts, starts[:-1] + counts + split.valid.counts, starts[1:]]
        self.users = np.concatenate([whose, everyone, everyone, everyone])
        ends = np.concatenate([ends, *before])
        places = ends[:, None] + np.arange(-L, 0)
        real = places >= starts[self.users][:, None]
        self.items = np.where(real, whole[places * real], split.num_items)
        self.targets = whole[ends[: len(whose)][:, None] + np.arange(T)]

    def asked(self, split: Split) -> Asked:
        """Return the windows of training, each with all training items of its user."""
        counts = np.bincount(split.train_users, minlength=split.num_users)
        starts, whose = np.cumsum(counts) - counts, self.users[: len(self.targets)]
        number = counts[whose]
        shift = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
        items = split.train_items[np.repeat(starts[whose], number) + shift]
        windows = np.repeat(np.arange(len(whose)), number)
        return Asked(split.dataset, windows, items, len(whose), split.num_items)

    def learned(self, split: Split) -> Asked:
        """Return the windows of training, each with its targets."""
        number, width = self.targets.shape
        windows = np.repeat(np.arange(number), width)
        return Asked(split.dataset, windows, self.targets.ravel(), number, split.num_items)


class SequenceSampler:
    """All windows in random order, each with ``count`` negatives, redrawn every epoch.

    A negative is any item outside the user's training items, as in ``PairSampler``.
    """

    batch: ClassVar[type] = Sequences

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        *,
        windows: Windows,
        count: int,
    ) -> None:
        self.targets = torch.from_numpy(windows.targets).to(device)
        self.users = torch.from_numpy(windows.users[: len(self.targets)]).to(device)
        self.negatives = Negatives(split, device)
        self.batch_size, self.seed, self.count = batch_size, seed, count

    def epoch(self, epoch: int) -> Iterator[Sequences]:
        """Yield batches until every window was seen once."""
        device = self.targets.device
        generator = torch_generator(self.seed, "batches of sequences", epoch, device)
        order = torch.randperm(len(self.targets), generator=generator, device=device)
        users = self.users.unsqueeze(1).expand(-1, self.count)
        drawn = self.negatives.draw(users.flatten(), generator).view_as(users)
        for windows in order.split(self.batch_size):
            yield Sequences(windows, self.targets[windows], drawn[windows].long())


class Negatives:
    """Draws items that users have not trained on, by rejection.

    Nothing of size users x items is held: draws are looked up among the sorted training pairs.
    """

    def __init__(self, split: Split, device: torch.device | str) -> None:
        if np.bincount(split.train_users).max() >= split.num_items:
            raise UserError(f"{split.dataset}: a user has all items, so no negative can be drawn")
        keys = split.train_users * split.num_items
        keys += split.train_items
        keys.sort()
        self.keys = torch.from_numpy(keys).to(device)  # the largest thing that a run of BPR holds
        self.num_items = split.num_items

    def draw(self, users: Tensor, generator: torch.Generator) -> Tensor:
        """Return an item for each of some users, ``(n,)`` int32, uniform over those that fit."""

        def items(shape: torch.Size) -> Tensor:
            of = {"dtype": torch.int32, "device": users.device}  # drawn as int64 are
            return torch.randint(self.num_items, shape, generator=generator, **of)

        negatives = items(users.shape)
        parts = zip(users.split(LOOKED_UP), negatives.split(LOOKED_UP), strict=True)
        found = [self._are_training_pairs(*part) for part in parts]
        todo = torch.cat(found).nonzero().squeeze(1)
        while len(todo):
            negatives[todo] = draws = items(todo.shape)
            todo = todo[self._are_training_pairs(users[todo], draws)]
        return negatives

    def _are_training_pairs(self, users: Tensor, items: Tensor) -> Tensor:
        keys = users * self.num_items + items
        place = torch.searchsorted(self.keys, keys).clamp_max_(len(self.keys) - 1)
        return self.keys[place] == keys


class TrainingItems:
    """Each user's training items, to be looked up a few users at a time."""

    def __init__(self, split: Split | Asked, device: torch.device | str) -> None:
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
