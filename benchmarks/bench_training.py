"""How long an epoch and an evaluation take, and how much memory a run needs.

    python -m benchmarks.bench_training                             # all rows, CiteULike
    python -m benchmarks.bench_training --only URRD "DE, soft" --epochs 3 --thread_counts 2
    python -m benchmarks.bench_training --only "no_KD, d = 20" --dataset Foursquare
    python -m benchmarks.bench_training --only "no_KD, d = 20" --split share --epochs 41
    python -m benchmarks.bench_training --dataset Toys              # all rows of sequences

Prints a table and asserts nothing. Each row is a short run of a script as a user starts it, with
what its log says of it. Times are those of the best epoch: on a shared machine the smallest is the
least disturbed. Memory is the peak resident size, checkpoints included.

The selection of DE grows from soft to one-hot as its temperature falls: there is a row for its
first epoch and one for a temperature at which it is one-hot. The teacher is one of few epochs.
With --split share, and of sequences, the evaluation is that of validation and test among all items
together.
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

from Utils.errors import UserError, require_known
from Utils.settings import launch
from Utils.sources import DATASETS, IN_ORDER

ROOT = Path(__file__).resolve().parents[1]
ONE_HOT, NEUMF = "--tau_0=0.001", "--model=NeuMF"
TWO, BF16 = "--TA_dims=40,60", "--precision=bf16"  # the assistants of HyperKDMA's published code
ROWS = {  # name -> script and flags
    "no_KD, d = 20": ["main_no_KD.py", "--dim=20"],
    "no_KD, d = 200": ["main_no_KD.py", "--dim=200"],
    "no_KD, NeuMF, d = 25": ["main_no_KD.py", NEUMF, "--dim=25"],
    "no_KD, NeuMF, d = 250": ["main_no_KD.py", NEUMF, "--dim=250"],
    "no_KD, LightGCN, d = 20": ["main_no_KD.py", "--model=LightGCN", "--dim=20"],
    "no_KD, LightGCN, d = 200": ["main_no_KD.py", "--model=LightGCN", "--dim=200"],
    "no_KD, NGCF, d = 20": ["main_no_KD.py", "--model=NGCF", "--dim=20"],
    "no_KD, NGCF, d = 200": ["main_no_KD.py", "--model=NGCF", "--dim=200"],
    "no_KD, SGL, d = 20": ["main_no_KD.py", "--model=SGL", "--dim=20"],
    "no_KD, SGL, d = 200": ["main_no_KD.py", "--model=SGL", "--dim=200"],
    "no_KD, CML, d = 200": ["main_no_KD.py", "--model=CML", "--dim=200"],
    "no_KD, MultVAE, 600-200": ["main_no_KD.py", "--model=MultVAE", "--dim=200"],
    "no_KD, MultVAE, batch 500": [
        "main_no_KD.py",
        "--model=MultVAE",
        "--dim=200",
        "--batch_size=500",
    ],
    "no_KD, ItemVAE, 600-200": ["main_no_KD.py", "--model=ItemVAE", "--dim=200"],
    "no_KD, iALS, d = 200": ["main_no_KD.py", "--model=iALS", "--dim=200"],
    "RD, warm-up": ["main_RD.py"],
    "RD, hybrid": ["main_RD.py", "--warm_up=0"],
    "CD, teacher": ["main_CD.py"],
    "CD, student": ["main_CD.py", "--sampling=student"],
    "DE, soft": ["main_DE.py"],
    "DE, one-hot": ["main_DE.py", ONE_HOT],
    "URRD": ["main_URRD.py"],
    "IRRRD": ["main_IRRRD.py"],
    "DERRD, soft": ["main_DERRD.py"],
    "DERRD, one-hot": ["main_DERRD.py", ONE_HOT],
    "HetComp, d = 6": ["main_HetComp.py", "--dim=6"],
    "HetComp, d = 20": ["main_HetComp.py"],
    "HetComp, second stage": ["main_HetComp.py", "--stages=rank"],
    "DCD, weighted": ["main_DCD.py"],
    "DCD, top": ["main_DCD.py", "--sampling=top"],
    "CLDRD": ["main_CLDRD.py"],
    "RCEKD": ["main_RCEKD.py"],
    "UnKD": ["main_UnKD.py"],
    "S2D": ["main_S2D.py"],
    "S2D, sampled": ["main_S2D.py", "--num_samples=1000"],
    "PHR": ["main_PHR.py"],
    "PHR, bf16": ["main_PHR.py", BF16],
    "DETA, m = 2": ["main_DETA.py", ONE_HOT, TWO],
    "DETA, m = 2, bf16": ["main_DETA.py", ONE_HOT, TWO, BF16],
    "DETA, m = 2, soft": ["main_DETA.py", TWO],
    "DETA, m = 8": ["main_DETA.py", ONE_HOT],
    "DETA, m = 8, bf16": ["main_DETA.py", ONE_HOT, BF16],
    "PHRTA, m = 2, bf16": ["main_PHRTA.py", TWO, BF16],
    "RD, NeuMF": ["main_RD.py", NEUMF],
    "CD, NeuMF": ["main_CD.py", NEUMF],
    "URRD, NeuMF": ["main_URRD.py", NEUMF],
    "DE, NeuMF, soft": ["main_DE.py", NEUMF],
}
CASER, SASREC = "--model=Caser", "--model=SASRec"
OF_SEQUENCES = {
    "no_KD, Caser, d = 50": ["main_no_KD.py", CASER, "--dim=50"],
    "no_KD, Caser, d = 100": ["main_no_KD.py", CASER, "--dim=100"],
    "no_KD, SASRec, d = 50": ["main_no_KD.py", SASREC, "--dim=50"],
    "no_KD, SASRec, d = 100": ["main_no_KD.py", SASREC, "--dim=100"],
    "RD, Caser, warm-up": ["main_RD.py", CASER],
    "RD, Caser, hybrid": ["main_RD.py", CASER, "--warm_up=0"],
    "RD, SASRec, hybrid": ["main_RD.py", SASREC, "--warm_up=0"],
    "URRD, Caser": ["main_URRD.py", CASER],
    "S2D, Caser": ["main_S2D.py", CASER],
}


@dataclass
class Settings:
    """What is measured."""

    # data set
    dataset: str = "CiteULike"
    # leave-one-out, or shares, evaluated in full every ten epochs
    split: Literal["seed", "share"] = "seed"
    # folder of the data sets
    data_dir: Path = Path(os.environ.get("RECDISTILL_DATA", "datasets"))
    # device of models and batches
    device: Literal["cpu", "cuda"] = "cpu"
    # names of rows, as the table has them; all of them if there are none
    only: tuple[str, ...] = ()
    # numbers of threads to try
    thread_counts: tuple[int, ...] = (1, 2)
    # epochs of a run, of which the best counts
    epochs: int = 5


def run(args: Settings, folder: str, command: list[str], **flags: object) -> Path:
    """Run a script in ``folder`` and return the summary that it writes."""
    flags |= {"dataset": args.dataset, "data_dir": args.data_dir.resolve(), "device": args.device}
    in_order = args.dataset in IN_ORDER
    split = "time" if in_order else f"{args.split}0"
    flags |= {} if in_order else {"split": args.split}
    if command[0] != "main_no_KD.py":  # one of few epochs is not the usual one, so it is named
        named = {NEUMF: "NeuMF-d250", CASER: "Caser-d100", SASREC: "SASRec-d100"}
        teacher = next((named[flag] for flag in command if flag in named), "BPR-d200")
        flags["teacher"] = f"checkpoints/{args.dataset}/{teacher}/no_KD/{split}"
    command = [sys.executable, ROOT / command[0], *command[1:], "--overwrite"]
    command += [f"--{name}={value}" for name, value in flags.items()]
    if subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL).returncode:
        raise UserError(f"{command[1].name} failed, as said above")
    return max(Path(folder).rglob("summary.json"), key=lambda path: path.stat().st_mtime_ns)


def measure(summary: Path) -> tuple[float, float, int]:
    """Return the seconds of the best training epoch and evaluation, and the peak memory in MB."""
    log = summary.with_name("train.log").read_text()
    seconds = re.findall(r"([\d.]+) s \+ ([\d.]+) s$", log, flags=re.MULTILINE)
    training, evaluation = (list(map(float, column)) for column in zip(*seconds, strict=True))
    evaluation = [value for value in evaluation if value > 0]  # of the epochs that were
    return min(training), min(evaluation), json.loads(summary.read_text())["peak_rss_mb"]


def main(args: Settings) -> None:
    """Print the table."""
    require_known("--dataset", args.dataset, DATASETS)
    every = OF_SEQUENCES if args.dataset in IN_ORDER else ROWS
    for name in args.only:
        require_known("--only", name, every)
    rows = {name: every[name] for name in args.only or every}
    print(f"{args.dataset} on {args.device}, best of {args.epochs} epochs\n")
    print("| method | threads | training epoch, s | evaluation, s | peak memory of the run, MB |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        distilling = [row for row in rows.values() if row[0] != "main_no_KD.py"]
        for kind in (CASER, SASREC):
            if any(kind in row for row in distilling):
                run(args, folder, ["main_no_KD.py", kind, "--dim=100"], max_epoch=1)
                run(args, folder, ["main_RD.py", kind], max_epoch=1)
        if any(row[1:2] not in ([NEUMF], [CASER], [SASREC]) for row in distilling):
            run(args, folder, ["main_no_KD.py", "--dim=200"], max_epoch=11, keep_states=4)
            run(args, folder, ["main_IRRRD.py"], max_epoch=1)  # makes the teacher's lists
        if any(NEUMF in row for row in distilling):
            run(args, folder, ["main_no_KD.py", NEUMF, "--dim=250"], max_epoch=2)
            run(args, folder, ["main_URRD.py", NEUMF], max_epoch=1)
        for name, command in rows.items():
            for threads in args.thread_counts:
                # named, so that the teacher stays what it is
                flags = {"threads": threads, "max_epoch": args.epochs, "name": "measured"}
                training, evaluation, memory = measure(run(args, folder, command, **flags))
                print(f"| {name} | {threads} | {training:.3f} | {evaluation:.3f} | {memory} |")


if __name__ == "__main__":
    launch(main, Settings, __doc__)
