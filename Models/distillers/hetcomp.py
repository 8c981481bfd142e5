"""HetComp: a student climbs from early states of unlike teachers to their final ensemble."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from Models.distillers.distiller import Distiller, both_asked
from Models.distillers.sampling import CHUNK
from Models.low_rank import require_factors
from Models.recommender import Recommender
from Models.softmax import log_normalizer
from Models.teacher import Teacher, top_lists
from Utils.dataset import Pairs, TrainingItems, Users, distinct
from Utils.errors import UserError

COMPARED = 50  # first items of student and teacher in the discrepancy, and of T in the second stage
FIRST = 10  # of these, those that are ranked once more
OBSERVED = 10  # items of the training set in a user's list
DECAY = 0.995  # of the bar that a student must clear, from one construction to the next
OUT = -1e30  # the score of what is not in a list


class HetComp(Distiller):
    """Distillation from the trajectories of an ensemble of heterogeneous teachers.

    Every teacher x has the states 0 to E - 1; user u learns from its state ``v_ux``. The lists that
    he learns, T, are the first K by ``sum_x exp(-r_x / T)``, r the place in x's list of that state.
    Every ``p`` epochs, ``v_ux`` rises by one if the student has come near enough to the next state,
    and the lists are made anew. With O the user's observed items and Z(X) the sum of ``exp(s_j)``
    over unobserved items outside X,

    - first, what belongs on top: ``- sum over O and T of log (exp(s_i) / (exp(s_i) + Z(T)))``;
    - as soon as all are at the last state, in which order: with ``l(list; Z)`` the relaxed
      permutation loss before a background Z,
      ``l(O; Z(T_50)) + (l(T_50; Z(T_50)) + l(T_10; Z(T_10))) / 2``.

    Both are summed over the batch's distinct users.

    Source: Kang et al., "Distillation from Heterogeneous Models for Top-K Recommendation", WWW
    2023, as in its authors' code.

    Parameters
    ----------
    K, T : length of a list, and how fast the importance of a place in it falls.
    p, threshold : epochs from one construction to the next, and how much nearer the student must
        come: ``d / D > threshold 0.995^(epoch / p)``, d the discrepancy when the state began, D
        today's. Who has drifted away, ``d / D < 1``, goes on as well.
    construction : ``dynamic``, the method; ``scheduled``: all users rise by one every p epochs;
        ``final``: all are at the last state from the start.
    stages : ``both``, or ``overall`` or ``rank`` alone.
    draws : ``seed`` and ``name``, see ``Distiller``.

    Raises
    ------
    UserError
        If the student's scores are not inner products, or if teachers have no states of earlier
        epochs or not as many as one another.
    """

    def __init__(
        self, student: Recommender, teacher: Teacher, *, K: int, T: float, p: int, threshold: float,
        construction: str = "dynamic", stages: str = "both", **draws: Any,
    ) -> None:  # fmt: skip
        super().__init__(**draws)
        self.require(student)
        both_asked(student, teacher)
        if K < COMPARED:
            raise UserError(f"--K {K}: HetComp compares the first {COMPARED}; use as many or more")
        self.score, self.encode = student.score, student.encode
        self.K, self.T, self.p, self.threshold = K, T, p, threshold
        self.construction, self.stages = construction, stages
        split, device = teacher.split, teacher.device
        self.students_best = lambda: top_lists(student, split, "items", COMPARED).long()
        self.lists = _lists_of_states(teacher, K)  # (teachers, states, U, K)
        self.observed, self.is_observed = _observed(teacher)  # (U, OBSERVED)
        self.seen = TrainingItems(split, device)
        teachers, states, users, _ = self.lists.shape
        self.last = states - 1
        start = self.last if construction == "final" else 0
        self.state = nn.Buffer(torch.full((users, teachers), start, device=device))
        self.anchor = nn.Buffer(torch.zeros(users, teachers, device=device))
        self.top: Tensor | None = None

    @classmethod
    def require(cls, student: Recommender) -> None:
        """Raise ``UserError`` if a student's scores are not inner products."""
        require_factors(student)

    def begin_epoch(self, epoch: int) -> None:
        """Let users rise who are ready for it, and make their lists."""
        if epoch and epoch % self.p == 0:
            self._rise(epoch)
            self.top = None
        self.ranks = self.stages == "rank"
        if self.stages == "both" and epoch >= self.p * (1 + self.last):
            self.ranks = bool(
                ((self.state.float().mean(dim=0) * 100).round() >= 100 * self.last).all()
            )
        if self.top is None:
            self.top = self._ensemble()

    def _rise(self, epoch: int) -> None:
        """Take the next state where it is time (dynamic knowledge construction)."""
        if self.construction == "scheduled":
            self.state.add_(1).clamp_(max=self.last)
        if self.construction != "dynamic":
            return
        best = self.students_best()
        far = self._discrepancies(best)
        if epoch == self.p:
            self.anchor.copy_(far)
            return
        ratio = self.anchor / far
        ready = (ratio > self.threshold * DECAY ** (epoch // self.p)) | (ratio < 1)
        self.state.add_(ready.long()).clamp_(max=self.last)
        self.anchor.copy_(torch.where(ready, self._discrepancies(best), self.anchor))

    def _discrepancies(self, best: Tensor) -> Tensor:
        """Return how far the student is from each teacher's next state: ``(U, teachers)``."""
        users = torch.arange(len(best), device=best.device)
        following = (self.state + 1).clamp_max(self.last)
        columns = [
            discrepancy(best, of_teacher[following[:, x], users, :COMPARED])
            for x, of_teacher in enumerate(self.lists)
        ]
        return torch.stack(columns, dim=1)

    def _ensemble(self) -> Tensor:
        """Return each user's first K items by the summed importance: ``(U, K)``."""
        importance = torch.exp(-torch.arange(1.0, self.K + 1, device=self.state.device) / self.T)
        found = []
        for users in torch.arange(len(self.state), device=self.state.device).split(CHUNK):
            mine = [each[self.state[users, x], users] for x, each in enumerate(self.lists)]
            items, order = torch.cat(mine, dim=1).long().sort(dim=1, stable=True)
            weights = importance.repeat(len(mine)).expand_as(items).gather(1, order)
            new = items.diff(dim=1, prepend=items[:, :1]) != 0
            run = new.cumsum(dim=1)  # which of the user's different items
            total = torch.zeros_like(weights).scatter_add_(1, run, weights)
            different = torch.zeros_like(items).scatter_(1, run, items)
            first = total.sort(dim=1, descending=True, stable=True).indices[:, : self.K]
            found.append(different.gather(1, first))
        return torch.cat(found)

    def loss(self, batch: Pairs | Users) -> Tensor:
        """Return the loss of the stage that this epoch is in."""
        users, weights = distinct(batch.users)
        top = self.top[users][:, : COMPARED if self.ranks else self.K]
        real = self.is_observed[users]
        scores = self.score(users, torch.cat([self.observed[users], top], dim=1))
        observed, listed = scores.split([OBSERVED, top.shape[1]], dim=1)
        rows, table = self.encode()
        log_z = log_normalizer(rows[users], table, self._known(users, top)).unsqueeze(1)
        if not self.ranks:
            losses = (F.softplus(log_z - observed) * real).sum(dim=1)
            return (losses + F.softplus(log_z - listed).sum(dim=1)) @ weights
        all_real = torch.ones_like(listed, dtype=torch.bool)
        rest = listed[:, FIRST:].logsumexp(dim=1, keepdim=True)
        of_first = listed[:, :FIRST], all_real[:, :FIRST], torch.logaddexp(log_z, rest)
        losses = list_loss(observed, real, log_z)
        losses = losses + (list_loss(listed, all_real, log_z) + list_loss(*of_first)) / 2
        return losses @ weights

    def _known(self, users: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
        """Return the places, in the batch's scores, of what is no background."""
        mine, real = self.seen.of(users)
        rows = torch.arange(len(users), device=users.device).unsqueeze(1)
        real_rows = rows.expand_as(real)[real]
        columns = torch.cat([mine[real], top.flatten()])
        return torch.cat([real_rows, rows.expand_as(top).flatten()]), columns


def list_loss(scores: Tensor, real: Tensor, log_z: Tensor) -> Tensor:
    """Return ``- sum_k [s_k - log(sum_(i >= k) exp(s_i) + Z)]`` of what is ``real``: ``(B,)``.

    ``scores``, ``real``: (B, n), best first, those that are not real at the end; ``log_z``: (B, 1).
    """
    tails = scores.masked_fill(~real, OUT).flip(1).logcumsumexp(dim=1).flip(1)
    return ((torch.logaddexp(tails, log_z) - scores) * real).sum(dim=1)


def discrepancy(best: Tensor, permutation: Tensor) -> Tensor:
    """Return ``1 - DCG / IDCG`` of a student's list: ``(B,)``.

    ``best``: (B, n), the student's, best first; ``permutation``: (B, m). An item at place t, from
    0, that is in both has the gain ``2^exp(-t / 10) - 1`` and the discount ``1 / log2(t + 2)``.
    """
    place = torch.arange(best.shape[1], device=best.device)
    gains = (torch.exp2(torch.exp(-place / 10)) - 1) / torch.log2(place + 2)
    ordered = permutation.long().sort(dim=1).values
    found = torch.searchsorted(ordered, best).clamp_max(ordered.shape[1] - 1)
    hits = ordered.gather(1, found) == best
    return 1 - (hits * gains).sum(dim=1) / gains.sum()


def _lists_of_states(teacher: Teacher, count: int) -> Tensor:
    """Return the first items of all states: ``(teachers, states, U, count)`` int32."""
    trajectories = [member.states for member in teacher.members]
    lengths = [len(states) for states in trajectories]
    if len(set(lengths)) > 1:
        raise UserError(
            f"the teachers have {', '.join(map(str, lengths))} states; train all with the same "
            f"main_no_KD.py --keep_states, for long enough to have them"
        )
    return torch.stack(
        [torch.stack([state.top_items(count) for state in states]) for states in trajectories]
    )


def _observed(teacher: Teacher) -> tuple[Tensor, Tensor]:
    """Return a user's training items that the teacher scores highest, and which are some.

    ``(num_users, OBSERVED)`` each, best first; who has fewer has any in their places.
    """
    seen, found = TrainingItems(teacher.split, teacher.device), []
    for users in torch.arange(teacher.split.num_users, device=teacher.device).split(CHUNK):
        mine, real = seen.of(users, OBSERVED)
        scores = teacher.score(users, mine).masked_fill(~real, -torch.inf)
        first = scores.sort(dim=1, descending=True, stable=True).indices[:, :OBSERVED]
        found.append((mine.gather(1, first), real.gather(1, first)))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))
