"""The item side of IR-RRD: for each item, the teacher's order of users."""

from typing import Any

import torch
from torch import Tensor

from Models.distillers.distiller import Distiller
from Models.distillers.rrd import RRD, RankingLists, relaxed_ranking_loss
from Models.recommender import Recommender
from Models.teacher import Teacher
from Utils.dataset import Pairs, distinct


class ItemSideRRD(Distiller):
    """The item-side ranking regulariser of IR-RRD; added to ``RRD``, it makes IR-RRD.

    ``- sum over items of log p(pi_1:K | r)``, where the items are all those in the lists that
    ``rrd`` has drawn for the batch's users, and ``pi`` is a list of users for the item.

    Source: Kang et al., "Item-side Ranking Regularized Distillation for Recommender System",
    Information Sciences 580, 2021, as in its authors' code.

    Parameters
    ----------
    K, L, T, pool : as for ``RRD``, with users in the place of items.
    draws : ``seed`` and ``name``, see ``Distiller``.
    """

    def __init__(
        self, rrd: RRD, student: Recommender, teacher: Teacher, *, K: int, L: int, T: float,
        pool: int = 500, interesting: str = "sampled", **draws: Any,
    ) -> None:  # fmt: skip
        super().__init__(**draws)
        self.require(student)
        self.rrd, self.score = rrd, student.score
        self.num_above = K
        self.lists = RankingLists(
            self.ask_lists(teacher, "users", pool),
            (teacher.split.train_items, teacher.split.train_users),
            teacher.split.num_users,
            K=K,
            L=L,
            T=T,
            interesting=interesting,
            below_drawn=False,
            draws=self.draws,
            kind="users",
        )

    @classmethod
    def require(cls, student: Recommender) -> None:
        """Raise ``UserError`` if a student has no scores of several users for an item."""
        super().require(student)
        one = torch.zeros(1, dtype=torch.int64, device=next(student.parameters()).device)
        student.score(one.unsqueeze(0), one)

    def begin_epoch(self, epoch: int) -> None:
        """Draw the lists of users; ``rrd`` draws its own."""
        self.users = self.lists.draw(epoch)  # (num_items, K + L)

    def loss(self, batch: Pairs) -> Tensor:
        """Return the regulariser of the items in the lists of the batch's users."""
        items, weights = self.learners(self.rrd.items[distinct(batch.users)[0]])
        scores = self.score(self.users[items], items)
        losses = relaxed_ranking_loss(scores[:, : self.num_above], scores[:, self.num_above :])
        return losses @ weights
