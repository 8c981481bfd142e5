"""S2D: the student's softmax over the catalogue follows the teacher's best items and the data."""

from math import log
from typing import Any

import torch
from torch import Tensor

from Models.distillers.distiller import Distiller, both_asked
from Models.distillers.sampling import draw_different
from Models.low_rank import no_products
from Models.recommender import Recommender
from Models.softmax import log_normalizer
from Models.teacher import Teacher
from Utils.dataset import TrainingItems, Users
from Utils.sampled_product import sampled_product

HELD = 2**27  # targets; where there are more, those of a batch are computed when it comes


class S2D(Distiller):
    """Spectral softmax distillation, ours; ``Models.low_rank.spectral_start`` is its start.

    With p a user's softmax over all items, the soft loss is the cross-entropy of p with
    ``softmax(t / tau)`` over the teacher's first K outside the training set, t its scores, and the
    hard loss is the mean of ``-log p`` over the user's training items, 0 if there are none. Of
    models of sequences, windows take the place of users, and what follows that of training items.

    Parameters
    ----------
    K, tau : how many of the teacher's items, and the temperature of their scores.
    num_samples : 0: p is normalised by all items. S: by the user's K and training items and by S
        different items drawn uniformly for the batch, which stand for all others. What is drawn
        counts one over the probability of being drawn, so that the normaliser is right in
        expectation (as in Bengio and Senecal, IEEE Transactions on Neural Networks 19(4), 2008).
        A step then costs what is learned and drawn, whatever the catalogue.
    draws : ``seed`` and ``name``, see ``Distiller``.

    Raises
    ------
    UserError
        If the student's scores are not inner products.
    """

    def __init__(
        self,
        student: Recommender,
        teacher: Teacher,
        *,
        K: int,
        tau: float,
        num_samples: int = 0,
        **draws: Any,
    ) -> None:
        super().__init__(**draws)
        asked = both_asked(student, teacher)
        if student.vectors(torch.zeros(1, dtype=torch.int64, device=teacher.device)) is None:
            raise no_products(student)
        self.score, self.vectors = student.score, student.vectors
        self.num_samples, self.num_items = num_samples, asked.num_items
        self.teacher, self.tau = teacher.score, tau
        self.top = self.ask_lists(teacher, "items", K)
        users = torch.arange(asked.num_users, device=self.top.device)
        held = self.top.numel() <= HELD
        self.targets = self._targets(users) if held else None  # (num_users, K)
        self.learned = TrainingItems(student.learned(teacher.split), self.top.device)

    def begin_epoch(self, epoch: int) -> None:
        """Begin this epoch's draws."""
        self.generator = self.draws.generator("sampled softmax", epoch, self.top.device)

    def loss(self, batch: Users) -> Tensor:
        """Return the soft loss, which is the teacher's part."""
        return self.losses(batch)[1]

    def losses(self, batch: Users) -> tuple[Tensor, Tensor]:
        """Return the hard and the soft loss, each summed over the batch's users."""
        users = batch.users
        mine, real = self.learned.of(users)  # (B, longest)
        counts = real.sum(dim=1, keepdim=True)
        known = torch.cat([self.top[users], mine], dim=1)
        if self.num_samples:
            scores, others = self._sampled(users, known)
        else:
            scores, log_z = self.score(users, known), log_normalizer(*self.vectors(users))
        soft, hard = scores.tensor_split([self.top.shape[1]], dim=1)
        if self.num_samples:
            each = [soft, hard.masked_fill(~real, -torch.inf), others]
            log_z = torch.cat(each, dim=1).logsumexp(dim=1)
        hard = log_z * (counts > 0).squeeze(1) - (hard * real / counts.clamp_min(1)).sum(dim=1)
        targets = self._targets(users) if self.targets is None else self.targets[users]
        soft = log_z - (soft * targets).sum(dim=1)
        if self.covered is not None:
            soft = soft * self.covered[users]
        return hard.sum(), soft.sum()

    def _targets(self, users: Tensor) -> Tensor:
        """Return the proportions in which users' first K items are learned: ``(B,) -> (B, K)``."""
        return (self.teacher(users, self.top[users]) / self.tau).softmax(dim=1)

    def _draw(self) -> Tensor:
        """Return the items that are drawn for a batch, each once, ``(S,)``."""
        return draw_different(self.num_items, self.num_samples, self.generator)

    def _sampled(self, users: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores of ``known``, ``(B, n)``, and those of ``_others``, by vectors of these."""
        drawn = self._draw()
        values, places = torch.cat([known.flatten(), drawn]).unique(return_inverse=True)
        rows, items = self.vectors(users, values)
        of_known, of_drawn = places.split([known.numel(), len(drawn)])
        of_known = of_known.view_as(known)
        return sampled_product(rows, items, of_known), self._others(rows, items, of_known, of_drawn)

    def _others(self, rows: Tensor, items: Tensor, known: Tensor, drawn: Tensor) -> Tensor:
        """Return scores of ``drawn``, each with the log of how many it stands for: ``(B, S)``.

        ``rows``, ``items``: the vectors. That of an item in ``known``, ``(B, n)``, is ``-inf``.
        """
        place = torch.full((len(items),), len(drawn), device=drawn.device)  # among those drawn
        place[drawn] = torch.arange(len(drawn), device=drawn.device)
        is_known = torch.zeros(len(rows), len(drawn) + 1, dtype=torch.bool, device=rows.device)
        is_known.scatter_(1, place[known], True)
        scores = rows @ items[drawn].T + log(self.num_items / len(drawn))
        return scores.masked_fill(is_known[:, :-1], -torch.inf)
