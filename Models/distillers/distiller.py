"""What every method of knowledge distillation keeps."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from Models.recommender import Recommender
from Models.teacher import Teacher
from Utils.dataset import Pairs
from Utils.errors import UserError
from Utils.seeding import Draws


class Distiller(nn.Module, ABC):
    """A distillation term, without its weight; methods combine by adding.

    It knows student and teacher by their scores and representations alone. It keeps functions of
    theirs and no modules: the student is trained as itself, and the teacher never.

    Parameters
    ----------
    seed : of all that it draws.
    name : tells it from another one of its kind in the same run, which else would draw the same.
    """

    def __init__(self, seed: int = 0, name: str = "") -> None:
        super().__init__()
        self.name, self.draws = name, Draws(seed, name)

    def begin_epoch(self, epoch: int) -> None:
        """Change what changes once an epoch: draws, schedules; for some, nothing."""

    @abstractmethod
    def loss(self, batch: Pairs) -> Tensor:
        """Return the distillation term of a batch, differentiable in the student: ``()``."""


class RepresentationDistiller(Distiller):
    """Brings representations of the student near those of a teacher, or near any other target.

    A subclass says which entities of a batch count and how far one is from its target; whoever
    has another target than the teacher's representations asks the same two functions.

    Parameters
    ----------
    layer : ``last``: the last hidden layer; ``embeddings``: the first one, with users and items
        apart.
    draws : ``seed`` and ``name``, see ``Distiller``.

    Raises
    ------
    UserError
        If the student encodes pairs and the teacher users and items, or the reverse.
    """

    def __init__(
        self,
        student: Recommender,
        teacher: Teacher,
        *,
        layer: str = "last",
        **draws: Any,
    ) -> None:
        super().__init__(**draws)
        self.student, self.teacher = {
            "last": (student.representations, teacher.representations),
            "embeddings": (student.embeddings, teacher.embeddings),
        }[layer]
        self.num_users, self.num_items = student.num_users, student.num_items
        self.device = teacher.device
        one = torch.zeros(1, dtype=torch.int64, device=self.device)
        h_s, h_t = self.student(one, one), self.teacher(one, one)
        if h_s.keys() != h_t.keys():
            raise UserError(
                f"the teacher's last layer encodes each {' and '.join(h_t)}, the student's each "
                f"{' and '.join(h_s)}; use a teacher of the same base model, or --layer embeddings"
            )
        # kind of entity -> the sizes of its representations, d_s and d_t
        self.sizes = {kind: (h_s[kind].shape[1], h_t[kind].shape[1]) for kind in h_s}

    @abstractmethod
    def entities(self, batch: Pairs) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
        """Return the users and items to distil, and by kind the weight of each.

        What ``representations`` takes, and ``{"user": (B,), "item": (C,)}`` or ``{"pair": (B,)}``.
        """

    @abstractmethod
    def distance(self, kind: str, h_student: Tensor, target: Tensor) -> Tensor:
        """Return how far entities are from given targets: ``(N, d_s), (N, d_t) -> (N,)``."""

    def loss(self, batch: Pairs) -> Tensor:
        """Return the weighted sum of the distances to the teacher's representations."""
        entities, weights = self.entities(batch)
        h_s, h_t = self.student(*entities), self.teacher(*entities)
        terms = [self.distance(kind, h_s[kind], h_t[kind]) @ weights[kind] for kind in h_s]
        return torch.stack(terms).sum()
