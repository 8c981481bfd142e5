"""How long an epoch and an evaluation take, and how much memory a run needs.

python benchmarks/bench_training.py                          # CiteULike
python benchmarks/bench_training.py --dataset Foursquare --epochs 8

Prints a table and asserts nothing. Each row is a short run of ``main_no_KD.py`` as a user starts
it, with what its log says of it. Times are those of the best epoch: on a shared machine the
smallest is the least disturbed. Memory is the peak resident size, checkpoints included.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

SCRIPT = Path(__file__).resolve().parents[1] / "main_no_KD.py"


@dataclass
class Settings:
    """What is measured."""

    # data set
    dataset: Literal["CiteULike", "Foursquare", "synthetic"] = "CiteULike"
    # folder of the data sets
    data_dir: Path = Path(os.environ.get("RECDISTILL_DATA", "datasets"))
    # device of models and batches
    device: Literal["cpu", "cuda"] = "cpu"
    # sizes of the representations
    dims: tuple[int, ...] = (20, 200)
    # numbers of threads to try
    thread_counts: tuple[int, ...] = (1, 2)
    # epochs of a run, of which the best counts
    epochs: int = 20


def measure(args: Settings, dim: int, threads: int) -> tuple[float, float, int]:
    """Return the seconds of the best training epoch and evaluation, and the peak memory in MB."""
    flags = {
        "dataset": args.dataset,
        "data_dir": args.data_dir.resolve(),
        "device": args.device,
        "dim": dim,
        "threads": threads,
        "max_epoch": args.epochs,
    }
    command = [sys.executable, SCRIPT, *(f"--{name}={value}" for name, value in flags.items())]
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL).returncode:
            sys.exit(2)  # the script has said why
        (summary,) = Path(folder).rglob("summary.json")
        log = summary.with_name("train.log").read_text()
        memory = json.loads(summary.read_text())["peak_rss_mb"]
    seconds = re.findall(r"([\d.]+) s \+ ([\d.]+) s$", log, flags=re.MULTILINE)
    training, evaluation = (min(map(float, column)) for column in zip(*seconds, strict=True))
    return training, evaluation, memory


def main(args: Settings) -> None:
    """Print the table."""
    print(f"{args.dataset} on {args.device}, best of {args.epochs} epochs\n")
    print("| d | threads | training epoch, s | evaluation, s | peak memory of the run, MB |")
    print("| --- | --- | --- | --- | --- |")
    for dim in args.dims:
        for threads in args.thread_counts:
            training, evaluation, memory = measure(args, dim, threads)
            print(f"| {dim} | {threads} | {training:.3f} | {evaluation:.3f} | {memory} |")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__, use_underscores=True))
