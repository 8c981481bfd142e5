"""SGL: LightGCN whose users and items are also told apart across two augmented graphs."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from Models.graph import Graph, require_dropout
from Models.lightgcn import LightGCN
from Utils.dataset import Pairs, distinct
from Utils.seeding import Draws
from Utils.split import Split


class SGL(LightGCN):
    """LightGCN, and in training ``lmbda_SSL`` times a contrast between two augmented graphs.

    Each lacks a share ``dropout`` of the edges, drawn anew for every epoch. Negatives are the
    batch's other users or items: all others would cost thirty times as much.

    Source: Wu et al., "Self-supervised Graph Learning for Recommendation", SIGIR 2021, section 3,
    with edge dropout (SGL-ED).

    Raises
    ------
    UserError
        If all edges would be dropped.
    """

    options: ClassVar = {"num_layers": int, "dropout": float, "lmbda_SSL": float, "tau_SSL": float}

    def __init__(
        self,
        split: Split,
        dim: int,
        num_layers: int = 1,
        dropout: float = 0.1,
        lmbda_SSL: float = 0.1,
        tau_SSL: float = 0.2,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__(split, dim, num_layers, generator)
        require_dropout(dropout)
        self.dropout, self.lmbda_SSL, self.tau_SSL = dropout, lmbda_SSL, tau_SSL
        self.draws = Draws(generator.initial_seed())
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int) -> None:
        """Draw the epoch's two graphs."""
        super().begin_epoch(epoch)
        users, items = self.graph.edges()
        generator = self.draws.generator("views", epoch, users.device)
        kept = round((1 - self.dropout) * len(users))
        views = []
        for _ in range(2):
            order = torch.randperm(len(users), generator=generator, device=users.device)
            order = order[:kept].sort().values
            views.append(Graph(users[order], items[order], (self.num_users, self.num_items)))
        self.views = nn.ModuleList(views).to(self.user.weight)

    def loss(self, batch: Pairs) -> Tensor:
        """Return LightGCN's loss plus ``lmbda_SSL`` times the contrast of users and of items.

        Of the batch's distinct users, and of its distinct positives (section 3.3).
        """
        loss = super().loss(batch)
        if not self.lmbda_SSL:
            return loss
        tables = self.user.weight, self.item.weight
        views = [view.mean_of_layers(*tables, self.num_layers) for view in self.views]
        for ids, *factors in zip((batch.users, batch.positives), *views, strict=True):
            ids, weights = distinct(ids)
            first, second = (F.embedding(ids, each) for each in factors)
            loss = loss + self.lmbda_SSL * info_nce(first, second, weights, self.tau_SSL)
        return loss


def info_nce(first: Tensor, second: Tensor, weights: Tensor, tau: float) -> Tensor:
    """Return ``-sum_e log [exp(cos(z'_e, z''_e) / tau) / sum_f exp(cos(z'_e, z''_f) / tau)]``.

    ``first``, ``second``: (n, d), z' and z''; ``weights``: (n,), 1, or 0 for those left out.

    Source: Wu et al. 2021, section 3.2.
    """
    cosines = F.normalize(first) @ F.normalize(second).T / tau
    sums = (cosines + weights.log()).logsumexp(dim=1)
    return ((sums - cosines.diagonal()) * weights).sum()
