"""Runs on the workers of a Dask scheduler: as on this machine, and when workers die or differ."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, run
from tqdm import tqdm

import main_no_KD
from experiments import cluster, pool
from experiments import run as runner
from experiments.cluster import Cluster
from experiments.paper import Experiment
from experiments.papers.derrd import EXPERIMENTS
from experiments.plan import STUDENT
from experiments.pool import Pool, Task
from Utils.errors import UserError

distributed = cluster.distributed
SHORT = dataclasses.replace(STUDENT, changes=(("max_epoch", 30), ("patience", 30)))


def wait_for(what: Callable[[], object]) -> None:
    for _ in range(2400):
        if what():
            return
        time.sleep(0.05)
    pytest.fail("it did not come")


def start(module: str, *words: str, cwd: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", f"distributed.cli.{module}", *words, "--no-dashboard"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=cwd, env=environment, stderr=subprocess.DEVNULL)


def start_worker(shared: SimpleNamespace) -> None:
    words = (shared.address, "--nthreads=1", "--no-nanny")
    worker = start("dask_worker", *words, cwd=shared.folder)
    shared.workers[worker.pid] = worker


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[SimpleNamespace]:
    """A worker, its folder, and its scheduler's address."""
    folder = tmp_path_factory.mktemp("shared")
    file = folder / "scheduler.json"
    # not in the project's folder
    words = ("--host=127.0.0.1", "--port=0", f"--scheduler-file={file}")
    scheduler = start("dask_scheduler", *words, cwd=folder.parent)
    wait_for(lambda: is_written(file))
    address = json.loads(file.read_text())["address"]
    found = SimpleNamespace(folder=folder, address=address, workers={})
    start_worker(found)
    yield found
    for process in (*found.workers.values(), scheduler):
        process.kill()
        process.wait()


@pytest.fixture
def place(shared, monkeypatch) -> Iterator[Cluster]:
    """That worker, ready to be given tasks."""
    monkeypatch.chdir(shared.folder)
    with Cluster(shared.address) as found:
        yield found
    assert not list(shared.folder.glob("*/.shared-*"))


def test_a_run_goes_on_elsewhere_when_its_worker_is_killed(shared, monkeypatch, tmp_path, capsys):
    """And has the bytes that it has on one machine."""
    monkeypatch.chdir(shared.folder)
    monkeypatch.setitem(EXPERIMENTS, "tiny", Experiment("Tiny", [SHORT]))
    args = runner.Settings("tiny", "synthetic", device="cpu", cluster=shared.address)
    start_worker(shared)
    place = Path("synthetic/BPR-d20/no_KD-max_epoch-30-patience-30/seed0")

    def kill() -> None:
        wait_for((shared.folder / "checkpoints" / place / "last.pt").exists)
        with distributed.Client(shared.address, set_as_default=False) as client:
            pids = client.run(os.getpid)
            (worker,) = (pids[worker] for worker, keys in client.processing().items() if keys)
        shared.workers[worker].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    runner.main(args)
    killer.join()
    assert "done: BPR-d20/no_KD-max_epoch-30-patience-30/seed0" in capsys.readouterr().out
    assert "resumed after epoch" in Path("logs", place, "train.log").read_text()
    runner.main(args)
    assert "0 to run, of 1 planned" in capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    run(main_no_KD, dim=20, max_epoch=30, patience=30)
    alone = Path("logs/synthetic/BPR-d20/no_KD/seed0/metrics.csv").read_bytes()
    assert (shared.folder / "logs" / place / "metrics.csv").read_bytes() == alone


def python(code: str) -> list[str]:
    return ["-c", code]


def test_a_failure_is_said_once_and_stops_no_other(place):
    folder = Path("logs/D/t/no_KD/seed0")
    once = "import pathlib, sys; pathlib.Path('once').touch(exist_ok=False); sys.exit('no luck')"
    tasks = [
        Task("teacher", python(once), folder=folder),
        Task("student", python("open('student', 'w')"), needs={folder}),
        Task("killed", python("import os; os.kill(os.getpid(), 9)")),
        Task("fine", python("open('fine', 'w')")),
    ]
    every = Pool(tasks, 9, place)
    every.run("test")
    assert every.failures == [
        "teacher: no luck",
        "student: not started, its teacher failed",
        "killed: killed by signal 9",
    ]
    assert Path("fine").exists()
    assert not Path("student").exists()


WAITS = """
import os, pathlib, signal, time
pathlib.Path('{0}').write_text(str(os.getpid()))
try:
    time.sleep(60)
except KeyboardInterrupt:
    raise SystemExit('the epoch is over')
"""


def test_ctrl_c_is_passed_on_and_the_second_time_ends_at_once(place, monkeypatch):
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + WAITS
    for name, code, words in (("polite", WAITS, "the epoch is over"), ("deaf", deaf, "at once")):
        tasks = [Task(name, python(code.format(name))), Task("next", python("open('next', 'w')"))]
        lines, waited = [], []

        def sleep(seconds: float, name=name, waited=waited) -> None:
            if is_written(Path(name)):
                waited.append(seconds)
                if len(waited) == 1 or (name == "deaf" and len(waited) == 3):
                    raise KeyboardInterrupt
            time.sleep(0.05)

        with monkeypatch.context() as patch:
            patch.setattr(pool, "time", SimpleNamespace(sleep=sleep))
            patch.setattr(tqdm, "write", lines.append)
            Pool(tasks, 1, place).run("test")
        assert [line.rpartition(": ")[0] for line in lines] == [f"stopped: {name}"]
        assert words in lines[0]
        assert not Path("next").exists()
        wait_for(lambda name=name: is_gone(int(Path(name).read_text())))


def is_written(path: Path) -> bool:
    return path.exists() and path.read_text() != ""


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_runs_end_when_the_client_is_gone(shared, monkeypatch):
    monkeypatch.chdir(shared.folder)
    with Cluster(shared.address) as place:
        place.start(Task("alone", python(WAITS.format("alone"))))
        wait_for(lambda: is_written(Path("alone")))
    wait_for(lambda: is_gone(int(Path("alone").read_text())))


def test_what_cannot_do_the_work_is_refused(shared, monkeypatch, tmp_path):
    folder, address = shared.folder, shared.address
    monkeypatch.chdir(folder)
    monkeypatch.setattr(cluster, "PATIENCE", 0.2)
    for wrong in ("tcp://127.0.0.1:1", "nonsense"):
        with pytest.raises(UserError, match=f"^--cluster {wrong}: no Dask scheduler is there, but"):
            Cluster(wrong).__enter__()
    monkeypatch.setattr(cluster, "PATIENCE", 20)
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "git_commit", lambda: "abc with changes")
        words = (
            r"^worker tcp://\S+ has commit .*, not abc with changes; start it again with the same"
        )
        with pytest.raises(UserError, match=words):
            Cluster(address).__enter__()
    monkeypatch.chdir(tmp_path)
    words = rf"^worker tcp://\S+ has another logs/, in {folder}, not {tmp_path}; start it again"
    with pytest.raises(UserError, match=words):
        Cluster(address).__enter__()
    assert not [path for root in (folder, tmp_path) for path in root.glob("*/.shared-*")]


def test_a_scheduler_without_workers_is_refused(workdir, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    words = {"n_workers": 0, "processes": False, "dashboard_address": ":0"}
    with (
        distributed.LocalCluster(**words, set_as_default=False) as empty,
        pytest.raises(UserError, match="it has no workers; start them in the project's folder"),
    ):
        Cluster(empty.scheduler_address).__enter__()
    assert not (workdir / "logs").exists()


def test_a_worker_that_comes_later_and_differs_is_not_used(place, monkeypatch, capsys):
    assert place.slots() == 1
    place.workers.clear()
    monkeypatch.setattr(cluster, "git_commit", lambda: "abc")
    assert (place.slots(), place.slots()) == (0, 0)
    said = capsys.readouterr().out
    assert said.count("warning: nothing is run there: worker tcp://") == 1
    assert said.count("no worker is left; waiting for one") == 1


def test_what_waits_for_a_worker_is_done_by_one_that_comes_later(place):
    place.workers.clear()
    place.token += "-2"  # as of a cluster whose workers have all died
    remote = place.start(Task("late", python("open('late', 'w')")))
    time.sleep(0.3)
    assert remote.poll() is None
    assert place.slots() == 1
    wait_for(lambda: remote.poll() is not None)
    assert remote.failure() == ""
    assert Path("late").exists()
