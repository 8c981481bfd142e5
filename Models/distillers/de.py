"""DE: experts rebuild the teacher's representations from the student's."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from Models.distillers.distiller import RepresentationDistiller
from Models.heads import Experts, Selector, gumbel_softmax, temperature
from Models.recommender import Recommender
from Models.teacher import Teacher
from Utils.dataset import Pairs, distinct
from Utils.errors import UserError


class DE(RepresentationDistiller):
    """Distillation Experts.

    ``L_DE = sum over the batch's distinct users of ||h_t - sum_m s_m E_m(h_s)||^2``, plus half of
    that for its distinct positives and half for its distinct negatives. Users and items have
    experts of their own; a model that encodes pairs has one set, on the pairs of the batch, each of
    which weighs one half.

    Source: DE-RRD paper, section 4.1, equations 6 to 8.

    Parameters
    ----------
    num_experts : M, for users and for items each.
    tau_0, tau_P, P : temperature at epoch 0 and at epoch P of the selection.
    expert_selection : ``gumbel``, the method; ``attention`` mixes all experts by their probability;
        ``one_large`` averages all experts; ``one_small`` has one expert (section 5.3, table 4).
    variant : ``published_code``: squared norms, items weighted as above, and the temperature of the
        epoch before. ``paper``: norms (equation 7), every item or pair weighs 1, the epoch's
        temperature.
    base : ``layer`` (``embeddings`` is the first of the two ways to distil NeuMF in section 4.1.3)
        and others, see ``RepresentationDistiller``; ``seed`` and ``name``, see ``Distiller``.
    """

    def __init__(
        self, student: Recommender, teacher: Teacher, *, num_experts: int, tau_0: float,
        tau_P: float, P: int, expert_selection: str = "gumbel", variant: str = "published_code",
        **base: Any,
    ) -> None:  # fmt: skip
        super().__init__(student, teacher, **base)
        self.tau_0, self.tau_P, self.P = tau_0, tau_P, P
        self.expert_selection, self.variant = expert_selection, variant
        self.num_experts = 1 if expert_selection == "one_small" else num_experts
        generator = self.draws.generator("init DE")
        self.experts, self.selectors = nn.ModuleDict(), nn.ModuleDict()
        for kind in self.kinds:
            self.experts[kind] = Experts(self.num_experts, self.d_s, self.d_t, generator)
            if expert_selection in ("gumbel", "attention"):
                self.selectors[kind] = Selector(num_experts, self.d_t, generator)
        self.to(self.device)

    def begin_epoch(self, epoch: int) -> None:
        """Set the temperature and take fresh noise."""
        clock = epoch if self.variant == "paper" else max(epoch - 1, 0)
        self.tau = temperature(clock, self.tau_0, self.tau_P, self.P)
        self.noise = self.draws.generator("gumbel", epoch, self.device)

    def weigh(self, batch: Pairs) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
        """Return what is distilled, users and items or pairs of them, and the weight of each."""
        entities, weights = super().weigh(batch)
        if self.variant != "paper":
            return entities, weights
        if "pair" in weights:
            return entities, {"pair": torch.ones_like(weights["pair"])}
        items, item_weights = distinct(torch.cat([batch.positives, batch.negatives]))
        return (entities[0], items), {"user": weights["user"], "item": item_weights}

    def distance(
        self, kind: str, h_student: Tensor, target: Tensor, context: Tensor | None = None
    ) -> Tensor:
        """Return how far the experts stay from the target, which selects among them: ``(N,)``."""
        selects = target if context is None else context
        rest = target - self.experts[kind](h_student, self._expert_weights(kind, selects))
        return rest.norm(dim=1) if self.variant == "paper" else rest.square().sum(dim=1)

    def _expert_weights(self, kind: str, h_t: Tensor) -> Tensor:
        """Return the weight of each expert for each entity: ``(N, d_t) -> (N, M)``."""
        if kind not in self.selectors:
            return h_t.new_full((len(h_t), self.num_experts), 1 / self.num_experts)
        probabilities = self.selectors[kind](h_t)
        if self.expert_selection == "attention":
            return probabilities
        return gumbel_softmax(probabilities, self.tau, self.noise)

    @torch.no_grad()
    def most_probable_experts(self) -> dict[str, np.ndarray]:
        """Return the expert that the selection prefers: ``user`` (U,) and ``item`` (I,), int16."""
        if "user" not in self.selectors:
            raise UserError("--save_selection: users and items have no experts of their own here")
        users, items = (
            torch.arange(count, device=self.device) for count in (self.num_users, self.num_items)
        )
        h_t = self.teacher(users, items)
        return {
            kind: selector(h_t[kind]).argmax(dim=1).cpu().numpy().astype(np.int16)
            for kind, selector in self.selectors.items()
        }
