"""How long an epoch and an evaluation take, and how much memory a whole run needs.

python benchmarks/bench_training.py                          # CiteULike
python benchmarks/bench_training.py --dataset Foursquare

Prints a table and asserts nothing. Times are the best of a few epochs: on a shared machine the
smallest is the least disturbed. Memory is the peak resident size of ``main_no_KD.py``, checkpoints
included, in a process of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from Models import build_model
from Utils.data_utils import LeaveOneOutSplit, load_split
from Utils.dataset import PairSampler
from Utils.evaluation import Evaluator
from Utils.optimizer import DenseAdam
from Utils.settings import launch


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
    # epochs timed, of which the best counts, after one that warms up
    epochs: int = 7


def best_seconds(split: LeaveOneOutSplit, dim: int, args: Settings) -> tuple[float, float]:
    """Return the seconds of the fastest training epoch and of the fastest evaluation."""
    model = build_model("BPR", split.num_users, split.num_items, dim, seed=0).to(args.device)
    sampler = PairSampler(split, 1024, 0, args.device)
    optimizer = DenseAdam(model.parameters(), lr=1e-3, weight_decay=1e-3)
    evaluator = Evaluator(split, args.device)
    training, evaluation = [], []
    for epoch in range(args.epochs + 1):
        start = time.perf_counter()
        for batch in sampler.epoch(epoch):
            loss = model.loss(*batch)
            loss.backward()
            optimizer.step()
        loss.item()  # waits for the device
        trained = time.perf_counter()
        evaluator.evaluate(model)
        training.append(trained - start)
        evaluation.append(time.perf_counter() - trained)
    return min(training[1:]), min(evaluation[1:])


def peak_megabytes(dim: int, args: Settings) -> int:
    """Return the peak resident memory of a run of three epochs."""
    flags = [
        "--dataset",
        args.dataset,
        "--dim",
        str(dim),
        "--data_dir",
        str(args.data_dir.resolve()),
    ]
    flags += ["--device", args.device, "--max_epoch", "3"]
    command = [sys.executable, str(ROOT / "main_no_KD.py"), *flags]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        (summary,) = Path(folder).rglob("summary.json")
        return json.loads(summary.read_text())["peak_rss_mb"]


def main(args: Settings) -> None:
    """Print the table."""
    split = load_split(args.dataset, "seed", 0, args.data_dir)
    print(f"{split.describe()}; best of {args.epochs}, {args.device}\n")
    print("| d | threads | training epoch, s | evaluation, s | peak memory of a run, MB |")
    print("| --- | --- | --- | --- | --- |")
    for dim in args.dims:
        memory = peak_megabytes(dim, args)
        for threads in args.thread_counts:
            torch.set_num_threads(threads)
            training, evaluation = best_seconds(split, dim, args)
            print(f"| {dim} | {threads} | {training:.3f} | {evaluation:.3f} | {memory} |")


if __name__ == "__main__":
    launch(main, Settings, __doc__)
