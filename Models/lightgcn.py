"""LightGCN: matrix factorisation whose factors are smoothed along the graph, and nothing more."""

from typing import ClassVar

import torch

from Models.graph import GraphModel, Vectors
from Utils.split import Split


class LightGCN(GraphModel):
    """Score ``s_ui = p_u . q_i``; factors are the mean of ``e^0, A~ e^0, ..., A~^L e^0``.

    Source: He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for
    Recommendation", SIGIR 2020, section 3. One layer is the default of HyperKDMA's code, not three.
    """

    options: ClassVar = {"num_layers": int}

    def __init__(
        self,
        split: Split,
        dim: int,
        num_layers: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(split, dim, generator)
        self.num_layers = num_layers

    def factors(self) -> Vectors:
        """Propagate the tables: ``(num_users, d)``, ``(num_items, d)``."""
        return self.graph.mean_of_layers(self.user.weight, self.item.weight, self.num_layers)
