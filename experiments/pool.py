"""Tasks in processes, several at once: on this machine, or wherever a place starts them."""

import ctypes
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from experiments import ROOT

# Linux; it is looked up here, and not in a process that is just being forked
PRCTL = getattr(ctypes.CDLL(None), "prctl", None)


@dataclass
class Task:
    """A process to start once the runs in ``needs`` have ended.

    ``command`` is what comes after ``python``; a script of the project by its name alone.
    """

    name: str
    command: list[str]
    folder: Path | None = None  # a run's logs
    needs: Set[Path] = frozenset()  # its teachers' logs
    minutes: float | None = None  # estimated; None: nobody knows
    metric: str = ""  # said of a run when it has ended


class Started(Protocol):
    """What was started of a task: a ``Process`` here, or one on another machine."""

    def poll(self) -> int | None:
        """Return None until it has ended."""

    def failure(self) -> str:
        """Return in a line why it failed, once it has ended; empty if it did not."""

    def send_signal(self, number: int) -> None:
        """Pass on SIGINT, to end it after its epoch, or SIGTERM, at once."""


class Process(subprocess.Popen):
    """A process of Python that dies with the one that started it, on Linux.

    It has a group of its own, so that Ctrl-C reaches this process alone, which passes it on.
    """

    def __init__(self, command: list[str]) -> None:
        script = ROOT / command[0]
        self.said = tempfile.TemporaryFile()
        super().__init__(
            [sys.executable, str(script) if script.is_file() else command[0], *command[1:]],
            stdout=subprocess.DEVNULL,
            stderr=self.said,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )

    def failure(self) -> str:
        """Return in a line why it failed, once it has ended; empty if it did not."""
        with self.said as file:
            file.seek(0)
            lines = file.read().decode(errors="replace").strip().splitlines()
        if self.returncode < 0:
            return f"killed by signal {-self.returncode}"
        return (lines or ["no message"])[-1] if self.returncode else ""


def _die_with_parent() -> None:
    """Have the system end this process when the one that started it is killed (Linux)."""
    if PRCTL:
        PRCTL(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class Here:
    """The machine at hand, which starts as many as it is told to."""

    def slots(self) -> int:
        """Return how many runs there is room for at once."""
        return sys.maxsize

    def start(self, task: Task) -> Started:
        """Start a task."""
        return Process(task.command)


class Pool:
    """Has a place run tasks, ``jobs`` at once and no more than it has slots, and collects failures.

    The place is this machine, or ``experiments.cluster.Cluster``.
    """

    def __init__(self, tasks: list[Task], jobs: int, place: Here | None = None) -> None:
        self.waiting, self.jobs, self.place = tasks, jobs, place or Here()
        self.running: dict[Started, Task] = {}
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
        jobs = min(self.jobs, self.place.slots())
        busy = {task.folder for task in self.running.values()}
        for task in [] if self.stopping else list(self.waiting):
            if len(self.running) >= jobs:
                return
            if task.needs & (busy | {other.folder for other in self.waiting}):
                continue  # a teacher is being trained, or will be
            self.waiting.remove(task)
            self.running[self.place.start(task)] = task
            busy.add(task.folder)

    def _end(self, process: Started) -> str:
        """Forget a process that has ended, and return a line about it."""
        task, failure = self.running.pop(process), process.failure()
        if not failure:
            return f"done: {task.name}{_score(task)}"
        line = f"{task.name}: {failure}"
        if self.stopping:
            return f"stopped: {line}"
        self.failures.append(line)
        for other in [other for other in self.waiting if task.folder in other.needs]:
            self.waiting.remove(other)
            self.failures.append(f"{other.name}: not started, its teacher failed")
        return f"failed: {line}"

    def _progress(self) -> Iterator[str]:
        for task in self.running.values():
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


def _score(task: Task) -> str:
    from experiments.results import read_runs  # takes PyTorch, which workers do without

    summaries = read_runs(task.folder) if task.folder else []
    return "".join(
        f", test {task.metric} {run['test'][task.metric]:.4f}, "
        f"{(run['train_seconds'] + run['eval_seconds']) / 60:.1f} min"
        for run in summaries
    )
