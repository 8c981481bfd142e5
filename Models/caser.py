"""Caser: convolutions over the latest items of a user."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from Models.recommender import embedding_table
from Models.sequential import SequentialModel, with_none
from Utils.split import Split

NEGATIVES = 3  # a window, as in the RD authors' code


class Caser(SequentialModel):
    """Score item i of user u after the items ``E`` (L, d) by ``w_i . [z ; p_u] + b_i``.

    ``z = sigmoid(W [o ; o'] + b)``, with dropout of ``[o ; o']``. Vertical filters are weighted
    sums over the items, ``o = F E``; of a horizontal one, a window of h items and all of d, the
    largest of its L - h + 1 sums stays.

    Source: Tang and Wang, "Personalized Top-N Sequential Recommendation via Convolutional Sequence
    Embedding", WSDM 2018, sections 3.1 to 3.4; activations, sizes and first weights of the RD
    authors' code. Except for:

    1. The filters' first weights are Xavier's.
    2. Windows that are not full are learned wherever an item stands before the targets, not only of
       users who have no full one: most sequences of the data sets here are short.

    Parameters
    ----------
    length, num_targets : L and T.
    n_v, n_h : vertical filters; horizontal filters of each height from 1 to L.
    dropout : share of ``[o ; o']`` that is left out in training.
    """

    options: ClassVar = {
        "length": int,
        "num_targets": int,
        "n_v": int,
        "n_h": int,
        "dropout": float,
    }

    def __init__(
        self,
        split: Split,
        dim: int,
        length: int = 5,
        num_targets: int = 1,
        n_v: int = 2,
        n_h: int = 16,
        dropout: float = 0.5,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__(
            split, dim, length=length, num_targets=num_targets, num_negatives=NEGATIVES,
            dropout=dropout, draws=generator.initial_seed(),
        )  # fmt: skip
        self.num_targets, self.n_v, self.n_h = num_targets, n_v, n_h
        self.user = embedding_table(split.num_users, dim, generator)
        self.item = embedding_table(split.num_items + 1, dim, generator)
        self.output = embedding_table(split.num_items, 2 * dim + 1, generator)  # w_i and b_i
        for table in (self.user, self.item, self.output):
            nn.init.normal_(table.weight, std=1 / dim, generator=generator)
        nn.init.zeros_(self.output.weight[:, -1])
        with_none(self.item)
        self.vertical = nn.Linear(length, n_v)
        self.horizontal = nn.ModuleList(nn.Linear(h * dim, n_h) for h in range(1, length + 1))
        self.last = nn.Linear(n_v * dim + n_h * length, dim)
        for layer in (self.vertical, *self.horizontal, self.last):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)

    def encode_windows(self, windows: Tensor) -> Tensor:
        """Return ``[z ; p_u ; 1]``: ``(B,) -> (B, 2d + 1)``."""
        items = self.item(self.window_items[windows])  # (B, L, d)
        features = [self.vertical(items.transpose(1, 2)).transpose(1, 2).flatten(1)]
        for height, filters in enumerate(self.horizontal, 1):
            places = range(self.length - height + 1)
            parts = torch.stack([items[:, p : p + height].flatten(1) for p in places])
            features.append(filters(parts).amax(dim=0))
        z = self.last(self._dropped(torch.cat(features, dim=1))).sigmoid()
        return torch.cat([z, self.user(self.window_users[windows]), z.new_ones(len(z), 1)], dim=1)
