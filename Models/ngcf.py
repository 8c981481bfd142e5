"""NGCF: messages along the graph pass through layers of weights."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from Models.graph import GraphModel, Vectors, require_dropout
from Utils.seeding import Draws
from Utils.split import Split

SLOPE = 0.2  # of LeakyReLU below 0


class NGCF(GraphModel):
    """Score ``s_ui = p_u . q_i``; factors are ``e^0, e^1, ..., e^L`` side by side, ``(L + 1) d``.

    ``E^(l+1) = LeakyReLU((A~ + I) E^l W_1 + (A~ E^l * E^l) W_2 + b)``, with message dropout; each
    but the first is scaled to length 1 where it becomes a part of the factors.

    Source: Wang et al., "Neural Graph Collaborative Filtering", SIGIR 2019, section 2.2, equations
    7 to 9. Bias and scaling are those of its authors' code. One layer, not three, as in LightGCN
    here: each adds as many factors as the table has.

    Raises
    ------
    UserError
        If all messages would be dropped.
    """

    options: ClassVar = {"num_layers": int, "dropout": float}

    def __init__(
        self,
        split: Split,
        dim: int,
        num_layers: int = 1,
        dropout: float = 0.1,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__(split, dim, generator)
        require_dropout(dropout)
        self.num_layers, self.dropout = num_layers, dropout
        self.near = nn.ModuleList(nn.Linear(dim, dim) for _ in range(num_layers))  # W_1 and b
        self.joint = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(num_layers))
        for layer in (*self.near, *self.joint):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
        for layer in self.near:
            nn.init.zeros_(layer.bias)
        self.draws = Draws(generator.initial_seed())
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int) -> None:
        """Begin the epoch's noise."""
        super().begin_epoch(epoch)
        self.noise = self.draws.generator("dropout", epoch, self.user.weight.device)

    def factors(self) -> Vectors:
        """Propagate the tables: ``(num_users, (L + 1) d)``, ``(num_items, (L + 1) d)``."""
        inputs = self.once(self.inputs)
        half = len(inputs) // 2
        return self._join(*inputs[:half]), self._join(*inputs[half:])

    def rows(self, kind: str, ids: Tensor) -> Tensor:
        """Return the factors of some: in training, the last layer is computed for these alone."""
        if not torch.is_grad_enabled():
            return super().rows(kind, ids)
        inputs = self.once(self.inputs)
        half = len(inputs) // 2
        mine = inputs[half:] if kind == "item" else inputs[:half]
        return self._join(*(F.embedding(ids, each) for each in mine))

    def inputs(self) -> tuple[Tensor, ...]:
        """Compute what the last layer needs: ``e^0, ..., e^(L-1)``, the sums of the last, noise.

        All of users, then all of items.
        """
        layers = [(self.user.weight, self.item.weight)]
        for layer in range(self.num_layers):
            sums = self.graph.sums(*layers[-1])
            rest = [sums, [self._draw_noise(each) for each in sums]]
            if layer + 1 < self.num_layers:
                parts = zip(layers[-1], *rest, strict=True)
                layers.append([self._layer(layer, *each) for each in parts])
        users, items = zip(*layers, *rest, strict=True)
        return *users, *items

    def _layer(self, layer: int, own: Tensor, sums: Tensor, noise: Tensor) -> Tensor:
        """Return ``e^(l+1)`` from ``e^l`` and its neighbours' sums: ``(N, d)``, as all three."""
        messages = self.near[layer](own + sums) + self.joint[layer](own * sums)
        return F.leaky_relu(messages, SLOPE) * noise

    def _join(self, *inputs: Tensor) -> Tensor:
        """Compute the last layer, and lay all side by side: ``(N, (L + 1) d)``."""
        *layers, sums, noise = inputs
        layers.append(self._layer(-1, layers[-1], sums, noise))
        return torch.cat([layers[0], *map(F.normalize, layers[1:])], dim=1)

    def _draw_noise(self, like: Tensor) -> Tensor:
        """Return by what messages are multiplied; 1 unless gradients are wanted in training."""
        if not (self.dropout and self.training and torch.is_grad_enabled()):
            return like.new_ones(1).expand_as(like)
        drawn = torch.empty_like(like).uniform_(generator=self.noise)
        return drawn.ge_(self.dropout).div_(1 - self.dropout)
