"""H@N, N@N and M@N of the held-out items, and the rank of each.

Protocol: DE-RRD paper, section 5.1. A user's held-out item is ranked with 499 items the user never
touched; the other held-out item is no candidate.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from Utils.data_utils import LeaveOneOutSplit
from Utils.sampled_product import sampled_product

CUTOFFS = (5, 10, 20)
METRICS = [f"{letter}@{n}" for n in CUTOFFS for letter in "HNM"]


class Evaluator:
    """Ranks the validation and the test item of every user, on the model's device."""

    def __init__(self, split: LeaveOneOutSplit, device: torch.device | str) -> None:
        held_out = np.stack([split.valid, split.test], axis=1).astype(np.int32)
        self.held_out = torch.from_numpy(held_out).to(device)  # (U, 2)
        self.candidates = torch.from_numpy(split.candidates).to(device)  # (U, 499)

    @torch.no_grad()
    def ranks(self, model: nn.Module) -> dict[str, Tensor]:
        """Return a ``Recommender``'s ranks, from 1: ``{"valid": (U,), "test": (U,)}``, on the CPU.

        A rank is 1 + the number of candidates that do not score lower, so neither ties nor NaN
        flatter a model.
        """
        was_training = model.training
        model.eval()
        factors = model.encode()
        num_users, num_candidates = self.candidates.shape
        # Candidates are sorted: 64 neighbouring columns lie in an eighth of the item table, which
        # stays in the cache while thousands of users pass. That is three times faster at d = 200.
        # Other models' scores keep to the cache by themselves.
        columns = 64 if factors else num_candidates
        ranks = []
        for users in torch.arange(num_users, device=self.candidates.device).split(4096):
            if factors:
                score = partial(sampled_product, factors[0][users], factors[1])
            else:
                score = partial(model.score, users)
            held_out = score(self.held_out[users])
            lower = torch.zeros_like(held_out, dtype=torch.int64)
            for candidates in self.candidates[users].split(columns, dim=1):
                scores = score(candidates)
                for part in (0, 1):
                    target = held_out[:, part : part + 1]
                    lower[:, part] += torch.count_nonzero(scores < target, dim=1)
            ranks.append(1 + num_candidates - lower)
        model.train(was_training)
        valid, test = torch.cat(ranks).T.cpu()
        return {"valid": valid, "test": test}

    def evaluate(self, model: nn.Module) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Return validation and test metrics (``valid_H@5``, ..., ``test_M@20``) and the ranks."""
        ranks = self.ranks(model)
        values = {
            f"{part}_{name}": value
            for part in ("valid", "test")
            for name, value in metrics(ranks[part]).items()
        }
        return values, ranks


def user_metrics(ranks: Tensor) -> dict[str, Tensor]:
    """Return each user's H@N, N@N and M@N at 5, 10 and 20, ``(U,)`` float64, of ``(U,)`` ranks.

    With p the rank, and only for p <= N: H = 1, N = log 2 / log(p + 1), M = 1 / p.
    """
    ranks = ranks.double()
    gains = {"H": torch.ones_like(ranks), "N": 1 / torch.log2(ranks + 1), "M": 1 / ranks}
    return {f"{letter}@{n}": gains[letter] * (ranks <= n) for n in CUTOFFS for letter in "HNM"}


def metrics(ranks: Tensor) -> dict[str, float]:
    """Return the mean over users of ``user_metrics``."""
    return {name: values.mean().item() for name, values in user_metrics(ranks).items()}
