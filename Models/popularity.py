"""Popularity: for everybody the items that most users have, which is the least to be beaten."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from Models.factor_model import FactorModel
from Utils.dataset import Whole, WholeSampler
from Utils.split import Split


class Popularity(FactorModel):
    """Score an item by the number of users who train on it; of equals, the first is above.

    One number an item: where ``dim`` is more, the others are 0.
    """

    sampler: ClassVar[type] = WholeSampler
    unused: ClassVar = ("lr", "reg", "batch_size", "optimizer")

    def __init__(self, split: Split, dim: int, *, generator: torch.Generator) -> None:
        super().__init__(split, dim)
        counts = torch.bincount(torch.from_numpy(split.train_items), minlength=split.num_items)
        user, item = torch.zeros(split.num_users, dim), torch.zeros(split.num_items, dim)
        user[:, 0] = 1
        item[:, 0] = counts - torch.arange(split.num_items) / (2 * split.num_items)
        self.user, self.item = nn.Parameter(user, False), nn.Parameter(item, False)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return 1 for each user, and the counts: ``(num_users, d)``, ``(num_items, d)``."""
        return self.user, self.item

    def loss(self, batch: Whole) -> Tensor:
        """Return 0, for there is nothing to learn: ``()``."""
        return self.item.new_zeros(())
