"""CD: the student regresses the teacher's probabilities of sampled unobserved items."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from Models.distillers.distiller import Distiller, both_asked
from Models.distillers.sampling import CHUNK, UnseenItems, draw_by_rank
from Models.recommender import Recommender
from Models.teacher import Teacher, top_lists
from Utils.dataset import Pairs
from Utils.errors import UserError


class CD(Distiller):
    """Collaborative Distillation.

    ``L_CD = - sum over the batch's distinct users of sum_i [q_i log p_i + (1 - q_i) log(1 - p_i)]``
    with ``p_i = sigmoid(s_i)`` and the teacher's ``q_i = sigmoid((t_i + T2) / T1)``, for K items
    outside the training set that are drawn once an epoch.

    Source: Lee et al., "Collaborative Distillation for Top-N Recommendation", ICDM 2019; DE-RRD
    paper, equation 3.

    Parameters
    ----------
    K, T : how many items are drawn, the k-th of the list with weight ``exp(-k / T)``.
    T1, T2 : scale and shift of the teacher's logits.
    sampling : whose list: ``teacher`` (CD-TG), ``student`` (CD-SG), or ``uniform`` over all
        unobserved items (CD-Base).
    pool : length of the list.
    refresh : epochs after which the student's list is made anew.
    draws : ``seed`` and ``name``, see ``Distiller``.
    """

    def __init__(
        self, student: Recommender, teacher: Teacher, *, K: int, T: float, T1: float, T2: float,
        sampling: str = "teacher", pool: int = 500, refresh: int = 10, **draws: Any,
    ) -> None:  # fmt: skip
        super().__init__(**draws)
        asked = both_asked(student, teacher)
        self.score, self.teacher = student.score, teacher
        self.K, self.T, self.T1, self.T2 = K, T, T1, T2
        self.refresh, self.sampling = refresh, sampling
        if sampling != "uniform" and K > pool:
            raise UserError(f"{K} items do not fit into lists of {pool}; use a smaller --K")
        if sampling != "teacher":  # then scores are asked of whom it knows
            self.covered = teacher.covered("items", 1)
        if sampling == "uniform":
            self.unseen = UnseenItems(asked, K, "--K", self.draws, teacher.device)
        elif sampling == "teacher":
            self.top = self.ask_lists(teacher, "items", pool)
        else:  # a buffer, so that a resumed run has the list of an earlier epoch
            self.ranked_by_student = lambda: top_lists(student, asked, "items", pool)
            self.register_buffer("top", self.ranked_by_student())

    def begin_epoch(self, epoch: int) -> None:
        """Draw the items and ask the teacher about them."""
        if self.sampling == "uniform":
            self.items = self.unseen.draw(epoch)
        else:
            if self.sampling == "student" and epoch > 0 and epoch % self.refresh == 0:
                self.top = self.ranked_by_student()
            generator = self.draws.generator("items to distil", epoch, self.top.device)
            drawn = [
                top.gather(1, draw_by_rank(top, self.K, self.T, generator))
                for top in self.top.split(CHUNK)
            ]
            self.items = torch.cat(drawn).long()
        users = torch.arange(len(self.items), device=self.items.device)
        self.targets = soft_targets(self.teacher.score(users, self.items), self.T1, self.T2)

    def loss(self, batch: Pairs) -> Tensor:
        """Return ``L_CD`` of the batch's users."""
        users, weights = self.learners(batch.users)
        losses = F.binary_cross_entropy_with_logits(
            self.score(users, self.items[users]), self.targets[users], reduction="none"
        )
        return losses.sum(dim=1) @ weights


def soft_targets(scores: Tensor, T1: float, T2: float) -> Tensor:
    """Return the teacher's probabilities, ``sigmoid((t + T2) / T1)``."""
    return ((scores + T2) / T1).sigmoid()
