"""The small networks that distillers put on representations; none is used at inference."""

from math import sqrt

import torch
from torch import Tensor, nn

# On a CPU, experts whose weight for an entity is below this are not computed for it. Weights are
# float32 and sum to 1, so what is left out is at most about the rounding of what stays.
NEGLIGIBLE = 1e-7


class Experts(nn.Module):
    """M networks ``d_s -> (d_s + d_t) // 2 -> d_t`` with ReLU, held as stacked tensors.

    Where ``d_s = d_t``, the hidden layer has ``d_s // 2`` units.

    Source: DE-RRD paper, sections 4.1.1 and 5.1; the second width is that of its authors' code.
    """

    def __init__(self, num_experts: int, d_s: int, d_t: int, generator: torch.Generator) -> None:
        super().__init__()
        hidden = (d_s + d_t) // 2 if d_s != d_t else max(d_s // 2, 1)
        self.weight1, self.bias1 = linear_weights(d_s, (num_experts, d_s, hidden), generator)
        self.weight2, self.bias2 = linear_weights(hidden, (num_experts, hidden, d_t), generator)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return the experts' outputs, mixed: ``(N, d_s)``, ``(N, M)`` -> ``(N, d_t)``."""
        if x.device.type == "cpu":  # elsewhere, counting would wait for the device
            active = weights > NEGLIGIBLE
            # One expert at a time costs more for each output than all experts together.
            if int(active.sum()) < 0.6 * active.numel():
                return self._mix_active(x, weights, active)
        return self._mix_all(x, weights)

    def _mix_all(self, x: Tensor, weights: Tensor) -> Tensor:
        """Mix hidden layers first and multiply once: the second layer is linear."""
        num_experts, d_s, hidden = self.weight1.shape
        first = self.weight1.transpose(0, 1).reshape(d_s, num_experts * hidden)
        activations = torch.addmm(self.bias1.flatten(), x, first).relu_()
        mixed = activations.view(-1, num_experts, hidden) * weights.unsqueeze(2)
        outputs = mixed.flatten(1) @ self.weight2.flatten(0, 1)
        return torch.addmm(outputs, weights, self.bias2)

    def _mix_active(self, x: Tensor, weights: Tensor, active: Tensor) -> Tensor:
        """Compute each expert for the entities that use it."""
        rows = active.T.nonzero()[:, 1]  # expert by expert
        counts = active.sum(dim=0).tolist()
        layers = (self.weight1, self.bias1, self.weight2, self.bias2)
        outputs = [
            torch.addmm(b2, torch.addmm(b1, inputs, w1).relu_(), w2)
            for inputs, w1, b1, w2, b2 in zip(
                x[rows].split(counts), *(layer.unbind() for layer in layers), strict=True
            )
        ]
        outputs = torch.cat(outputs) * weights.T[active.T].unsqueeze(1)
        return outputs.new_zeros(len(x), outputs.shape[1]).index_add(0, rows, outputs)


class Selector(nn.Module):
    """The selection network, one linear layer ``d_t -> M``; it sees the teacher's side only.

    Source: DE-RRD paper, sections 4.1.2 and 5.1.
    """

    def __init__(self, num_experts: int, d_t: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight, self.bias = linear_weights(d_t, (d_t, num_experts), generator)

    def forward(self, h_t: Tensor) -> Tensor:
        """Return the probability alpha of each expert: ``(N, d_t) -> (N, M)``."""
        return torch.addmm(self.bias, h_t, self.weight).softmax(dim=1)


def gumbel_softmax(probabilities: Tensor, tau: float, generator: torch.Generator) -> Tensor:
    """Return relaxed one-hot draws, ``softmax((log alpha + g) / tau)``, g ~ Gumbel(0, 1): (N, M).

    Source: DE-RRD paper, section 4.1.2, equation 7; 1e-10 in the logarithm as in its code.
    """
    race = torch.empty_like(probabilities).exponential_(generator=generator)
    gumbel = -race.clamp_min_(torch.finfo(race.dtype).tiny).log_()
    return (((probabilities + 1e-10).log() + gumbel) / tau).softmax(dim=1)


def temperature(epoch: int, tau_0: float, tau_P: float, P: int) -> float:
    """Return ``tau_0 (tau_P / tau_0)^(epoch / P)``, and tau_P from epoch P on.

    Source: DE-RRD paper, section 4.1.3.
    """
    return tau_0 * (tau_P / tau_0) ** min(epoch / P, 1)


def linear_weights(
    fan_in: int, shape: tuple[int, ...], generator: torch.Generator
) -> tuple[nn.Parameter, nn.Parameter]:
    """Return weights ``(..., in, out)`` and biases ``(..., out)``, drawn as in ``nn.Linear``."""
    bound = 1 / sqrt(fan_in)
    weight = torch.empty(shape).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(*shape[:-2], shape[-1]).uniform_(-bound, bound, generator=generator)
    return nn.Parameter(weight), nn.Parameter(bias)
