"""CL-DRD: the teacher's first items, in coarse groups at first, later in a finer order."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from Models.distillers.dcd import ranks_within
from Models.distillers.distiller import Distiller, both_asked
from Models.recommender import Recommender
from Models.teacher import Teacher
from Utils.dataset import Pairs, Users

# of each stage: how many of the teacher's first are ranked, and the sizes of two bands after them
STAGES = ((5, 12, 13), (10, 10, 10), (20, 5, 5))


class CLDRD(Distiller):
    """Curriculum learning of CL-DRD, for recommendation.

    ``sum over the batch's distinct users of mean over pairs (a, b) with y_a > y_b of
    |1 / rank_S(a) - 1 / rank_S(b)| log(1 + exp(s_b - s_a))``, where the items are the teacher's
    first 30 outside the training set, y are their labels at this stage, and rank_S their ranks
    among the 30 by the student's scores s.

    Source: Zeng et al., "Curriculum Learning for Dense Retrieval Distillation", SIGIR 2022, as in
    its authors' code.

    Parameters
    ----------
    stage_epochs : how long a stage lasts; the last one goes on.
    draws : ``seed`` and ``name``, see ``Distiller``.
    """

    def __init__(
        self, student: Recommender, teacher: Teacher, *, stage_epochs: int, **draws: Any
    ) -> None:
        super().__init__(**draws)
        both_asked(student, teacher)
        self.score, self.stage_epochs = student.score, stage_epochs
        self.items = self.ask_lists(teacher, "items", sum(STAGES[0])).long()

    def begin_epoch(self, epoch: int) -> None:
        """Take the labels of this epoch's stage."""
        stage = STAGES[min(epoch // self.stage_epochs, len(STAGES) - 1)]
        self.labels = stage_labels(*stage).to(self.items.device)

    def loss(self, batch: Pairs | Users) -> Tensor:
        """Return the loss of the batch's users."""
        users, weights = self.learners(batch.users)
        return weighted_pairs_loss(self.score(users, self.items[users]), self.labels) @ weights


def stage_labels(ranked: int, upper: int, lower: int) -> Tensor:
    """Return ``1, 1/2, ..., 1/ranked``, then -0.25 and -0.5 for the bands."""
    bands = torch.tensor([-0.25, -0.5]).repeat_interleave(torch.tensor([upper, lower]))
    return torch.cat([1 / torch.arange(1, ranked + 1), bands])


def weighted_pairs_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Return each row's mean over pairs in the order of the labels: ``(B, K), (K,) -> (B,)``.

    ``mean over y_a > y_b of |1 / rank(a) - 1 / rank(b)| log(1 + exp(s_b - s_a))``; ranks are by
    score, equal ones by place, and have no gradient.
    """
    pairs = labels.unsqueeze(1) > labels  # (K, K)
    gains = 1 / ranks_within(scores.detach())
    weights = (gains.unsqueeze(2) - gains.unsqueeze(1)).abs() * pairs
    margins = scores.unsqueeze(2) - scores.unsqueeze(1)
    return -(weights * F.logsigmoid(margins)).sum(dim=(1, 2)) / pairs.sum()
