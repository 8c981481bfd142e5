"""The best approximation of a score matrix by factors of a smaller size."""

import torch
from torch import Tensor


@torch.no_grad()
def low_rank_factors(users: Tensor, items: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return the factors of size ``dim`` whose inner products are nearest to those given.

    ``users``: (U, d), ``items``: (I, d) -> (U, dim), (I, dim). Nearest in the sum of squares over
    all U x I scores (Eckart and Young, 1936). The score matrix is never made: with the QR
    decompositions ``users = Q R``, ``items = Q' R'``, its singular values are those of ``R R'^T``,
    which is d x d. The singular values go half to either side.
    """
    (q_users, r_users), (q_items, r_items) = (
        torch.linalg.qr(factors.double()) for factors in (users, items)
    )
    left, values, right = torch.linalg.svd(r_users @ r_items.T)
    scale = values[:dim].sqrt()
    factors = (q_users @ left[:, :dim] * scale, q_items @ right[:dim].T * scale)
    missing = dim - len(scale)  # more columns than the scores have: they stay zero
    return tuple(torch.nn.functional.pad(f, (0, max(missing, 0))).to(users.dtype) for f in factors)
