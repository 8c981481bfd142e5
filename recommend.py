"""A trained model in use: lists under the original ids, newcomers, export, sizes and times.

    python recommend.py logs/synthetic/BPR-d20/no_KD/seed0              # lists of 100 for all users
    python recommend.py checkpoints/CiteULike/BPR-d20/S2D/seed0 --export student --latency

RUN is the folder of a finished run, in logs/ or checkpoints/, or its best.pt. Lists have the
columns user, item, rank and score, as Parquet, which needs pyarrow, or CSV. What a user is known to
have is left out: items of training, of validation and of the test. Models of sequences answer after
all of these. No lists are made where --export or --latency is asked for, and nothing about lists.

--history folds in users who were not there at training: one ridge solve each, for models whose
scores are inner products, with weights that the validation set chooses. It is printed how near that
comes to trained users. Who was there is folded in, too, from the known items and those of the file.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.export import export
from experiments.latency import report
from experiments.serving import (
    known_users,
    lists_of,
    new_users,
    read_run,
    require_format,
    write_lists,
)
from Utils.errors import UserError
from Utils.settings import RunSettings, launch, use_device


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings:
    """Whose lists are made, and what else."""

    # the folder of a run, or its best.pt
    run: Annotated[Path, tyro.conf.Positional]
    # items of a list, fewer where fewer are left
    top: int = 100
    # .parquet or .csv; None: recommendations.parquet in the run's folder in checkpoints/
    output: Path | None = None
    # ids of users, one on a line, to have lists of these alone
    users: Path | None = None
    # what users took who were not there: any table or lines that --dataset reads, ratings and all
    history: Path | None = None
    # a new folder for factors, ids and a FAISS index, which answers without this project
    export: Path | None = None
    # measure sizes and times of the model and its teacher, and write latency.json into the run's
    # folder in logs/
    latency: bool = False
    # folder of the data sets
    data_dir: str = field(default_factory=lambda: RunSettings().data_dir)
    # auto takes CUDA where there is one
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # CPU threads; 0 leaves the choice to PyTorch
    threads: int = 0


# ---------------------------------------------------------------------------------------------


def main(args: Settings) -> None:
    """Do what is asked for."""
    if args.top < 1:
        raise UserError(f"--top {args.top} is out of range; use 1 or more")
    if args.users and args.history:
        raise UserError("--users are known and --history is of new ones; use one of them")
    if args.output:
        require_format(args.output)
    device = use_device(RunSettings(device=args.device, threads=args.threads))
    served = read_run(args.run, args.data_dir, device)
    print(f"{served.folder.best}: {served.describe()}", flush=True)
    chosen = args.users or args.history or args.output
    if chosen or not (args.export or args.latency):
        path = args.output or served.folder.checkpoints / "recommendations.parquet"
        require_format(path)
        asked = (new_users if args.history else known_users)(served, args.history or args.users)
        items = served.split.item_ids
        lists = lists_of(asked, len(items), args.top, device)
        rows = write_lists(path, asked.ids, items, lists)
        print(f"{path}: {rows:,} rows, for {len(asked.ids):,} users", flush=True)
    if args.export:
        print(export(args.export, served), flush=True)
    if args.latency:
        print(report(served, args.top))


if __name__ == "__main__":
    launch(main, Settings, __doc__)
