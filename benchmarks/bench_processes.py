"""How many pairs a second one run trains on one and on several processes.

    python -m benchmarks.bench_processes
    torchrun --nproc_per_node 2 -m benchmarks.bench_processes

Prints the rows of its number of processes and asserts nothing. Data are made, see
``Utils.synthetic``. A step is what ``main_no_KD.py`` does for a batch, of which each process has
its share; the time is that of the best of ten groups of steps: on a shared machine the least
disturbed. ``handed over`` is what a process gives to the others in a step (rows), or to each of
them (dense).
"""

import itertools
import os
import time
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import nn

from Models import build_model
from Utils import processes
from Utils.dataset import PairSampler
from Utils.optimizer import new_optimizer
from Utils.processes import Parts, share_of
from Utils.settings import launch
from Utils.sources import load_split

GROUPS = 10
given: list[int] = []


@dataclass
class Settings:
    """What is measured."""

    # users x items x pairs
    size: str = "2e5x2e5x4e6"
    # sizes of the representations
    dims: tuple[int, ...] = (20, 100)
    # of Adam
    optimizers: tuple[Literal["dense", "rows"], ...] = ("dense", "rows")
    # pairs a step, of all processes together
    batch_sizes: tuple[int, ...] = (1024, 8192)
    # steps in each of the groups
    steps: int = 10
    # CPU threads of a process
    threads: int = 1
    # folder of the data sets
    data_dir: str = os.environ.get("RECDISTILL_DATA", "datasets")

    on_several = True


def main(args: Settings) -> None:
    """Print the rows."""
    torch.set_num_threads(args.threads)
    count_bytes()
    with processes.first_alone():
        whole = load_split(f"synthetic:{args.size}", "seed", 0, args.data_dir)
    split = share_of(whole)
    columns = "optimizer | d | batch | processes | ms a step | thousand pairs a second | "
    print(f"| {columns}KB handed over |\n|{' --- |' * 7}")
    for name in args.optimizers:
        for dim in args.dims:
            model = build_model("BPR", split, dim, seed=0)
            modules = nn.ModuleList([model])
            adam = new_optimizer(name, modules, 0.001, 0.001)
            parts = Parts(modules, split, getattr(adam, "bounds", None))
            for batch_size in args.batch_sizes:
                took, given = measured(args, split, batch_size, model, adam, parts)
                print(
                    f"| {name} | {dim} | {batch_size:,} | {processes.count()} | {1000 * took:.1f} "
                    f"| {batch_size / took / 1000:.0f} | {given / 1000:,.0f} |",
                    flush=True,
                )


def measured(args, split, batch_size, model, adam, parts) -> tuple[float, float]:
    """Return the seconds of a step, in the best of all groups, and the bytes that it hands over."""
    sampler, found = PairSampler(split, batch_size, 0, "cpu"), []
    batches, before = sampler.epoch(0), sum(given)
    for _ in range(GROUPS + 1):
        started = time.perf_counter()
        for batch in itertools.islice(batches, args.steps):
            model.loss(batch).backward()
            parts.sum_gradients()
            adam.step()
        found.append((time.perf_counter() - started) / args.steps)
    return min(found[1:]), (sum(given) - before) / len(found) / args.steps


def count_bytes() -> None:
    """Have each exchange note in ``given`` how many bytes this process hands over."""
    for name in ("all_to_all_single", "all_gather"):
        exchange = getattr(dist, name)

        def noted(found, values, *lengths, exchange=exchange) -> None:
            given.append(values.nbytes)
            exchange(found, values, *lengths)

        setattr(dist, name, noted)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
