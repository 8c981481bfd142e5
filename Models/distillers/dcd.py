"""DCD: what the student ranks too low is put above what it ranks too high, by the teacher."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from Models.distillers.distiller import Distiller, both_asked
from Models.distillers.rrd import relaxed_ranking_loss
from Models.distillers.sampling import CHUNK, draw_by_weight
from Models.recommender import Recommender
from Models.teacher import Teacher
from Utils.dataset import Pairs, Users
from Utils.errors import UserError

FLOOR = 1e-5  # the least weight: there may be fewer than n with any


class Correction(Distiller):
    """One side of Dual Correction for Distillation; both are added.

    ``- sum over distinct entities of log p(under | over)``, the relaxed permutation probability of
    ``RRD``, where under are n of the teacher's list that the student ranks too low in it, in the
    teacher's order, and over are n that it ranks too high. An entry's weight to be drawn is
    ``tanh(max(eps (rank_S - rank_T), 0))`` and ``tanh(max(eps (rank_T - rank_S), 0))``.

    Source: Lee and Kim, "Dual Correction Strategy for Ranking Distillation in Top-N Recommender
    System", CIKM 2021, as in its authors' code.

    Parameters
    ----------
    kind, pool : what the teacher's lists are of, ``items`` or ``users``, and their length.
    n, eps : how many are drawn of each kind, and how fast their weight grows with the ranks.
    refresh : epochs after which the student's ranks are taken anew.
    sampling : ``weighted``: both are drawn anew for each batch; ``top``: those of the largest
        weights, equal ones in the teacher's order.
    draws : ``seed`` and ``name``, see ``Distiller``.
    """

    def __init__(
        self, teacher: Teacher, kind: str, *, pool: int, n: int, eps: float, refresh: int,
        sampling: str = "weighted", **draws: Any,
    ) -> None:  # fmt: skip
        super().__init__(**draws)
        if n > pool:
            raise UserError(
                f"--n {n}: so many do not fit into lists of {pool}; use a smaller --n, or "
                f"a larger --pool"
            )
        self.top, self.n, self.eps = self.ask_lists(teacher, kind, pool), n, eps
        self.refresh, self.sampling = refresh, sampling
        # rank_S - rank_T; a buffer, so that a resumed run has what an earlier epoch found
        self.register_buffer("lower", torch.zeros_like(self.top))

    @abstractmethod
    def score(self, rows: Tensor, others: Tensor) -> Tensor:
        """Return the student's scores of what is in lists: ``(B,), (B, K) -> (B, K)``."""

    @torch.no_grad()
    def begin_epoch(self, epoch: int) -> None:
        """Take the student's ranks, if it is time, and begin this epoch's draws."""
        purpose = f"corrections of {type(self).__name__}"
        self.generator = self.draws.generator(purpose, epoch, self.top.device)
        if epoch % self.refresh == 0:
            rows = torch.arange(len(self.top), device=self.top.device)
            chunks = zip(rows.split(CHUNK), self.top.split(CHUNK), strict=True)
            ranks = torch.cat([ranks_within(self.score(*chunk)) for chunk in chunks])
            self.lower = ranks - torch.arange(1, 1 + ranks.shape[1], device=ranks.device).int()

    def correct(self, entities: Tensor) -> Tensor:
        """Return the loss of the distinct ones of a batch's users, or items."""
        rows, weights = self.learners(entities)
        lower = self.lower[rows]
        places = torch.cat([self._choose(lower), self._choose(-lower)], dim=1)
        scores = self.score(rows, self.top[rows].gather(1, places))
        return relaxed_ranking_loss(scores[:, : self.n], scores[:, self.n :]) @ weights

    def _choose(self, off: Tensor) -> Tensor:
        """Return n places, in increasing order, where much is off: ``(B, pool) -> (B, n)``."""
        if self.sampling == "top":  # equal ones by place
            keys = off.long() * off.shape[1] - torch.arange(off.shape[1], device=off.device)
            return keys.topk(self.n, sorted=False).indices.sort().values
        weights = (self.eps * off).tanh_().clamp_min_(FLOOR)
        return draw_by_weight(weights.log_(), self.n, self.generator)


class UCD(Correction):
    """The user side of DCD: for the batch's users, the teacher's first ``pool`` items."""

    def __init__(self, student: Recommender, teacher: Teacher, **chosen: Any) -> None:
        both_asked(student, teacher)
        super().__init__(teacher, "items", **chosen)
        self.student = student.score

    def score(self, rows: Tensor, others: Tensor) -> Tensor:
        """Return scores of users and their items."""
        return self.student(rows, others)

    def loss(self, batch: Pairs | Users) -> Tensor:
        """Return the loss of the batch's users."""
        return self.correct(batch.users)


class ICD(Correction):
    """The item side of DCD: for the batch's positives, the teacher's first ``pool`` users.

    Raises
    ------
    UserError
        If the student does not train on pairs.
    """

    def __init__(self, student: Recommender, teacher: Teacher, **chosen: Any) -> None:
        self.require(student)
        super().__init__(teacher, "users", **chosen)
        self.student = student.score

    @classmethod
    def require(cls, student: Recommender) -> None:
        """Raise ``UserError`` if a student's batches have no items."""
        if student.sampler.batch is not Pairs:
            raise UserError(
                f"--model {type(student).__name__}: it does not train on pairs, so there are no "
                f"items in a batch for the item side; use --lmbda_ICD 0"
            )

    def score(self, rows: Tensor, others: Tensor) -> Tensor:
        """Return scores of items and their users."""
        return self.student(others, rows)

    def loss(self, batch: Pairs) -> Tensor:
        """Return the loss of the batch's positives."""
        return self.correct(batch.positives)


def ranks_within(scores: Tensor) -> Tensor:
    """Return the rank of each score in its row, int32, 1 is the highest; equal ones by place."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(1, 1 + scores.shape[1], dtype=torch.int32, device=scores.device)
    return torch.empty_like(order, dtype=torch.int32).scatter_(1, order, places.expand_as(order))
