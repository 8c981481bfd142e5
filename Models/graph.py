"""The graph of all training pairs, and what base models share that propagate along it."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from Models.factor_model import FactorModel
from Models.recommender import embedding_table
from Utils.dataset import Pairs
from Utils.errors import UserError
from Utils.split import Split

L2 = 2e-4  # on the embeddings of a batch, in HyperKDMA's code: 1e-4, added twice

Vectors = tuple[Tensor, Tensor]  # of all users and all items: (num_users, d), (num_items, d)


class Graph(nn.Module):
    """Users and items, joined by pairs: ``A~ = D^-1/2 A D^-1/2``, D the numbers of neighbours.

    The block of users and the one of items, its transpose, are both kept, as sparse rows, so that
    no product needs another order than the one in which it reads. They are no part of checkpoints.
    Who is in no pair has neighbours' sums of zero.

    Parameters
    ----------
    users, items : (n,), each pair once, in any order.
    size : the numbers of users and of items.

    Source: Wang et al. 2019, section 2.2.2, equation 8.
    """

    def __init__(self, users: Tensor, items: Tensor, size: tuple[int, int]) -> None:
        super().__init__()
        counts = (
            torch.bincount(ids, minlength=n) for ids, n in zip((users, items), size, strict=True)
        )
        user, item = (count.float().rsqrt() for count in counts)
        weights = user[users] * item[items]
        self.register_buffer("to_users", _matrix(users, items, weights, size), persistent=False)
        size = size[::-1]
        self.register_buffer("to_items", _matrix(items, users, weights, size), persistent=False)

    def edges(self) -> Vectors:
        """Return the pairs, user by user: two (n,)."""
        counts = self.to_users.crow_indices().diff()
        users = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        return users, self.to_users.col_indices().long()

    def sums(self, users: Tensor, items: Tensor) -> Vectors:
        """Return the weighted sums of everyone's neighbours, ``A~ E``, differentiably."""
        return _SelfAdjoint.apply(self._sums, users, items)

    def mean_of_layers(self, users: Tensor, items: Tensor, num_layers: int) -> Vectors:
        """Return ``(E + A~ E + ... + A~^L E) / (L + 1)``, differentiably.

        Source: He et al. 2020, section 3.1, equations 3 and 4, with 1 / (L + 1) for all layers.
        """
        return _SelfAdjoint.apply(partial(self._mean_of_layers, num_layers), users, items)

    def _sums(self, users: Tensor, items: Tensor) -> Vectors:
        return self.to_users @ items, self.to_items @ users

    def _mean_of_layers(self, num_layers: int, users: Tensor, items: Tensor) -> Vectors:
        p, q = users, items
        for _ in range(num_layers):  # E + A~ (E + A~ (E + ...))
            p, q = torch.addmm(users, self.to_users, q), torch.addmm(items, self.to_items, p)
        return p.div_(num_layers + 1), q.div_(num_layers + 1)


class _SelfAdjoint(torch.autograd.Function):
    """A linear map that equals its own transpose, so that gradients pass through it likewise."""

    @staticmethod
    def forward(ctx, operator: Callable[[Tensor, Tensor], Vectors], *vectors: Tensor) -> Vectors:
        ctx.operator = operator
        return operator(*vectors)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[None, Tensor, Tensor]:
        return None, *ctx.operator(*gradients)


def _matrix(rows: Tensor, columns: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the sparse matrix with ``values``, (n,), at ``rows`` and ``columns``."""
    order = rows.argsort(stable=True)
    starts = torch.zeros(size[0] + 1, dtype=torch.int32, device=rows.device)
    starts[1:] = torch.bincount(rows, minlength=size[0]).cumsum(0)
    return torch.sparse_csr_tensor(
        starts, columns[order].int(), values[order], size=size, check_invariants=False
    )


class GraphModel(FactorModel):
    """Factors that are computed from two tables, ``e^0``, along the graph of training pairs."""

    whole_tables = True

    def __init__(self, split: Split, dim: int, generator: torch.Generator | None = None) -> None:
        super().__init__(split, dim)
        self.user = embedding_table(split.num_users, dim, generator)
        self.item = embedding_table(split.num_items, dim, generator)
        pairs = torch.from_numpy(split.train_users), torch.from_numpy(split.train_items)
        self.graph = Graph(*pairs, (split.num_users, split.num_items))

    def loss(self, batch: Pairs) -> Tensor:
        """Return ``sum [-log sigmoid(s_ui - s_uj) + 2e-4 (|e^0_u|^2 + |e^0_i|^2 + |e^0_j|^2)]``.

        Source: He et al. 2020, section 3.2, equation 15, and HyperKDMA's code, which weighs so.
        """
        embeddings = self.embeddings(batch.users, torch.cat([batch.positives, batch.negatives]))
        return super().loss(batch) + L2 * sum(each.square().sum() for each in embeddings.values())

    def embeddings(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Return rows of the tables: ``(B, d)`` for users, ``(C, d)`` for items."""
        return {"user": self.user(users), "item": self.item(items)}


def require_dropout(dropout: float) -> None:
    """Raise ``UserError`` unless something is left."""
    if not 0 <= dropout < 1:
        raise UserError(f"--dropout {dropout}: leaves nothing; use a share below 1, or 0 for none")
