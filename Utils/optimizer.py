"""Adam over dense tables fed with sparse gradients."""

from collections.abc import Iterable

import torch
from torch import nn


class DenseAdam(torch.optim.Adam):
    """Adam with weight decay on every row of every table, at every step.

    ``nn.Embedding(sparse=True)`` gives gradients for the rows of a batch alone. Here they are added
    into a buffer of the table's size, which is kept, and which is cleared row by row afterwards;
    the update is dense all the same, as in the published code: rows outside the batch decay and
    keep their momentum. Against dense gradients, that saves filling the table once per look-up.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, fused=True)
        self.buffers: dict[nn.Parameter, torch.Tensor] = {}

    def step(self) -> None:
        """Update all parameters, then drop their gradients."""
        touched = []
        for parameter in (p for group in self.param_groups for p in group["params"]):
            if parameter.grad is None or not parameter.grad.is_sparse:
                continue
            rows, values = parameter.grad._indices()[0], parameter.grad._values()
            if parameter not in self.buffers:
                self.buffers[parameter] = torch.zeros_like(parameter)
            buffer = self.buffers[parameter]
            buffer.scatter_add_(0, rows.unsqueeze(1).expand_as(values), values)
            parameter.grad = buffer
            touched.append((buffer, rows))
        super().step()
        self.zero_grad(set_to_none=True)
        for buffer, rows in touched:
            buffer.index_fill_(0, rows, 0)
