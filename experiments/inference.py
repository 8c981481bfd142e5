"""Inference efficiency: how long a model takes for top-N lists, and what it weighs.

    python -m experiments.inference                                      # BPR on CiteULike
    python -m experiments.inference --model NeuMF --repeats 1            # a minute or two on a core
    python -m experiments.inference --dataset Toys --model Caser         # of sequences

After table 3 of the DE-RRD paper: the wall time to make the list of every user. The lists are
exact: all items are scored, those of training left out. Beside it stands the time for one user at
a time, as a service answers. Sizes are the papers', phi = 0.1, 0.5 and 1.0, of sequences 0.5 and
1.0; the teacher and the student of phi = 1.0 are of one size. Models are untrained, as weights do
not change the time. They keep nothing from call to call: for each batch, be it of one user, NeuMF
passes all items through their half of its first layer anew.

Prints a table and writes logs/<data set>/inference/<model>.json. Uses the CPU and, where there is
one, a CUDA device, each as the scripts do.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.settings import SIZES
from Models import build_model
from Models.lists import best_lists
from Models.teacher import CHUNK
from Utils.dataset import chunks_of_pairs
from Utils.errors import UserError, require_known
from Utils.files import write_json
from Utils.settings import RunSettings, launch, use_device
from Utils.sources import IN_ORDER, load_split, refuse_reading, require_dataset
from Utils.split import Split
from Utils.tables import Reading

FORMAT = "recdistill inference 1"
TOP_N = 20
NUM_SINGLE = 200  # users who are answered one at a time


@dataclass
class Settings(Reading):
    """What is measured."""

    # data set, synthetic is built in; or a file of your own
    dataset: str = "CiteULike"
    # base model, such as BPR, NeuMF, LightGCN, or Caser on data in an order
    model: str = "BPR"
    # measurements, of which the median is kept
    repeats: int = 3
    # CPU threads; 0 leaves the choice to PyTorch
    threads: int = 1
    # folder of the data sets
    data_dir: Path = field(
        default_factory=lambda: Path(os.environ.get("RECDISTILL_DATA", "datasets"))
    )


def sizes(model: str) -> dict[float, int]:
    """Return d of each phi, the student's share of the teacher's parameters."""
    teacher, student = SIZES[model]["teacher_dim"], SIZES[model]["dim"]
    return {student / teacher: student, 0.5: teacher // 2, 1.0: teacher}


@torch.no_grad()
def single_list(model: nn.Module, user: int, seen: tuple[Tensor, Tensor], count: int) -> list[int]:
    """Return what ``best_lists`` has for one user: the best ``count`` items, best first.

    ``seen`` is what ``chunks_of_pairs`` of size 1 gives for the user.
    """
    scores = model.score_all(model.latest(torch.tensor([user], device=seen[1].device)))
    scores[seen] = -torch.inf
    return scores.topk(min(count, scores.shape[1])).indices[0].tolist()


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Return the wall seconds of a call, with the device idle at both ends."""

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    start = clock()
    work()
    return clock() - start


def measure(
    model: nn.Module, split: Split, repeats: int, count: int = TOP_N
) -> dict[str, int | float]:
    """Return a model's size, the seconds for the lists of all users, and those for a single one.

    The latter in milliseconds: the mean over some users, the median, and what one answer in a
    hundred takes longer than. All but these two are medians over the repeats.
    """
    device = next(model.parameters()).device
    pairs, everyone = (split.train_users, split.train_items), torch.arange(split.num_users)
    seen, everyone = chunks_of_pairs(*pairs, split.num_users, 1, device), everyone.to(device)
    users = np.linspace(0, split.num_users - 1, NUM_SINGLE).astype(int).tolist()
    single_list(model, users[0], seen[users[0]], count)  # a device's first call sets it up
    singles = 1000 * np.array(
        [
            [timed(lambda u=u: single_list(model, u, seen[u], count), device) for u in users]
            for _ in range(repeats)
        ]
    )
    asked = model.latest(everyone)
    every = [
        timed(lambda: list(best_lists(model.score_all, asked, pairs, count, CHUNK)), device)
        for _ in range(repeats)
    ]
    return {
        "seconds_all_users": round(median(every), 4),
        "milliseconds_one_user": round(median(singles.mean(axis=1)), 4),
        "milliseconds_p50": round(float(np.percentile(singles, 50)), 4),
        "milliseconds_p99": round(float(np.percentile(singles, 99)), 4),
        "num_parameters": model.num_parameters(),
        "bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
    }


def name_of(device: torch.device) -> str:
    """Return what a device is called beside its times."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def measurements(args: Settings, split: Split) -> Iterator[dict[str, Any]]:
    """Yield a row for each device and size."""
    for kind in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        device = use_device(RunSettings(device=kind, threads=args.threads))
        for phi, dim in sizes(args.model).items():
            model = build_model(args.model, split, dim, seed=0)
            model.to(device).eval()
            yield {
                "model": args.model,
                "dim": dim,
                "phi": phi,
                "device": name_of(device),
                "threads": torch.get_num_threads(),
                "top_n": TOP_N,
                "users_per_batch": CHUNK,
                **measure(model, split, args.repeats),
            }


def main(args: Settings) -> None:
    """Measure, print the table row by row, and write it."""
    require_dataset(args.dataset)
    refuse_reading(args.dataset, args)
    require_known("--model", args.model, SIZES)
    if args.repeats < 1:
        raise UserError(f"--repeats {args.repeats} is out of range; use 1 or more")
    kind = "time" if args.dataset in IN_ORDER else "seed"
    split = load_split(args.dataset, kind, 0, str(args.data_dir), reading=args)
    print(
        f"{split.describe()}\n"
        f"lists of {TOP_N} for all users, {CHUNK} at a time, and for one user at a time "
        f"(mean of {NUM_SINGLE})\n\n"
        f"| model | d | phi | device | threads | parameters | MB | all users, s | one user, ms |\n"
        f"| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    rows = []
    for row in measurements(args, split):
        rows.append(row)
        print(
            "| {model} | {dim} | {phi} | {device} | {threads} | {num_parameters:,} | "
            "{megabytes:.1f} | {seconds_all_users:.2f} | {milliseconds_one_user:.2f} |".format(
                **row, megabytes=row["bytes"] / 1e6
            ),
            flush=True,
        )
    path = Path("logs") / split.dataset / "inference" / f"{args.model}.json"
    about = {"format": FORMAT, "dataset": split.dataset, "torch": torch.__version__}
    write_json(path, about | {"repeats": args.repeats, "rows": rows})
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    launch(main, Settings, __doc__)
