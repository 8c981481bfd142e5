"""The item side of IR-RRD: for each item, the teacher's order of users."""

import torch
from torch import Tensor, nn

from Models.distillers.rrd import RRD, RankingLists, relaxed_ranking_loss
from Models.recommender import Recommender
from Models.teacher import Teacher
from Utils.dataset import distinct


class ItemSideRRD(nn.Module):
    """The item-side ranking regulariser of IR-RRD; added to ``RRD``, it makes IR-RRD.

    ``- sum over items of log p(pi_1:K | r)``, where the items are all those in the lists that
    ``rrd`` has drawn for the batch's users, and ``pi`` is a list of users for the item.

    Source: Kang et al., "Item-side Ranking Regularized Distillation for Recommender System",
    Information Sciences 580, 2021, as in its authors' code.

    Parameters
    ----------
    K, L, T, pool : as for ``RRD``, with users in the place of items.
    """

    def __init__(
        self,
        rrd: RRD,
        student: Recommender,
        teacher: Teacher,
        K: int,
        L: int,
        T: float,
        pool: int = 500,
        interesting: str = "sampled",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.rrd, self.score = rrd, student.score
        self.num_above = K
        self.lists = RankingLists(
            teacher.top_users(pool),
            (teacher.split.train_items, teacher.split.train_users),
            teacher.split.num_users,
            K=K,
            L=L,
            T=T,
            interesting=interesting,
            below_drawn=False,
            seed=seed,
            kind="users",
        )

    def begin_epoch(self, epoch: int) -> None:
        """Draw the lists of users; ``rrd`` draws its own."""
        self.users = torch.cat(self.lists.draw(epoch), dim=1)  # (num_items, K + L)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Return the regulariser for users, positives and negatives, each ``(B,)``."""
        items, weights = distinct(self.rrd.items[distinct(batch[0])[0]])
        scores = self.score(self.users[items], items)
        losses = relaxed_ranking_loss(scores[:, : self.num_above], scores[:, self.num_above :])
        return losses @ weights
