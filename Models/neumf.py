"""NeuMF: a matrix factorisation and a multi-layer perceptron side by side."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from Models.recommender import Recommender, embedding_table, user_table
from Utils.dataset import Pairs
from Utils.errors import UserError
from Utils.sampled_product import sampled_product
from Utils.split import Split

CHUNK = 2**18  # hidden units held at a time where no gradient is wanted: a cache holds them


class NeuMF(Recommender):
    """Score ``s_ui = w . [p^G_u * q^G_i ; MLP([p^M_u ; q^M_i])] + b``.

    GMF and MLP have embeddings of their own, all of size ``dim``. The hidden layers of the MLP have
    ``dim``, ``dim // 2``, ``dim // 4``, ... units with ReLU.

    Source: He et al., "Neural Collaborative Filtering", WWW 2017, section 3.4, without pre-training
    (DE-RRD paper, section 5.1).

    Raises
    ------
    UserError
        If the last hidden layer would have less than one unit.
    """

    options: ClassVar = {"num_layers": int}
    by_users: ClassVar = True

    def __init__(
        self,
        split: Split,
        dim: int,
        num_layers: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(split, dim)
        self.num_layers = num_layers
        widths = [2 * dim, *(dim >> layer for layer in range(num_layers))]
        if widths[-1] < 1:
            raise UserError(
                f"--num_layers {num_layers}: layers that halve from {dim} units end below one; "
                f"use {dim.bit_length()} or fewer"
            )
        self.gmf, self.mlp = (
            nn.ModuleDict(
                {
                    "user": user_table(split, dim, generator),
                    "item": embedding_table(split.num_items, dim, generator),
                }
            )
            for _ in range(2)
        )
        self.hidden = nn.ModuleList(map(nn.Linear, widths, widths[1:]))
        self.output = nn.Linear(dim + widths[-1], 1)
        for layer in self.hidden:
            nn.init.xavier_uniform_(layer.weight, generator=generator)
        nn.init.kaiming_uniform_(self.output.weight, a=1, generator=generator)
        for layer in (*self.hidden, self.output):
            nn.init.zeros_(layer.bias)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return logits: ``(B,)`` and ``(B,)``, ``(B, K)`` or, for users, ``(B, K)``.

        Without gradients, lists may be of any number and length: memory stays flat.
        """
        if users.dim() == items.dim():
            return self._logits(self._pairs(users, items))
        if users.dim() == 1:
            return self._score_lists("user", users, "item", items)
        return self._score_lists("item", items, "user", users)

    def score_all(self, users: Tensor) -> Tensor:
        """Return logits of all items: ``(B,) -> (B, num_items)``."""
        gmf = self.gmf["user"](users) * self.output.weight[0, : self.dim]
        shares = self._first_layer("item", self.mlp["item"].weight)
        return gmf @ self.gmf["item"].weight.T + self._mlp_logits("user", users, shares)

    def loss(self, batch: Pairs) -> Tensor:
        """Return binary cross-entropy, ``-sum [log sigmoid(s_ui) + log(1 - sigmoid(s_uj))]``.

        Source: He et al. 2017, section 3.1, equation 7.
        """
        pairs = self._pairs(batch.users, torch.cat([batch.positives, batch.negatives]))
        positive, negative = self._logits(pairs).chunk(2)
        return -(F.logsigmoid(positive) + F.logsigmoid(-negative)).sum()

    def representations(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Return what the output layer sees, GMF and MLP joined: ``(B, d + last width)``."""
        return {"pair": self._pairs(users, items)}

    def embeddings(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Return those of GMF and MLP joined: ``(B, 2d)`` for users, ``(C, 2d)`` for items."""
        return {
            kind: torch.cat([self.gmf[kind](ids), self.mlp[kind](ids)], dim=1)
            for kind, ids in (("user", users), ("item", items))
        }

    def gmf_embeddings(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Return GMF's alone: ``(B, d)`` for users, ``(C, d)`` for items."""
        return {kind: self.gmf[kind](ids) for kind, ids in (("user", users), ("item", items))}

    def _pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """Return representations of ``(B,)`` users with ``(nB,)`` items: n times all users."""
        times = len(items) // len(users)
        gmf = self.gmf["user"](users).repeat(times, 1) * self.gmf["item"](items)
        mine = self._first_layer("user", self.mlp["user"](users)).repeat(times, 1)
        theirs = self._first_layer("item", self.mlp["item"](items))
        return torch.cat([gmf, self._later_layers(mine + theirs)], dim=1)

    def _logits(self, pairs: Tensor) -> Tensor:
        return self.output(pairs).squeeze(1)

    def _first_layer(self, kind: str, vectors: Tensor) -> Tensor:
        """Return the share of users or items in the first layer's sums: ``(N, d) -> (N, d)``.

        The layer is linear, so a user's share is the same for all items, and the reverse.
        """
        users, items = self.hidden[0].weight.split(self.dim, dim=1)
        if kind == "user":
            return F.linear(vectors, users, self.hidden[0].bias)
        return F.linear(vectors, items)

    def _later_layers(self, sums: Tensor) -> Tensor:
        """Return the last hidden layer from the first one's sums: ``(..., d) -> (..., width)``."""
        activations = sums.relu_()
        for layer in self.hidden[1:]:
            activations = layer(activations).relu_()
        return activations

    def _score_lists(self, kind: str, ids: Tensor, other: str, columns: Tensor) -> Tensor:
        """Return logits of ``(B,)`` users with ``(B, K)`` items, or the reverse."""
        gmf = self.gmf[kind](ids) * self.output.weight[0, : self.dim]
        factors, table = self.gmf[other], self.mlp[other]
        logits = sampled_product(gmf, *self._listed(factors.weight, factors, columns))
        if self.by_rows or columns.numel() > table.num_embeddings:  # each vector once, not pair
            vectors, columns = self._listed(table.weight, table, columns)
            shares = self._first_layer(other, vectors)
        else:
            shares = self._first_layer(other, table(columns.flatten()))
            columns = torch.arange(columns.numel(), device=columns.device).view_as(columns)
        return logits + self._mlp_logits(kind, ids, shares, columns)

    def _mlp_logits(
        self, kind: str, ids: Tensor, shares: Tensor, columns: Tensor | None = None
    ) -> Tensor:
        """Return the MLP's part of the logits, and the bias.

        ``ids``: (B,), ``shares``: (N, d) of the other kind, of which ``columns`` (B, K) are paired
        with each, or all of them.
        """
        mine = self._first_layer(kind, self.mlp[kind](ids)).unsqueeze(1)
        weight, bias = self.output.weight[0, self.dim :], self.output.bias
        if columns is None and len(self.hidden) == 1 and not torch.is_grad_enabled():
            return _relu_products(mine.squeeze(1), shares, weight) + bias

        def logits(rows: slice, places: slice) -> Tensor:
            theirs = (
                shares[places] if columns is None else F.embedding(columns[rows, places], shares)
            )
            return self._later_layers(mine[rows] + theirs) @ weight + bias

        size = len(shares) if columns is None else columns.shape[1]
        if torch.is_grad_enabled():
            return logits(slice(None), slice(None))
        width = min(size, CHUNK // self.dim)
        height = CHUNK // (width * self.dim)
        result = mine.new_empty(len(ids), size)
        for row in range(0, len(ids), height):
            for place in range(0, size, width):
                block = slice(row, row + height), slice(place, place + width)
                result[block] = logits(*block)
        return result


def _relu_products(rows: Tensor, table: Tensor, weight: Tensor) -> Tensor:
    """Return ``relu(rows_i + table_j) . weight``: ``(B, d)``, ``(N, d)`` -> ``(B, N)``.

    As ``relu(a + b) = max(a, -b) + b``, one pass over the hidden units does for two, and the second
    term is a product of the table's own.
    """
    negative, result = -table, rows.new_empty(len(rows), len(table))
    width = 4 * CHUNK // rows.shape[1] + 1
    units = rows.new_empty(width, rows.shape[1])
    for place in range(0, len(table), width):
        block = negative[place : place + width]
        for row, out in zip(rows, result[:, place : place + width], strict=True):
            torch.maximum(row, block, out=units[: len(block)])
            torch.mv(units[: len(block)], weight, out=out)
    return result + table @ weight
