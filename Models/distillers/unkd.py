"""UnKD: the student orders pairs of items of similar popularity as the teacher does."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from Models.distillers.distiller import Distiller, both_asked
from Models.recommender import Recommender
from Models.teacher import CHUNK, Teacher
from Utils.dataset import Pairs, chunks_of_pairs
from Utils.errors import UserError


class UnKD(Distiller):
    """Unbiased Knowledge Distillation.

    ``- sum over the batch's distinct users of the mean of log sigmoid(s_a - s_b)`` over pairs of
    two items of one group of popularity, drawn once an epoch from the teacher's best of the group
    outside the training set; ``a`` is the teacher's better one.

    Source: Chen et al., "Unbiased Knowledge Distillation for Recommendation", WSDM 2023, and its
    code.

    Parameters
    ----------
    num_groups : how many, see ``popularity_groups``.
    num_pairs : pairs of a user, shared out over the groups in turn, the least popular first.
    pool, T : pairs are of the teacher's first ``pool`` items of the group, or of all if it has
        fewer. The k-th has weight ``exp(-k / T)``, see ``draw_two``.
    draws : ``seed`` and ``name``, see ``Distiller``.
    """

    def __init__(
        self, student: Recommender, teacher: Teacher, *, num_groups: int, num_pairs: int, pool: int,
        T: float, **draws: Any,
    ) -> None:  # fmt: skip
        super().__init__(**draws)
        both_asked(student, teacher)
        if num_pairs < num_groups:
            raise UserError(
                f"--num_pairs {num_pairs}: each of --num_groups {num_groups} takes at least one"
            )
        self.score, self.T = student.score, T
        self.top, self.counts = group_lists(teacher, num_groups, pool)
        self.covered = teacher.covered("items", 1)
        self.group = torch.arange(num_pairs, device=teacher.device) % num_groups  # of each pair

    def begin_epoch(self, epoch: int) -> None:
        """Draw the pairs."""
        generator = self.draws.generator("pairs of items", epoch, self.top.device)
        places = draw_two(self.counts[:, self.group], self.T, generator)
        places += (self.group * self.top.shape[2]).unsqueeze(1)  # where the group's list begins
        better, worse = places.sort(dim=2).values.unbind(dim=2)  # (num_users, num_pairs) each
        self.items = self.top.flatten(1).gather(1, torch.cat([better, worse], dim=1))

    def loss(self, batch: Pairs) -> Tensor:
        """Return the loss of the batch's users."""
        users, weights = self.learners(batch.users)
        better, worse = self.score(users, self.items[users]).chunk(2, dim=1)
        return -F.logsigmoid(better - worse).mean(dim=1) @ weights


def popularity_groups(popularity: np.ndarray, num_groups: int) -> list[np.ndarray]:
    """Return the items of groups of about equal total popularity, the least popular group first.

    Items of equal popularity are in the order of their ids. One that lies across a border belongs
    to the group in which it begins.
    """
    order = popularity.argsort(kind="stable")
    ordered = popularity[order]
    group = (ordered.cumsum() - ordered) * num_groups // ordered.sum()
    return [order[group == g] for g in range(num_groups)]


def group_lists(teacher: Teacher, num_groups: int, pool: int) -> tuple[Tensor, Tensor]:
    """Return the teacher's best of each group outside the training set, and how many they are.

    ``(num_users, num_groups, pool)`` int32, best first, or less wide if all groups are smaller;
    ``(num_users, num_groups)``: only so many, the first, are items that may be drawn.

    Raises
    ------
    UserError
        If they are fewer than 2.
    """
    split = teacher.split
    popularity = np.bincount(split.train_items, minlength=split.num_items)
    groups = [
        torch.from_numpy(g).to(teacher.device) for g in popularity_groups(popularity, num_groups)
    ]
    width = min(pool, max(map(len, groups)))
    asked = teacher.asked
    pairs = asked.train_users, asked.train_items
    seen = chunks_of_pairs(*pairs, asked.num_users, CHUNK, teacher.device)
    users = torch.arange(asked.num_users, device=teacher.device)
    tops = users.new_zeros((len(users), num_groups, width), dtype=torch.int32)
    counts = users.new_zeros((len(users), num_groups))
    for chunk, known, top, count in zip(
        users.split(CHUNK), seen, tops.split(CHUNK), counts.split(CHUNK), strict=True
    ):
        scores = teacher.score_all(chunk)
        scores[known] = -torch.inf
        for place, group in enumerate(groups):
            best = scores[:, group].topk(min(width, len(group)), dim=1)
            top[:, place, : best.indices.shape[1]] = group[best.indices]
            count[:, place] = (best.values > -torch.inf).sum(dim=1)
        if (count < 2).any():
            raise UserError(
                f"--num_groups {num_groups}, --pool {pool}: somebody has fewer than 2 items of a "
                f"group to compare; use fewer groups, or a larger pool"
            )
    return tops, counts


def draw_two(counts: Tensor, T: float, generator: torch.Generator) -> Tensor:
    """Return two different places of each list, one after the other, k with weight ``exp(-k / T)``.

    ``counts``: (...) at least 2, the lengths of the lists -> (..., 2), 0 is the best.
    """

    def draw(counts: Tensor) -> Tensor:
        """Invert the distribution function, ``(1 - exp(-k / T)) / (1 - exp(-count / T))``."""
        u = torch.rand(counts.shape, generator=generator, device=counts.device)
        place = (-T * (u * (-counts / T).expm1()).log1p()).long()
        return place.minimum(counts - 1).clamp_min_(0)

    first = draw(counts)
    # The other is before it or after it, with these weights, and there drawn as in a list.
    before = -(-first / T).expm1()
    after = -(-(first + 1) / T).exp() * (-(counts - first - 1) / T).expm1()
    u = torch.rand(counts.shape, generator=generator, device=counts.device)
    is_before = (u * (before + after) < before) | (first == counts - 1)
    second = draw(torch.where(is_before, first, counts - first - 1)) + ~is_before * (first + 1)
    return torch.stack([first, second], dim=-1)
