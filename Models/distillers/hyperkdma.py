"""HyperKDMA: assistants between teacher and student that a hypernetwork makes of the teacher."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from Models.distillers.distiller import Distiller, RepresentationDistiller
from Models.heads import Selector
from Models.hypernetworks import Projections
from Models.recommender import Recommender
from Models.teacher import Teacher
from Utils.dataset import Pairs
from Utils.errors import UserError


class HyperKDMA(Distiller):
    """Hypernetwork-based knowledge distillation with multiple assistants: the assistants' term.

    ``sum over entities e, with their weights, of sum over i of g_ei D_i(h_s(e), h_i(e))``, where
    ``h_i(e) = h_T(e) Theta_i(e)`` is what assistant i says of e, ``g_e = softmax(Theta_G h_T(e))``,
    and D_i is the distance of DE or of PHR for targets of the size d_i. Users and items share the
    hypernetwork and the gate. It is added to the term towards the teacher, in one stage.

    Source: HyperKDMA paper, section 4, equations 13 to 17 and algorithm 1.

    Parameters
    ----------
    assistants : distillers of student and teacher, alike but for ``target_dim``, d_i, and their
        ``name``; they say which entities of a batch count, and they are trained along.
    projection : ``hypernetwork``, the method; ``shared``: one projection for all entities (table 4,
        "w/o HNet").
    gate : ``personal``, the method; ``none``: 1 / m for every assistant ("w/o GNet").
    detach_targets : whether assistants are no targets that may come to meet the student; the
        hypernetwork then learns by what the distances depend on beside their targets.
    precision : of the hypernetwork's products, ``float32`` or ``bf16``.
    draws : ``seed`` and ``name``, see ``Distiller``.
    """

    def __init__(
        self, student: Recommender, teacher: Teacher,
        assistants: Sequence[RepresentationDistiller], *, projection: str = "hypernetwork",
        gate: str = "personal", detach_targets: bool = False, precision: str = "float32",
        **draws: Any,
    ) -> None:  # fmt: skip
        super().__init__(**draws)
        self.assistants = torch.nn.ModuleList(assistants)
        self.detach_targets = detach_targets
        self.num_users, self.num_items = student.num_users, student.num_items
        asked = assistants[0]  # they are alike
        self.entities, self.student, self.teacher = asked.entities, asked.student, asked.teacher
        self.device = teacher.device
        sizes = [assistant.d_t for assistant in assistants]
        one = torch.zeros(1, dtype=torch.int64, device=self.device)
        d_t = self.teacher(one, one)[asked.kinds[0]].shape[1]
        generator = self.draws.generator("init HyperKDMA")
        self.gate = Selector(len(sizes), d_t, generator) if gate == "personal" else None
        self.projections = Projections(
            d_t, sizes, generator, precision, personal=projection == "hypernetwork"
        )
        self.to(self.device)

    def begin_epoch(self, epoch: int) -> None:
        """Begin it for all assistants."""
        for assistant in self.assistants:
            assistant.begin_epoch(epoch)

    def loss(self, batch: Pairs) -> Tensor:
        """Return the sum of the gated distances to the assistants."""
        entities, weights = self.entities(batch)
        h_s, h_t = self.student(*entities), self.teacher(*entities)
        terms = []
        for kind, of_entities in weights.items():
            gates, targets = self.gates(h_t[kind]), self.projections(h_t[kind])
            for i, (assistant, context) in enumerate(zip(self.assistants, targets, strict=True)):
                target = context.detach() if self.detach_targets else context
                distance = assistant.distance(kind, h_s[kind], target, context)
                terms.append(distance @ (gates[:, i] * of_entities))
        return torch.stack(terms).sum()

    def gates(self, h_t: Tensor) -> Tensor:
        """Return each assistant's share in each entity, of a sum of 1: ``(N, d_t) -> (N, m)``."""
        if self.gate is None:
            return h_t.new_full((len(h_t), len(self.assistants)), 1 / len(self.assistants))
        return self.gate(h_t)

    @torch.no_grad()
    def all_gates(self) -> dict[str, np.ndarray]:
        """Return the gates of all ``user`` (U, m) and ``item`` (I, m), float16."""
        if "pair" in self.assistants[0].kinds:
            raise UserError("--save_gates: users and items have no gates of their own here")
        everyone = (torch.arange(n, device=self.device) for n in (self.num_users, self.num_items))
        return {
            kind: self.gates(h_t).half().cpu().numpy()
            for kind, h_t in self.teacher(*everyone).items()
        }
