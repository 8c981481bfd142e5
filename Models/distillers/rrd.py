"""RRD: the student ranks the teacher's best items in the teacher's order, above all others."""

import numpy as np
import torch
from torch import Tensor, nn

from Models.recommender import Recommender
from Utils.dataset import chunks_of_pairs, distinct
from Utils.errors import UserError
from Utils.seeding import torch_generator
from Utils.teacher import Teacher

CHUNK = 1024  # users or items whose lists are drawn at a time


class RRD(nn.Module):
    """Relaxed Ranking Distillation, called URRD where there is an item side as well.

    ``L_RRD = - sum over the batch's distinct users of log p(pi_1:K | r)``, with the relaxed
    permutation probability of a list of items that is drawn once an epoch.

    Source: DE-RRD paper, section 4.2, equations 9 and 10.

    Parameters
    ----------
    K, L, T, pool, interesting : see ``RankingLists``.
    ranking : ``relaxed``, the method; ``full`` ranks the uninteresting items among themselves, too;
        ``interesting`` ranks K + L interesting items and no others (section 5.3, table 4).
    variant : ``published_code``: a sum over users, and uninteresting items from outside the pool.
        ``paper``: a mean over users, and uninteresting items from below the interesting ones drawn.
    """

    def __init__(
        self,
        student: Recommender,
        teacher: Teacher,
        K: int,
        L: int,
        T: float,
        pool: int = 500,
        interesting: str = "sampled",
        ranking: str = "relaxed",
        variant: str = "published_code",
        seed: int = 0,
    ) -> None:
        super().__init__()
        # A function and no module: the student is trained as itself.
        self.score, self.teacher = student.score, teacher
        self.ranking, self.variant = ranking, variant
        self.num_above = K if ranking == "relaxed" else K + L
        split = teacher.split
        self.lists = RankingLists(
            teacher.top_items(pool),
            (split.train_users, split.train_items),
            split.num_items,
            K=K + L if ranking == "interesting" else K,
            L=0 if ranking == "interesting" else L,
            T=T,
            interesting=interesting,
            below_drawn=variant == "paper",
            seed=seed,
            kind="items",
        )

    def begin_epoch(self, epoch: int) -> None:
        """Draw the lists."""
        above, below = self.lists.draw(epoch)
        if self.ranking == "full":
            below = self._in_teachers_order(below)
        self.items = torch.cat([above, below], dim=1)  # (num_users, K + L)

    def _in_teachers_order(self, items: Tensor) -> Tensor:
        users = torch.arange(len(items), device=items.device)
        scores = [
            self.teacher.score(*chunk)
            for chunk in zip(users.split(CHUNK), items.split(CHUNK), strict=True)
        ]
        return items.gather(1, torch.cat(scores).argsort(dim=1, descending=True, stable=True))

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Return ``L_RRD`` for users, positives and negatives, each ``(B,)``."""
        users, weights = distinct(batch[0])
        scores = self.score(users, self.items[users])
        losses = relaxed_ranking_loss(scores[:, : self.num_above], scores[:, self.num_above :])
        total = losses @ weights
        return total / weights.sum() if self.variant == "paper" else total


def relaxed_ranking_loss(above: Tensor, below: Tensor) -> Tensor:
    """Return ``-log p`` of the order of ``above``, all of it before ``below``: ``(B,)``.

    ``above``: (B, K) scores, best first; ``below``: (B, L) scores, in any order, L may be 0.
    ``-sum_k [a_k - log(sum_{i>=k} exp(a_i) + sum_j exp(b_j))]``, in log space.

    Source: DE-RRD paper, equation 9, with its second sum over the L uninteresting items (as
    printed, it counts item K twice).
    """
    tails = above.flip(1).logcumsumexp(dim=1).flip(1)
    denominators = torch.logaddexp(tails, below.logsumexp(dim=1, keepdim=True))
    return (denominators - above).sum(dim=1)


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
        seed: int,
        kind: str,
    ) -> None:
        self.top, self.num_columns, self.below_drawn = top, num_columns, below_drawn
        self.K, self.L, self.T, self.interesting = K, L, T, interesting
        self.seed, self.kind = seed, kind
        which = "_I" if kind == "users" else ""  # completes the settings' names
        if K > top.shape[1]:
            raise UserError(
                f"{K} interesting {kind} do not fit into the teacher's lists of {top.shape[1]}; "
                f"use a smaller --K{which} (and --L{which}, if all are interesting), or a larger "
                f"--pool"
            )
        self.seen = chunks_of_pairs(*seen, len(top), CHUNK, top.device)
        most = max(int(torch.bincount(rows).max()) for rows, _ in self.seen if len(rows))
        if top.shape[1] + most + L > num_columns:
            raise UserError(
                f"{L} uninteresting {kind} do not fit beside {most} in training and {top.shape[1]} "
                f"in the teacher's lists: there are {num_columns:,}; use a smaller --L{which} or "
                f"--pool"
            )

    def draw(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Return this epoch's interesting ``(N, K)`` and uninteresting ``(N, L)`` ones, int64."""
        generator = torch_generator(self.seed, f"lists of {self.kind}", epoch, self.top.device)
        drawn = [
            self._draw_chunk(top.long(), seen, generator)
            for top, seen in zip(self.top.split(CHUNK), self.seen, strict=True)
        ]
        above, below = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        return above, below

    def _draw_chunk(
        self, top: Tensor, seen: tuple[Tensor, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        places = torch.arange(top.shape[1], device=top.device)  # 0 is the best
        if self.interesting == "top":
            chosen = places[: self.K].expand(len(top), -1)
        else:  # the K first of a race with rates exp(-k / T): draws without replacement
            race = torch.empty(top.shape, device=top.device).exponential_(generator=generator)
            arrivals = race.clamp_min_(torch.finfo(race.dtype).tiny).log_() + places / self.T
            chosen = arrivals.topk(self.K, largest=False, sorted=False).indices.sort().values
        # For one chunk; nothing of this kind is ever held for everybody.
        excluded = torch.zeros(len(top), self.num_columns, dtype=torch.bool, device=top.device)
        excluded[seen] = True
        last = chosen[:, -1:] if self.below_drawn else places[-1]
        excluded.scatter_(1, top, (places <= last).expand_as(top))
        return top.gather(1, chosen), self._draw_unlike(excluded, generator)

    def _draw_unlike(self, excluded: Tensor, generator: torch.Generator) -> Tensor:
        """Return L different columns for each row, uniform over those not excluded, by rejection.

        Which of two equal draws is drawn again does not depend on what was drawn, so all sets of L
        are equally likely.
        """
        shape, device = (len(excluded), self.L), excluded.device
        draws = torch.randint(self.num_columns, shape, generator=generator, device=device)
        while True:
            ordered, places = draws.sort(dim=1, stable=True)
            repeats = torch.zeros_like(draws, dtype=torch.bool)
            repeats.scatter_(1, places[:, 1:], ordered.diff(dim=1) == 0)
            wrong = excluded.gather(1, draws) | repeats
            if not wrong.any():
                return draws
            again = torch.randint(self.num_columns, shape, generator=generator, device=device)
            draws = torch.where(wrong, again, draws)
