"""The one interface that every base model keeps; distillers and evaluation know nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from Utils.dataset import Asked, Batch, PairSampler
from Utils.errors import UserError
from Utils.processes import CHUNK, Share, UserTable
from Utils.split import Split

INIT_STD = 0.01  # of embeddings, as in the code of the DE-RRD authors and of NeuMF's followers


class Recommender(nn.Module, ABC):
    """A base model with representations of size ``dim``, for the users and items of a split.

    Whoever learns from more than the batches, such as the graph of all training pairs, takes it
    from the split when it is built.

    Attributes
    ----------
    options : the settings that the model takes beside these, by keyword, and the type of each.
    sampler : makes the batches that ``loss`` takes.
    unused : settings of training that have no meaning for the model.
    in_order : whether scores depend on what a user took last; see ``encode_before``.
    by_users : whether all that it knows of a user is a row of its ``user_table``, so that several
        processes can share the users out.
    whole_tables : whether the loss learns from all rows of tables, and not from those of a batch.
    by_rows : whether gradients of tables are to be of the rows that a step looks at, and of no
        others, for ``RowAdam``.
    """

    options: ClassVar[dict[str, type]] = {}
    sampler: ClassVar[type] = PairSampler
    unused: ClassVar[tuple[str, ...]] = ()
    in_order: ClassVar[bool] = False
    by_users: ClassVar[bool] = False
    whole_tables: ClassVar[bool] = False
    by_rows: bool = False

    def __init__(self, split: Split, dim: int) -> None:
        super().__init__()
        self.num_users, self.num_items, self.dim = split.num_users, split.num_items, dim

    def asked(self, split: Split) -> Split | Asked:
        """Return who ``score`` is asked for, in ``users``, and their training pairs: the split's.

        Others than its users have a place of their own there, as windows of sequences do.
        """
        return split

    def latest(self, users: Tensor) -> Tensor:
        """Return whom ``score_all`` is asked for, for users as they are now: ``(B,) -> (B,)``."""
        return users

    def learned(self, split: Split) -> Split | Asked:
        """Return the items that whoever is asked for is to have on top: those of training."""
        return split

    def begin_epoch(self, epoch: int) -> None:
        """Change what changes once an epoch, such as augmented views: nothing, for most.

        A model that is not trained by gradients, but solved for, takes its step here.
        """

    def after_step(self) -> None:
        """Bring parameters back to where they must lie, after an optimiser step: nothing, for most.

        By operations in place, which ``FactorModel`` notices.
        """

    @abstractmethod
    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return differentiable logits.

        ``(B,), (B,) -> (B,)`` for pairs, ``(B,), (B, K) -> (B, K)`` for a list of items a user and
        ``(B, K), (B,) -> (B, K)`` for a list of users an item. Without gradients, ``B`` and ``K``
        may be as large as wanted: no more is held than a multiple of what is returned.
        """

    @abstractmethod
    def score_all(self, users: Tensor) -> Tensor:
        """Return the scores of all items: ``(B,) -> (B, num_items)``."""

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of the model's paper, summed over a batch of its sampler: ``()``."""

    @abstractmethod
    def representations(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Return the last hidden layer, which distillation matches.

        Where the two are encoded apart, ``{"user": (B, d), "item": (C, d)}`` for ``(B,)`` users and
        ``(C,)`` items; where they are encoded jointly, ``{"pair": (B, d)}`` for ``(B,)`` of each.
        """

    @abstractmethod
    def embeddings(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Return the first layer, in which users and items are apart in every model.

        ``{"user": (B, d), "item": (C, d)}`` for ``(B,)`` users and ``(C,)`` items.
        """

    def gmf_embeddings(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Return what enters the product of user and item: for most, the first layer.

        ``{"user": (B, d), "item": (C, d)}`` for ``(B,)`` users and ``(C,)`` items.
        """
        return self.embeddings(users, items)

    def encode(self) -> tuple[Tensor, Tensor] | None:
        """Return ``(num_users, d)`` and ``(num_items, d)`` if scores are their inner products.

        To be read: what is written into them may be lost, for a model may compute them.
        """
        return None

    def vectors(self, users: Tensor, items: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
        """Return ``(B, d)`` and ``(num_items, d)``, differentiably, if scores are their products.

        Of whom the model is asked for, ``(B,)``, where ``encode`` is of all users of the split.
        Of some ``items``, (n,), there are n rows, and gradients are of these alone if they can be.
        """
        factors = self.encode()
        if factors is None:
            return None
        return factors[0][users], factors[1] if items is None else factors[1][items]

    def encode_before(self, part: str) -> tuple[Tensor, Tensor] | None:
        """Return the same of users as they are before their items of ``part``: valid, test or next.

        For most, they are always the same.
        """
        return self.encode()

    def assign(self, users: Tensor, items: Tensor) -> None:
        """Make these, of the shapes that ``encode`` returns, the factors.

        Raises
        ------
        UserError
            If the model does not keep its factors, but computes them, or has none.
        """
        raise UserError(
            f"--model {type(self).__name__}: its factors are not kept, but computed, so it cannot "
            f"start from given ones; use --model BPR, or another start"
        )

    def _listed(
        self, vectors: Tensor, look_up: Callable[[Tensor], Tensor], ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return vectors, and where those of ``ids`` stand there.

        All of them, or, where gradients are to be of some rows alone, those that are looked up.
        """
        if not self.by_rows:
            return vectors, ids
        values, places = ids.unique(return_inverse=True)
        return look_up(values), places

    def num_parameters(self) -> int:
        """Return the number of parameters, frozen or not."""
        return sum(p.numel() for p in self.parameters())


def embedding_table(count: int, dim: int, generator: torch.Generator | None = None) -> nn.Embedding:
    """Return ``count`` small random vectors.

    Gradients of look-ups are sparse: a batch touches a few thousand rows, and a dense gradient as
    large as the table would take longer to fill than everything else in the step.
    """
    table = nn.Embedding(count, dim, sparse=True)
    nn.init.normal_(table.weight, std=INIT_STD, generator=generator)
    return table


def user_table(split: Split, dim: int, generator: torch.Generator | None = None) -> UserTable:
    """Return a small random vector for each user: ``(num_users, dim)``.

    A share of the users has the vectors that it would have among all, of which no more than a chunk
    is made at a time. Chunks of 16 rows and more are drawn as one tensor would be.
    """
    if not isinstance(split, Share):
        table = UserTable(split.num_users, dim, sparse=True)
        nn.init.normal_(table.weight, std=INIT_STD, generator=generator)
        return table
    rows, count, mine = torch.empty(split.num_users, dim), split.bounds[-1], split.users
    for start in range(0, max(count - 15, 1), CHUNK):
        stop = count if start + CHUNK > count - 16 else start + CHUNK
        drawn = torch.empty(stop - start, dim).normal_(std=INIT_STD, generator=generator)
        first, last = max(start, mine.start), min(stop, mine.stop)
        if first < last:
            rows[first - mine.start : last - mine.start] = drawn[first - start : last - start]
    return UserTable.from_pretrained(rows, freeze=False, sparse=True)
