"""DE: experts rebuild the teacher's representations from the student's."""

import numpy as np
import torch
from torch import Tensor, nn

from Models.heads import Experts, Selector, gumbel_softmax, temperature
from Models.recommender import Recommender
from Models.teacher import Teacher
from Utils.dataset import distinct
from Utils.errors import UserError
from Utils.seeding import torch_generator


class DE(nn.Module):
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
    layer : ``last``: the last hidden layer; ``embeddings``: the first one, with users and items
        apart (section 4.1.3, the first of the two ways to distil NeuMF).
    variant : ``published_code``: squared norms, items weighted as above, and the temperature of the
        epoch before. ``paper``: norms (equation 7), every item or pair weighs 1, the epoch's
        temperature.
    """

    def __init__(
        self,
        student: Recommender,
        teacher: Teacher,
        num_experts: int,
        tau_0: float,
        tau_P: float,
        P: int,
        expert_selection: str = "gumbel",
        layer: str = "last",
        variant: str = "published_code",
        seed: int = 0,
    ) -> None:
        super().__init__()
        # Functions, not modules: the student is trained as itself, and the teacher never.
        self.student, self.teacher = {
            "last": (student.representations, teacher.representations),
            "embeddings": (student.embeddings, teacher.embeddings),
        }[layer]
        self.num_users, self.num_items = student.num_users, student.num_items
        self.tau_0, self.tau_P, self.P = tau_0, tau_P, P
        self.expert_selection, self.variant, self.seed = expert_selection, variant, seed
        self.num_experts = 1 if expert_selection == "one_small" else num_experts
        self.device = teacher.device
        generator = torch_generator(seed, "init DE")
        one = torch.zeros(1, dtype=torch.int64, device=self.device)
        h_s, h_t = self.student(one, one), self.teacher(one, one)
        if h_s.keys() != h_t.keys():
            raise UserError(
                f"the teacher's last layer encodes each {' and '.join(h_t)}, the student's each "
                f"{' and '.join(h_s)}; use a teacher of the same base model, or --layer embeddings"
            )
        self.experts, self.selectors = nn.ModuleDict(), nn.ModuleDict()
        for kind in h_s:
            d_s, d_t = h_s[kind].shape[1], h_t[kind].shape[1]
            self.experts[kind] = Experts(self.num_experts, d_s, d_t, generator)
            if expert_selection in ("gumbel", "attention"):
                self.selectors[kind] = Selector(num_experts, d_t, generator)
        self.to(self.device)

    def begin_epoch(self, epoch: int) -> None:
        """Set the temperature and take fresh noise."""
        clock = epoch if self.variant == "paper" else max(epoch - 1, 0)
        self.tau = temperature(clock, self.tau_0, self.tau_P, self.P)
        self.noise = torch_generator(self.seed, "gumbel", epoch, self.device)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Return ``L_DE`` for users, positives and negatives, each ``(B,)``."""
        entities, weights = self._entities(*batch)
        h_s, h_t = self.student(*entities), self.teacher(*entities)
        terms = [self._distance(kind, h_s[kind], h_t[kind]) @ weights[kind] for kind in h_s]
        return torch.stack(terms).sum()

    def _entities(
        self, users: Tensor, positives: Tensor, negatives: Tensor
    ) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
        """Return what is distilled, users and items or pairs of them, and the weight of each."""
        if "pair" in self.experts:
            pairs = users.repeat(2), torch.cat([positives, negatives])
            weight = 1.0 if self.variant == "paper" else 0.5
            return pairs, {"pair": torch.full((len(pairs[0]),), weight, device=self.device)}
        users, user_weights = distinct(users)
        if self.variant == "paper":
            items, item_weights = distinct(torch.cat([positives, negatives]))
        else:
            (above, first), (below, second) = distinct(positives), distinct(negatives)
            items, item_weights = torch.cat([above, below]), torch.cat([first, second]) / 2
        return (users, items), {"user": user_weights, "item": item_weights}

    def _distance(self, kind: str, h_s: Tensor, h_t: Tensor) -> Tensor:
        """Return how far the experts stay from the teacher: ``(N,)``."""
        rest = h_t - self.experts[kind](h_s, self._expert_weights(kind, h_t))
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
