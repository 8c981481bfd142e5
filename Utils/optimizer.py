"""Adam over tables fed with sparse gradients: of all rows, or of a batch's alone."""

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from Utils import processes
from Utils.errors import UserError
from Utils.files import require_like
from Utils.processes import Exchange, UserTable

BYTES = 16  # for each parameter in training: it, its gradient and Adam's two moments, float32
BYTES_OF_ROWS = 12  # the same where gradients are of a batch's rows alone
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # Adam's, which nobody changes
BLOCK = 2**16  # numbers that are made up for at a time, which a cache holds
NODES = 0.5 - 0.5 / math.sqrt(3), 0.5 + 0.5 / math.sqrt(3)  # Gauss's two, of equal weight


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


class RowAdam(DenseAdam):
    """``DenseAdam`` at the cost of a batch's rows: tables are not passed through at every step.

    What ``DenseAdam`` does to a row in steps that have no gradient for it, ``make_up`` does at once
    as soon as the row is looked up, before the look-up: a loss sees rows as they would be, and not
    as they were when they were looked up last, by hundreds of steps of decay ago where tables are
    large. ``catch_up`` does so for all rows; whoever reads whole tables calls it first.

    Of a table's size are the weights, two moments and the step of each row, int32. Between epochs,
    when all rows are caught up, the state is that of ``DenseAdam``.

    Parameters
    ----------
    modules : whose parameters are trained. Tables are ``nn.Embedding(sparse=True)``, all else is
        updated as ever. Those that have ``by_rows`` are told: their losses are to look rows up.
    """

    def __init__(self, modules: nn.Module, lr: float, weight_decay: float) -> None:
        super().__init__(modules.parameters(), lr, weight_decay)
        self.names: dict[nn.Parameter, str] = {}
        for name, table in modules.named_modules():
            if hasattr(table, "by_rows"):
                table.by_rows = True
            if isinstance(table, nn.Embedding) and table.sparse:
                self.names[table.weight] = name
                table.register_forward_pre_hook(
                    lambda table, ids: self._before_look_up(table.weight, ids[0])
                )
                self.state[table.weight] = {
                    "step": torch.zeros((), device=table.weight.device),
                    "exp_avg": torch.zeros_like(table.weight),
                    "exp_avg_sq": torch.zeros_like(table.weight),
                }
        self._note_steps()

    def _note_steps(self) -> None:
        """Note that all rows are caught up: how many steps each table has behind it."""
        self.done = {table: int(self.state[table]["step"]) for table in self.names}
        self.seen = {
            table: torch.full((len(table),), done, dtype=torch.int32, device=table.device)
            for table, done in self.done.items()
        }

    @torch.no_grad()
    def step(self) -> None:
        """Update the rows that have a gradient, and all other parameters; then drop gradients.

        Raises
        ------
        UserError
            If a table has a gradient of all its rows: a loss has read it whole.
        """
        for table, name in self.names.items():
            if table.grad is not None:
                self._step_rows(table, name)
        super().step()

    def _step_rows(self, table: nn.Parameter, name: str) -> None:
        if not table.grad.is_sparse:
            raise UserError(
                f"--optimizer rows: here, a step learns from all rows of {name.partition('.')[2]}, "
                f"not from a few; use --optimizer dense"
            )
        gradient = table.grad.coalesce()
        rows, state = gradient.indices()[0], self.state[table]
        self._catch_up(table, rows)  # what was looked up is; what was read otherwise is not
        values = [part.index_select(0, rows) for part in self._parts(table)]
        of_group = {name: self.defaults[name] for name in ("lr", "weight_decay", "eps")}
        weight, mean, square = ([value] for value in values)
        adam(
            weight, [gradient.values()], mean, square, [], [state["step"]],
            fused=True, amsgrad=False, maximize=False, beta1=BETA1, beta2=BETA2, **of_group,
        )  # fmt: skip
        for part, value in zip(self._parts(table), values, strict=True):
            part.index_copy_(0, rows, value)
        self.done[table] += 1
        self.seen[table][rows] = self.done[table]
        table.grad = None

    def _parts(self, table: nn.Parameter) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights and moments; by ``data``, for what is made up for is no other value."""
        return table.data, self.state[table]["exp_avg"], self.state[table]["exp_avg_sq"]

    def catch_up(self) -> None:
        """Bring all rows of all tables to where all steps have them."""
        for table in self.names:
            for start in range(0, len(table), BLOCK):
                rows = torch.arange(start, min(start + BLOCK, len(table)), device=table.device)
                self._catch_up(table, rows)

    def _before_look_up(self, table: nn.Parameter, ids: Tensor) -> None:
        """Have the rows of a look-up as all steps have them."""
        self._catch_up(table, ids.unique().long())

    @torch.no_grad()
    def _catch_up(self, table: nn.Parameter, rows: Tensor) -> None:
        """Bring some rows, each once, to where all steps have them."""
        done, seen = self.done[table], self.seen[table]
        parts = self._parts(table)
        rows = rows[seen.index_select(0, rows) < done]
        for block in rows.split(max(BLOCK // table.shape[1], 1)):
            values = [part.index_select(0, block) for part in parts]
            before = seen.index_select(0, block).unsqueeze(1)
            lr, decay = self.defaults["lr"], self.defaults["weight_decay"]
            make_up(*values, before.float(), (done - before).float(), lr, decay)
            for part, value in zip(parts, values, strict=True):
                part.index_copy_(0, block, value)
        seen[rows] = done

    def load_moments(self, path: Path, kept: object, remedy: str) -> None:
        """Go on with the moments of a ``state_dict``, as ``DenseAdam`` does.

        Raises
        ------
        UserError
            As there, and if the steps are no number of steps.
        """
        super().load_moments(path, kept, remedy)
        for table, name in self.names.items():
            step = self.state[table]["step"].item() if table in self.state else -1
            if not (step == step // 1 and 0 <= step < 2**31):
                raise UserError(f"{path}: its moments are of {step} steps of {name}; {remedy}")
        self._note_steps()


class SharedRowAdam(RowAdam):
    """``RowAdam`` of several processes, each of which updates its share of the rows in common.

    A row of a table in common has an owner, who alone knows its moments. Before a look-up, each
    process asks the owners for the rows of its batch; at the step, it sends them the gradients. So
    the work of a batch is shared out, and what is sent does not grow with tables. All processes
    look up as often in a step. ``catch_up`` gives all rows to all.

    Attributes
    ----------
    bounds : of each table in common: process k owns the rows from ``bounds[k]`` to
        ``bounds[k + 1]``.
    """

    def __init__(self, modules: nn.Module, lr: float, weight_decay: float) -> None:
        super().__init__(modules, lr, weight_decay)
        parts = processes.count()
        apart = {each.weight for each in modules.modules() if isinstance(each, UserTable)}
        self.bounds = {
            table: [len(table) * part // parts for part in range(parts + 1)]
            for table in self.names
            if table not in apart
        }
        self.asked: dict[nn.Parameter, list[Exchange]] = {table: [] for table in self.bounds}

    def _before_look_up(self, table: nn.Parameter, ids: Tensor) -> None:
        if table not in self.bounds:
            super()._before_look_up(table, ids)
        elif torch.is_grad_enabled():  # else, between epochs, all have all rows
            exchange = Exchange(ids.flatten().long(), self.bounds[table])
            self._catch_up(table, exchange.owned)
            exchange.fetch(table.data)
            self.asked[table].append(exchange)

    def _step_rows(self, table: nn.Parameter, name: str) -> None:
        if table in self.bounds and table.grad.is_sparse:
            rows, asked = table.grad._indices()[0], self.asked[table]
            # of a single look-up, the owners know already which rows they are
            known = asked[0] if len(asked) == 1 else None
            exchange = known or Exchange(rows, self.bounds[table])
            table.grad = torch.sparse_coo_tensor(
                exchange.owned.unsqueeze(0), exchange.summed(table.grad._values()), table.shape,
                check_invariants=False, is_coalesced=True,
            )  # fmt: skip
            asked.clear()
        super()._step_rows(table, name)

    def catch_up(self) -> None:
        """Bring all rows of all tables to where all steps have them, on all processes."""
        super().catch_up()
        for table, bounds in self.bounds.items():
            processes.share_rows(table.data, bounds)


def by_rows(args: Any) -> bool:
    """Return whether a script's settings want the rows of a batch alone to be updated."""
    return getattr(args, "optimizer", "dense") == "rows"


def new_optimizer(kind: str, modules: nn.Module, lr: float, weight_decay: float) -> DenseAdam:
    """Return the optimiser of ``modules`` that is called ``dense`` or ``rows``."""
    if kind == "dense":
        return DenseAdam(modules.parameters(), lr, weight_decay)
    return (RowAdam if processes.count() == 1 else SharedRowAdam)(modules, lr, weight_decay)


def make_up(
    weight: Tensor,
    mean: Tensor,
    square: Tensor,
    before: Tensor,
    missed: Tensor,
    lr: float,
    decay: float,
) -> None:
    """Do to rows, in place, what Adam does in some steps whose gradient is ``decay * weight``.

    With m and v the moments, w the weight, L and k the steps before and those missed:

    - Of m, ``x = m - (1 - b1^L) decay w`` is a rest that fades. It moves w by
      ``-lr x sum_j b1^j / (sqrt(v) b2^(j/2))``, a geometric series, divided by ``1 - b1^(L + 1)``.
    - Then w shrinks with ``dw/dj = -lr decay w / (sqrt(v_j) + eps)``, where
      ``v_j = b2^j v + (1 - b2^j) (decay w)^2``: by ``exp(-lr decay sum_j 1 / sqrt(v_j + eps^2))``,
      the sum by two points of Gauss. All v are divided by ``1 - b2^(L + j)``, as ever.
    - m ends at ``b1^k x + (1 - b1^(L + k)) decay w``, v at ``v_k``, with the mean of w before and
      after.

    Against the steps one by one, with learning rates, decays and moments as in training, w is off
    by 4 % of its way at most, on average over rows, for gaps from 1 to 3,000 after 200 steps or
    more (after 20 steps: 9 %), for ``v_j`` takes w as it is at the start. A row that was never
    looked up shrinks to nearly 0 within a hundred steps, as with Adam, but on another way.

    Parameters
    ----------
    weight, mean, square : (n, d) float32.
    before, missed : (n, 1) float32, L and k above 0.
    """
    near, ratio = ((missed + 1) / 2).clamp_max(1 / (1 - BETA1)), BETA1 / math.sqrt(BETA2)
    way = lr * ratio / (1 - ratio) * _rest(ratio, missed) / _rest(BETA1, before + 1)
    way *= _rest(BETA2, before + near).sqrt()
    fading = mean.sub_(weight * (decay * _rest(BETA1, before)))
    weight.sub_((square + EPS**2).rsqrt_().mul_(fading).mul_(way))
    drive, exponent = (weight * decay).square_().add_(EPS**2), 0
    for node in NODES:
        after = 0.5 + node * missed
        rest = _rest(BETA2, after)
        scale = -lr * decay / 2 * missed * (_rest(BETA2, before + after) / rest).sqrt()
        inverse = (square * (_power(BETA2, after) / rest)).add_(drive).rsqrt_()
        exponent = inverse.mul_(scale).add_(exponent)
    shrunk = exponent.exp_()
    weight.mul_(shrunk)
    mean.mul_(_power(BETA1, missed))
    mean.add_(weight * (decay * _rest(BETA1, before + missed)))
    square.mul_(_power(BETA2, missed))
    square.add_(drive.mul_(shrunk).mul_(_rest(BETA2, missed)))


def _power(base: float, exponent: Tensor) -> Tensor:
    return (exponent * math.log(base)).exp()


def _rest(base: float, exponent: Tensor) -> Tensor:
    """Return ``1 - base^exponent``."""
    return -torch.expm1(exponent * math.log(base))


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
