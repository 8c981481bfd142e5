"""What a run costs more on the workers of a Dask scheduler than in a process of this machine.

    python -m benchmarks.bench_cluster                   # nothing, 40 times; and a plan of 4 runs
    python -m benchmarks.bench_cluster --seeds 0-9

Prints a table and asserts nothing. Scheduler and two workers are on this machine, beside the
runs; two runs at once either way, on the built-in data. Their start is not counted.
"""

import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from experiments import run
from experiments.cluster import Cluster, two_workers
from experiments.pool import Pool, Task
from Utils.settings import launch


@dataclass
class Settings:
    """What is measured."""

    # processes that do nothing
    tasks: int = 40
    # of the plan, one student each
    seeds: str = "0-3"


def seconds(work: Callable[[], None]) -> float:
    """Return how long this takes; what it prints is dropped."""
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        work()
    return time.perf_counter() - start


def measure(args: Settings, address: str) -> dict[Path, bytes]:
    """Print a row, of a scheduler's workers or of this machine; return the curves, as they are."""
    nothing = [Task(str(number), ["-c", ""]) for number in range(args.tasks)]
    plan = run.Settings("table2", "synthetic", seeds=args.seeds, methods=("Student",), jobs=2)
    with Cluster(address) if address else contextlib.nullcontext() as place:
        idle = seconds(lambda: Pool(nothing, 2, place).run("nothing"))
    whole = seconds(lambda: run.main(replace(plan, cluster=address)))
    where, count = "on workers" if address else "here", len(run.seeds_of(args.seeds))
    print(f"| {where} | {idle / args.tasks:.3f} | {whole / count:.2f} |", flush=True)
    return {path.relative_to("logs"): path.read_bytes() for path in Path("logs").rglob("*.csv")}


def main(args: Settings) -> None:
    """Print times, and whether the curves are the same."""
    print("| where | a process that does nothing, s | a run of the plan, s |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        here = measure(args, "")
    with two_workers() as address:
        there = measure(args, address)
    print(f"{len(here)} learning curves, {'the same' if here == there else 'not the same'} bytes")


if __name__ == "__main__":
    launch(main, Settings, __doc__)
