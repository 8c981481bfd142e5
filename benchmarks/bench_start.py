"""How long data of any size take before the first batch, and an evaluation, as they grow.

    python -m benchmarks.bench_start                                # four sizes
    python -m benchmarks.bench_start --sizes 1e6x1e6x2e7 --dims 20 200

Prints a table and asserts nothing. Each step is a process of its own; its time is without the start
of Python. The steps: the data set is made; a first start reads it, and draws, keeps and hashes a
split; a second start reads both; a sample of users is evaluated, on both parts, by a BPR without
training, the best of five times.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.bench_import import in_a_process
from Models import build_model
from Utils.evaluation import Evaluator
from Utils.own_data import load_made
from Utils.settings import launch
from Utils.sources import load_split
from Utils.split import Split
from Utils.synthetic import Size


@dataclass
class Settings:
    """What is measured."""

    # users x items x pairs
    sizes: tuple[str, ...] = ("5e3x5e3x1e5", "5e4x5e4x1e6", "2e5x2e5x4e6", "1e6x1e6x2e7")
    # sizes of the representations
    dims: tuple[int, ...] = (20,)
    # users who are evaluated, or half of them if there are fewer
    eval_users: int = 10_000
    # CPU threads of the evaluation
    threads: int = 2
    # folder where data are, until the end: 4 KB a user and 50 bytes a pair at most
    scratch: Path = Path(tempfile.gettempdir())


def data(size: str, data_dir: Path) -> None:
    """Make a data set."""
    load_made(Size.of(f"synthetic:{size}"), data_dir)


def split_of(size: str, data_dir: Path) -> Split:
    """Return its split, drawn or read."""
    return load_split(f"synthetic:{size}", "seed", 0, str(data_dir))


def start(size: str, data_dir: Path) -> str:
    """Draw or read its split, and hash it, as each run does."""
    return split_of(size, data_dir).sha256


def evaluate(size: str, data_dir: Path, dim: int, users: int, threads: int) -> float:
    """Return the seconds of an evaluation."""
    torch.set_num_threads(threads)
    split = split_of(size, data_dir).measuring(users, 0)
    evaluator, model = Evaluator(split, "cpu"), build_model("BPR", split, dim, seed=0)
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        evaluator.evaluate(model)
        times.append(time.perf_counter() - begin)
    return min(times)


def main(args: Settings) -> None:
    """Print the table."""
    print(f"evaluations by {args.threads} threads\n")
    print("| data | step | seconds | of the CPU | peak memory, MB |")
    print("| --- | --- | --- | --- | --- |")
    steps = [("made", data), ("first start", start), ("second start", start)]
    for size in args.sizes:
        with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
            for name, step in steps:
                seconds, busy, memory, _ = in_a_process(step, size, Path(folder))
                print(f"| {size} | {name} | {seconds:.1f} | {busy:.1f} | {memory} |", flush=True)
            users = min(args.eval_users, Size.of(f"synthetic:{size}").users // 2)
            for dim in args.dims:
                given = (size, Path(folder), dim, users, args.threads)
                *_, memory, took = in_a_process(evaluate, *given)
                what = f"{users:,} users evaluated, d = {dim}"
                print(f"| {size} | {what} | {took:.3f} | | {memory} |", flush=True)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
