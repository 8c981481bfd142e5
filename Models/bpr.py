"""BPR-MF: matrix factorisation trained on pairwise comparisons."""

from typing import ClassVar

import torch
from torch import Tensor

from Models.factor_model import FactorModel
from Models.recommender import embedding_table, user_table
from Utils.split import Split


class BPR(FactorModel):
    """Score ``s_ui = p_u . q_i``, without biases; the factors are two tables.

    Source: Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009.
    """

    by_users: ClassVar = True

    def __init__(self, split: Split, dim: int, generator: torch.Generator | None = None) -> None:
        super().__init__(split, dim)
        self.user = user_table(split, dim, generator)
        self.item = embedding_table(split.num_items, dim, generator)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the two embedding tables: ``(num_users, d)``, ``(num_items, d)``."""
        return self.user.weight, self.item.weight

    def rows(self, kind: str, ids: Tensor) -> Tensor:
        """Look the rows up, with gradients for these alone: ``(B,) -> (B, d)``."""
        return (self.user if kind == "user" else self.item)(ids)

    @torch.no_grad()
    def assign(self, users: Tensor, items: Tensor) -> None:
        """Copy these into the two embedding tables."""
        self.user.weight.copy_(users)
        self.item.weight.copy_(items)
