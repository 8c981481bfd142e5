"""RD: the teacher's best unobserved items are further positives for the student."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from Models.distillers.distiller import Distiller, both_asked
from Models.distillers.sampling import UnseenItems
from Models.recommender import Recommender
from Models.teacher import Teacher
from Utils.dataset import Pairs


class RD(Distiller):
    """Ranking Distillation.

    ``L_RD = - sum over the batch's distinct users of sum_r w_r log sigmoid(s_(pi_r))``, where
    ``pi`` are the teacher's first K items for the user, outside the training set. The weight is
    that of the position; after the warm-up, times that of the discrepancy between the place of the
    item and the rank that the student gives it, by its score among sampled items.

    Source: Tang and Wang, "Ranking Distillation", KDD 2018, section 3; DE-RRD paper, equation 2.

    Parameters
    ----------
    K, T : how many items, and how fast their weights fall, ``exp(-r / T)``; see
        ``position_weights``.
    mu, num_samples : see ``discrepancy_weights``; so many items are drawn for a user and epoch.
    warm_up : epochs with position weights alone.
    variant : ``published_code``: the two weights are multiplied; ``paper``: and made to sum to 1.
    weights : ``hybrid``, the method; ``position`` or ``discrepancy``: one of the two, and 1 / K in
        place of the other; ``uniform``: 1 / K.
    draws : ``seed`` and ``name``, see ``Distiller``.
    """

    def __init__(
        self, student: Recommender, teacher: Teacher, *, K: int, T: float, mu: float,
        num_samples: int, warm_up: int, variant: str = "published_code", weights: str = "hybrid",
        **draws: Any,
    ) -> None:  # fmt: skip
        super().__init__(**draws)
        asked = both_asked(student, teacher)
        self.score, self.num_items = student.score, student.num_items
        self.items = self.ask_lists(teacher, "items", K).long()
        falls = weights in ("hybrid", "position")
        position = position_weights(K, T) if falls else torch.full((K,), 1 / K)
        self.position = position.to(teacher.device)
        self.unseen = UnseenItems(asked, num_samples, "--num_samples", self.draws, teacher.device)
        self.mu, self.warm_up, self.variant = mu, warm_up, variant
        self.by_rank = weights in ("hybrid", "discrepancy")

    def begin_epoch(self, epoch: int) -> None:
        """Sample the items among which the student's ranks are estimated."""
        warm = self.by_rank and epoch >= self.warm_up
        self.samples = self.unseen.draw(epoch) if warm else None

    def loss(self, batch: Pairs) -> Tensor:
        """Return ``L_RD`` of the batch's users."""
        users, weights = self.learners(batch.users)
        scores = self.score(users, self.items[users])
        losses = -F.logsigmoid(scores) * self._item_weights(users, scores.detach())
        return losses.sum(dim=1) @ weights

    @torch.no_grad()
    def _item_weights(self, users: Tensor, scores: Tensor) -> Tensor:
        """Return the weights of a user's K items: ``(K,)``, or ``(B, K)`` after the warm-up."""
        if self.samples is None:
            return self.position
        sampled = self.score(users, self.samples[users])
        hybrid = self.position * discrepancy_weights(scores, sampled, self.num_items, self.mu)
        if self.variant == "paper":  # where the student has all K in place, no weight is left
            hybrid /= hybrid.sum(dim=1, keepdim=True).clamp_min_(torch.finfo(hybrid.dtype).tiny)
        return hybrid


def position_weights(K: int, T: float) -> Tensor:
    """Return ``w_r = exp(-r / T) / sum_k exp(-k / T)`` for r = 1 to K: ``(K,)``."""
    return (-torch.arange(1, K + 1) / T).softmax(dim=0)


def discrepancy_weights(scores: Tensor, sampled: Tensor, num_items: int, mu: float) -> Tensor:
    """Return ``tanh(max(mu (r' - r), 0))``: how much lower the student ranks an item: ``(B, K)``.

    ``scores``: (B, K), the student's for the teacher's items, whose place is r = 1 to K.
    ``sampled``: (B, N), for random items. If n of them score higher, the student's rank is
    estimated as ``r' = 1 + floor((num_items - 1) n / N)``.
    """
    num_samples = sampled.shape[1]
    lower = torch.searchsorted(sampled.sort(dim=1).values, scores.contiguous(), right=True)
    ranks = 1 + (num_items - 1) * (num_samples - lower) // num_samples
    places = torch.arange(1, scores.shape[1] + 1, device=scores.device)
    return (mu * (ranks - places)).clamp_min(0).tanh()
