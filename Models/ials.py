"""iALS: matrix factorisation for implicit feedback by alternating least squares."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from Models.factor_model import FactorModel
from Models.recommender import INIT_STD
from Utils.dataset import Whole, WholeSampler
from Utils.split import Split

BLOCK = 2**22  # numbers that are gathered at a time


class iALS(FactorModel):
    """Score ``s_ui = p_u . q_i``; each epoch solves for all users, then for all items, exactly.

    The objective is ``sum_ui w_ui (r_ui - s_ui)^2 + ridge (sum_u |p_u|^2 + sum_i |q_i|^2)`` over
    all pairs: ``r = 1`` and ``w = 1 + alpha`` for those in training, else ``r = 0`` and ``w = 1``.

    Source: Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM
    2008, section 4; Rendle et al., "Revisiting the Performance of iALS", RecSys 2022, for how large
    ``alpha`` and ``ridge`` have to be.
    """

    options: ClassVar = {"alpha": float, "ridge": float}
    sampler: ClassVar[type] = WholeSampler
    unused: ClassVar = ("lr", "reg", "batch_size", "optimizer")  # nothing is learned by gradients

    def __init__(
        self,
        split: Split,
        dim: int,
        alpha: float = 300.0,
        ridge: float = 400.0,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__(split, dim)
        self.alpha, self.ridge = alpha, ridge
        self.user, self.item = (
            nn.Parameter(torch.randn(count, dim, generator=generator) * INIT_STD, False)
            for count in (split.num_users, split.num_items)
        )
        users, items = torch.from_numpy(split.train_users), torch.from_numpy(split.train_items)
        order = items.argsort(stable=True)
        self.of_users = nn.Buffer(items, persistent=False)  # user by user
        self.of_items = nn.Buffer(users[order], persistent=False)  # item by item
        self.counts = [
            torch.bincount(users, minlength=split.num_users),
            torch.bincount(items, minlength=split.num_items),
        ]

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the two tables: ``(num_users, d)``, ``(num_items, d)``."""
        return self.user, self.item

    @torch.no_grad()
    def begin_epoch(self, epoch: int) -> None:
        """Solve for the users, then for the items."""
        super().begin_epoch(epoch)
        weights = self.alpha, self.ridge
        self.user.copy_(solve(self.item, self.of_users, self.counts[0], *weights))
        self.item.copy_(solve(self.user, self.of_items, self.counts[1], *weights))

    @torch.no_grad()
    def loss(self, batch: Whole) -> Tensor:
        """Return the objective: ``()``."""
        users = torch.repeat_interleave(self.counts[0].to(self.user.device))
        scores = self.score(users, self.of_users)
        pairs = (1 + self.alpha) * (1 - scores).square() - scores.square()
        everywhere = ((self.user.T @ self.user) * (self.item.T @ self.item)).sum()
        norms = self.user.square().sum() + self.item.square().sum()
        return everywhere + pairs.sum() + self.ridge * norms

    @torch.no_grad()
    def assign(self, users: Tensor, items: Tensor) -> None:
        """Copy these into the two tables."""
        self.user.copy_(users)
        self.item.copy_(items)


def solve(table: Tensor, members: Tensor, counts: Tensor, alpha: float, ridge: float) -> Tensor:
    """Return the best vector for each row, given those of its members: ``(rows, d)``.

    ``table``: (columns, d), the other side's vectors. ``members``: (n,), the columns of the pairs
    in training, row by row; ``counts``: (rows,), how many each row has, on the CPU.

    With X the vectors of a row's n members and ``A = table^T table + ridge``, this is
    ``(1 + alpha) (A + alpha X^T X)^-1 X^T 1``. For n up to d, the same is made of a system of n
    equations, ``(1 + alpha) A^-1 X^T (I + alpha X A^-1 X^T)^-1 1``, and most rows are short.
    """
    dim = table.shape[1]
    gram = table.T @ table + ridge * torch.eye(dim, device=table.device)
    whitened = torch.cholesky_solve(table.T, torch.linalg.cholesky(gram)).T  # (columns, d)
    found = table.new_zeros(len(counts), dim)
    starts = counts.cumsum(0) - counts
    for rows in _blocks(counts, dim):
        place = torch.arange(int(counts[rows[-1]]))
        real = place < counts[rows].unsqueeze(1)  # (B, n)
        index = (starts[rows].unsqueeze(1) + place * real).to(table.device)
        real = real.unsqueeze(2).to(table)  # (B, n, 1)
        mine = members[index]
        x = table[mine] * real
        if len(place) <= dim:
            z = whitened[mine] * real
            system = alpha * x @ z.mT
            system.diagonal(dim1=1, dim2=2).add_(1)
            of_members = torch.cholesky_solve(real, torch.linalg.cholesky(system))
            solved = z.mT @ of_members
        else:
            system = gram + alpha * x.mT @ x
            solved = torch.cholesky_solve(x.mT @ real, torch.linalg.cholesky(system))
        found[rows.to(table.device)] = (1 + alpha) * solved.squeeze(2)
    return found


def _blocks(counts: Tensor, dim: int) -> list[Tensor]:
    """Return the rows that have members, shortest first, in blocks that fit into memory."""
    order = counts.argsort(stable=True)
    order = order[counts[order] > 0]
    sizes = counts[order]
    blocks, first = [], 0
    while first < len(order):
        # the block's last row is its longest, to which the others are filled up
        ahead = torch.arange(1, len(order) - first + 1)
        width = sizes[first:].clamp_min(1)
        fits = int((ahead * width * torch.maximum(width, torch.tensor(dim)) <= BLOCK).sum())
        blocks.append(order[first : first + max(fits, 1)])
        first += max(fits, 1)
    return blocks
