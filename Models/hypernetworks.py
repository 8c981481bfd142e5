"""Networks whose outputs are the weights of linear mappings, one mapping an entity."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from Models.heads import linear_weights
from Utils.optimizer import require_memory

BLOCK = 1024  # products of two entries, of every entity, that are held at a time
ROWS = 256  # entities come in multiples: low-precision kernels are made and kept for each number
PRECISIONS = {"float32": None, "bf16": torch.bfloat16}  # of products; None: as what is multiplied
# whether this CPU multiplies bf16 itself; without it, torch takes forty times as long as in float32
CPU_HAS_BF16 = torch.backends.mkldnn.is_available() and (
    torch.ops.mkldnn._is_mkldnn_bf16_supported()
)


class PersonalMapping(nn.Module):
    """``f(h_s; Theta)``: linear, without bias, and with weights that are an entity's own.

    ``Theta`` = ``p(v)`` in ``R^(d_s x d_t)``, with ``p`` of the shape ``d_t -> (d_t + d_t d_s) / 2
    -> d_t d_s`` and ReLU, where v is what is known of the entity on the teacher's side.

    Source: HyperKDMA paper, section 3, equations 10 and 11.
    """

    def __init__(self, d_s: int, d_t: int, generator: torch.Generator, precision: str) -> None:
        super().__init__()
        self.shape, self.dtype = (d_s, d_t), PRECISIONS[precision]
        hidden = (d_t + d_t * d_s) // 2
        require_memory(hidden * (1 + d_s) * d_t, f"a network that maps d={d_s} to d={d_t}")
        self.weight1, self.bias1 = linear_weights(d_t, (d_t, hidden), generator)
        self.weight2, self.bias2 = linear_weights(hidden, (hidden, d_s * d_t), generator)

    def forward(self, context: Tensor, h_s: Tensor) -> Tensor:
        """Return each entity's ``h_s`` mapped: ``(N, d_t), (N, d_s) -> (N, d_t)``."""
        parts = *map(_padded, (context, h_s)), self.weight1, self.bias1, self.weight2, self.bias2
        context, mapped, weight1, bias1, weight2, bias2 = (
            _rounded(part, self.dtype) for part in parts
        )
        hidden = torch.addmm(bias1, context, weight1).relu_()
        theta = torch.addmm(bias2, hidden, weight2).view(-1, *self.shape)
        return torch.bmm(mapped.unsqueeze(1), theta).squeeze(1)[: len(h_s)].to(h_s.dtype)


class Projections(nn.Module):
    """``h_i = h_T Theta_i`` for i = 1..m, ``(Theta_1, ..., Theta_m) = P(h_T)``, P linear.

    ``h_T Theta_i`` is linear in the products of two entries of h_T, and each product of two
    different entries comes twice. So no Theta is ever made, though there would be one an entity:
    P's weights are applied to the ``d_t (d_t + 1) / 2`` products, a block at a time, and only these
    weights are kept, each standing for two that are equal.

    Source: HyperKDMA paper, section 4, equations 13 and 14.

    Parameters
    ----------
    sizes : d_1, ..., d_m.
    personal : False leaves P's bias alone, which is the same projection for all entities (table 4,
        "w/o HNet").
    """

    def __init__(
        self, d_t: int, sizes: list[int], generator: torch.Generator, precision: str,
        personal: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.sizes, self.dtype = sizes, PRECISIONS[precision]
        shape = (d_t, d_t, sum(sizes)) if personal else (0, 0, sum(sizes))
        first, second = torch.triu_indices(*shape[:2])
        weight, _ = linear_weights(d_t, shape, generator)
        self.weight = nn.Parameter((weight[first, second] + weight[second, first]) / 2)
        self.bias, _ = linear_weights(d_t, (d_t, sum(sizes)), generator)

    def forward(self, h_t: Tensor) -> tuple[Tensor, ...]:
        """Return the projections: ``(N, d_t) -> (N, d_1), ..., (N, d_m)``."""
        projected = h_t @ self.bias
        if len(self.weight):
            quadratic = _Quadratic.apply(_padded(h_t), self.weight, self.dtype)
            projected = projected + quadratic[: len(h_t)]
        return projected.split(self.sizes, dim=1)


def _padded(rows: Tensor) -> Tensor:
    """Return ``(N, d)`` with rows of zeros below, so that their number is a multiple of ROWS."""
    return F.pad(rows, (0, 0, 0, -len(rows) % ROWS))


def _rounded(factor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return what is to be multiplied, as precise as ``dtype``.

    Its type stays what it is where the CPU has no such products: rounded factors are then
    multiplied in it.
    """
    if dtype is None:
        return factor
    rounded = factor.to(dtype)
    return rounded if CPU_HAS_BF16 or not factor.is_cpu else rounded.to(factor.dtype)


class _Quadratic(torch.autograd.Function):
    """``sum over a, c of h_a h_c W_ac`` with W_ac = W_ca, for W alone to be differentiated.

    ``(N, d)`` and ``(d (d + 1) / 2, D) -> (N, D)``; the rows of the second are the pairs a <= c.
    """

    @staticmethod
    def forward(ctx, h: Tensor, weight: Tensor, dtype: torch.dtype | None) -> Tensor:
        ctx.save_for_backward(h, weight)
        ctx.dtype = dtype
        result = h.new_zeros(len(h), weight.shape[1])
        for rows, products in _products(h, dtype):
            result += products.T @ _rounded(weight[rows], dtype)
        return result

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[None, Tensor, None]:
        h, weight = ctx.saved_tensors
        result, gradient = torch.empty_like(weight), _rounded(gradient, ctx.dtype)
        for rows, products in _products(h, ctx.dtype):
            result[rows] = (products @ gradient).to(weight.dtype)
        return None, result, None


def _products(h: Tensor, dtype: torch.dtype | None) -> Iterator[tuple[slice, Tensor]]:
    """Yield blocks of ``h_a h_c``, twice where a < c: which pairs they are of, and ``(n, N)``."""
    columns, start, end = _rounded(h.T, dtype).contiguous(), 0, 0
    size, count = columns.shape
    block = columns.new_empty(BLOCK + size, count)
    for first in range(size):
        length = size - first
        place = end - start
        torch.mul(columns[first:], 2 * columns[first], out=block[place : place + length])
        block[place] *= 0.5
        end += length
        if end - start >= BLOCK or length == 1:
            yield slice(start, end), block[: end - start]
            start = end
