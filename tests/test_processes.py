"""One run on several processes: it is the run of one, whoever trains whom, and ends as one."""

import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import main_no_KD
from experiments.script import launch
from Models import build_model

FOLDER = "synthetic/BPR-d8/no_KD/seed0"
SMALL = ("--dataset=synthetic", "--dim=8", "--lr=0.01", "--threads=1")


class Result(NamedTuple):
    """What a process left."""

    status: int
    out: str
    err: str


def several(count: int, work, *flags: str) -> list[Result]:
    """Call ``work`` in so many new processes that meet, as torchrun starts them.

    They are forked, so that none has to import PyTorch again.
    """
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    children = []
    for number in range(count):
        files = [Path(f"{number}.{name}") for name in ("out", "err")]
        child = os.fork()
        if not child:
            _be(number, count, port, work, flags, files)
        children.append((child, files))
    results = []
    for child, files in children:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        results.append(Result(status, *(file.read_text() for file in files)))
    return results


def _be(number: int, count: int, port: int, work, flags: tuple[str, ...], files) -> None:
    """Be process ``number``, and end."""
    status = 1
    try:
        os.environ |= {"RANK": str(number), "WORLD_SIZE": str(count)}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__ = [open(f, "w") for f in files]
        sys.argv = ["main_no_KD.py", *flags]
        work()
        status = 0
    except SystemExit as end:
        status = end.code
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def script(module=main_no_KD):
    """Return the work of a script, started from its command line."""
    return lambda: launch(module.main, module.Settings, "", on_several=True)


def read(name: str) -> bytes:
    """Return a file of the run's logs or checkpoints."""
    return Path("checkpoints" if name.endswith(".pt") else "logs", FOLDER, name).read_bytes()


def last_line(results: list[Result]) -> str:
    """Return the one line that processes have said of their end; no other has said anything."""
    said = [result.err.strip() for result in results if result.err.strip()]
    assert len(said) == 1, said
    assert "Traceback" not in said[0]
    return said[0].splitlines()[-1]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A folder with a run of two processes, of six epochs, and what they said."""
    folder = tmp_path_factory.mktemp("both")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        results = several(2, script(), *SMALL, "--max_epoch=6")
    assert [result.status for result in results] == [0, 0], results
    return folder, results


@pytest.fixture
def copied(both, tmp_path, monkeypatch) -> Path:
    """A copy of that run, as the current folder."""
    shutil.copytree(both[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_looks_like_that_of_one_process(copied, both, split):
    config, summary = (json.loads(read(f"{name}.json")) for name in ("config", "summary"))
    assert config["processes"] == 2
    assert config["data"]["num_users"] == split.num_users
    assert config["data"]["split_sha256"] == split.sha256
    assert summary["num_parameters"] == 8 * (split.num_users + split.num_items)
    assert 0.1 < summary["test"]["H@5"] < 0.3  # one process reaches 0.15
    weights = torch.load("checkpoints/" + FOLDER + "/best.pt", weights_only=True)["weights"]
    model = build_model("BPR", split, 8, seed=1)
    model.load_state_dict(weights)  # all users, in their order
    found = processes_evaluated(model, split)
    assert summary["test"]["H@5"] == pytest.approx(found["test_H@5"], abs=1e-6)
    first, second = both[1]
    assert "on 2 x cpu" in first.out
    assert second.out == first.err == second.err == ""


def processes_evaluated(model, split):
    """Return the metrics of a model by one process."""
    from Utils.evaluation import Evaluator

    return Evaluator(split, "cpu").evaluate(model)[0]
