"""Variants of S2D: tries each and keeps what the validation set says of it.

    python -m experiments.variants                       # all that are not in the log yet
    python -m experiments.variants "tau from 8 to 2"     # one of them, again

Each is the tuned S2D with one thing changed, on CiteULike with a BPR teacher, seed 0, and stops
after 10 epochs without improvement. The log is experiments/variants.csv. Test metrics are not
looked at.
"""

import csv
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from io import TextIOWrapper
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, NamedTuple, get_type_hints

import torch
import tyro
from torch import Tensor

import main_no_KD
import main_S2D
from experiments.results import read_rows
from experiments.settings import resolve
from experiments.teacher import load_teacher
from Models import build_model
from Models.distillers import S2D
from Models.low_rank import low_rank_factors, spectral_start
from Models.recommender import Recommender
from Models.teacher import Teacher, top_lists
from Utils.data_utils import LeaveOneOutSplit, load_split
from Utils.dataset import PairSampler, UserSampler
from Utils.errors import require_known
from Utils.evaluation import Evaluator
from Utils.files import write_whole
from Utils.optimizer import DenseAdam
from Utils.selection import Selection
from Utils.settings import launch, use_device

LOG = Path(__file__).with_suffix(".csv")


@dataclass
class State:
    """A trial: what a variant may change at the start, before an epoch, and in the loss."""

    args: main_S2D.Settings
    split: LeaveOneOutSplit
    teacher: Teacher
    student: Recommender
    distiller: S2D
    optimizer: DenseAdam
    average: float = 0.0  # share that past epochs have in the weights that are evaluated
    before: Callable[[int], None] = lambda _: None
    extra: Callable[[Tensor], Tensor | float] = lambda _: 0.0


@torch.no_grad()
def learn_from(state: State, model: Recommender) -> None:
    """Learn another model's first K in place of the teacher's."""
    top = top_lists(model, state.split, "items", state.args.K)
    scores = model.score(torch.arange(len(top)), top)
    state.distiller.top = top
    state.distiller.targets = (scores / state.args.tau).softmax(dim=1)


# --- the variants --------------------------------------------------------------------------------


def temperature_falls(state: State) -> None:
    """From 8 to 2 in 50 epochs."""
    top = state.distiller.top
    scores = state.teacher.score(torch.arange(len(top)), top)

    def before(epoch: int) -> None:
        tau = 8 * (2 / 8) ** min(epoch / 50, 1)
        state.distiller.targets = (scores / tau).softmax(dim=1)

    state.before = before


def share_of_data(first: float, last: float) -> Callable[[State], None]:
    """Move w from ``first`` to ``last`` in 50 epochs."""

    def change(state: State) -> None:
        def before(epoch: int) -> None:
            state.args = replace(state.args, w=first + (last - first) * min(epoch / 50, 1))

        state.before = before

    return change


def learning_rate_falls(state: State) -> None:
    """By a cosine to a tenth, in 80 epochs."""
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
        state.optimizer, 80, eta_min=state.args.lr / 10
    )
    state.before = lambda epoch: scheduler.step() if 0 < epoch <= 80 else None


def average_weights(state: State) -> None:
    """Evaluate an exponential average over epochs."""
    state.average = 0.8


def scaled_start(state: State) -> None:
    """Start from the scores divided by tau, whose softmax is what is learned."""
    users, items = state.student.encode()
    state.student.assign(users / state.args.tau**0.5, items / state.args.tau**0.5)


def centred_start(state: State) -> None:
    """Approximate scores less their mean over items, which no softmax sees."""
    users, items = state.teacher.model.encode()
    state.student.assign(*low_rank_factors(users, items - items.mean(dim=0), state.args.dim))


def by_position(state: State) -> None:
    """Learn shares exp(-position / 100) in place of those of the scores."""
    distiller = state.distiller
    shares = (-torch.arange(distiller.top.shape[1]) / 100.0).softmax(dim=0)
    distiller.targets = shares.expand(distiller.top.shape).contiguous()


def all_items(tau: float) -> Callable[[State], None]:
    """Learn the shares of all items outside the training set, not those of the first K alone."""

    def change(state: State) -> None:
        distiller, first_K = state.distiller, state.distiller.losses
        train_users = torch.from_numpy(state.split.train_users)
        train_items = torch.from_numpy(state.split.train_items)
        row_of = torch.empty(state.split.num_users, dtype=torch.int64)

        def losses(users: Tensor) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                logits = state.teacher.model.score_all(users) / tau
                row_of[users] = torch.arange(len(users))
                known = torch.isin(train_users, users)
                logits[row_of[train_users[known]], train_items[known]] = -torch.inf
                shares = logits.softmax(dim=1)
            hard, soft = first_K(users)  # soft is the normaliser less the scores' weighted sum
            scores = distiller.score(users, distiller.top[users])
            of_users, of_items = distiller.encode()
            weighted = (of_users[users] * (shares @ of_items)).sum()
            return hard, soft + (scores * distiller.targets[users]).sum() - weighted

        distiller.losses = losses

    return change


def popularity(weight: float) -> Callable[[State], None]:
    """Add ``weight`` times the log of an item's number of users to the teacher's scores."""

    def change(state: State) -> None:
        users, items = state.teacher.model.encode()
        counts = torch.bincount(
            torch.from_numpy(state.split.train_items), minlength=state.split.num_items
        )
        mixed = build_model("BPR", len(users), len(items), users.shape[1] + 1, seed=0)
        bias = weight * (counts + 1.0).log().unsqueeze(1)
        mixed.assign(
            torch.cat([users, torch.ones(len(users), 1)], dim=1), torch.cat([items, bias], dim=1)
        )
        learn_from(state, mixed)

    return change


def item_side(weight: float) -> Callable[[State], None]:
    """Add each item's softmax over users, learned from the teacher's first 100 and the data."""

    def change(state: State) -> None:
        teacher, student, split = state.teacher, state.student, state.split
        mirror = S2D(  # users and items change places
            SimpleNamespace(
                score=lambda items, users: student.score(users, items),
                encode=lambda: student.encode()[::-1],
                num_users=student.num_items,
            ),
            SimpleNamespace(
                score=lambda items, users: teacher.score(users, items),
                top_items=teacher.top_users,
                split=SimpleNamespace(train_users=split.train_items, train_items=split.train_users),
            ),
            100,
            state.args.tau,
        )
        size = split.num_items * state.args.batch_size // split.num_users
        sampler = UserSampler(split.num_items, size, 1, "cpu")
        batches = iter(())

        def before(epoch: int) -> None:
            nonlocal batches
            batches = sampler.epoch(epoch)

        def extra(_: Tensor) -> Tensor:
            hard, soft = mirror.losses(next(batches))
            return weight * (state.args.w * hard + (1 - state.args.w) * soft)

        state.before, state.extra = before, extra

    return change


def two_teachers(state: State) -> None:
    """Learn the mean scores of the teacher and of one trained from another seed on this split."""
    users, items = state.teacher.model.encode()
    other = another_teacher(state.split, users.shape[1])
    both = build_model("BPR", len(users), len(items), 2 * users.shape[1], seed=0)
    joined = (torch.cat(parts, dim=1) for parts in zip((users, items), other, strict=True))
    both.assign(*(factor / 2**0.5 for factor in joined))
    learn_from(state, both)
    metrics = Evaluator(state.split, "cpu").evaluate(both)[0]
    print(f"two teachers: valid H@5 {metrics['valid_H@5']:.4f}")


def another_teacher(split: LeaveOneOutSplit, dim: int) -> tuple[Tensor, Tensor]:
    """Train a teacher as main_no_KD.py does, from seed 1 on the split of another, in memory."""
    args = resolve("no_KD", main_no_KD.Settings(dim=dim, seed=1))[0]
    model = build_model("BPR", split.num_users, split.num_items, dim, seed=1)
    optimizer = DenseAdam(model.parameters(), args.lr, args.reg)
    sampler = PairSampler(split, args.batch_size, 1, "cpu")
    evaluator, selection, best = Evaluator(split, "cpu"), Selection("paper"), None
    for epoch in range(args.max_epoch):
        for batch in sampler.epoch(epoch):
            model.loss(*batch).backward()
            optimizer.step()
        if selection.update(epoch, evaluator.evaluate(model)[0]):
            best = [factor.detach().clone() for factor in model.encode()]
        if selection.stops(epoch):
            break
    return best


VARIANTS: dict[str, Callable[[State], None] | dict[str, object]] = {
    "S2D": {},
    "tau = 2": {"tau": 2.0},
    "tau = 8": {"tau": 8.0},
    "tau from 8 to 2": temperature_falls,
    "K = 100": {"K": 100},
    "K = 1000": {"K": 1000},
    "K = all": all_items(4.0),
    "K = all, tau = 1": all_items(1.0),
    "w = 0, the teacher alone": {"w": 0.0},
    "w = 0.15": {"w": 0.15},
    "w = 0.5": {"w": 0.5},
    "w from 0.5 to 0.2": share_of_data(0.5, 0.2),
    "w from 0.2 to 0.5": share_of_data(0.2, 0.5),
    "lr = 0.003": {"lr": 0.003},
    "lr falls to a tenth": learning_rate_falls,
    "reg = 1e-3": {"reg": 1e-3},
    "batches of 128": {"batch_size": 128},
    "random start": {"start": "random"},
    "start divided by tau": scaled_start,
    "centred start": centred_start,
    "weights averaged over epochs": average_weights,
    "shares by position": by_position,
    "item side, weight 0.1": item_side(0.1),
    "item side, weight 0.03": item_side(0.03),
    "popularity added, weight 0.5": popularity(0.5),
    "popularity taken away, weight 0.5": popularity(-0.5),
    "two teachers": two_teachers,
}


class Row(NamedTuple):
    """What the validation set says at the epoch of the best H@5."""

    variant: str
    valid_H5: float
    valid_H10: float
    valid_H20: float
    best_epoch: int
    epochs: int
    seconds: int


def try_variant(name: str, **common: object) -> Row:
    """Train one, with ``common`` settings where it has none of its own."""
    change = VARIANTS[name]
    changes = change if isinstance(change, dict) else {}
    args = resolve("S2D", main_S2D.Settings(**common | changes))[0]
    device = use_device(args)
    split = load_split(args.dataset, args.split, args.seed, args.data_dir)
    student = build_model("BPR", split.num_users, split.num_items, args.dim, args.seed)
    teacher = load_teacher(args, split, device)
    if args.start == "spectral":
        spectral_start(student, teacher)
    distiller = S2D(student, teacher, args.K, args.tau)
    optimizer = DenseAdam(student.parameters(), args.lr, args.reg)
    state = State(args, split, teacher, student, distiller, optimizer)
    if callable(change):
        change(state)
    sampler = UserSampler(split.num_users, args.batch_size, args.seed, device)
    evaluator, selection = Evaluator(split, device), Selection("paper", args.patience)
    averaged, started, history = deepcopy(student), time.perf_counter(), []
    for epoch in range(args.max_epoch):
        state.before(epoch)
        for users in sampler.epoch(epoch):
            hard, soft = distiller.losses(users)
            loss = state.args.w * hard + (1 - state.args.w) * soft + state.extra(users)
            loss.backward()
            optimizer.step()
        share = min(state.average, epoch / (epoch + 1))
        with torch.no_grad():
            for kept, new in zip(averaged.parameters(), student.parameters(), strict=True):
                kept.lerp_(new, 1 - share)
        history.append(evaluator.evaluate(averaged)[0])
        selection.update(epoch, history[-1])
        if selection.stops(epoch):
            break
    best = [round(history[selection.best_epoch][f"valid_H@{n}"], 6) for n in (5, 10, 20)]
    seconds = round(time.perf_counter() - started)
    return Row(name, *best, selection.best_epoch, len(history), seconds)


def read_log() -> dict[str, Row]:
    """Return what was tried, by name."""
    if not LOG.exists():
        return {}
    rows = [Row(**row) for row in read_rows(LOG, get_type_hints(Row))]
    return {row.variant: row for row in rows}


def write_log(rows: dict[str, Row]) -> None:
    """Write it, the best first."""
    with write_whole(LOG) as file:
        text = TextIOWrapper(file, write_through=True)
        ordered = sorted(rows.values(), key=lambda row: -row.valid_H5)
        csv.writer(text, lineterminator="\n").writerows([Row._fields, *ordered])
        text.detach()


@dataclass
class Settings:
    """What to try."""

    # variants by name; none: all that are not in the log
    variants: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    # folder of the data sets
    data_dir: str = "datasets"


def main(args: Settings) -> None:
    """Try variants one after the other and write the log after each."""
    for name in args.variants:
        require_known("variant", name, VARIANTS)
    for name in args.variants or [name for name in VARIANTS if name not in read_log()]:
        row = try_variant(name, data_dir=args.data_dir, threads=1, patience=10)
        print(f"valid H@5 {row.valid_H5:.4f}  H@10 {row.valid_H10:.4f}  {name}", flush=True)
        write_log(read_log() | {name: row})


if __name__ == "__main__":
    launch(main, Settings, __doc__)
