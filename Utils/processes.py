"""One run on several processes: each has a share of the users, process 0 keeps what comes out.

``torchrun --nproc_per_node 2 main_no_KD.py`` starts them, on one machine or several. Each trains
the rows of its own users, and all keep the same copy of everything else, such as the table of
items, by summing its gradients. One process that runs alone, however it was started, takes none of
these ways.
"""

import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from Utils.errors import UserError, in_one_line
from Utils.split import Split

ADDRESS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun says to each
CHUNK = 2**16  # rows that are sent, or drawn, at a time
LINGER = 5.0  # seconds in which process 0, which may have the notes, waits for who else speaks
POLL = 0.1  # seconds from one look to the next, while process 0 is at work alone

Value = TypeVar("Value")
_meeting: dict[str, Any] = {}  # "store": where processes leave notes; "met": how often they waited


class Ended(UserError):
    """Another process of this run ended, so that this one cannot go on."""


# ---------------------------------------------------------------------------------------------
# Who is there
# ---------------------------------------------------------------------------------------------


def count() -> int:
    """Return how many processes this run has."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if count() > 1 else 0


def is_first() -> bool:
    """Return whether this is process 0, which alone reads and writes the run's folders."""
    return rank() == 0


def on_this_machine() -> int:
    """Return how many processes of this run share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", count())) if count() > 1 else 1


def command(*words: str) -> str:
    """Return the shell command that starts a script with these words as this run was started."""
    if count() == 1:
        return shlex.join(["python", *words])
    here = on_this_machine()
    nodes = ["--nnodes", str(count() // here)] if count() > here else []
    return shlex.join(["torchrun", *nodes, "--nproc_per_node", str(here), *words])


def resuming(script: str) -> str:
    """Return the command that goes on with this run, by this process's flags."""
    flags = [flag for flag in sys.argv[1:] if flag not in ("--overwrite", "--resume")]
    return command(script, *flags, "--resume")


def alone() -> dict[str, str]:
    """Return the environment for a command that is to run as one process, by itself."""
    not_its = (*ADDRESS, "OMP_NUM_THREADS") if count() > 1 else ()
    return {name: value for name, value in os.environ.items() if name not in not_its}


@contextlib.contextmanager
def joined(may: bool) -> Iterator[None]:
    """Meet the others, if torchrun started more than this process; only process 0 speaks.

    Raises
    ------
    UserError
        If this script ``may`` not run on several processes, or if they do not meet.
    """
    if not all(name in os.environ for name in ADDRESS) or os.environ["WORLD_SIZE"] == "1":
        yield
        return
    on_cuda = torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    try:
        store, number, size = next(dist.rendezvous("env://"))
        backend = "cpu:gloo,cuda:nccl" if on_cuda else "gloo"
        dist.init_process_group(backend, store=store, rank=number, world_size=size)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes do not meet at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']} ({str(error).splitlines()[0]}); start them with torchrun"
        ) from error
    _meeting.update(store=store, met=0)
    signal.signal(signal.SIGTERM, _on_end)
    with contextlib.ExitStack() as stack:
        if number:
            nothing = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nothing))
            stack.enter_context(contextlib.redirect_stderr(nothing))
        if not may:
            raise UserError("runs as one process; start it with python, without torchrun")
        yield
    dist.destroy_process_group()


def _on_end(*_: object) -> None:
    """Take SIGTERM, which torchrun sends to all when one has ended."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _ended()


def _ended() -> Ended:
    return Ended(
        f"a process of this run ended; this goes on from the last checkpoint: "
        f"{resuming(sys.argv[0])}"
    )


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """Say in one line that another process ended, which the libraries say in many ways."""
    try:
        yield
    except RuntimeError as error:  # of gloo, of NCCL and of the store
        raise _ended() from error


def last_words(error: BaseException) -> str | None:
    """Return what to say of an error as ``in_one_line``; nothing if another process speaks.

    The first one that fails speaks, for all others end because of it.
    """
    text = in_one_line(error)
    if not _meeting or count() == 1:
        return text
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is ending already
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    with contextlib.suppress(RuntimeError):  # the store is gone with process 0
        silent = _meeting["store"].add("spoken", 1) > 1
        patience = time.monotonic() + LINGER * is_first()
        while _meeting["store"].add("spoken", 0) < count() and time.monotonic() < patience:
            time.sleep(POLL)
        time.sleep(3 * POLL * is_first())  # they are told so
        return "" if silent else text
    return text


# ---------------------------------------------------------------------------------------------
# What they do together
# ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
    """Let process 0 do what is inside before the others, however long it takes."""
    if count() == 1:
        yield
        return
    _meeting["met"] += 1
    key = f"done {_meeting['met']}"
    if is_first():
        yield
        with _together():
            _meeting["store"].set(key, "")
        return
    while True:
        with _together():
            if _meeting["store"].check([key]):
                break
        time.sleep(POLL)
    yield


def meet() -> None:
    """Wait until all are here, however long it takes."""
    if count() == 1:
        return
    _meeting["met"] += 1
    key = f"here {_meeting['met']}"
    with _together():
        here = _meeting["store"].add(key, 1)
        while here < count():
            time.sleep(POLL)
            here = _meeting["store"].add(key, 0)


def agreed(decide: Callable[[], Value]) -> Value:
    """Return on all processes what process 0 decides, or finds, in short time."""
    if count() == 1:
        return decide()
    found = [decide() if is_first() else None]
    with _together():
        dist.broadcast_object_list(found, src=0)
    return found[0]


def total(values: Tensor) -> Tensor:
    """Return the sum over all processes, the same bits on each; no gradient passes."""
    if count() > 1:
        with _together():
            dist.all_reduce(values)
    return values


def _send(rows: Tensor, to: int) -> None:
    for piece in rows.split(CHUNK):
        dist.send(piece.cpu().contiguous(), to)


def _receive(rows: Tensor, sender: int) -> None:
    """Fill rows that are on the CPU."""
    for piece in rows.split(CHUNK):
        dist.recv(piece, sender)


def gathered(rows: Tensor, bounds: list[int], room: Tensor | None = None) -> Tensor:
    """Return on process 0 the rows of all, on the CPU: those of k between its two ``bounds``.

    Other processes get their own back. Process 0 holds nothing beside what it returns, in ``room``
    if there is some.
    """
    with _together():
        if not is_first():
            _send(rows, 0)
            return rows
        shape = bounds[-1], *rows.shape[1:]
        whole = torch.empty(shape, dtype=rows.dtype) if room is None else room
        whole[: bounds[1]] = rows
        for other in range(1, count()):
            _receive(whole[bounds[other] : bounds[other + 1]], other)
    return whole


def scattered(whole: Tensor | None, like: Tensor, bounds: list[int]) -> Tensor:
    """Return each process's rows of what process 0 has, of the type of ``like``: the reverse."""
    mine = slice(bounds[rank()], bounds[rank() + 1])
    with _together():
        if is_first():
            for other in range(1, count()):
                _send(whole[bounds[other] : bounds[other + 1]], other)
            return whole[mine].to(like.device)
        rows = torch.empty(mine.stop - mine.start, *like.shape[1:], dtype=like.dtype)
        _receive(rows, 0)
    return rows.to(like.device)


class Exchange:
    """Each process asks the owners of some rows for them, and gives them something for these.

    What it asks for and owns itself stays where it is.

    Parameters
    ----------
    ids : (n,) int64, the rows that this process asks for, in any order.
    bounds : process k owns the rows from ``bounds[k]`` to ``bounds[k + 1]``.

    Attributes
    ----------
    owned : the rows that it is asked for itself, by anybody, each once and sorted.
    """

    def __init__(self, ids: Tensor, bounds: list[int]) -> None:
        rows, self.places = ids.int().unique(return_inverse=True)  # int32 is sorted twice as fast
        edges = torch.searchsorted(rows, torch.tensor(bounds, device=ids.device, dtype=torch.int32))
        lengths, asked = edges.diff().cpu(), torch.empty(count(), dtype=torch.int64)
        self.own = slice(edges[rank()].item(), edges[rank() + 1].item())
        lengths[rank()] = 0
        with _together():
            dist.all_to_all_single(asked, lengths)
        self.mine, self.asked, self.num_rows = lengths.tolist(), asked.tolist(), len(rows)
        others = self._without_own(rows)
        theirs = _moved(others, self.mine, self.asked)  # process by process
        owned, self.their_places = torch.cat((rows[self.own], theirs)).unique(return_inverse=True)
        self.rows, self.theirs, self.owned = others.long(), theirs.long(), owned.long()

    def _without_own(self, values: Tensor) -> Tensor:
        """Return of all that this process asks for what others own."""
        return torch.cat((values[: self.own.start], values[self.own.stop :]))

    def fetch(self, table: Tensor) -> None:
        """Write what the owners have of the rows into this process's ``table``."""
        answers = table.index_select(0, self.theirs)
        table.index_copy_(0, self.rows, _moved(answers, self.asked, self.mine))

    def summed(self, values: Tensor) -> Tensor:
        """Return the sum of all that is given for each row of ``owned``: ``(n, d) -> (m, d)``."""
        mine = values.new_zeros(self.num_rows, values.shape[1]).index_add_(0, self.places, values)
        theirs = _moved(self._without_own(mine), self.mine, self.asked)
        total = theirs.new_zeros(len(self.owned), theirs.shape[1])
        return total.index_add_(0, self.their_places, torch.cat((mine[self.own], theirs)))


def _moved(values: Tensor, lengths: list[int], others: list[int]) -> Tensor:
    """Send so many values to each process, and return so many of each."""
    found = values.new_empty(sum(others), *values.shape[1:])
    with _together():
        dist.all_to_all_single(found, values, others, lengths)
    return found


def share_rows(table: Tensor, bounds: list[int]) -> None:
    """Fill in a table, which all have, what the owner of each row has."""
    with _together():
        for owner in range(count()):
            dist.broadcast(table[bounds[owner] : bounds[owner + 1]], owner)


# ---------------------------------------------------------------------------------------------
# Who has which users
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Share(Split):
    """The data of one process's users alone, who are numbered by their place among them.

    ``whole``: the data of all. ``bounds``: process k has the users from ``bounds[k]`` to
    ``bounds[k + 1]``.
    """

    whole: Split
    bounds: list[int]

    def __post_init__(self) -> None:
        """Look at nothing: the whole was looked at."""

    @property
    def users(self) -> slice:
        """Where the users of this process are among all."""
        return slice(self.bounds[rank()], self.bounds[rank() + 1])

    @cached_property
    def sha256(self) -> str:
        """The hash of the whole."""
        return self.whole.sha256

    def describe(self) -> str:
        """Return the statistics of the whole."""
        return self.whole.describe()


def whole_of(split: Split) -> Split:
    """Return the data of all users."""
    return split.whole if isinstance(split, Share) else split


def share_of(split: Split) -> Split:
    """Return what this process trains on: all, or as many training pairs as any other process.

    Raises
    ------
    UserError
        If there is not something for each process to train on and to measure.
    """
    if count() == 1:
        return split
    bounds = _bounds(split, count())
    first, last = bounds[rank()], bounds[rank() + 1]
    if (np.diff(bounds) < 1).any() or any(
        (np.diff(getattr(split, part).starts[bounds]) < 1).any() for part in ("valid", "test")
    ):
        raise UserError(
            f"{split.dataset}: its {split.num_users:,} users do not fill {count()} processes; use "
            f"fewer (--nproc_per_node)"
        )
    return Share(**vars(split.of_users(np.arange(first, last))), whole=split, bounds=bounds)


def _bounds(split: Split, parts: int) -> list[int]:
    """Return where the shares of the users begin, and the last one ends: ``parts + 1`` numbers."""
    pairs = len(split.train_users)
    places = [pairs * part // parts for part in range(1, parts)]
    return [0, *split.train_users[places].tolist(), split.num_users]


def own(purpose: str) -> str:
    """Return a purpose of draws that differ from one process to the other."""
    return f"{purpose} of process {rank()}" if rank() else purpose


# ---------------------------------------------------------------------------------------------
# Parameters
# ---------------------------------------------------------------------------------------------


class UserTable(nn.Embedding):
    """A vector for each user: what processes do not have in common."""


class Parts:
    """The parameters of a run, of which tables of users are apart and all else is in common.

    Parameters
    ----------
    modules : the model, and what is trained along.
    split : the data of this process.
    owned : tables in common of which each process updates some rows, and where those begin and end,
        see ``SharedRowAdam``.
    """

    def __init__(
        self,
        modules: nn.ModuleList,
        split: Split,
        owned: dict[nn.Parameter, list[int]] | None = None,
    ) -> None:
        tables = {f"{n}.weight" for n, m in modules.named_modules() if isinstance(m, UserTable)}
        self.split, named, owned = split, dict(modules.named_parameters()), owned or {}
        self.common = [each for name, each in named.items() if name not in tables]
        self.sparse_sums = {each: _SparseSum() for each in self.common if each not in owned}
        # as weights are called among those of all modules, or of the model, and moments by number
        places = {place for place, name in enumerate(named) if name in tables}
        self.apart = places | tables | {name.partition(".")[2] for name in tables}
        self.owned = {n: owned[each] for n, each in enumerate(named.values()) if each in owned}
        rows = sum(each.numel() for name, each in named.items() if name in tables)
        self.elsewhere = rows // split.num_users * (whole_of(split).num_users - split.num_users)

    def sum_gradients(self) -> None:
        """Give all processes the sum of the gradients of what they have in common."""
        if count() == 1:
            return
        with _together():
            for parameter in self.common:
                if parameter.grad is None:
                    continue
                if not parameter.grad.is_sparse:
                    dist.all_reduce(parameter.grad)
                elif parameter in self.sparse_sums:
                    parameter.grad = self.sparse_sums[parameter](parameter.grad)

    def equal(self) -> None:
        """Take over from process 0 what they have in common."""
        for parameter in self.common if count() > 1 else ():
            with _together():
                dist.broadcast(parameter.data, 0)

    def whole(self, state: Any) -> Any:
        """Return weights or moments with the rows of all users on process 0, on the CPU."""
        if count() == 1:
            return state

        bounds = dict.fromkeys(self.apart, self.split.bounds) | self.owned

        def change(tensor: Tensor, key: Any) -> Tensor:
            if key in self.owned:
                tensor = tensor[bounds[key][rank()] : bounds[key][rank() + 1]]
            return tensor.cpu() if key is None else gathered(tensor, bounds[key])

        return _mapped(state, change, bounds)

    def mine(self, path: Path, state: Any, device: torch.device) -> Any:
        """Return this process's part of what process 0 has read from ``path``.

        Raises
        ------
        UserError
            If a table of users has not a row for each.
        """
        if count() == 1:
            return state
        bounds = self.split.bounds

        def describe(tensor: Tensor, key: Any) -> _Like:
            apart = key is not None
            if apart and len(tensor) != bounds[-1]:
                raise UserError(
                    f"{path}: its weights do not fit, {len(tensor):,} users are not "
                    f"{bounds[-1]:,}; --overwrite starts again"
                )
            tensors.append(tensor)
            return _Like(torch.empty_like(tensor, device="meta"), apart)

        def receive(like: _Like) -> Tensor:
            tensor = next(sent, None)
            if like.apart:
                return scattered(tensor, torch.empty_like(like.tensor, device=device), bounds)
            if tensor is None:
                tensor = torch.empty_like(like.tensor, device="cpu")
            dist.broadcast(tensor, 0)
            return tensor.to(device)

        tensors: list[Tensor] = []
        form = agreed(lambda: _mapped(state, describe, self.apart))
        sent = iter(tensors)
        with _together():
            return _filled(form, receive)


@dataclass
class _Like:
    """Stands for a tensor that is still to come."""

    tensor: Tensor  # of its shape and type, without values
    apart: bool


def _mapped(
    content: Any, change: Callable[[Tensor, Any], Any], keys: Container, key: Any = None
) -> Any:
    """Return nested dictionaries with all tensors changed; told which of ``keys`` they lie below.

    None: below none, or a number.
    """
    if isinstance(content, Tensor):
        return change(content, key if content.dim() else None)
    if isinstance(content, dict):
        return {
            name: _mapped(value, change, keys, name if name in keys else key)
            for name, value in content.items()
        }
    return content


def _filled(form: Any, receive: Callable[[_Like], Tensor]) -> Any:
    if isinstance(form, _Like):
        return receive(form)
    if isinstance(form, dict):
        return {key: _filled(value, receive) for key, value in form.items()}
    return form


class _SparseSum:
    """Sums the sparse gradients of a table: each process sends its rows to all others, at once.

    Nobody knows beforehand how many rows the others have: all send as many as the most so far, and
    again if there are more.
    """

    def __init__(self) -> None:
        self.room = 0

    def __call__(self, gradient: Tensor) -> Tensor:
        """Return the sum, not coalesced, with rows in the order of the processes."""
        rows, values = gradient._indices()[0], gradient._values()
        while True:
            mine = rows.new_empty(1 + self.room, 1 + values.shape[1], dtype=torch.int32)
            mine[0] = len(rows)
            n = min(len(rows), self.room)
            mine[1 : 1 + n, 0] = rows[:n]
            mine[1 : 1 + n, 1:] = values[:n].view(torch.int32)  # the bits of float32
            theirs = [torch.empty_like(mine) for _ in range(count())]
            dist.all_gather(theirs, mine)
            lengths = [int(each[0, 0]) for each in theirs]
            if max(lengths) <= self.room:
                break
            self.room = max(lengths)
        found = torch.cat([each[1 : 1 + n] for each, n in zip(theirs, lengths, strict=True)])
        return torch.sparse_coo_tensor(
            found[:, 0].long().unsqueeze(0),
            found[:, 1:].contiguous().view(torch.float32),
            gradient.shape,
            check_invariants=False,  # each process has looked rows up with them
        )
