"""The normaliser of a softmax over a whole catalogue, a block of it at a time."""

import torch
from torch import Tensor

BLOCK = 2048  # columns whose scores are made at a time

Places = tuple[Tensor, Tensor]


def log_normalizer(rows: Tensor, table: Tensor, excluded: Places | None = None) -> Tensor:
    """Return ``log sum_i exp(rows . table_i)``: ``(B, d)``, ``(I, d)`` -> ``(B,)``.

    ``excluded``: the places, row and column, two ``(n,)``, whose scores do not count. A row whose
    scores do not count at all has ``-inf``, and no gradient that is a number.
    """
    return _LogNormalizer.apply(rows, table, *(excluded or (None, None)))


class _LogNormalizer(torch.autograd.Function):
    """A block at a time, so that its scores stay in the cache from product to exponential.

    The exponentials are kept for the gradients.
    """

    @staticmethod
    def forward(
        ctx, rows: Tensor, table: Tensor, which: Tensor | None, columns: Tensor | None
    ) -> Tensor:
        exponentials, highest, sums = [], [], []
        for number, block in enumerate(table.split(BLOCK)):
            scores = rows @ block.T
            if which is not None:
                _exclude(scores, which, columns - number * BLOCK)
            highest.append(scores.amax(dim=1, keepdim=True))
            highest[-1].clamp_min_(torch.finfo(scores.dtype).min)  # a whole block may be excluded
            exponentials.append(scores.sub_(highest[-1]).exp_())
            sums.append(scores.sum(dim=1, keepdim=True))
        highest, sums = torch.cat(highest, dim=1), torch.cat(sums, dim=1)  # (B, blocks)
        log_z = (highest + sums.log()).logsumexp(dim=1, keepdim=True)
        ctx.save_for_backward(rows, table, (highest - log_z).exp(), *exponentials)
        return log_z.squeeze(1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        rows, table, shares, *exponentials = ctx.saved_tensors
        weights = (gradient.unsqueeze(1) * shares).split(1, dim=1)
        of_rows, of_table = torch.zeros_like(rows), torch.empty_like(table)
        blocks = table.split(BLOCK), of_table.split(BLOCK)
        for e, weight, block, of_block in zip(exponentials, weights, *blocks, strict=True):
            of_rows.addcmul_(e @ block, weight)
            torch.mm(e.T, rows * weight, out=of_block)
        return of_rows, of_table, None, None


def _exclude(scores: Tensor, rows: Tensor, columns: Tensor) -> None:
    """Write ``-inf`` to these places of a block, as far as they are in it.

    By adding it, or 0 to any other place: whoever picks those inside waits for the device.
    """
    inside = (columns >= 0) & (columns < scores.shape[1])
    change = scores.new_zeros(len(columns)).masked_fill_(inside, -torch.inf)
    scores.index_put_((rows.long(), (columns * inside).long()), change, accumulate=True)
