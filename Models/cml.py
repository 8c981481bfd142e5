"""CML: users and items are points, and users lie near the items that they took."""

from typing import ClassVar

import torch
from torch import Tensor

from Models.factor_model import FactorModel
from Models.recommender import embedding_table, user_table
from Utils.dataset import Pairs
from Utils.split import Split


class CML(FactorModel):
    """Score ``s_ui = -|p_u - q_i|^2``, with points p and q in the unit ball.

    It is the inner product of ``[2p, -|p|^2, 1]`` and ``[q, 1, -|q|^2]``, which are its factors.

    Source: Hsieh et al., "Collaborative Metric Learning", WWW 2017, section 3, less three parts:

    1. A hinge counts once, not by the rank that its positive is estimated to have.
    2. A positive has one negative, not the worst of several.
    3. Neither covariances nor features of items are in the loss.
    """

    options: ClassVar = {"margin": float}
    by_users: ClassVar = True

    def __init__(
        self,
        split: Split,
        dim: int,
        margin: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(split, dim)
        self.margin = margin
        self.user = user_table(split, dim, generator)
        self.item = embedding_table(split.num_items, dim, generator)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Extend the points: ``(num_users, d + 2)``, ``(num_items, d + 2)``."""
        return _extended("user", self.user.weight), _extended("item", self.item.weight)

    def rows(self, kind: str, ids: Tensor) -> Tensor:
        """Extend the points of some, with gradients for these alone: ``(B,) -> (B, d + 2)``."""
        return _extended(kind, (self.user if kind == "user" else self.item)(ids))

    def loss(self, batch: Pairs) -> Tensor:
        """Return ``sum max(margin + |p_u - q_i|^2 - |p_u - q_j|^2, 0)``."""
        user = self.user(batch.users).repeat(2, 1)
        item = self.item(torch.cat([batch.positives, batch.negatives]))  # (2B, d)
        near, far = (user - item).square().sum(dim=1).chunk(2)
        return (self.margin + near - far).clamp_min(0).sum()

    @torch.no_grad()
    def after_step(self) -> None:
        """Bring points outside the unit ball back to its surface."""
        for points in (self.user.weight, self.item.weight):
            points.renorm_(p=2, dim=0, maxnorm=1)

    def representations(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Return the points: ``(B, d)`` for users, ``(C, d)`` for items."""
        return {"user": self.user(users), "item": self.item(items)}


def _extended(kind: str, points: Tensor) -> Tensor:
    """Return ``[2p, -|p|^2, 1]`` of users, ``[q, 1, -|q|^2]`` of items: ``(N, d + 2)``."""
    square, one = -points.square().sum(dim=1, keepdim=True), points.new_ones(len(points), 1)
    parts = [2 * points, square, one] if kind == "user" else [points, one, square]
    return torch.cat(parts, dim=1)
