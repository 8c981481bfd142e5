"""Draws that several methods share: lists by rank, and items that were not seen."""

import numpy as np
import torch
from torch import Tensor

from Utils.dataset import chunks_of_pairs
from Utils.errors import UserError
from Utils.processes import own
from Utils.seeding import Draws
from Utils.split import Split

CHUNK = 1024  # users or items whose lists are drawn at a time
MARKS = 2**28  # of what they have had that are held at a time: of large catalogues, it is fewer


def draw_by_weight(log_weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` places of each row, without replacement, by weight.

    ``log_weights``: (N, n), finite -> (N, count) in increasing order.
    """
    # The first ones of a race with these rates are such a draw.
    race = torch.empty(log_weights.shape, device=log_weights.device)
    race.exponential_(generator=generator)
    arrivals = race.clamp_min_(torch.finfo(race.dtype).tiny).log_().sub_(log_weights)
    return arrivals.topk(count, largest=False, sorted=False).indices.sort().values


def draw_by_rank(top: Tensor, K: int, T: float, generator: torch.Generator) -> Tensor:
    """Return K places of each list, without replacement, the k-th with weight ``exp(-k / T)``.

    ``top``: (N, pool), best first -> (N, K) in increasing order, 0 is the best.

    Source: DE-RRD paper, section 4.2.1.
    """
    log_weights = -torch.arange(top.shape[1], device=top.device) / T
    return draw_by_weight(log_weights.expand(top.shape), K, generator)


def seen_mask(seen: tuple[Tensor, Tensor], num_rows: int, num_columns: int) -> Tensor:
    """Return what one chunk's rows have seen, bool; nothing of this kind is held for everybody."""
    mask = torch.zeros(num_rows, num_columns, dtype=torch.bool, device=seen[0].device)
    mask[seen] = True
    return mask


def draw_unlike(excluded: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return different columns for each row, ``(N, count)``, uniform over those not excluded.

    By rejection. Which of two equal draws is drawn again does not depend on what was drawn, so all
    sets are equally likely.
    """
    (num_rows, num_columns), device = excluded.shape, excluded.device
    shape = num_rows, count
    draws = torch.randint(num_columns, shape, generator=generator, device=device)
    rows, some = torch.arange(num_rows, device=device), draws  # those that may be wrong
    while True:
        ordered, places = some.sort(dim=1, stable=True)
        repeats = torch.zeros_like(some, dtype=torch.bool)
        repeats.scatter_(1, places[:, 1:], ordered.diff(dim=1) == 0)
        wrong = excluded.gather(1, some) | repeats
        which = wrong.any(dim=1).nonzero().squeeze(1)
        if not len(which):
            return draws
        rows, excluded = rows[which], excluded[which]
        again = torch.randint(num_columns, shape, generator=generator, device=device)
        some = torch.where(wrong[which], again[rows], some[which])
        draws[rows] = some


def draw_different(number: int, count: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` different integers below ``number``, or all: ``(count,)``.

    All sets are equally likely. Where they are few of many, no more than twice as many are drawn.
    """
    device = generator.device
    if 2 * count >= number:
        return torch.randperm(number, generator=generator, device=device)[:count]
    draws = torch.empty(0, dtype=torch.int64, device=device)
    while True:
        more = torch.randint(number, (2 * count,), generator=generator, device=device)
        draws = torch.cat([draws, more])
        ordered, places = draws.sort(stable=True)
        first = places[ordered.diff(prepend=ordered[:1] - 1) != 0].sort().values[:count]
        if len(first) == count:
            return draws[first]


def _size(num_columns: int) -> int:
    return max(min(CHUNK, MARKS // num_columns), 1)


class UnseenItems:
    """Draws ``count`` different items for every user that are not among their training items.

    ``flag`` is the setting that says how many, for the error where there are not so many.
    """

    def __init__(
        self, split: Split, count: int, flag: str, draws: Draws, device: torch.device
    ) -> None:
        users, items = split.train_users, split.train_items
        most = int(np.bincount(users).max())
        if most + count > split.num_items:
            raise UserError(
                f"{flag} {count}: so many items do not fit beside {most} in training; there are "
                f"{split.num_items:,}"
            )
        self.size = _size(split.num_items)
        self.seen = chunks_of_pairs(users, items, split.num_users, self.size, device)
        self.num_users, self.num_items = split.num_users, split.num_items
        self.count, self.draws, self.device = count, draws, device

    def draw(self, epoch: int) -> Tensor:
        """Return this epoch's items: ``(num_users, count)``."""
        generator = self.draws.generator("unseen items", epoch, self.device)
        drawn = torch.empty(self.num_users, self.count, dtype=torch.int64, device=self.device)
        for chunk, seen in zip(drawn.split(self.size), self.seen, strict=True):
            excluded = seen_mask(seen, len(chunk), self.num_items)
            chunk.copy_(draw_unlike(excluded, self.count, generator))
        return drawn


class RankingLists:
    """Draws a list of items for every user, or of users for every item, once an epoch.

    Interesting: K of the teacher's list, without replacement, the k-th with weight ``exp(-k / T)``,
    kept in the teacher's order (DE-RRD paper, section 4.2.1); or its first K.
    Uninteresting: L, uniform without replacement, neither training pairs nor in the list.

    Parameters
    ----------
    top : (N, pool) the teacher's lists, best first, without training pairs.
    seen : the training pairs, as rows and columns of these lists.
    num_columns : how many items, or users, there are.
    kind : what the lists are of, ``items`` or ``users``.
    interesting : ``sampled``, or ``top`` for the first K without drawing.
    below_drawn : uninteresting ones may come from the list, below the last interesting one.
    """

    def __init__(
        self,
        top: Tensor,
        seen: tuple[np.ndarray, np.ndarray],
        num_columns: int,
        K: int,
        L: int,
        T: float,
        interesting: str,
        below_drawn: bool,
        draws: Draws,
        kind: str,
    ) -> None:
        self.top, self.num_columns, self.below_drawn = top, num_columns, below_drawn
        self.K, self.L, self.T, self.interesting = K, L, T, interesting
        self.draws, self.kind = draws, kind
        which = "_I" if kind == "users" else ""  # completes the settings' names
        if K > top.shape[1]:
            raise UserError(
                f"{K} interesting {kind} do not fit into the teacher's lists of {top.shape[1]}; "
                f"use a smaller --K{which} (and --L{which}, if all are interesting), or a larger "
                f"--pool"
            )
        self.size = _size(num_columns)
        self.seen = chunks_of_pairs(*seen, len(top), self.size, top.device)
        most = max(int(torch.bincount(rows).max()) for rows, _ in self.seen if len(rows))
        if top.shape[1] + most + L > num_columns:
            raise UserError(
                f"{L} uninteresting {kind} do not fit beside {most} in training and {top.shape[1]} "
                f"in the teacher's lists: there are {num_columns:,}; use a smaller --L{which} or "
                f"--pool"
            )

    def draw(self, epoch: int) -> Tensor:
        """Return this epoch's lists, K interesting ones and L others: ``(N, K + L)`` int64."""
        generator = self.draws.generator(own(f"lists of {self.kind}"), epoch, self.top.device)
        shape = len(self.top), self.K + self.L
        drawn = torch.empty(shape, dtype=torch.int64, device=self.top.device)
        chunks = zip(drawn.split(self.size), self.top.split(self.size), self.seen, strict=True)
        for chunk, top, seen in chunks:
            self._fill(chunk, top.long(), seen, generator)
        return drawn

    def _fill(
        self, chunk: Tensor, top: Tensor, seen: tuple[Tensor, Tensor], generator: torch.Generator
    ) -> None:
        """Draw one chunk's lists into their place."""
        places = torch.arange(top.shape[1], device=top.device)  # 0 is the best
        if self.interesting == "top":
            chosen = places[: self.K].expand(len(top), -1)
        else:
            chosen = draw_by_rank(top, self.K, self.T, generator)
        excluded = seen_mask(seen, len(top), self.num_columns)
        last = chosen[:, -1:] if self.below_drawn else places[-1]
        excluded.scatter_(1, top, (places <= last).expand_as(top))
        chunk[:, : self.K] = top.gather(1, chosen)
        chunk[:, self.K :] = draw_unlike(excluded, self.L, generator)
