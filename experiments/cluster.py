"""The workers of a Dask scheduler as the place where runs are: ``experiments.run --cluster``.

    dask scheduler                                                             # anywhere
    python -m distributed.cli.dask_worker tcp://host:8786 --nthreads 4         # on each machine
    CUDA_VISIBLE_DEVICES=0 python -m distributed.cli.dask_worker tcp://host:8786 --nthreads 1

    python -m experiments.cluster            # all of it on this machine, with a small plan

A worker is started in the project's folder, which all machines share, since runs are read and
written there, also those that another worker left. It does a run for each of its threads; one of
a GPU has one. A run whose worker has died goes on from its last checkpoint on another one; one
that fails is not tried again. No lock of a folder reaches across machines on NFS, so a worker ends
its runs as soon as the scheduler no longer counts on them.
"""

import asyncio
import contextlib
import logging
import os
import platform
import secrets
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.pool import Process, Started, Task
from Utils.commit import git_commit
from Utils.errors import UserError, need

distributed = need("distributed", "distributed", "--cluster")

WORKER = "distributed.cli.dask_worker"  # as a module, which finds the project
FOLDERS = ("logs", "checkpoints")
PATIENCE = 10  # seconds to wait for an answer, or for a first worker
RUNNING: dict[str, Process] = {}  # on a worker: its processes, by their tasks' keys
ENDING = ("closing", "closed", "failed")
SMALL = {"experiment": "table2", "methods": ("Teacher", "Student", "SVD", "S2D")}


# --- on a worker -------------------------------------------------------------------------------


def work(command: list[str]) -> str:
    """Run a task's process to its end and return why it failed; empty if it did not.

    It is ended at once if nobody waits for it any more, or if the worker is closing.
    """
    worker = distributed.get_worker()
    key = worker.get_current_task()
    process = RUNNING[key] = Process(command)
    try:
        while process.poll() is None:
            time.sleep(0.2)
            state = worker.state.tasks.get(key)
            unwanted = state is None or state.state == "cancelled"
            if unwanted or worker.status.name in ENDING:
                process.terminate()
    finally:
        del RUNNING[key]
    return process.failure()


def interrupt(key: str) -> bool:
    """Have a task's process end after its epoch; return whether it is on this worker."""
    if key in RUNNING:
        RUNNING[key].send_signal(signal.SIGINT)
    return key in RUNNING


def look(token: str) -> dict[str, str | None]:
    """Return what a worker is, and where; in a folder that has a token's file, leave one beside it.

    That one's name ends with ``id``.
    """
    mine = f"{socket.gethostname()}-{os.getpid()}"
    for folder in FOLDERS:
        if Path(folder, token).exists():
            Path(folder, f"{token}-{mine}").touch()
    return {"id": mine, "folder": os.getcwd()} | _versions()


def _versions() -> dict[str, str | None]:
    """Return what must be the same everywhere for a run to come out the same."""
    found = {name: metadata.version(name) for name in ("torch", "numpy")}
    return {"commit": git_commit(), "Python": platform.python_version(), **found}


def _there(function: Callable) -> Callable:
    """Return a function that finds this one where it is called, as the scheduler cannot."""
    module, name = __name__, function.__name__
    return lambda *args: getattr(import_module(module), name)(*args)


def _leave(token: Path) -> None:
    try:
        token.parent.mkdir(exist_ok=True)
        token.touch()
    except OSError as error:
        raise UserError(f"{token.parent}: cannot write ({error.strerror}); mend that") from error


# --- here --------------------------------------------------------------------------------------


class Remote:
    """A task that a worker does, or is to do once one is free, asked as a ``Process`` is."""

    def __init__(self, cluster: "Cluster", task: Task) -> None:
        # a run that another worker had begun goes on
        more = ["--resume"] if task.folder and "--resume" not in task.command else []
        command = [*task.command, *more]
        # two clients that want the same have one task
        self.key = f"{task.name} in {Path.cwd()}: {' '.join(command)}"
        self.cluster, self.ended = cluster, False
        self.result: str | None = None
        self.future = cluster.client.submit(
            _there(work), command, key=self.key, resources={cluster.token: 1}, pure=False
        )

    def poll(self) -> int | None:
        """Return None until it has ended."""
        if self.future.status == "finished":
            # its worker may have died with the result; then the task is done again
            with contextlib.suppress(Exception):
                self.result = self.future.result(PATIENCE)
            return None if self.result is None else 0
        return None if self.future.status in ("pending", "lost") else 0

    def failure(self) -> str:
        """Return in a line why it failed, once it has ended; empty if it did not."""
        if self.result is not None:
            return self.result
        if self.future.status == "error":
            error = self.future.exception()
            if isinstance(error, distributed.KilledWorker):
                return f"its worker died, and {error.allowed_failures} others after it"
            return f"{type(error).__name__}: {error}".splitlines()[0]
        if not self.ended:
            raise self.cluster.gone
        return "ended at once"

    def send_signal(self, number: int) -> None:
        """Pass on SIGINT, to end it after its epoch, or SIGTERM, at once."""
        self.ended = number == signal.SIGTERM
        if not self.ended:
            with self.cluster.asked() as client:
                found = client.run(_there(interrupt), self.key, on_error="ignore")
            self.ended = not any(found.values())  # it has not begun
        if self.ended:
            self.future.cancel()


class Cluster:
    """Workers that are alike: of one folder, one commit and the same versions.

    Raises
    ------
    UserError
        When it is entered: if no scheduler answers, if it has no workers, or if one of them is not
        like this machine. One that comes later and is not, is warned about and not used.
    """

    def __init__(self, address: str) -> None:
        self.address, self.token = address, f".shared-{secrets.token_hex(8)}"
        self.workers: dict[str, bool] = {}  # by address: whether it is used
        self.waiting = False
        self.gone = UserError(
            f"--cluster {address}: the scheduler has ended; the same command goes on"
        )

    def __enter__(self) -> "Cluster":
        for name in ("distributed", "distributed.client"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are lines of ours
        self._require_scheduler()
        with contextlib.ExitStack() as stack:
            self.client = distributed.Client(self.address, timeout=PATIENCE, set_as_default=False)
            stack.callback(self.client.close)
            self._wait_for_a_worker()
            for fault in self._meet(self.client.nthreads()):
                raise UserError(fault)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def slots(self) -> int:
        """Return how many runs there is room for at once; meet workers who have come since."""
        with self.asked() as client:
            threads = client.nthreads()
            for fault in self._meet(threads):
                tqdm.write(f"warning: nothing is run there: {fault}")
        found = sum(count for address, count in threads.items() if self.workers.get(address))
        if not found and not self.waiting:
            tqdm.write("no worker is left; waiting for one")
        self.waiting = not found
        return found

    def start(self, task: Task) -> Started:
        """Start a task."""
        return Remote(self, task)

    @contextlib.contextmanager
    def asked(self) -> Iterator[Any]:
        """Give the client, and say in a line that the scheduler has ended, if it has."""
        try:
            yield self.client
        except (OSError, RuntimeError):
            raise self.gone from None

    def _require_scheduler(self) -> None:
        async def identity() -> dict[str, Any]:
            async with distributed.rpc(self.address) as other:
                return await other.identity()

        try:
            found = asyncio.run(asyncio.wait_for(identity(), PATIENCE))["type"]
        except Exception as error:  # of all kinds, as anything may be at the address
            found = f"nothing that answers ({str(error) or type(error).__name__})"
        if found != "Scheduler":
            raise UserError(
                f"--cluster {self.address}: no Dask scheduler is there, but {found}; start one "
                f"with dask scheduler, which prints its address"
            )

    def _wait_for_a_worker(self) -> None:
        try:
            self.client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise UserError(
                f"--cluster {self.address}: it has no workers; start them in the project's folder "
                f"with python -m {WORKER} {self.address}"
            ) from None

    def _meet(self, addresses: dict[str, int]) -> Iterator[str]:
        """Have new workers do our tasks; yield what is wrong with those that cannot."""
        token = self.token

        async def offer(dask_worker: Any) -> None:
            await dask_worker.set_resources(**{token: dask_worker.state.nthreads})
            # the scheduler gives what waits for a worker to one that begins, and to no other
            running, dask_worker.status = dask_worker.status, type(dask_worker.status).paused
            dask_worker.status = running

        new = [address for address in addresses if address not in self.workers]
        found = self._look(new) if new else {}
        for address, fault in found.items():
            self.workers[address] = not fault
            if fault:
                yield f"worker {address} {fault}"
            else:
                self.client.run(offer, workers=[address], on_error="ignore")  # it may be gone again

    def _look(self, addresses: list[str]) -> dict[str, str]:
        """Return what is wrong with each of these workers; empty if it can do our tasks."""
        try:
            for folder in FOLDERS:
                _leave(Path(folder, self.token))
            there = _there(look)
            found = self.client.run(there, self.token, workers=addresses, on_error="return")
            return {address: self._fault(answer) for address, answer in found.items()}
        finally:
            for folder in FOLDERS:
                for path in Path(folder).glob(f"{self.token}*"):
                    path.unlink(missing_ok=True)

    def _fault(self, answer: dict[str, str | None] | Exception) -> str:
        """Return what is wrong with a worker, by what ``look`` has found there."""
        again = "start it again in the project's folder, which all machines share"
        if isinstance(answer, Exception):
            return f"cannot use the project ({answer}); {again}, with python -m {WORKER}"
        for folder in FOLDERS:
            if not Path(folder, f"{self.token}-{answer['id']}").exists():
                return f"has another {folder}/, in {answer['folder']}, not {Path.cwd()}; {again}"
        for name, mine in _versions().items():
            if answer[name] != mine:
                return f"has {name} {answer[name]}, not {mine}; start it again with the same"
        return ""


@contextlib.contextmanager
def two_workers() -> Iterator[str]:
    """Start two workers on this machine, in a folder that is gone afterwards; give the address."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0"
        ) as local,
    ):
        yield local.scheduler_address


@dataclass
class Settings:
    """There are none."""


def main(args: Settings) -> None:
    """Have two workers on this machine run a small plan."""
    from experiments import results, run

    with two_workers() as address:
        run.main(run.Settings(**SMALL, dataset="synthetic", cluster=address))
        results.main(results.Settings(dataset="synthetic"))


if __name__ == "__main__":
    from Utils.settings import launch  # takes PyTorch, which workers do without

    launch(main, Settings, __doc__)
