"""RCE-KD: the teacher's softmax over the student's best items, and over the teacher's best ones."""

from typing import Any

import torch
from torch import Tensor

from Models.distillers.distiller import Distiller, both_asked
from Models.distillers.sampling import CHUNK, draw_by_weight
from Models.recommender import Recommender
from Models.teacher import Teacher, top_lists
from Utils.dataset import Pairs
from Utils.errors import UserError

MOST_BELOW = 50  # of the teacher's items below a place, more do not add to its weight


class RCEKD(Distiller):
    """Rejuvenated Cross-Entropy.

    ``sum over the batch's distinct users of (1 - gamma) CE(P) + gamma CE(E and Q)``, where CE(S) is
    the cross-entropy of ``softmax(t / tau)`` and ``softmax(s / tau)`` over the items S. P are the
    student's first K, Q the teacher's, outside the training set, E are L of the student's first
    ``pool``, drawn without replacement near the teacher's: a place has weight ``exp((1 + n) / T)``,
    n of the items of Q being there or at lower places. What of Q is in P and not in E is left out
    of the second set. ``gamma = exp(-beta |Q and E| / K)``. The student's lists, and with them all
    of these, are made once an epoch.

    Source: arXiv 2509.20989, and its authors' code.

    Parameters
    ----------
    K, L, pool, T, beta, tau : as above.
    draws : ``seed`` and ``name``, see ``Distiller``.
    """

    def __init__(
        self, student: Recommender, teacher: Teacher, *, K: int, L: int, pool: int, T: float,
        beta: float, tau: float, **draws: Any,
    ) -> None:  # fmt: skip
        super().__init__(**draws)
        asked = both_asked(student, teacher)
        if max(K, L) > pool:
            raise UserError(
                f"{max(K, L)} items do not fit into the student's lists of {pool}; use a smaller "
                f"--{'K' if K > L else 'L'} or a larger --pool"
            )
        self.score, self.num_items, self.teacher = student.score, student.num_items, teacher
        self.K, self.L, self.T, self.beta, self.tau = K, L, T, beta, tau
        self.ranked_by_student = lambda: top_lists(student, asked, "items", pool)
        # refuses a pool that is too long at once
        self.top = self.ask_lists(teacher, "items", pool)[:, :K].long()

    def begin_epoch(self, epoch: int) -> None:
        """Have the student rank, draw, and ask the teacher."""
        generator = self.draws.generator("the student's items", epoch, self.top.device)
        users = torch.arange(len(self.top), device=self.top.device)
        columns = users, self.ranked_by_student().long(), self.top
        made = [
            self._sets(*chunk, generator)
            for chunk in zip(*(column.split(CHUNK) for column in columns), strict=True)
        ]
        self.items, self.targets, self.left_out = map(torch.cat, zip(*made, strict=True))

    def _sets(
        self, users: Tensor, mine: Tensor, theirs: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the loss needs of some users, whose lists these are.

        The items of P, E and Q side by side, and the teacher's shares, times 1 - gamma or gamma:
        (N, K + L + K) each; and which of E and Q are left out: (N, L + K).
        """
        places, gamma, repeated = self._draw(mine, theirs, generator)
        items = torch.cat([mine[:, : self.K], mine.gather(1, places), theirs], dim=1)
        scores = self.teacher.score(users, items) / self.tau
        left_out = torch.cat([torch.zeros_like(places, dtype=torch.bool), repeated], dim=1)
        first, second = scores[:, : self.K], scores[:, self.K :].masked_fill(left_out, -torch.inf)
        shares = (1 - gamma) * first.softmax(dim=1), gamma * second.softmax(dim=1)
        return items.int(), torch.cat(shares, dim=1), left_out

    def _draw(
        self, mine: Tensor, theirs: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw E: its places (N, L), gamma (N, 1), and which of Q are in E or P: (N, K).

        ``mine``: (N, pool), the student's lists, ``theirs``: (N, K), Q.
        """
        nothing = torch.zeros(len(mine), self.num_items, dtype=torch.bool, device=mine.device)
        is_theirs = nothing.scatter(1, theirs, True).gather(1, mine)
        below = is_theirs.flip(1).cumsum(dim=1).flip(1).clamp_max(MOST_BELOW)
        places = draw_by_weight((1 + below) / self.T, self.L, generator)
        shared = is_theirs.gather(1, places).sum(dim=1, keepdim=True)  # of Q and E
        taken = torch.zeros_like(is_theirs).scatter_(1, places, True)
        taken[:, : self.K] = True
        repeated = nothing.scatter_(1, mine, taken).gather(1, theirs)
        return places, (-self.beta / self.K * shared).exp(), repeated

    def loss(self, batch: Pairs) -> Tensor:
        """Return the loss of the batch's users."""
        users, weights = self.learners(batch.users)
        scores = self.score(users, self.items[users]) / self.tau
        first, second = scores.tensor_split([self.K], dim=1)
        # not -inf, which times a share of 0 is no number
        lowest = torch.finfo(scores.dtype).min
        second = second.masked_fill(self.left_out[users], lowest)
        log_p = torch.cat([first.log_softmax(dim=1), second.log_softmax(dim=1)], dim=1)
        return -(self.targets[users] * log_p).sum(dim=1) @ weights
