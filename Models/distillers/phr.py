"""PHR: a network makes of each entity's teacher side a mapping of its own."""

from typing import Any

import torch
from torch import Tensor

from Models.distillers.distiller import RepresentationDistiller
from Models.hypernetworks import PersonalMapping
from Models.recommender import Recommender
from Models.teacher import Teacher
from Utils.errors import UserError
from Utils.split import Split


class PHR(RepresentationDistiller):
    """Personalized Hint Regression.

    ``L_PHR = sum over the batch's distinct users of ||h_t - f(h_s; p(v))||^2``, plus half of that
    for its distinct positives and half for its distinct negatives. ``v = (h_t + mean over the
    entity's neighbours of their h_t) / 2``, the neighbours being those with whom it is in a
    training pair; who has none stands for itself. Users and items share the network p.

    Source: HyperKDMA paper, section 3, equations 9 to 12, on Kang et al., "Personalized Knowledge
    Distillation for Recommender System", Knowledge-Based Systems 239, 2022.

    Parameters
    ----------
    enrichment : ``neighbours``: v as above, from the teacher's tables; ``none``: v is h_t.
    precision : of the network's products, ``float32`` or ``bf16``.
    base : ``layer``, ``target_dim``, see ``RepresentationDistiller``; ``seed`` and ``name``, see
        ``Distiller``.

    Raises
    ------
    UserError
        If neighbours are asked for where pairs are encoded, which have none, or if this machine
        could not hold the network.
    """

    def __init__(
        self, student: Recommender, teacher: Teacher, *, enrichment: str = "neighbours",
        precision: str = "float32", **base: Any,
    ) -> None:  # fmt: skip
        super().__init__(student, teacher, **base)
        self.enriched: dict[str, Tensor] = {}
        if enrichment == "neighbours":
            if "pair" in self.kinds:
                raise UserError(
                    "--enrichment neighbours: a pair of user and item has no neighbours; use "
                    "--enrichment none, or another --layer"
                )
            everyone = (
                torch.arange(n, device=self.device) for n in (self.num_users, self.num_items)
            )
            self.enriched = enriched(self.teacher(*everyone), teacher.split)
        generator = self.draws.generator("init PHR")
        self.mapping = PersonalMapping(self.d_s, self.d_t, generator, precision)
        self.to(self.device)

    def distance(
        self, kind: str, h_student: Tensor, target: Tensor, context: Tensor | None = None
    ) -> Tensor:
        """Return how far the mapped representations stay from the target: ``(N,)``."""
        context = target if context is None else context
        return (target - self.mapping(context, h_student)).square().sum(dim=1)

    def contexts(self, entities: tuple[Tensor, Tensor]) -> dict[str, Tensor | None]:
        """Return v, by kind: ``(N, d_t)``."""
        if not self.enriched:
            return super().contexts(entities)
        return {
            kind: self.enriched[kind][ids]
            for kind, ids in zip(("user", "item"), entities, strict=True)
        }


def enriched(tables: dict[str, Tensor], split: Split) -> dict[str, Tensor]:
    """Return the mean of each entity's own vector and that of its neighbours in training.

    Source: HyperKDMA paper, section 3, equation 9.

    Parameters
    ----------
    tables : ``{"user": (num_users, d), "item": (num_items, d)}``.
    """
    users, items = tables["user"], tables["item"]
    pairs = torch.from_numpy(split.train_users), torch.from_numpy(split.train_items)
    pairs = torch.stack(pairs).to(users.device)
    seen = torch.sparse_coo_tensor(
        pairs, users.new_ones(pairs.shape[1]), (len(users), len(items)), check_invariants=True
    ).coalesce()
    result = {}
    for kind, own, near, others in (
        ("user", users, seen, items),
        ("item", items, seen.T, users),
    ):
        counts = (near @ others.new_ones(len(others), 1)).to(own.dtype)
        mean = torch.where(counts > 0, near @ others / counts.clamp_min(1), own)
        result[kind] = (own + mean) / 2
    return result
