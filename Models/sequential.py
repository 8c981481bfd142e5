"""What base models share that look at the order of a user's items."""

from functools import partial
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from Models.graph import require_dropout
from Models.recommender import Recommender
from Utils.dataset import Asked, Sequences, SequenceSampler, Windows
from Utils.errors import UserError
from Utils.sampled_product import sampled_product
from Utils.seeding import Draws
from Utils.split import Split

CHUNK = 1024  # windows that are encoded at a time
GATHERED = 16  # vectors of items that are looked up for a window; more are multiplied at once


class SequentialModel(Recommender):
    """Scores all items after a window of a user's items.

    Where other models are asked for users, this one is asked for windows, by their numbers: those
    of training, and behind them what came before each user's validation, test and next items. A
    score is the inner product of what ``encode_windows`` makes of a window and the item's row of
    ``output``.

    Parameters
    ----------
    length : L, items of a window.
    num_targets : T, items that follow it in training.
    step : by how many items one window of training is from the next.
    num_negatives : drawn for each window.
    dropout : share of hidden units that is left out in training.
    draws : seed of what is left out.
    """

    in_order = True
    output: nn.Embedding

    def __init__(
        self,
        split: Split,
        dim: int,
        *,
        length: int,
        num_targets: int = 1,
        step: int = 1,
        num_negatives: int,
        dropout: float,
        draws: int,
    ) -> None:
        super().__init__(split, dim)
        require_dropout(dropout)
        self.windows = windows = Windows(split, length, num_targets, step)
        self.length, self.dropout, self.num_windows = length, dropout, len(windows.targets)
        for name in ("users", "items"):
            values = torch.from_numpy(getattr(windows, name))
            self.register_buffer(f"window_{name}", values, persistent=False)
        self.sampler = partial(SequenceSampler, windows=windows, count=num_negatives)
        self.sampler.batch = SequenceSampler.batch
        self.draws = Draws(draws)
        self._kept: tuple[tuple, Tensor, Tensor] | None = None
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int) -> None:
        """Begin the epoch's dropout."""
        super().begin_epoch(epoch)
        self._forget()
        self.noise = self.draws.generator("dropout", epoch, self.window_items.device)

    def asked(self, split: Split) -> Asked:
        """Return the windows of training, and all training items of the user of each."""
        return self.windows.asked(split)

    def latest(self, users: Tensor) -> Tensor:
        """Return the windows of these users' latest items."""
        return self._before("next") + users

    def _before(self, part: str) -> int:
        """Return the first window of what came before a part."""
        return self.num_windows + self.num_users * ("valid", "test", "next").index(part)

    def learned(self, split: Split) -> Asked:
        """Return the windows of training, and the items that follow each."""
        return self.windows.learned(split)

    def encode_windows(self, windows: Tensor) -> Tensor:
        """Return a vector for each of some windows: ``(B,) -> (B, width)``."""
        raise NotImplementedError

    def vectors(self, users: Tensor, items: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the vectors of some windows, and the items' they are multiplied with."""
        encoded = self._encoded(users)
        return encoded, self.output.weight[: self.num_items] if items is None else self.output(
            items
        )

    def _encoded(self, windows: Tensor) -> Tensor:
        """Return what ``encode_windows`` does, computed once a step for windows in any order.

        So all losses of a step look at the same vectors, of which the same units are dropped. Not
        on a device, which would be waited for to compare windows.
        """
        weights = tuple((each.data_ptr(), each._version) for each in self.parameters())
        state = self.training, weights
        if self._kept and self._kept[0] == state:
            _, known, vectors = self._kept
            place = torch.searchsorted(known, windows).clamp_max_(len(known) - 1)
            if torch.equal(known[place], windows):
                return vectors[place]
        if not torch.is_grad_enabled():
            return torch.cat([self.encode_windows(each) for each in windows.split(CHUNK)])
        vectors = self.encode_windows(windows)
        if windows.device.type == "cpu" and vectors.requires_grad:
            known, order = windows.sort()
            self._kept = state, known, vectors[order]
            vectors.register_hook(self._forget)
        return vectors

    def _forget(self, _: Tensor | None = None) -> None:
        self._kept = None

    def encode_before(self, part: str) -> tuple[Tensor, Tensor]:
        """Encode what came before everybody's items of a held-out part, or before the next one."""
        users = torch.arange(self.num_users, device=self.window_items.device)
        return self.vectors(self._before(part) + users)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return logits of pairs and of lists of items, as ``Recommender`` does, of windows."""
        if users.dim() > 1:
            self._refuse("lists of users for an item, for each is asked after a window")
        columns = items if items.dim() > 1 else items.unsqueeze(1)
        vectors, _ = self.vectors(users)
        if columns.shape[1] <= GATHERED:
            scores = (self.output(columns) @ vectors.unsqueeze(2)).squeeze(2)
        else:
            listed = self._listed(self.output.weight, self.output, columns)
            scores = sampled_product(vectors, *listed)
        return scores if items.dim() > 1 else scores.squeeze(1)

    def score_all(self, users: Tensor) -> Tensor:
        """Return the scores of all items after some windows: ``(B,) -> (B, num_items)``."""
        vectors, items = self.vectors(users)
        return vectors @ items.T

    def loss(self, batch: Sequences) -> Tensor:
        """Return binary cross-entropy of targets and negatives, summed over windows: ``()``."""
        windows, targets, others = batch
        scores = self.score(windows, torch.cat([targets, others], dim=1))
        above, below = scores.split([targets.shape[1], others.shape[1]], dim=1)
        return -F.logsigmoid(above).sum() - F.logsigmoid(-below).sum()

    def representations(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Raise ``UserError``: windows have some, and not users."""
        self._refuse("representations of users, for each is asked after a window")

    embeddings = representations

    def _refuse(self, what: str) -> NoReturn:
        raise UserError(
            f"--model {type(self).__name__}: has no {what}; use a method of lists of items, such "
            f"as RD, or another model"
        )

    def _dropped(self, units: Tensor) -> Tensor:
        """Leave out a share of hidden units in training, and scale up the rest."""
        if not (self.training and torch.is_grad_enabled() and self.dropout):
            return units
        kept = torch.empty_like(units).uniform_(generator=self.noise).ge_(self.dropout)
        return units * kept / (1 - self.dropout)


def with_none(table: nn.Embedding) -> nn.Embedding:
    """Make the last row of a table what stands for no item: 0, and it stays so."""
    table.padding_idx = table.num_embeddings - 1
    nn.init.zeros_(table.weight[-1])
    return table
