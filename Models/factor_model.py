"""What base models keep whose scores are inner products of a user's and an item's factors."""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from Models.recommender import Recommender
from Utils.dataset import Pairs
from Utils.sampled_product import sampled_product
from Utils.split import Split


class FactorModel(Recommender):
    """Score ``s_ui = p_u . q_i``; a model says what p and q are (``factors``), and that is all.

    It is trained on pairwise comparisons unless it has a loss of its own.
    """

    def __init__(self, split: Split, dim: int) -> None:
        super().__init__(split, dim)
        self._kept: dict[str, tuple[tuple, bool, tuple[Tensor, ...]]] = {}

    @abstractmethod
    def factors(self) -> tuple[Tensor, Tensor]:
        """Compute ``(num_users, d)`` and ``(num_items, d)``, differentiably."""

    def encode(self) -> tuple[Tensor, Tensor]:
        """Return the factors, computed once until a parameter changes: at the optimiser's step.

        So however many losses look at a graph model in a step, it is propagated once, and a frozen
        one once for all. Gradients flow back through all uses together; once they have, the factors
        are computed anew.
        """
        return self.once(self.factors)

    def once(self, compute: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Return what a method of this model computes, as ``encode`` returns the factors."""
        weights = tuple((each.data_ptr(), each._version) for each in self.parameters())
        state, differentiable = (self.training, weights), torch.is_grad_enabled()
        kept = self._kept.get(compute.__name__)
        if kept is None or kept[0] != state or (differentiable and not kept[1]):
            computed = compute()
            for each in computed:
                if each.grad_fn is not None:
                    each.register_hook(self._forget)
            self._kept[compute.__name__] = kept = state, differentiable, computed
        return kept[2]

    def _forget(self, _: Tensor | None = None) -> None:
        self._kept.clear()

    def begin_epoch(self, epoch: int) -> None:
        """Compute the factors anew, for views and noise may be others now."""
        self._forget()

    def table(self, kind: str) -> Tensor:
        """Return the factors of all users or items, by ``kind``."""
        return self.encode()[kind == "item"]

    def rows(self, kind: str, ids: Tensor) -> Tensor:
        """Return the factors of some users or items, by ``kind``: ``(B,) -> (B, d)``."""
        return F.embedding(ids, self.table(kind))

    def vectors(self, users: Tensor, items: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the factors of some users, and those of all items or of some."""
        if items is None:
            return super().vectors(users)
        return self.rows("user", users), self.rows("item", items)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return inner products: ``(B,)`` and ``(B,)``, ``(B, K)`` or, for users, ``(B, K)``."""
        if users.dim() == items.dim():
            return (self.rows("user", users) * self.rows("item", items)).sum(dim=1)
        if users.dim() == 1:
            return self._score_lists("user", users, "item", items)
        return self._score_lists("item", items, "user", users)

    def _score_lists(self, kind: str, ids: Tensor, other: str, columns: Tensor) -> Tensor:
        listed = self._listed(self.table(other), partial(self.rows, other), columns)
        return sampled_product(self.rows(kind, ids), *listed)

    def score_all(self, users: Tensor) -> Tensor:
        """Return inner products with all items: ``(B,) -> (B, num_items)``."""
        return self.rows("user", users) @ self.table("item").T

    def loss(self, batch: Pairs) -> Tensor:
        """Return the BPR-Opt criterion without its prior, ``-sum log sigmoid(s_ui - s_uj)``.

        Source: Rendle et al. 2009, section 4.1. The prior is Adam's weight decay. The two scores
        are one product, ``p_u . (q_i - q_j)``, and items are looked up once: half the work.
        """
        item = self.rows("item", torch.cat([batch.positives, batch.negatives]))  # (2B, d)
        positive, negative = item.chunk(2)
        margin = (self.rows("user", batch.users) * (positive - negative)).sum(dim=1)
        return -F.logsigmoid(margin).sum()

    def representations(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Return the factors: ``(B, d)`` for users, ``(C, d)`` for items."""
        return {"user": self.rows("user", users), "item": self.rows("item", items)}

    def embeddings(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Return the factors, unless a model has another first layer."""
        return self.representations(users, items)

    def gmf_embeddings(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Return the factors, whose product is the score, whatever the first layer is."""
        return self.representations(users, items)
