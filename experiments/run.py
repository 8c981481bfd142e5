"""Run what is missing of a table or figure, several runs at once, each with one thread.

    python -m experiments.run <experiment> --seeds 0-4 --jobs 2
    python -m experiments.run <experiment> --model NeuMF --seeds 0-2 --dry_run
    python -m experiments.run <experiment> --dataset Foursquare --methods Teacher Student
    python -m experiments.run <experiment> --seeds 0-4 --cluster tcp://host:8786

What has finished is in logs/ and is not done again. After Ctrl-C, which lets each run end its
epoch, or after the process was killed, the same command goes on. Teachers are trained first; a run
that fails is reported at the end and does not stop the others. ``--cluster`` has the workers of
another machine's Dask scheduler do the runs; experiments/cluster.py says how they are started.
"""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import tyro

from experiments.paper import Experiment
from experiments.papers import find, names
from experiments.plan import TEACHER, PlannedRun, plan, planned
from experiments.pool import Here, Pool, Task
from experiments.results import read_runs
from Utils.errors import UserError
from Utils.run_folder import RunFolder
from Utils.settings import launch
from Utils.sources import dataset_name


@dataclass
class Settings:
    """Which runs, and how many at once."""

    # <paper>/<experiment>, or <experiment> alone where one paper has it
    experiment: Annotated[str, tyro.conf.Positional]
    # data set
    dataset: str = "CiteULike"
    # base model, such as BPR, LightGCN, Caser; README lists them
    model: str = "BPR"
    # seeds, each with a split of its own: 0-4, or 0,2
    seeds: str = "0"
    # only these rows, named as in the tables: Teacher Student ...
    methods: tuple[str, ...] = ()
    # runs at once; None: one a core, or with --cluster one a thread of its workers
    jobs: int | None = None
    # address of a Dask scheduler whose workers are to do it, as in tcp://host:8786
    cluster: str = ""
    # auto takes CUDA where there is one
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # folder of the data sets; the environment variable RECDISTILL_DATA replaces this default
    data_dir: str = field(default_factory=lambda: os.environ.get("RECDISTILL_DATA", "datasets"))
    # only list what would run, with an estimate of the time
    dry_run: bool = False


def seeds_of(text: str) -> list[int]:
    """Return the numbers that ``0-4`` or ``0,2`` lists."""
    seeds: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not ends:
            raise UserError(f"--seeds {text!r} lists no seeds; write them like 0-4 or 0,2")
        seeds += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
    return list(dict.fromkeys(seeds))


class Missing(NamedTuple):
    """What is to do: runs, then what is computed from them; and what cannot be done."""

    runs: list[Task]
    afterwards: list[Task]
    refused: list[str]
    total: int  # of the planned runs


def missing(args: Settings) -> Missing:
    """Return what is to do; teachers whose weights are needed stand before their students.

    A finished run that was made with other settings than those of now is refused.
    """
    paper, name = find(args.experiment)
    experiment, seeds = paper.experiments[name], seeds_of(args.seeds)
    runs = plan(experiment.cells, args.dataset, args.model, seeds, args.methods)
    every = plan(experiment.cells, args.dataset, args.model, seeds)  # teachers among them
    todo: dict[RunFolder, PlannedRun] = {}
    refused = []
    for run in runs:
        try:
            if run.is_done():
                continue
        except UserError as error:
            refused.append(str(error))
            continue
        for teacher in run.teachers(every):
            if teacher.folder not in todo and not teacher.folder.has_weights():
                todo[teacher.folder] = teacher
        todo[run.folder] = run
    afterwards = list(_afterwards(args, experiment, seeds, todo))
    took = Durations()
    tasks = [_task(run, every, args, took, paper.metric) for run in todo.values()]
    return Missing(tasks, afterwards, refused, len(runs))


def _afterwards(
    args: Settings, experiment: Experiment, seeds: list[int], todo: dict[RunFolder, PlannedRun]
) -> Iterator[Task]:
    """Yield what is to be made of the runs; teachers that it needs are added to ``todo``."""
    where = {"dataset": args.dataset, "model": args.model}
    flags = [*(f"--{key}={value}" for key, value in where.items()), f"--data_dir={args.data_dir}"]
    where["dataset"] = dataset_name(args.dataset)
    for step in experiment.afterwards:
        command = ["-m", step.module, *flags]
        if not step.of_teacher:
            if not Path("logs", step.file.format(**where)).exists():
                yield Task(step.file.format(**where), command, minutes=step.minutes)
            continue
        for seed in seeds:
            teacher = planned(TEACHER, args.dataset, args.model, seed)
            if (teacher.folder.logs / step.file).exists():
                continue
            if not teacher.folder.has_weights():
                todo[teacher.folder] = teacher
            name = f"{step.file} of seed {seed}"
            yield Task(name, [*command, f"--seed={seed}"], minutes=step.minutes)


def _task(
    run: PlannedRun, every: list[PlannedRun], args: Settings, took: "Durations", metric: str
) -> Task:
    # a run that was stopped, or a finished one whose weights are needed and not at hand
    begun = run.folder.summary.exists() or run.folder.last.exists()
    flags = ["--resume"] if begun else []
    where = ["--threads=1", f"--device={args.device}", f"--data_dir={args.data_dir}"]
    return Task(
        name="/".join(run.folder.logs.parts[2:]),
        command=[*run.command, *where, *flags],
        folder=run.folder.logs,
        needs={teacher.folder.logs for teacher in run.teachers(every)},
        minutes=took.minutes(run),
        metric=metric,
    )


class Durations:
    """How long finished runs took, for estimates."""

    def __init__(self) -> None:
        self.runs = read_runs(Path("logs"))

    def minutes(self, run: PlannedRun) -> float | None:
        """Return the mean of the runs most like this one; None if there is none of the method."""
        mine = run.settings
        same = [r for r in self.runs if r["method"] == run.cell.method and r["model"] == mine.model]
        for keys in (("dataset", "dim", "name"), ("dataset", "dim"), ("dataset",)):
            like = [r for r in same if all(r[key] == getattr(mine, key) for key in keys)]
            if like:
                return float(np.mean([r["train_seconds"] + r["eval_seconds"] for r in like])) / 60
        return None


def list_tasks(tasks: list[Task], total: int, jobs: int) -> str:
    """Return what would run, and for how long, as text."""
    lines = [
        f"{'?' if task.minutes is None else f'{task.minutes:.1f}':>8s} min  {task.name}"
        + ("  (goes on)" if "--resume" in task.command else "")
        for task in tasks
    ]
    hours = sum(task.minutes or 0 for task in tasks) / 60
    unknown = sum(task.minutes is None for task in tasks)
    lines.append(
        f"{len(tasks)} to run, of {total} planned; about {hours:.1f} hours of one core, "
        f"{hours / jobs:.1f} with {jobs} at once" + (f", and {unknown} unknown" if unknown else "")
    )
    return "\n".join(lines)


def main(args: Settings) -> None:
    """Run, or list, what is missing."""
    if args.jobs is not None and args.jobs < 1:
        raise UserError(f"--jobs {args.jobs} is out of range; use 1 or more")
    todo = missing(args)
    with contextlib.ExitStack() as stack:
        place, jobs = Here(), args.jobs or os.cpu_count() or 1
        if args.cluster:
            from experiments.cluster import Cluster  # takes a package that is optional

            place, jobs = stack.enter_context(Cluster(args.cluster)), args.jobs or sys.maxsize
        at_once = min(jobs, place.slots())
        print(list_tasks(todo.runs + todo.afterwards, todo.total, at_once), flush=True)
        if args.dry_run:
            return
        failures = todo.refused
        # one after the other where times are taken
        for tasks, most in ((todo.runs, jobs), (todo.afterwards, 1)):
            pool = Pool(tasks, most, place)
            pool.run(args.experiment)
            failures += pool.failures
            if pool.stopping:
                raise UserError("interrupted; the same command goes on")
    if failures:
        raise UserError("\n  ".join([f"{len(failures)} failed:", *failures]))
    print(f"all {todo.total} are in logs/; python -m experiments.report {args.experiment}")


if __name__ == "__main__":
    launch(main, Settings, f"{__doc__}\nExperiments: {', '.join(names())}.\n")
