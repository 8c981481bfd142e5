"""BPR-MF: matrix factorisation trained on pairwise comparisons."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from Models.recommender import Recommender
from Utils.sampled_product import sampled_product

INIT_STD = 0.01  # as in the DE-RRD authors' code; BPR's paper names none


class BPR(Recommender):
    """Score ``s_ui = p_u . q_i``, without biases.

    Source: Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009.
    """

    def __init__(
        self, num_users: int, num_items: int, dim: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(num_users, num_items, dim)
        # Sparse gradients: a batch touches a few thousand rows, and a dense gradient as large as
        # the table would take longer to fill than everything else in the step.
        self.user = nn.Embedding(num_users, dim, sparse=True)
        self.item = nn.Embedding(num_items, dim, sparse=True)
        nn.init.normal_(self.user.weight, std=INIT_STD, generator=generator)
        nn.init.normal_(self.item.weight, std=INIT_STD, generator=generator)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return inner products: ``(B,)`` and ``(B,)``, ``(B, K)`` or, for users, ``(B, K)``."""
        if users.dim() == items.dim():
            return (self.user(users) * self.item(items)).sum(dim=1)
        if users.dim() == 1:
            return sampled_product(self.user(users), self.item.weight, items)
        return sampled_product(self.item(items), self.user.weight, users)

    def score_all(self, users: Tensor) -> Tensor:
        """Return inner products with all items: ``(B,) -> (B, num_items)``."""
        return self.user(users) @ self.item.weight.T

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return the BPR-Opt criterion without its prior, ``-sum log sigmoid(s_ui - s_uj)``.

        Source: Rendle et al. 2009, section 4.1. The prior is Adam's weight decay. The two scores
        are one product, ``p_u . (q_i - q_j)``, and items are looked up once: half the work.
        """
        item = self.item(torch.cat([positives, negatives]))  # (2B, d)
        positive, negative = item.chunk(2)
        margin = (self.user(users) * (positive - negative)).sum(dim=1)
        return -F.logsigmoid(margin).sum()

    def representations(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Return the embeddings, there is no other layer: ``(B, d)`` and ``(C, d)``."""
        return self.embeddings(users, items)

    def embeddings(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Return rows of the two tables: ``(B, d)`` for users, ``(C, d)`` for items."""
        return {"user": self.user(users), "item": self.item(items)}

    def encode(self) -> tuple[Tensor, Tensor]:
        """Return the two embedding tables: ``(num_users, d)``, ``(num_items, d)``."""
        return self.user.weight, self.item.weight

    @torch.no_grad()
    def assign(self, users: Tensor, items: Tensor) -> None:
        """Copy these into the two embedding tables."""
        self.user.weight.copy_(users)
        self.item.weight.copy_(items)
