"""The best of all items for some users at a time, or the mirror: nothing else is held."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from Utils.dataset import chunks_of_pairs


@torch.no_grad()
def best_lists(
    score: Callable[[Tensor], Tensor],
    queries: Tensor,
    seen: tuple[np.ndarray, np.ndarray],
    count: int,
    size: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what scores best for ``size`` queries at a time, best first, and the scores.

    Parameters
    ----------
    score : scores of all candidates, ``(B,) -> (B, num_candidates)``.
    queries : (Q,), whom it is asked for.
    seen : pairs that are left out, (n,) and (n,): a query, by its place in Q, and a candidate.
    count : how many are wanted; there are no more columns than candidates. Where fewer are left,
        scores of those behind are ``-inf``.
    """
    chunks = queries.split(size)
    pairs = chunks_of_pairs(*seen, len(queries), size, queries.device)
    for chunk, left_out in zip(chunks, pairs, strict=True):
        scores = score(chunk)
        scores[left_out] = -torch.inf
        values, columns = scores.topk(min(count, scores.shape[1]))
        yield columns, values
