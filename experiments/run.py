"""Run what is missing of a table or figure, several runs at once, each with one thread.

    python -m experiments.run <experiment> --seeds 0-4 --jobs 2
    python -m experiments.run <experiment> --model NeuMF --seeds 0-2 --dry_run
    python -m experiments.run <experiment> --dataset Foursquare --methods Teacher Student

What has finished is in logs/ and is not done again. After Ctrl-C, which lets each run end its
epoch, or after the process was killed, the same command goes on. Teachers are trained first; a run
that fails is reported at the end and does not stop the others.
"""

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Literal, NamedTuple

import numpy as np
import tyro
from tqdm import tqdm

from experiments import ROOT
from experiments.paper import Experiment
from experiments.papers import find, names
from experiments.plan import TEACHER, PlannedRun, plan, planned
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
    # runs at once
    jobs: int = field(default_factory=lambda: os.cpu_count() or 1)
    # auto takes CUDA where there is one
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # folder of the data sets; the environment variable RECDISTILL_DATA replaces this default
    data_dir: str = field(default_factory=lambda: os.environ.get("RECDISTILL_DATA", "datasets"))
    # only list what would run, with an estimate of the time
    dry_run: bool = False


@dataclass
class Task:
    """A process to start, ``python`` and ``command``, once the runs in ``needs`` have ended."""

    name: str
    command: list[str]
    folder: Path | None = None  # a run's logs
    needs: Set[Path] = frozenset()  # its teachers' logs
    minutes: float | None = None  # estimated; None: nobody knows
    metric: str = ""  # said of a run when it has ended


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
        command=[str(ROOT / run.command[0]), *run.command[1:], *where, *flags],
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


class Pool:
    """Runs tasks in processes, ``jobs`` at once, and collects what failed.

    A process has a group of its own, so that Ctrl-C reaches this one alone, which passes it on.
    """

    def __init__(self, tasks: list[Task], jobs: int) -> None:
        self.waiting, self.jobs = tasks, jobs
        self.running: dict[subprocess.Popen, tuple[Task, IO[bytes]]] = {}
        self.failures: list[str] = []
        self.stopping = False

    def run(self, title: str) -> None:
        """Run all tasks to their end, or, after Ctrl-C, those that run to the end of an epoch."""
        tqdm.monitor_interval = 0  # no thread beside this one, which forks
        with tqdm(total=len(self.waiting), desc=title, unit="run", disable=None) as bar:
            while self.running or (self.waiting and not self.stopping):
                try:
                    self._start()
                    for process in [p for p in self.running if p.poll() is not None]:
                        tqdm.write(self._end(process))
                        sys.stdout.flush()
                        bar.update()
                    bar.set_postfix_str(", ".join(self._progress()))
                    time.sleep(0.2)
                except KeyboardInterrupt:
                    self._interrupt()

    def _start(self) -> None:
        busy = {task.folder for task, _ in self.running.values()}
        for task in [] if self.stopping else list(self.waiting):
            if len(self.running) >= self.jobs:
                return
            if task.needs & (busy | {other.folder for other in self.waiting}):
                continue  # a teacher is being trained, or will be
            self.waiting.remove(task)
            errors = tempfile.TemporaryFile()
            process = subprocess.Popen(
                [sys.executable, *task.command],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
            self.running[process] = task, errors
            busy.add(task.folder)

    def _end(self, process: subprocess.Popen) -> str:
        """Forget a process that has ended, and return a line about it."""
        task, errors = self.running.pop(process)
        with errors:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
        if process.returncode == 0:
            return f"done: {task.name}{_score(task)}"
        why = f"killed by signal {-process.returncode}" if process.returncode < 0 else ""
        line = f"{task.name}: {why or (said or ['no message'])[-1]}"
        if self.stopping:
            return f"stopped: {line}"
        self.failures.append(line)
        for other in [other for other in self.waiting if task.folder in other.needs]:
            self.waiting.remove(other)
            self.failures.append(f"{other.name}: not started, its teacher failed")
        return f"failed: {line}"

    def _progress(self) -> Iterator[str]:
        for task, _ in self.running.values():
            curve = task.folder / "metrics.csv" if task.folder else Path()
            rows = curve.read_bytes().count(b"\n") if curve.is_file() else 0
            epoch = f" epoch {rows - 2}" if rows > 1 else ""  # a line for the names, and from 0
            yield task.name + epoch

    def _interrupt(self) -> None:
        """Let runs end their epoch; the second time, end them at once."""
        for process in self.running:
            process.send_signal(signal.SIGTERM if self.stopping else signal.SIGINT)
        if not self.stopping:
            print("\nstopping after the current epochs; Ctrl-C again stops at once", flush=True)
        self.stopping = True


def _die_with_parent() -> None:
    """Have the system end this process when the one that started it is killed (Linux)."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _score(task: Task) -> str:
    summaries = read_runs(task.folder) if task.folder else []
    return "".join(
        f", test {task.metric} {run['test'][task.metric]:.4f}, "
        f"{(run['train_seconds'] + run['eval_seconds']) / 60:.1f} min"
        for run in summaries
    )


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
    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs} is out of range; use 1 or more")
    todo = missing(args)
    print(list_tasks(todo.runs + todo.afterwards, todo.total, args.jobs), flush=True)
    if args.dry_run:
        return
    failures = todo.refused
    # one after the other where times are taken
    for tasks, jobs in ((todo.runs, args.jobs), (todo.afterwards, 1)):
        pool = Pool(tasks, jobs)
        pool.run(args.experiment)
        failures += pool.failures
        if pool.stopping:
            raise UserError("interrupted; the same command goes on")
    if failures:
        raise UserError("\n  ".join([f"{len(failures)} failed:", *failures]))
    print(f"all {todo.total} are in logs/; python -m experiments.report {args.experiment}")


if __name__ == "__main__":
    launch(main, Settings, f"{__doc__}\nExperiments: {', '.join(names())}.\n")
