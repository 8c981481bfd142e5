"""Fold-in: a vector for a user who was not there at training, by one ridge solve.

Given the items' factors q, a user's vector p is what minimises ``sum_i w_i (r_i - p . q_i)^2 +
ridge |p|^2`` over all items, with ``r = 1`` and ``w = 1 + alpha`` for those that the user took,
else ``r = 0`` and ``w = 1``: half a sweep of iALS (``Models/ials.py``), however the model was
trained.

Its ranking is near that of a trained vector as far as training was on the user's items alone. What
a student has of its teacher in a user's vector is not in the items, so it cannot come back.
"""

from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from Models import build_model
from Models.ials import solve
from Models.lists import best_lists
from Models.recommender import Recommender
from Models.teacher import CHUNK
from Utils.errors import UserError
from Utils.evaluation import Evaluator
from Utils.split import HeldOut, Split

# what is tried, free of units: alpha as the weight of a user's items together in that of all
# others, the ridge in mean eigenvalues of the items' Gram matrix
ALPHAS = (1, 3, 10, 30, 100)
RIDGES = (1, 3, 10, 30, 100)
MOST = 5000  # users of whom the choice is made
FIRST = 20  # items of which it is said how many are the same


class FoldIn(NamedTuple):
    """The weights of the solve, and how users come out who were there at training.

    ``trained``, ``folded``: their metrics, ``valid_H@5``, ...; ``same``: the share of the first
    ``FIRST`` items outside training that are the same.
    """

    alpha: float
    ridge: float
    num_users: int
    trained: dict[str, float]
    folded: dict[str, float]
    same: float

    def describe(self, metric: str) -> str:
        """Return it in one line, by one metric."""
        parts = ", ".join(
            f"{part} {metric} {self.folded[f'{part}_{metric}']:.4f} (trained "
            f"{self.trained[f'{part}_{metric}']:.4f})"
            for part in ("valid", "test")
        )
        return (
            f"fold-in, alpha {self.alpha:.3g} and ridge {self.ridge:.3g} by validation: of "
            f"{self.num_users:,} users who were there, {parts}, {self.same:.0%} of the first "
            f"{FIRST} items the same"
        )


def fold_in(items: Tensor, taken: HeldOut, alpha: float, ridge: float) -> Tensor:
    """Return a vector for each of some users: ``(U, d)``.

    ``items``: (I, d), factors; ``taken``: what each user took.
    """
    members = torch.from_numpy(taken.items).to(items.device)
    counts = torch.from_numpy(taken.counts)
    return solve(items.double(), members, counts, alpha, ridge).to(items.dtype)


@torch.no_grad()
def choose(model: Recommender, split: Split) -> FoldIn:
    """Return the weights with which users' training items find their validation items best.

    Of up to ``MOST`` users, by the metric that selects epochs.

    Raises
    ------
    UserError
        If the model's scores are not inner products of a user's and an item's factors.
    """
    factors = model.encode()
    if factors is None:
        raise UserError(
            f"--history: scores of {type(model).__name__} are not inner products of factors of "
            f"users and items, so nobody can be folded in; use a student of another model"
        )
    step = -(-split.num_users // MOST)
    users = np.arange(0, split.num_users, step)
    split, (vectors, items) = split.of_users(users), factors
    vectors = vectors[torch.from_numpy(users).to(vectors.device)]
    given = build_model("BPR", split, items.shape[1], seed=0).to(items).eval()
    evaluator = Evaluator(split, items.device)

    seen, everyone = (split.train_users, split.train_items), torch.arange(len(users))

    def measured(vectors: Tensor) -> dict[str, float]:
        given.assign(vectors, items)
        return evaluator.evaluate(given)[0]

    def first(vectors: Tensor) -> Tensor:
        given.assign(vectors, items)
        lists = best_lists(given.score_all, everyone.to(items.device), seen, FIRST, CHUNK)
        return torch.cat([best for best, _ in lists])

    together = split.num_items * split.num_users / len(split.train_users)
    eigenvalue = items.double().square().sum().item() / items.shape[1]
    best, selecting = None, f"valid_{split.protocol.selecting}"
    for alpha, ridge in product(ALPHAS, RIDGES):
        weights = alpha * together, ridge * eigenvalue
        found = measured(fold_in(items, split.train, *weights))
        if best is None or found[selecting] > best[1][selecting]:
            best = weights, found
    folded = fold_in(items, split.train, *best[0])
    same = (first(vectors).unsqueeze(2) == first(folded).unsqueeze(1)).any(2).double().mean()
    return FoldIn(*best[0], split.num_users, measured(vectors), best[1], same.item())
