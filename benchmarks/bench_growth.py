"""How long a step takes, and what a run holds, as data grow: dense Adam and that of rows.

    python -m benchmarks.bench_growth                               # d = 20, four sizes
    python -m benchmarks.bench_growth --sizes 1e6x1e6x2e7 --dims 20 200 --optimizers rows
    python -m benchmarks.bench_growth --sizes 1e6x1e6x2e7 --methods S2D --optimizers rows

Prints a table and asserts nothing. Data are made, see ``Utils.synthetic``. A step is what a script
does for a batch; of a run's steps, some are taken, after some that are not counted. The time is
that of the best of ten groups: on a shared machine the least disturbed. With one thread, it is the
processor's, and not that of the clock, which others would disturb as well. ``start`` is what comes
before the first batch of an epoch, ``end`` brings all rows up to date; an epoch's minutes are made
of these. The teacher of S2D is a BPR of the same size without training, and its lists are drawn:
whoever makes them pays for all scores of all users, once a teacher; how long that takes is computed
from a few hundred users.
"""

import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from Models import build_model
from Models.bpr import BPR
from Models.distillers import S2D
from Models.lists import best_lists
from Models.teacher import HELD, Teacher
from Utils.dataset import UserSampler
from Utils.files import room_for
from Utils.optimizer import RowAdam, new_optimizer
from Utils.settings import launch
from Utils.sources import load_split
from Utils.split import Split

GROUPS, K, SAMPLES = 10, 300, 1000
BATCH = {"no_KD": 1024, "S2D": 256}
FEW = 256  # users whose lists are made
Clock = Callable[[], float]


@dataclass
class Settings:
    """What is measured."""

    # users x items x pairs
    sizes: tuple[str, ...] = ("5e3x5e3x1e5", "5e4x5e4x1e6", "2e5x2e5x4e6", "1e6x1e6x2e7")
    # sizes of the representations
    dims: tuple[int, ...] = (20,)
    # of Adam
    optimizers: tuple[Literal["dense", "rows"], ...] = ("dense", "rows")
    # no_KD: BPR; S2D: with 1,000 sampled items
    methods: tuple[Literal["no_KD", "S2D"], ...] = ("no_KD",)
    # steps that are counted
    steps: int = 200
    # CPU threads
    threads: int = 2
    # folder of the data sets
    data_dir: str = os.environ.get("RECDISTILL_DATA", "datasets")


class _Untrained(Teacher):
    """A BPR without training, and lists that are drawn."""

    def __init__(self, split: Split, dim: int, folder: Path) -> None:
        self.split, self.device, self.folder = split, torch.device("cpu"), folder
        self.model = build_model("BPR", split, dim, seed=1).requires_grad_(False)
        self.score = self.model.score

    def top_items(self, count: int) -> Tensor:
        """Return drawn lists: ``(num_users, count)`` int32."""
        top = room_for((self.split.num_users, count), np.int32, self.folder)
        generator = np.random.default_rng(0)
        for start in range(0, len(top), 4096):
            part = top[start : start + 4096]
            part[:] = generator.integers(self.split.num_items, size=part.shape, dtype=np.int32)
        return torch.from_numpy(top)

    def seconds(self, clock: Clock) -> float:
        """Return how long lists of all users take, computed from a few."""
        split, few = self.split, torch.arange(FEW)
        known = split.train_users < FEW
        seen = split.train_users[known], split.train_items[known]
        size = max(min(FEW, HELD // split.num_items), 1)
        begin = clock()
        for _ in best_lists(self.model.score_all, few, seen, K, size):
            pass
        return (clock() - begin) * split.num_users / FEW


def prepared(
    model: BPR, split: Split, teacher: Teacher | None
) -> tuple[object, Callable[[object], Tensor], list[nn.Module]]:
    """Return what makes batches, the loss of one, and what is trained: S2D, with a teacher."""
    if teacher is None:
        return model.sampler(split, BATCH["no_KD"], 0, "cpu"), model.loss, [model]
    s2d = S2D(model, teacher, K=K, tau=4.0, num_samples=SAMPLES)
    s2d.begin_epoch(0)
    return UserSampler(split, BATCH["S2D"], 0, "cpu"), lambda b: sum(s2d.losses(b)), [model, s2d]


def measure(args: Settings, split: Split, method: str, dim: int, optimizer: str) -> str:
    """Return a row of the table."""
    clock = time.process_time if args.threads == 1 else time.perf_counter
    model = build_model("BPR", split, dim, seed=0)
    teacher = _Untrained(split, dim, Path(args.data_dir)) if method == "S2D" else None
    sampler, loss, trained = prepared(model, split, teacher)
    adam = new_optimizer(optimizer, nn.ModuleList(trained), 0.001, 0.001)
    begin = clock()
    batches = sampler.epoch(0)
    first = next(batches)
    start = clock() - begin
    times, begin = [], clock()
    for batch in chain([first], batches):
        loss(batch).backward()
        adam.step()
        times.append(clock() - begin)
        begin += times[-1]
        if len(times) == args.steps + args.steps // 10:
            break
    counted = np.array(times[len(times) // 11 :])
    step = min(group.mean() for group in np.array_split(counted, min(GROUPS, len(counted))))
    begin = clock()
    if isinstance(adam, RowAdam):
        adam.catch_up()
    end = clock() - begin
    whole = split.num_users if method == "S2D" else len(split.train_users)
    epoch = start + step * whole / BATCH[method] + end
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    lists = f"{teacher.seconds(clock) / 60:.1f}" if teacher else ""
    cells = [split.dataset, method, str(dim), optimizer]
    cells += [f"{value:.2f}" for value in (start, 1e3 * step, end, epoch / 60)]
    return f"| {' | '.join([*cells, lists, f'{peak:.1f}'])} |"


def main(args: Settings) -> None:
    """Print the table."""
    torch.set_num_threads(args.threads)
    print(f"{args.threads} threads, best of {GROUPS} groups of {args.steps // GROUPS} steps\n")
    columns = (
        "data,method,d,Adam,start (s),step (ms),end (s),epoch (min),lists (min),peak so far (GB)"
    )
    print(f"| {columns.replace(',', ' | ')} |\n|{' --- |' * len(columns.split(','))}")
    for size in args.sizes:
        split = load_split(f"synthetic:{size}", "seed", 0, args.data_dir)
        for method in args.methods:
            for dim in args.dims:
                for optimizer in args.optimizers:
                    print(measure(args, split, method, dim, optimizer), flush=True)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
