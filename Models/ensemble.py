"""Several teachers as one: their scores, brought to one scale for each user, and averaged."""

from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from Models.recommender import Recommender
from Models.teacher import CHUNK, TrainedTeacher
from Utils.dataset import Pairs
from Utils.errors import UserError
from Utils.split import Split


class Ensemble(Recommender):
    """A recommender that is made of trained ones, and is not trained itself.

    With ``m`` and ``s`` the mean and the standard deviation of a user's scores of all items by a
    member, ``scores`` averages ``(score - m) / s`` over members; ``ranks`` averages ``-log r``, r
    the item's place in the user's order of all items, from 1.

    Parameters
    ----------
    members : whose scores they are, of one split.
    weights : of each, above 0.
    combine : ``scores`` or ``ranks``.
    """

    def __init__(
        self, split: Split, members: list[Recommender], weights: list[float], combine: str
    ) -> None:
        super().__init__(split, max(member.dim for member in members))
        self.members, self.combine = nn.ModuleList(members), combine
        self.weights = [weight / sum(weights) for weight in weights]

    @cached_property
    @torch.no_grad()
    def moments(self) -> list[tuple[Tensor, Tensor]]:
        """Mean and standard deviation of each user's scores, ``(num_users,)`` each, by member.

        All scores are made for them, so they wait for the first who asks for some.
        """
        everyone = torch.arange(self.num_users, device=next(self.parameters()).device)
        by_chunk = [
            [_mean_and_deviation(member.score_all(users)) for users in everyone.split(CHUNK)]
            for member in self.members
        ]
        return [tuple(map(torch.cat, zip(*found, strict=True))) for found in by_chunk]

    def score_all(self, users: Tensor) -> Tensor:
        """Return the combined scores of all items: ``(B,) -> (B, num_items)``."""
        total = torch.zeros((), device=users.device)
        for member, weight in zip(self.members, self.weights, strict=True):
            scores = member.score_all(users)
            if self.combine == "scores":
                mean, deviation = (each.unsqueeze(1) for each in _mean_and_deviation(scores))
                total = torch.addcmul(total, scores - mean, weight / deviation)
            else:
                order = scores.argsort(dim=1, descending=True, stable=True)
                places = torch.arange(1, scores.shape[1] + 1, device=scores.device)
                logs = places.to(scores).log().expand_as(scores)
                total = total - weight * torch.empty_like(scores).scatter_(1, order, logs)
        return total

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the combined scores of pairs or lists, as ``Recommender`` does."""
        if self.combine == "ranks":
            return self._score_by_ranks(users, items)
        total = 0
        for (mean, deviation), member, weight in zip(
            self.moments, self.members, self.weights, strict=True
        ):
            mean, deviation = mean[users], deviation[users]
            if users.dim() < items.dim():
                mean, deviation = mean.unsqueeze(1), deviation.unsqueeze(1)
            total = total + (member.score(users, items) - mean) * (weight / deviation)
        return total

    def _score_by_ranks(self, users: Tensor, items: Tensor) -> Tensor:
        """Look the scores up in whole rows, which ranks are made of, a few users at a time."""
        shape = torch.broadcast_shapes(
            *(each.shape if each.dim() == 2 else (len(each), 1) for each in (users, items))
        )
        users, items = (
            (each if each.dim() == 2 else each.unsqueeze(1)).expand(shape)
            for each in (users, items)
        )
        found, different = None, users.unique()
        for chunk in different.split(CHUNK):
            scores = self.score_all(chunk)
            found = scores.new_empty(shape) if found is None else found
            mine = (users >= chunk[0]) & (users <= chunk[-1])
            rows = torch.searchsorted(chunk, users[mine].contiguous())
            found[mine] = scores[rows, items[mine].long()]
        return found.squeeze(1) if shape[1] == 1 else found

    def encode(self) -> tuple[Tensor, Tensor] | None:
        """Return the members' factors side by side, if all have some and scores are averaged."""
        factors = [member.encode() for member in self.members]
        if self.combine == "ranks" or None in factors:
            return None
        users, items, constant = [], [], 0
        for (p, q), (mean, deviation), weight in zip(
            factors, self.moments, self.weights, strict=True
        ):
            scale = (weight / deviation).unsqueeze(1)
            users.append(p * scale)
            items.append(q)
            constant = constant - mean.unsqueeze(1) * scale
        items.append(torch.ones_like(items[0][:, :1]))
        return torch.cat([*users, constant], dim=1), torch.cat(items, dim=1)

    def loss(self, batch: Pairs) -> Tensor:
        """Raise, for it is never trained."""
        raise TypeError("an ensemble is not trained")

    def representations(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Raise ``UserError``: each member has its own."""
        raise UserError(
            "an ensemble of teachers has lists and scores, but no representations; use --teacher "
            "for a single one, or another method"
        )

    embeddings = representations


def _mean_and_deviation(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return those of each row, ``(B,)``; of a row of equal scores, a deviation above 0."""
    deviation, mean = torch.std_mean(scores, dim=1)
    return mean, deviation.clamp_min(torch.finfo(deviation.dtype).tiny)


class EnsembleTeacher(TrainedTeacher):
    """Trained teachers that are asked as one.

    Parameters
    ----------
    members, weights, combine : see ``Ensemble``.
    folder : where its lists are kept; it is made.

    Raises
    ------
    UserError
        If a member is asked for windows, and not for users.
    """

    def __init__(
        self, members: list[TrainedTeacher], weights: list[float], combine: str, folder: Path
    ) -> None:
        for member in members:
            if member.asked is not member.split:
                raise member._lacks("scores of users to average, for it is asked of windows")
        text = [
            f"{member.sha256} {weight!r}" for member, weight in zip(members, weights, strict=True)
        ]
        self.sha256 = sha256("\n".join([combine, *text]).encode()).hexdigest()
        self.split, self.device = members[0].split, members[0].device
        self._members, self.weights = members, weights
        models = [member.model for member in members]
        self.model = Ensemble(self.split, models, weights, combine).eval()
        folder = folder / self.sha256[:12] / self.split.name
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "ensemble"

    @property
    def members(self) -> list[TrainedTeacher]:
        """Those that it is made of."""
        return self._members

    def describe(self) -> str:
        """Return one line: what the teacher is and how good it is."""
        names = ", ".join(
            f"{type(each.model).__name__} d={each.model.dim}" + f" x {weight:g}" * (weight != 1)
            for each, weight in zip(self._members, self.weights, strict=True)
        )
        return (
            f"teacher, {self.model.combine} of {names} averaged: "
            f"{self.model.num_parameters():,} parameters, {self._measured()}"
        )

    def record(self) -> dict[str, Any]:
        """Return what a run keeps of it."""
        return {
            "combine": self.model.combine,
            "weights": self.weights,
            "sha256": self.sha256,
            "metrics": {name: round(value, 6) for name, value in self.metrics.items()},
            "members": [member.record() for member in self._members],
        }
