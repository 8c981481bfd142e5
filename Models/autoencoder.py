"""Auto-encoders: from what a user took, or who took an item, to what else it may be."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from Models.factor_model import FactorModel
from Models.graph import require_dropout
from Models.recommender import embedding_table
from Models.softmax import log_normalizer
from Utils.dataset import Items, ItemSampler, Users, UserSampler
from Utils.seeding import Draws
from Utils.split import Split

ANNEALING = 50  # epochs over which the weight of the KL term grows from 0 to beta_KL
MOST = 20.0  # of a log variance, whose exponential stays finite


class MultVAE(FactorModel):
    """A variational auto-encoder of users' rows, with a multinomial likelihood.

    A user's row of training items, scaled to length 1, ``-> 3d -> mean and log variance of z, d
    each; z -> 3d -> a softmax over all items``, with tanh between. Outside training, z is its mean.
    So a score is the inner product of ``[h(z_u), 1]``, h the last hidden layer, and ``[w_i, b_i]``,
    weights and bias of the output, which are kept as one table.

    Source: Liang et al., "Variational Autoencoders for Collaborative Filtering", WWW 2018, sections
    2 and 4.3, except for:

    1. The loss is a sum over the batch's users, not a mean, as everywhere here.
    2. The weight of the KL term grows epoch by epoch, not step by step.
    3. All weights have Adam's weight decay.

    Parameters
    ----------
    dropout : share of a row that is left out in training; the rest is scaled up.
    beta_KL : weight of the KL term, when it is fully grown.

    Raises
    ------
    UserError
        If all of the rows would be left out.
    """

    options: ClassVar = {"dropout": float, "beta_KL": float}
    sampler = UserSampler
    whole_tables = True
    coded, other = "user", "item"  # whose rows are encoded, and over whom the softmax is

    def __init__(
        self,
        split: Split,
        dim: int,
        dropout: float = 0.5,
        beta_KL: float = 0.2,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__(split, dim)
        require_dropout(dropout)
        self.dropout, self.beta_KL = dropout, beta_KL
        width, count = 3 * dim, getattr(split, f"num_{self.other}s")
        self.input = embedding_table(count, width, generator)
        self.input_bias = nn.Parameter(torch.zeros(width))
        self.code, self.hidden = nn.Linear(width, 2 * dim), nn.Linear(dim, width)
        for layer in (self.code, self.hidden):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
        self.output = embedding_table(count, width + 1, generator)
        ids, others = (
            torch.from_numpy(getattr(split, f"train_{kind}s")) for kind in (self.coded, self.other)
        )
        counts = torch.bincount(ids, minlength=getattr(split, f"num_{self.coded}s"))
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("starts", counts.cumsum(0) - counts, persistent=False)
        self.register_buffer("others", others[ids.argsort(stable=True)], persistent=False)
        self.draws = Draws(generator.initial_seed())
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int) -> None:
        """Begin the epoch's noise, and let the KL term grow."""
        super().begin_epoch(epoch)
        self.noise = self.draws.generator("noise", epoch, self.counts.device)
        self.grown_beta = self.beta_KL * min(epoch / ANNEALING, 1.0)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Encode everyone: ``(num_users, 3d + 1)``, ``(num_items, 3d + 1)``."""
        rows = self._decode(self._encode(torch.arange(len(self.counts), device=self.counts.device)))
        return (rows, self.output.weight) if self.coded == "user" else (self.output.weight, rows)

    def table(self, kind: str) -> Tensor:
        """Return the factors of all users or items; those of the output as they are."""
        return super().table(kind) if kind == self.coded else self.output.weight

    def rows(self, kind: str, ids: Tensor) -> Tensor:
        """Return the factors of some: where gradients are wanted, these alone are encoded."""
        if kind == self.other:
            return self.output(ids)
        if not torch.is_grad_enabled():
            return super().rows(kind, ids)
        return self._decode(self._encode(ids))

    def loss(self, batch: Users | Items) -> Tensor:
        """Return ``-sum_u [sum_i log softmax(s_u)_i - beta KL(q(z_u) || N(0, 1))]``.

        The inner sum is over the user's training items.
        """
        (ids,) = batch
        others, starts = self._others(ids)
        mean, log_variance = code = self._encode(ids)
        rows = self._decode(code)
        log_z = log_normalizer(rows, self.output.weight)
        sums = F.embedding_bag(others, self.output.weight, starts, mode="sum", sparse=True)
        kl = (log_variance.exp() + mean.square() - 1 - log_variance).sum() / 2
        return log_z @ self.counts[ids].to(log_z) - (rows * sums).sum() + self.grown_beta * kl

    def _others(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the training items of some users, ``(n,)``, and where each user's begin.

        Their number is the step's one wait for the device.
        """
        counts = self.counts[ids]
        starts = counts.cumsum(0) - counts
        shift = (self.starts[ids] - starts).repeat_interleave(counts)
        return self.others[torch.arange(len(shift), device=ids.device) + shift], starts

    def _encode(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the codes of some users: two ``(B, d)``."""
        others, starts = self._others(ids)
        counts = self.counts[ids]
        values = counts.to(self.input_bias).rsqrt().repeat_interleave(counts)
        if self._is_noisy():
            kept = torch.empty_like(values).uniform_(generator=self.noise).ge_(self.dropout)
            values = values * kept / (1 - self.dropout)
        sums = F.embedding_bag(
            others, self.input.weight, starts, mode="sum", per_sample_weights=values, sparse=True
        )
        mean, log_variance = self.code((sums + self.input_bias).tanh()).chunk(2, dim=1)
        return mean, log_variance.clamp_max(MOST)

    def _decode(self, code: tuple[Tensor, Tensor]) -> Tensor:
        """Return what the output layer sees, drawn in training: ``(B, 3d + 1)``."""
        z, log_variance = code
        if self._is_noisy():
            z = z + (log_variance / 2).exp() * torch.empty_like(z).normal_(generator=self.noise)
        return torch.cat([self.hidden(z).tanh(), z.new_ones(len(z), 1)], dim=1)

    def _is_noisy(self) -> bool:
        return self.training and torch.is_grad_enabled()


class ItemVAE(MultVAE):
    """The same of items' columns: from the users who took an item to a softmax over all users.

    Source: Sedhain et al., "AutoRec: Autoencoders Meet Collaborative Filtering", WWW 2015, for the
    item's side.
    """

    sampler = ItemSampler
    coded, other = "item", "user"
