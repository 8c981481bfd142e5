"""What every method of knowledge distillation keeps."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from Models.recommender import Recommender
from Models.teacher import Teacher
from Utils.dataset import Asked, Pairs, distinct
from Utils.errors import UserError
from Utils.seeding import Draws
from Utils.split import Split


class Distiller(nn.Module, ABC):
    """A distillation term, without its weight; methods combine by adding.

    It knows student and teacher by their scores and representations alone. It keeps functions of
    theirs and no modules: the student is trained as itself, and the teacher never.

    Parameters
    ----------
    seed : of all that it draws.
    name : tells it from another one of its kind in the same run, which else would draw the same.

    Attributes
    ----------
    covered : whom of the users, or items, the teacher has a list of, bool; None: of everybody.
    """

    covered: Tensor | None = None

    def __init__(self, seed: int = 0, name: str = "") -> None:
        super().__init__()
        self.name, self.draws = name, Draws(seed, name)

    @classmethod
    def require(cls, student: Recommender) -> None:
        """Raise ``UserError`` if the method cannot teach a student, whoever the teacher is."""
        require_batches(student, "users")

    def begin_epoch(self, epoch: int) -> None:
        """Change what changes once an epoch: draws, schedules; for some, nothing."""

    @abstractmethod
    def loss(self, batch: Pairs) -> Tensor:
        """Return the distillation term of a batch, differentiable in the student: ``()``."""

    def ask_lists(self, teacher: Teacher, kind: str, count: int) -> Tensor:
        """Return the teacher's lists of ``kind``, items or users, and note who is ``covered``."""
        self.covered = teacher.covered(kind, count)
        return (teacher.top_items if kind == "items" else teacher.top_users)(count)

    def learners(self, entities: Tensor) -> tuple[Tensor, Tensor]:
        """Return the ``distinct`` ones of a batch, and their weights: 0 for who is not covered."""
        values, weights = distinct(entities)
        return values, weights if self.covered is None else weights * self.covered[values]


def require_batches(student: Recommender, *columns: str) -> None:
    """Raise ``UserError`` unless the batches that a student is trained on have these columns."""
    found = student.sampler.batch._fields
    if not set(columns) <= set(found):
        raise UserError(
            f"--model {type(student).__name__}: its batches are {' and '.join(found)}, and this "
            f"method needs {' and '.join(columns)}; use another base model, or another method"
        )


def both_asked(student: Recommender, teacher: Teacher) -> Split | Asked:
    """Return who student and teacher are asked for, and what they have had.

    Raises
    ------
    UserError
        If the student's batches have none, or if it is not the same: users and windows, or windows
        of other targets.
    """
    require_batches(student, "users")
    mine, theirs = student.asked(teacher.split), teacher.asked
    if mine is not theirs and not np.array_equal(mine.train_users, theirs.train_users):
        raise UserError(
            f"{teacher.describe()}: is asked for {theirs.num_users:,} users or windows, and the "
            f"student for {mine.num_users:,}; use models of sequences with the same --num_targets "
            f"for both (SASRec: the same --length), or for none"
        )
    return theirs


class RepresentationDistiller(Distiller):
    """Brings representations of the student near those of a teacher, or near any other target.

    A subclass says how far an entity is from its target; whoever has another target than the
    teacher's representations asks the same function.

    Parameters
    ----------
    layer : ``last``: the last hidden layer; ``embeddings``: the first one, with users and items
        apart; ``gmf``: of this only what enters the product of user and item, as in factor models.
    target_dim : size of the targets, if they are not the teacher's representations.
    draws : ``seed`` and ``name``, see ``Distiller``.

    Raises
    ------
    UserError
        If the student is not trained on pairs, or if it encodes pairs and the teacher users and
        items, or the reverse.
    """

    def __init__(
        self,
        student: Recommender,
        teacher: Teacher,
        *,
        layer: str = "last",
        target_dim: int | None = None,
        **draws: Any,
    ) -> None:
        super().__init__(**draws)
        self.require(student)
        self.student, self.teacher = {
            "last": (student.representations, teacher.representations),
            "embeddings": (student.embeddings, teacher.embeddings),
            "gmf": (student.gmf_embeddings, teacher.gmf_embeddings),
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
        self.known = {"user": teacher.covered("items", 0), "item": teacher.covered("users", 0)}
        self.kinds, first = list(h_s), next(iter(h_s))  # users and items are of one size
        self.d_s, self.d_t = h_s[first].shape[1], target_dim or h_t[first].shape[1]

    @classmethod
    def require(cls, student: Recommender) -> None:
        """Raise ``UserError`` if a student is not trained on pairs."""
        require_batches(student, *Pairs._fields)

    def entities(self, batch: Pairs) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
        """Return the users and items to distil, and by kind the weight of each.

        What ``representations`` takes, and ``{"user": (B,), "item": (C,)}`` or ``{"pair": (B,)}``:
        distinct users weigh 1, distinct positives and distinct negatives one half, as do pairs;
        those of whom the teacher knows nothing, 0.
        """
        entities, weights = self.weigh(batch)
        for kind, ids in zip(("user", "item"), entities, strict=True):
            if kind in weights and self.known[kind] is not None:
                weights[kind] = weights[kind] * self.known[kind][ids]
        return entities, weights

    def weigh(self, batch: Pairs) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
        """Return the same, whatever the teacher knows."""
        users, positives, negatives = batch
        if "pair" in self.kinds:
            pairs = users.repeat(2), torch.cat([positives, negatives])
            return pairs, {"pair": torch.full((len(pairs[0]),), 0.5, device=self.device)}
        users, user_weights = distinct(users)
        (above, first), (below, second) = distinct(positives), distinct(negatives)
        items, item_weights = torch.cat([above, below]), torch.cat([first, second]) / 2
        return (users, items), {"user": user_weights, "item": item_weights}

    @abstractmethod
    def distance(
        self, kind: str, h_student: Tensor, target: Tensor, context: Tensor | None = None
    ) -> Tensor:
        """Return how far entities are from given targets: ``(N, d_s), (N, d_t) -> (N,)``.

        ``context`` (N, d_t) is what the way to the target depends on; None: on the target itself.
        """

    def contexts(self, entities: tuple[Tensor, Tensor]) -> dict[str, Tensor | None]:
        """Return by kind what the way to the teacher's representations depends on."""
        return dict.fromkeys(self.kinds)

    def loss(self, batch: Pairs) -> Tensor:
        """Return the weighted sum of the distances to the teacher's representations."""
        entities, weights = self.entities(batch)
        h_s, h_t = self.student(*entities), self.teacher(*entities)
        contexts = self.contexts(entities)
        terms = [
            self.distance(kind, h_s[kind], h_t[kind], contexts[kind]) @ of_kind
            for kind, of_kind in weights.items()
        ]
        return torch.stack(terms).sum()
