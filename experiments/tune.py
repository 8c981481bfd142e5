"""Search a method's settings: train each combination, keep the best on the validation set.

    python -m experiments.tune no_KD --model NeuMF --grid lr=0.01,0.001 reg=0.0001,0.00001
    python -m experiments.tune no_KD --dim 200 --grid lr=0.01,0.001 reg=0.01,0.001 --draws 3
    python -m experiments.tune no_KD --grid lr=0.01,0.001 --fixed max_epoch=60 --fill

Runs several at once, with one thread each. What is done is written to experiments/tuning/ after
each run, and is not done again, nor is what logs/ holds; Ctrl-C, and the same command goes on.
With --fill, the best of all runs in that file becomes the row of experiments/settings.csv, unless
it is of what stands in the script's block. Test metrics are not looked at.
"""

import contextlib
import csv
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, fields, replace
from io import TextIOWrapper
from itertools import product
from math import isnan, nan
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

import tyro
from tqdm import tqdm

from experiments import ROOT
from experiments.results import read_rows, read_runs
from experiments.settings import (
    TABLE,
    Row,
    load_script,
    parse,
    read_table,
    resolve,
    write_table,
)
from experiments.teacher import own_teacher
from Models import MODELS
from Utils.errors import UserError
from Utils.files import write_whole
from Utils.run_folder import RunFolder, read_summary
from Utils.seeding import numpy_generator
from Utils.settings import launch
from Utils.sources import dataset_name, is_own, split_of
from Utils.split import protocol_of

LOGS = ROOT / "experiments/tuning"
SCRATCH = Path("tuning")  # where the runs leave their logs and checkpoints; not kept


@dataclass
class Settings:
    """What is searched."""

    # the method, as in main_<method>.py
    method: Annotated[str, tyro.conf.Positional]
    # values to combine: name=value,value name=value,value
    grid: tuple[str, ...]
    # settings that are the same for all runs, also how your own file is read: name=value name=value
    fixed: tuple[str, ...] = ()
    # data set, or a file of your own; its split of seed 0 is searched
    dataset: str = "CiteULike"
    # base model, such as BPR, LightGCN, Caser; README lists them
    model: str = "BPR"
    # size of the representations; None: the student's, phi = 0.1
    dim: int | None = None
    # so many combinations, drawn at random; 0: all of them
    draws: int = 0
    # runs at once
    jobs: int = field(default_factory=lambda: os.cpu_count() or 1)
    # put the best into experiments/settings.csv
    fill: bool = False
    # folder of the data sets
    data_dir: Path = field(
        default_factory=lambda: Path(os.environ.get("RECDISTILL_DATA", "datasets"))
    )


class Trial(NamedTuple):
    """A run of the search.

    ``valid`` is its best value of what selects the weights on its split, such as H@5, on the
    validation set; nan if it failed, for example because it diverged.
    """

    settings: str
    valid: float
    best_epoch: int
    epochs: int
    seconds: int


def combinations(grid: tuple[str, ...], fixed: tuple[str, ...], draws: int) -> list[str]:
    """Return the settings of each run, as ``name=value name=value``."""
    axes = []
    for part in grid:
        name, _, values = part.partition("=")
        if not values:
            raise UserError(f"{part!r} is no list of values; write it like lr=0.01,0.001")
        axes.append([f"{name}={value}" for value in values.split(",")])
    every = [" ".join((*point, *fixed)) for point in product(*axes)]
    if not draws or draws >= len(every):
        return every
    chosen = numpy_generator(0, "tuning").choice(len(every), draws, replace=False)
    return [every[index] for index in sorted(chosen)]


def read_trials(path: Path) -> list[Trial]:
    """Return the runs that a search has written, none if there is no such file yet."""
    if not path.exists():
        return []
    return [Trial(**row) for row in read_rows(path, get_type_hints(Trial))]


def add_trials(path: Path, *trials: Trial) -> None:
    """Write runs to those that the file holds now, the best on the validation set first."""
    trials = (*read_trials(path), *trials)
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path) as file:
        text = TextIOWrapper(file, write_through=True)
        rows = [Trial._fields, *sorted(trials, key=_rank)]
        csv.writer(text, lineterminator="\n").writerows(rows)
        text.detach()


def _rank(trial: Trial) -> tuple[bool, float]:
    """Sort the best first, and what failed last."""
    return isnan(trial.valid), -trial.valid


def run_trial(settings: str, command: list[str], folder: Path) -> Trial:
    """Run a script in ``folder`` to its end, or go on with it, and return what came out.

    Raises
    ------
    UserError
        What the script said, if it ended for another reason than a loss that is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    flags = [f"--{part}" for part in _from_anywhere(settings).split()]
    if any(folder.glob("checkpoints/**/last.pt")):
        flags.append("--resume")
    done = subprocess.run([*command, *flags], cwd=folder, capture_output=True, text=True)
    summary = next(folder.glob("logs/**/summary.json"), None)
    if summary:
        return _trial(settings, read_summary(summary))
    said = (done.stderr.strip().splitlines() or ["no message"])[-1]
    if "try a smaller --lr" in said:
        return Trial(settings, nan, -1, 0, 0)
    raise UserError(f"{settings}: {said}")


def _from_anywhere(settings: str) -> str:
    """Return settings whose paths of teachers hold in any folder."""
    found = re.search(r"\bteachers=(\S+)", settings)
    names = found[1].split(",") if found else []
    absolute = [str(Path(name).resolve()) if Path(name).exists() else name for name in names]
    return settings.replace(found[1], ",".join(absolute)) if found else settings


def _trial(settings: str, summary: dict[str, Any]) -> Trial:
    seconds = round(summary["train_seconds"] + summary["eval_seconds"])
    valid = summary["valid"][protocol_of(summary["split"]).selecting]
    return Trial(settings, valid, summary["best_epoch"], summary["epochs"], seconds)


def kept_trial(args: Settings, point: str) -> Trial | None:
    """Return the run of a point if ``logs/`` holds it, finished."""
    settings = script_settings(args, point)
    for run in read_runs(RunFolder.of(settings).logs.parents[1]):
        if run["method"] == args.method:
            with contextlib.suppress(UserError):
                run["folder"].refuse_other(settings)
                return _trial(point, run)
    return None


def script_settings(args: Settings, point: str) -> Any:
    """Return the script's settings with those of a point."""
    kind = load_script(args.method).Settings
    same = {"dataset": args.dataset, "model": args.model, "data_dir": str(args.data_dir)}
    same |= {"dim": args.dim} if args.dim else {}
    return resolve(kind, parse(point, kind) | same)[0]


def tuned(kind: type) -> list[str]:
    """Return the settings that a search decides: all numbers of a script but its size."""
    numbers = {name for name, of in get_type_hints(kind).items() if of in (int, float)}
    own = {field.name for field in fields(kind) if field.name in kind.__annotations__} - {"dim"}
    options = {option for model in MODELS.values() for option in model.options}
    return [field.name for field in fields(kind) if field.name in (own & numbers) | options]


def complete(args: Settings, point: str) -> str:
    """Return a point with all that is tuned, so that it says the same for ever."""
    settings = script_settings(args, point)
    names = dict.fromkeys((*tuned(type(settings)), *parse(point, type(settings))))
    unused = MODELS[args.model].unused if args.method == "no_KD" else ()  # else, the teacher's
    values = {name: getattr(settings, name) for name in names if name not in unused}
    return " ".join(f"{name}={value}" for name, value in values.items() if value is not None)


def search(args: Settings, todo: list[str], log: Path) -> list[UserError]:
    """Run what is to do, several at once; add the runs to ``log`` and return what failed."""
    first = script_settings(args, todo[0])
    command = [sys.executable, str(ROOT / f"main_{args.method}.py"), "--threads=1"]
    command += [f"--dataset={args.dataset}", f"--model={args.model}", f"--dim={first.dim}"]
    command += [f"--data_dir={args.data_dir.resolve()}"]
    if hasattr(first, "teacher") and not first.teachers:
        command.append(f"--teacher={own_teacher(first, split_of(first)).resolve()}")
    failures = []
    scratch = SCRATCH / log.stem
    with (
        ThreadPoolExecutor(args.jobs) as pool,
        tqdm(total=len(todo), unit="run", desc=log.stem) as bar,
    ):
        runs = [
            pool.submit(run_trial, point, command, scratch / point.replace(" ", "_"))
            for point in todo
        ]
        try:
            for run in as_completed(runs):
                try:
                    trial = run.result()
                    add_trials(log, trial)
                    tqdm.write(f"valid {trial.valid:.4f}  {trial.settings}")
                except UserError as error:
                    failures.append(error)
                    tqdm.write(f"failed: {error}")
                bar.update()
        except KeyboardInterrupt:
            pool.shutdown(wait=True, cancel_futures=True)
            raise UserError("interrupted; the same command goes on") from None
    return failures


def best_row(args: Settings, dim: int, trials: list[Trial], log: Path) -> Row:
    """Return the row of the table that the best run makes.

    Raises
    ------
    UserError
        If no run came to its end.
    """
    best = min(trials, key=_rank, default=None)
    if best is None or isnan(best.valid):
        raise UserError(f"{log}: no run came to its end, so there is no best one")
    kind = load_script(args.method).Settings
    settings = " ".join(p for p in best.settings.split() if p.partition("=")[0] in tuned(kind))
    source = f"best of {len(trials)} runs in {os.path.relpath(log, ROOT)}"
    return Row(dataset_name(args.dataset), args.model, args.method, dim, settings, source)


def main(args: Settings) -> None:
    """Search, and print what was found."""
    if is_own(args.dataset):  # runs have folders of their own
        args = replace(args, dataset=str(Path(args.dataset).resolve()))
    points = [complete(args, point) for point in combinations(args.grid, args.fixed, args.draws)]
    dim = script_settings(args, points[0]).dim
    log = LOGS / f"{dataset_name(args.dataset)}-{args.model}-{args.method}-d{dim}.csv"
    done = [script_settings(args, trial.settings) for trial in read_trials(log)]
    todo = [point for point in points if script_settings(args, point) not in done]
    print(f"{len(points) - len(todo)} of {len(points)} runs are in {log} already")
    kept = {point: trial for point in todo if (trial := kept_trial(args, point))}
    if kept:
        print(f"{len(kept)} more are in logs/")
        add_trials(log, *kept.values())
    todo = [point for point in todo if point not in kept]
    failures = search(args, todo, log) if todo else []
    trials = read_trials(log)
    row = best_row(args, dim, trials, log)
    print(f"best of {len(trials)}: {row.settings}")
    block = load_script(args.method).Settings()
    if args.fill and (args.dataset, args.model, dim) == (block.dataset, block.model, block.dim):
        print(f"main_{args.method}.py is of this data set, model and size: write it there, by hand")
    elif args.fill:
        write_table(sorted([row, *(other for other in read_table() if other[:4] != row[:4])]))
        print(f"{TABLE} has it now")
    if failures:
        raise UserError(f"failed: {len(failures)} of {len(todo)} runs; the first: {failures[0]}")


if __name__ == "__main__":
    launch(main, Settings, __doc__)
