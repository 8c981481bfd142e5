"""How long an ensemble takes for the lists of all users, and how much memory.

    python -m benchmarks.bench_ensemble                          # the six kinds, by scores
    python -m benchmarks.bench_ensemble --members BPR iALS --combine ranks

Prints a table and asserts nothing. Members are untrained and of teachers' sizes, as weights do not
change the time. Lists are the first 500 items outside the training set.
"""

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from experiments.settings import SIZES
from experiments.teacher import KINDS
from Models import MODELS, build_model
from Models.ensemble import Ensemble
from Models.teacher import top_lists
from Utils.errors import require_known
from Utils.settings import launch
from Utils.sources import load_split


@dataclass
class Settings:
    """What is measured."""

    # base models of the members
    members: tuple[str, ...] = tuple(KINDS.values())
    # how they are combined
    combine: Literal["scores", "ranks"] = "scores"
    # CPU threads
    threads: int = 2
    # folder of the data sets
    data_dir: Path = Path(os.environ.get("RECDISTILL_DATA", "datasets"))


def main(args: Settings) -> None:
    """Print the table."""
    for name in args.members:
        require_known("--members", name, MODELS)
    torch.set_num_threads(args.threads)
    split = load_split("CiteULike", "seed", 0, str(args.data_dir))
    print("| members | combined by | threads | lists, s | peak memory, MB |")
    print("| --- | --- | --- | --- | --- |")
    models = [build_model(name, split, SIZES[name]["teacher_dim"], seed=0) for name in args.members]
    ensemble = Ensemble(split, models, [1.0] * len(models), args.combine).eval()
    begin = time.perf_counter()
    with torch.no_grad():
        top_lists(ensemble, split, "items", 500)
    seconds = time.perf_counter() - begin
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    names = ", ".join(args.members)
    print(f"| {names} | {args.combine} | {args.threads} | {seconds:.1f} | {memory} |")


if __name__ == "__main__":
    launch(main, Settings, __doc__)
