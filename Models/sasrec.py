"""SASRec: self-attention over the latest items of a user."""

from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from Models.recommender import embedding_table
from Models.sequential import SequentialModel, with_none
from Utils.dataset import Sequences
from Utils.split import Split

PARTS = 4  # into which windows are parted by their length: most of a short one's places are empty


class SASRec(SequentialModel):
    """Score item i after the items E by ``h . e_i``, h the last state of blocks of self-attention.

    A block attends to what came before, then passes each state through two layers; both are added
    to what they are made of, and normalised layers go in. An item's vector is the same where it is
    read and where it is scored. Every place of a window is trained to foretell the next item.

    Source: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, section III,
    with one head, and without dropout of the attention's weights.

    Parameters
    ----------
    length : L, items that are looked at.
    num_layers : blocks.
    dropout : share of embeddings and of each layer's outputs that is left out in training.
    """

    options: ClassVar = {"length": int, "num_layers": int, "dropout": float}

    def __init__(
        self,
        split: Split,
        dim: int,
        length: int = 50,
        num_layers: int = 2,
        dropout: float = 0.5,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__(
            split, dim, length=length, step=length, num_negatives=length, dropout=dropout,
            draws=generator.initial_seed(),
        )  # fmt: skip
        self.num_layers = num_layers
        self.item = with_none(embedding_table(split.num_items + 1, dim, generator))
        self.place = nn.Parameter(torch.randn(length, dim, generator=generator) * 0.01)
        self.blocks = nn.ModuleList(_Block(dim, generator) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)

    @property
    def output(self) -> nn.Embedding:
        """The items' vectors; the last row is of none."""
        return self.item

    def encode_windows(self, windows: Tensor) -> Tensor:
        """Return the state after the last item: ``(B,) -> (B, d)``."""
        items = self.window_items[windows]
        parts = list(self._by_length(items))
        states = torch.cat([self._states(items[rows, first:])[:, -1] for rows, first in parts])
        return states[torch.cat([rows for rows, _ in parts]).argsort()]

    def loss(self, batch: Sequences) -> Tensor:
        """Return binary cross-entropy of the next item at each place, summed over windows: ``()``.

        Each next item has one negative.
        """
        windows, targets, others = batch
        items = self.window_items[windows]
        following = torch.cat([items[:, 1:], targets], dim=1)
        losses = []
        for rows, first in self._by_length(items):
            some, *ids = (each[rows, first:] for each in (items, following, others))
            states, real = self._states(some), some != self.num_items
            above, below = ((states * self.item(each)).sum(dim=2)[real] for each in ids)
            losses.append(-F.logsigmoid(above).sum() - F.logsigmoid(-below).sum())
        return torch.stack(losses).sum()

    def _by_length(self, items: Tensor) -> Iterator[tuple[Tensor, int]]:
        """Yield some rows of ``(B, L)`` at a time, and where the longest of them begins."""
        empty = (items == self.num_items).sum(dim=1).clamp_max_(self.length - 1)
        for rows in empty.argsort(stable=True).chunk(PARTS):
            yield rows, int(empty[rows[:1]].sum())  # 0 of no rows

    def _states(self, items: Tensor) -> Tensor:
        """Return the states after each item of some windows, or of their ends: ``(B, l, d)``."""
        real, places = items != self.num_items, items.shape[1]
        before = torch.ones(places, places, dtype=torch.bool, device=items.device).tril()
        # whoever stands for no item looks at itself, so that a softmax is over something
        seen = (before & real.unsqueeze(1)) | torch.eye(
            places, dtype=torch.bool, device=items.device
        )
        states = self._dropped(self.item(items) * self.dim**0.5 + self.place[-places:])
        for block in self.blocks:
            states = block(states, seen, self._dropped)
        return self.norm(states)


class _Block(nn.Module):
    """Attention to what came before, and two layers on each state."""

    def __init__(self, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.query, self.key, self.value, self.first, self.second = (
            nn.Linear(dim, dim) for _ in range(5)
        )
        for layer in (self.query, self.key, self.value, self.first, self.second):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)

    def forward(self, states: Tensor, seen: Tensor, dropped: Callable[[Tensor], Tensor]) -> Tensor:
        """``states``: (B, L, d); ``seen``: (B, L, L), what each place may look at."""
        asking = self.norms[0](states)
        found = F.scaled_dot_product_attention(
            self.query(asking), self.key(states), self.value(states), attn_mask=seen
        )
        states = asking + dropped(found)
        inner = self.norms[1](states)
        return inner + dropped(self.second(dropped(self.first(inner).relu())))
