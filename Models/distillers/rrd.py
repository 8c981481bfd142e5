"""RRD: the student ranks the teacher's best items in the teacher's order, above all others."""

from typing import Any

import torch
from torch import Tensor

from Models.distillers.distiller import Distiller, both_asked
from Models.distillers.sampling import CHUNK, RankingLists
from Models.recommender import Recommender
from Models.teacher import Teacher
from Utils.dataset import Pairs
from Utils.processes import total


class RRD(Distiller):
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
    draws : ``seed`` and ``name``, see ``Distiller``.
    """

    def __init__(
        self, student: Recommender, teacher: Teacher, *, K: int, L: int, T: float, pool: int = 500,
        interesting: str = "sampled", ranking: str = "relaxed", variant: str = "published_code",
        **draws: Any,
    ) -> None:  # fmt: skip
        super().__init__(**draws)
        asked = both_asked(student, teacher)
        self.score, self.teacher = student.score, teacher
        self.ranking, self.variant = ranking, variant
        self.num_above = K if ranking == "relaxed" else K + L
        self.lists = RankingLists(
            self.ask_lists(teacher, "items", pool),
            (asked.train_users, asked.train_items),
            asked.num_items,
            K=K + L if ranking == "interesting" else K,
            L=0 if ranking == "interesting" else L,
            T=T,
            interesting=interesting,
            below_drawn=variant == "paper",
            draws=self.draws,
            kind="items",
        )

    def begin_epoch(self, epoch: int) -> None:
        """Draw the lists."""
        self.items = self.lists.draw(epoch)  # (num_users, K + L)
        if self.ranking == "full":
            below = self.items[:, self.lists.K :]
            below.copy_(self._in_teachers_order(below))

    def _in_teachers_order(self, items: Tensor) -> Tensor:
        users = torch.arange(len(items), device=items.device)
        scores = [
            self.teacher.score(*chunk)
            for chunk in zip(users.split(CHUNK), items.split(CHUNK), strict=True)
        ]
        return items.gather(1, torch.cat(scores).argsort(dim=1, descending=True, stable=True))

    def loss(self, batch: Pairs) -> Tensor:
        """Return ``L_RRD`` of the batch's users."""
        users, weights = self.learners(batch.users)
        scores = self.score(users, self.items[users])
        losses = relaxed_ranking_loss(scores[:, : self.num_above], scores[:, self.num_above :])
        loss = losses @ weights
        return loss / total(weights.sum()).clamp_min(1) if self.variant == "paper" else loss


def relaxed_ranking_loss(above: Tensor, below: Tensor) -> Tensor:
    """Return ``-log p`` of the order of ``above``, all of it before ``below``: ``(B,)``.

    ``above``: (B, K) scores, best first; ``below``: (B, L) scores, in any order, L may be 0.
    ``-sum_k [a_k - log(sum_{i>=k} exp(a_i) + sum_j exp(b_j))]``, relative to the highest score, and
    in log space where the exponentials of the lowest would vanish.

    Source: DE-RRD paper, equation 9, with its second sum over the L uninteresting items (as
    printed, it counts item K twice).
    """
    with torch.no_grad():
        lowest, highest = torch.cat([above, below], dim=1).aminmax(dim=1, keepdim=True)
    if (highest - lowest).max() < 80:  # float32 has exp(-80), and this way is faster
        above, below = above - highest, below - highest
        tails = above.exp().flip(1).cumsum(dim=1).flip(1)
        denominators = (tails + below.exp().sum(dim=1, keepdim=True)).log()
    else:
        tails = above.flip(1).logcumsumexp(dim=1).flip(1)
        denominators = torch.logaddexp(tails, below.logsumexp(dim=1, keepdim=True))
    return (denominators - above).sum(dim=1)
