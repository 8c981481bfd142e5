"""How long a file of one's own takes to be read, and how much memory.

    python -m benchmarks.bench_import                            # 20 million rows, Parquet and CSV
    python -m benchmarks.bench_import --rows 1000000 --formats csv
    python -m benchmarks.bench_import --rows 100000000 --formats parquet --split share

Prints a table and asserts nothing. The rows are drawn, 138,000 users and 27,000 items, both with
long tails, in no order of time, so that a pair may come again. Each step is a process of its own,
which reads the whole file for its sha256; its time is without the start of Python. The steps: the
file is imported; then the import is read; a split is drawn from it; both are read.
"""

import contextlib
import io
import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np

from Utils.errors import need
from Utils.own_data import load_own
from Utils.settings import launch
from Utils.sources import load_split
from Utils.tables import Reading

USERS, ITEMS = 138_000, 27_000
CHUNK = 1 << 21  # rows that are drawn at a time


@dataclass
class Settings:
    """What is measured."""

    # rows of the file
    rows: int = 20_000_000
    # formats of the file
    formats: tuple[Literal["parquet", "csv"], ...] = ("parquet", "csv")
    # split that is drawn
    split: Literal["seed", "share", "time"] = "seed"
    # folder where file and import are, until the end; a file takes up to 26 bytes a row
    scratch: Path = Path(tempfile.gettempdir())


def write_rows(path: Path, rows: int) -> None:
    """Write a file of user, item, rating and timestamp; its suffix says the format."""
    arrow = need("pyarrow", "pyarrow", "this benchmark")
    text = need("pyarrow.csv", "pyarrow", "this benchmark")
    parquet = need("pyarrow.parquet", "pyarrow", "this benchmark")
    rng = np.random.default_rng(0)
    activity = np.cumsum(rng.lognormal(0, 1.2, USERS))
    popularity = np.cumsum(rng.permutation(1 / np.arange(10, ITEMS + 10) ** 0.9))
    names = ("userId", "movieId", "rating", "timestamp")
    kinds = (arrow.int64(), arrow.int64(), arrow.float64(), arrow.int64())
    schema = arrow.schema(list(zip(names, kinds, strict=True)))
    new_writer = text.CSVWriter if path.suffix == ".csv" else parquet.ParquetWriter
    with new_writer(path, schema) as writer:
        for start in range(0, rows, CHUNK):
            count = min(CHUNK, rows - start)
            users, items = (
                np.searchsorted(each, rng.random(count) * each[-1]) + 1
                for each in (activity, popularity)
            )
            ratings = rng.integers(1, 11, count) / 2
            times = rng.integers(800_000_000, 1_600_000_000, count)
            writer.write_table(arrow.table([users, items, ratings, times], schema=schema))


def read_import(path: Path, data_dir: Path) -> None:
    """Read a file of one's own, or its import."""
    load_own(path, data_dir, Reading())


def read_split(path: Path, data_dir: Path, split: str) -> None:
    """Draw or read its split."""
    load_split(str(path), split, 0, str(data_dir), Reading())


def measured(step: Callable[..., Any], *given: object) -> tuple[float, float, int, Any]:
    """Return a step's seconds, those of the CPU, the process' peak memory in MB, and its result."""
    begin, busy = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        result = step(*given)
    seconds, busy = time.perf_counter() - begin, time.process_time() - busy
    return seconds, busy, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, result


def in_a_process(step: Callable[..., Any], *given: object) -> tuple[float, float, int, Any]:
    """Return what is measured of a step in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        return fresh.submit(measured, step, *given).result()


def main(args: Settings) -> None:
    """Print the table."""
    print(f"{args.rows:,} rows, {USERS:,} users, {ITEMS:,} items; {os.cpu_count()} cores\n")
    print("| format | file, MB | step | seconds | of the CPU | peak memory, MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for form in args.formats:
        with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
            path, data_dir = Path(folder, f"ratings.{form}"), Path(folder, "data")
            in_a_process(write_rows, path, args.rows)
            steps = [("imported", read_import, path, data_dir)]
            steps += [("read again", read_import, path, data_dir)]
            for how in ("drawn", "read again"):
                steps.append((f"split {args.split}, {how}", read_split, path, data_dir, args.split))
            for name, step, *given in steps:
                seconds, busy, memory, _ = in_a_process(step, *given)
                size = path.stat().st_size // 1_000_000
                print(
                    f"| {form} | {size} | {name} | {seconds:.1f} | {busy:.1f} | {memory} |",
                    flush=True,
                )


if __name__ == "__main__":
    launch(main, Settings, __doc__)
