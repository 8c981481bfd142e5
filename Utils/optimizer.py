"""Adam over dense tables fed with sparse gradients."""

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from Utils.errors import UserError
from Utils.files import require_like

BYTES = 16  # for each parameter in training: it, its gradient and Adam's two moments, float32


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
        for group in self.param_groups:  # the fused update does not tell; ``FactorModel`` asks
            torch.autograd.graph.increment_version(group["params"])
        self.zero_grad(set_to_none=True)
        for buffer, rows in touched:
            buffer.index_fill_(0, rows, 0)

    def load_moments(self, path: Path, kept: object, remedy: str) -> None:
        """Go on with the moments of a ``state_dict`` that was read from ``path``.

        Raises
        ------
        UserError
            If they are not of the parameters' shapes: the fused update does not look.
        """
        state = kept.get("state") if isinstance(kept, dict) else None
        state = state if isinstance(state, dict) else {"moments": kept}
        parameters = [p for group in self.param_groups for p in group["params"]]
        expected, found = {}, {}
        for index, moments in state.items():
            if index in range(len(parameters)):
                like = parameters[index]
                parts = {"step": torch.zeros(()), "exp_avg": like, "exp_avg_sq": like}
                expected |= {f"{index}.{name}": part for name, part in parts.items()}
            moments = moments if isinstance(moments, dict) else {"": moments}
            found |= {f"{index}.{name}": value for name, value in moments.items()}
        require_like(path, "moments", found, expected, remedy)
        self.load_state_dict(self.state_dict() | {"state": state})


def machine_memory() -> int:
    """Return this machine's memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def require_memory(num_parameters: int, what: str) -> None:
    """Raise ``UserError`` if this machine's memory does not hold the training of so many."""
    needed, memory = BYTES * num_parameters, machine_memory()
    if needed > memory:
        raise UserError(
            f"{what} takes {needed / 1e9:,.0f} GB or more, and this machine has "
            f"{memory / 1e9:,.0f} GB of memory; use a smaller one"
        )
