"""What tests share: built-in, tiny and real data, scripts as a user runs them."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import main_DE
import main_no_KD
import Utils.sources
from experiments.evidence import Place
from experiments.plan import PlannedRun, planned
from experiments.script import start
from experiments.settings import resolve
from experiments.teacher import load_teacher
from Models import MODELS, build_model
from Models.recommender import Recommender
from Models.teacher import TrainedTeacher
from Utils.dataset import PairSampler, SequenceSampler, UserSampler
from Utils.evaluation import metrics
from Utils.sources import dataset_name, load_interactions
from Utils.split import HeldOut, Split, by_share, leave_one_out, protocol_of

ROOT = Path(__file__).resolve().parents[1]
SCRIPT_NAMES = sorted(path.name for path in ROOT.glob("main_*.py"))
SHARED = ROOT.parent / "shared"  # an optional place where data lies

torch.set_num_threads(1)
# what a shell starts in the background ignores Ctrl-C, and so would the scripts that tests start
signal.signal(signal.SIGINT, signal.default_int_handler)
# hundreds of runs in one process read them; to make them takes as long as a small run's training
Utils.sources.synthetic_pairs = cache(Utils.sources.synthetic_pairs)
# base models that learn from the built-in data, which has no order
UNORDERED = [name for name, model in MODELS.items() if not model.in_order]
STUDENTS = [name for name in UNORDERED if not MODELS[name].unused]  # in steps, so as students, too
TINY = "synthetic:300x600x5000"  # users, items and pairs of what hundreds of runs are trained on
TINY_NAME = dataset_name(TINY)


def real_file(*parts: str) -> Path:
    """Return the path of a real data or reference file, or skip the test if it is not at hand."""
    folders = [Path(os.environ["RECDISTILL_DATA"])] if "RECDISTILL_DATA" in os.environ else []
    folders += [ROOT / "datasets", SHARED / "datasets", SHARED / "reference"]
    for folder in folders:
        if folder.joinpath(*parts).exists():
            return folder.joinpath(*parts)
    pytest.skip(f"{'/'.join(parts)} is not at hand")


@pytest.fixture(scope="session")
def split() -> Split:
    """The built-in data set, split with seed 0: 1,000 users, 1,998 items."""
    return leave_one_out(load_interactions("synthetic", "unused"), 0, "synthetic")


@pytest.fixture(scope="session")
def shares() -> Split:
    """The same data, split by shares."""
    return by_share(load_interactions("synthetic", "unused"), 0, "synthetic")


def split_of(num_users: int, num_items: int) -> Split:
    """A split of this size for models to be built from: each user trains on a few items."""
    users = np.arange(num_users).repeat(3)
    items = (users * 5 + np.tile([0, 1, 3], num_users)) % num_items
    first = np.zeros(1, np.int64)  # one user has one item in either part
    held_out = [HeldOut.of_pairs(first, first + item, num_users) for item in (5, 9)]
    ids = np.arange(num_users), np.arange(num_items)
    return Split("data", "share0", "hash", *ids, users, items, *held_out, candidates=None)


def run(script: ModuleType, **given) -> None:
    """Run a script in this process, on the built-in data unless it is told otherwise."""
    start(script.main, script.Settings, {"dataset": "synthetic", **given})


def settings(script: ModuleType, **given):
    """Return what a script's settings are, on the built-in data unless told otherwise."""
    return resolve(script.Settings, {"dataset": "synthetic", **given})[0]


def trained_teacher(folder: Path, **given) -> Path:
    """Train a small teacher on the built-in data, d = 16, and return its checkpoint."""
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(main_no_KD, dim=16, lr=0.01, **given)
    return next(folder.rglob("best.pt"))


@pytest.fixture(scope="session")
def teacher_path(tmp_path_factory) -> Path:
    """The checkpoint of a small finished teacher, BPR, with states beside it."""
    folder = tmp_path_factory.mktemp("teacher")
    return trained_teacher(folder, max_epoch=12, reg=0.001, keep_states=3)


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory) -> Path:
    """The checkpoint of such a teacher that was trained on the tiny data."""
    return trained_teacher(tmp_path_factory.mktemp("tiny"), max_epoch=12, reg=0.001, dataset=TINY)


@pytest.fixture(scope="session")
def neumf_path(tmp_path_factory) -> Path:
    """The checkpoint of another, NeuMF."""
    return trained_teacher(tmp_path_factory.mktemp("neumf"), max_epoch=3, reg=0.0, model="NeuMF")


@pytest.fixture
def teacher(teacher_path, split) -> TrainedTeacher:
    """That teacher."""
    args = settings(main_DE, teacher=str(teacher_path), dim=8)
    return load_teacher(args, split, torch.device("cpu"))


@pytest.fixture
def student(split) -> Recommender:
    """A student for it, d = 8, with scores of the usual size."""
    model = build_model("BPR", split, 8, seed=0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    return model


@pytest.fixture
def workdir(tmp_path, monkeypatch) -> Path:
    """An empty current folder, without the environment's data folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RECDISTILL_DATA", raising=False)
    return tmp_path


class Killed(Exception):
    """Stands for the end of the process."""


@contextlib.contextmanager
def killed_in(epoch: int, monkeypatch) -> Iterator[None]:
    """Let the code inside die while it trains epoch ``epoch``."""

    def dying(original):
        def batches(sampler, number):
            for count, batch in enumerate(original(sampler, number)):
                if number == epoch and count == 2:
                    raise Killed
                yield batch

        return batches

    with monkeypatch.context() as patch:
        for sampler in (PairSampler, UserSampler, SequenceSampler):
            patch.setattr(sampler, "epoch", dying(sampler.epoch))
        with pytest.raises(Killed):
            yield


def start_script(*arguments: str, cwd: Path, **options) -> subprocess.Popen:
    """Start a script of this repository in ``cwd``, as a user does."""
    command = [sys.executable, str(ROOT / arguments[0]), *arguments[1:]]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, **pipes, **options)


def run_script(*arguments: str, cwd: Path, **options) -> subprocess.CompletedProcess:
    """Run a script to its end."""
    process = start_script(*arguments, cwd=cwd, **options)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def assert_refused(result: subprocess.CompletedProcess, *words: str) -> None:
    """Check that a script ended in one line, with exit status 2 and no traceback."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    for word in words:
        assert word in last, f"{word!r} is not in {last!r}"


# --- made-up runs --------------------------------------------------------------------------------


def below(logs: Path, run: PlannedRun) -> Path:
    """Return a run's folder below some logs."""
    return logs / run.folder.logs.relative_to("logs")


def fake_run(logs: Path, place: Place, seed: int, ranks: np.ndarray) -> None:
    """Write what a finished run leaves, with these test ranks."""
    wanted = planned(place.cell, place.dataset, place.model, seed)
    folder = below(logs, wanted)
    folder.mkdir(parents=True)
    held_out = HeldOut.one_each(ranks)
    test = metrics(torch.from_numpy(ranks), held_out, protocol_of(folder.name))
    summary = {"seed": seed, "test": test, "valid": test, "best_epoch": 1, "epochs": 2}
    summary |= {"train_seconds": 60.0 * (seed + 1), "eval_seconds": 6.0, "split": folder.name}
    summary |= dict.fromkeys(("dataset", "selection", "model", "method", "name"), "")
    summary |= {"dim": 1, "num_parameters": 1}
    (folder / "summary.json").write_text(json.dumps(summary))
    settings = dataclasses.asdict(wanted.settings)
    (folder / "config.json").write_text(json.dumps({"settings": settings, "data": {}}))
    np.savez(folder / "ranks.npz", test=ranks, test_counts=held_out.counts)


def draw(hits: float, seed: int, users: int = 400) -> np.ndarray:
    """Return ranks of which about a share ``hits`` are at most 5."""
    generator = np.random.default_rng(seed)
    return np.where(generator.random(users) < hits, 3, 50).astype(np.int16)


def hits(count: int, users: int = 1000) -> np.ndarray:
    """Return ranks of which the first ``count`` are at most 5."""
    return np.where(np.arange(users) < count, 3, 50).astype(np.int32)
