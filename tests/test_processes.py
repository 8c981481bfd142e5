"""One run on several processes: whoever trains whom, it is one run, and it ends as one."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import ROOT, run

import main_DE
import main_no_KD
import main_S2D
import main_URRD
from experiments.script import launch
from Models import build_model, recommender
from Models.teacher import read_teacher, top_lists
from Utils import processes
from Utils.dataset import Pairs, PairSampler, UserSampler
from Utils.errors import UserError
from Utils.evaluation import Evaluator
from Utils.optimizer import new_optimizer
from Utils.processes import Parts, share_of

FOLDER = "synthetic/BPR-d8/no_KD/seed0"
SMALL = ("--dataset=synthetic", "--dim=8", "--lr=0.01", "--threads=1")


class Result(NamedTuple):
    """What a process left."""

    status: int
    out: str
    err: str


def several(
    count: int, work: Callable[[], None], *flags: str, meanwhile: Callable | None = None
) -> list[Result]:
    """Call ``work`` in so many new processes that meet as torchrun has them meet.

    They are forked, so that none imports PyTorch again. ``meanwhile`` takes their ids.
    """
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    said = [(Path(f"{number}.out"), Path(f"{number}.err")) for number in range(count)]
    children = []
    for number in range(count):
        children.append(os.fork())
        if not children[-1]:
            place = {"RANK": number, "WORLD_SIZE": count, "MASTER_PORT": port}
            _be(place, work, flags, said[number])
    if meanwhile:
        meanwhile(children)
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    texts = [[path.read_text() for path in paths] for paths in said]
    return [Result(end, *text) for end, text in zip(ends, texts, strict=True)]


def _be(place: dict, work: Callable[[], None], flags: tuple, said: tuple[Path, Path]) -> None:
    """Be one of them, to its end."""
    status = 1
    try:
        os.environ |= {name: str(value) for name, value in place.items()}
        os.environ["MASTER_ADDR"] = "localhost"
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__ = [path.open("w") for path in said]
        sys.argv = ["main_no_KD.py", *flags]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        work()
        status = 0
    except SystemExit as end:
        status = end.code
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.__stdout__.flush()
        sys.__stderr__.flush()
        os._exit(status)


def script(module=main_no_KD, main: Callable | None = None) -> Callable:
    """Return the work of a script that is started from its command line."""
    return lambda: launch(main or module.main, module.Settings, "")


def read(name: str, folder: str = FOLDER) -> bytes:
    """Return a file of a run's logs or checkpoints."""
    return Path("checkpoints" if name.endswith(".pt") else "logs", folder, name).read_bytes()


def the_line(results: list[Result]) -> str:
    """Return the one line in which one process has said why all ended."""
    assert all(result.status == 2 for result in results if result.status != -signal.SIGKILL)
    said = [line for result in results for line in result.err.strip().splitlines()]
    said = [line for line in said if line and not line.startswith("stopping after this epoch")]
    assert len(said) == 1, said
    return said[0]


def has_begun(epoch: int) -> None:
    """Wait until process 0 has ended an epoch."""
    for _ in range(2000):
        if Path("0.out").exists() and f"epoch {epoch:4d}" in Path("0.out").read_text():
            return
        time.sleep(0.05)
    raise TimeoutError


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A folder with a run of two processes, of three epochs, and what they said."""
    folder = tmp_path_factory.mktemp("both")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        results = several(2, script(), *SMALL, "--max_epoch=3")
    assert [result.status for result in results] == [0, 0], results
    return folder, results


@pytest.fixture
def copied(both, workdir) -> Path:
    """A copy of that run, in the current folder."""
    shutil.copytree(both[0], workdir, dirs_exist_ok=True)
    return workdir


@pytest.fixture
def as_second(monkeypatch):
    """Let this process take itself for the second of two."""
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "rank", lambda: 1)


def test_what_is_kept_looks_like_one_process_had_kept_it(copied, both, split):
    config, summary = (json.loads(read(f"{name}.json")) for name in ("config", "summary"))
    assert config["processes"] == 2
    assert (config["data"]["num_users"], config["data"]["split_sha256"]) == (1000, split.sha256)
    assert summary["num_parameters"] == 8 * (split.num_users + split.num_items)
    assert summary["test"]["H@5"] > 0.05
    best = torch.load(Path("checkpoints", FOLDER, "best.pt"), weights_only=True)
    model = build_model("BPR", split, 8, seed=1)
    model.load_state_dict(best["weights"])
    values, ranks = Evaluator(split, "cpu").evaluate(model)
    assert summary["test"]["M@20"] == pytest.approx(values["test_M@20"], abs=1e-6)
    with np.load(Path("logs", FOLDER, "ranks.npz")) as kept:
        assert kept["valid"].tolist() == ranks["valid"].tolist()
    first, second = both[1]
    assert "on 2 x cpu" in first.out
    assert second.out == first.err == second.err == ""


def test_equal_commands_give_equal_bytes(copied):
    kept = [read(name) for name in ("metrics.csv", "best.pt", "ranks.npz")]
    several(2, script(), *SMALL, "--max_epoch=3", "--overwrite")
    assert [read(name) for name in ("metrics.csv", "best.pt", "ranks.npz")] == kept


def test_with_rows_a_resumed_run_ends_as_one_that_was_not(workdir):
    flags, kept = (*SMALL, "--optimizer=rows"), []
    for parts in ((2,), (1, 2)):
        for epochs in parts:
            results = several(2, script(), *flags, f"--max_epoch={epochs}", "--resume")
            assert [result.status for result in results] == [0, 0], results
        kept.append((read("metrics.csv"), read("best.pt")))
        shutil.rmtree("logs")
        shutil.rmtree("checkpoints")
    assert kept[0] == kept[1]


def test_another_number_of_processes_goes_on(copied, both):
    curves = read("metrics.csv").decode().splitlines()
    given = {"dim": 8, "lr": 0.01, "resume": True}
    run(main_no_KD, **given, max_epoch=4)
    by_one = read("metrics.csv").decode().splitlines()
    assert by_one[:4] == curves
    results = several(2, script(), *SMALL, "--max_epoch=5", "--resume")
    assert [result.status for result in results] == [0, 0], results
    by_two = read("metrics.csv").decode().splitlines()
    assert by_two[:5] == by_one
    losses = [float(line.split(",")[1]) for line in by_two[1:]]
    assert np.diff(losses).max() < 0  # without the moments, it would rise
    assert "resumed after epoch 3" in results[0].out
    assert several(2, script(), *SMALL, "--max_epoch=5")[0].out.count("finished: test H@5") == 1


def test_one_process_under_torchrun_is_a_plain_run(workdir):
    several(1, script(), *SMALL, "--max_epoch=2")
    found = read("metrics.csv"), read("best.pt"), read("last.pt")
    run(main_no_KD, dim=8, lr=0.01, threads=1, max_epoch=2, overwrite=True)
    assert (read("metrics.csv"), read("best.pt")) == found[:2]


@pytest.mark.parametrize("optimizer", ["dense", "rows"])
def test_steps_of_two_are_steps_of_one_with_both_batches(optimizer, workdir, split):
    """To rounding, and the items are the same bits on both."""
    batches = [next(PairSampler(split, 500, 0, "cpu").epoch(epoch)) for epoch in range(4)]

    def trained(data) -> dict[str, torch.Tensor]:
        model = build_model("BPR", data, 8, seed=0)
        modules = torch.nn.ModuleList([model])
        adam = new_optimizer(optimizer, modules, 0.01, 0.001)
        parts = Parts(modules, data, getattr(adam, "bounds", None))
        users = data.users if isinstance(data, processes.Share) else slice(0, data.num_users)
        for batch in batches:
            mine = (batch.users >= users.start) & (batch.users < users.stop)
            some = Pairs(*(column[mine] for column in batch))
            model.loss(some._replace(users=some.users - users.start)).backward()
            parts.sum_gradients()
            adam.step()
        if optimizer == "rows":
            adam.catch_up()
        return parts.whole(model.state_dict())

    def work() -> None:
        with processes.joined(True):
            torch.save(trained(share_of(split)), f"{processes.rank()}.pt")

    assert [result.status for result in several(2, work)] == [0, 0]
    first, second = (torch.load(f"{number}.pt") for number in (0, 1))
    assert torch.equal(first["item.weight"], second["item.weight"])
    for name, alone in trained(split).items():
        torch.testing.assert_close(first[name], alone, rtol=1e-4, atol=1e-6)


def test_first_weights_are_those_of_one_process(as_second, split, monkeypatch):
    monkeypatch.setattr(recommender, "CHUNK", 48)
    share = share_of(split)
    assert abs(len(share.train_users) - len(split.train_users) / 2) < 200
    for name in ("BPR", "CML", "NeuMF"):
        mine, whole = (build_model(name, data, 7, seed=3) for data in (share, split))
        parts = Parts(torch.nn.ModuleList([mine]), share)
        assert parts.elsewhere + mine.num_parameters() == whole.num_parameters()
        assert any(each in parts.apart for each in mine.state_dict())
        for each, value in whole.state_dict().items():
            wanted = value[share.users] if each in parts.apart else value
            assert torch.equal(mine.state_dict()[each], wanted), each


@pytest.mark.parametrize("module", [main_S2D, main_URRD])
def test_a_student_has_a_teacher(module, workdir, teacher_path, split):
    flags = [*SMALL, f"--teacher={teacher_path}", "--max_epoch=2"]
    lists = teacher_path.with_name("top_items.npz")
    lists.unlink(missing_ok=True)
    flags += ["--variant=paper"] if module is main_URRD else []
    results = several(2, script(module), *flags)
    assert [result.status for result in results] == [0, 0], results
    method = module.__name__.removeprefix("main_")
    curves = read("metrics.csv", FOLDER.replace("no_KD", method)).decode().splitlines()
    losses = [float(line.split(",")[1]) for line in curves[1:]]
    run(module, dim=8, lr=0.01, teacher=str(teacher_path), max_epoch=2, name="one", **(
        {"variant": "paper"} if module is main_URRD else {}
    ))  # fmt: skip
    alone = read("metrics.csv", FOLDER.replace("no_KD", f"{method}-one")).decode().splitlines()
    expected = [float(line.split(",")[1]) for line in alone[1:]]
    assert losses == pytest.approx(expected, rel=0.02)
    with np.load(lists) as kept:
        model = read_teacher(teacher_path, split, torch.device("cpu"), "").model
        assert (kept["top"] == top_lists(model, split, "items", kept["top"].shape[1]).numpy()).all()


def test_ctrl_c_ends_all_after_their_epoch(workdir):
    def interrupt(children):
        has_begun(1)
        for child in children:
            os.kill(child, signal.SIGINT)

    flags = (*SMALL, "--max_epoch=500", "--patience=500")
    line = the_line(several(2, script(), *flags, meanwhile=interrupt))
    kept = torch.load(Path("checkpoints", FOLDER, "last.pt"), weights_only=True)["history"]
    assert f"interrupted; epochs up to {len(kept) - 1} are kept, and this goes on: " in line
    assert line.endswith(
        "torchrun --nproc_per_node 2 main_no_KD.py " + " ".join(flags) + " --resume"
    )


def test_a_process_that_is_killed_ends_the_others(workdir):
    """With torchrun itself."""
    flags = (*SMALL, "--max_epoch=5000", "--patience=5000")
    command = [str(Path(sys.executable).with_name("torchrun")), "--nproc_per_node=2"]
    command += [str(ROOT / "main_no_KD.py"), *flags]
    with open("0.out", "w") as out, open("0.err", "w") as err:
        with subprocess.Popen(command, stdout=out, stderr=err) as started:
            try:
                has_begun(1)
                of_it = Path(f"/proc/{started.pid}/task/{started.pid}/children")
                os.kill(int(of_it.read_text().split()[-1]), signal.SIGKILL)
                started.wait(timeout=60)
            finally:
                started.terminate()  # and so its processes
    said = [line for line in Path("0.err").read_text().splitlines() if "main_no_KD.py: " in line]
    assert len(said) == 1, said
    assert "a process of this run ended; this goes on from the last checkpoint: torchrun" in said[0]
    assert said[0].endswith("--patience=5000 --resume")


def test_one_that_fails_speaks_for_all(workdir):
    def main(args, split, device):
        if processes.rank() == 1:
            raise UserError("its own fault")
        processes.total(torch.zeros(1))

    assert the_line(several(2, script(main=main), *SMALL)) == "main_no_KD.py: its own fault"
    missing = several(2, script(), "--dataset=other.csv")
    assert "--dataset other.csv: no such file" in the_line(missing)


def test_what_cannot_be_shared_out_is_refused(workdir, split, as_second, monkeypatch):
    with pytest.raises(UserError, match="--model LightGCN: sees all users at once"):
        build_model("LightGCN", share_of(split), 8, seed=0)
    sampler = UserSampler(share_of(split), 2, 0, "cpu")
    sampler.count = 499
    with pytest.raises(UserError, match="--batch_size 2: an epoch has 500 steps, and the share of"):
        next(sampler.epoch(0))
    monkeypatch.setattr(processes, "count", lambda: 1001)
    with pytest.raises(UserError, match="its 1,000 users do not fill 1001 processes; use fewer"):
        share_of(split)


def test_scripts_and_settings_that_cannot_are_refused(workdir):
    refused = several(2, script(main_DE), *SMALL)
    assert "runs as one process; start it with python, without torchrun" in the_line(refused)
    kept = several(2, script(), *SMALL, "--keep_states=2")
    assert "--keep_states 2: one process keeps states; leave it out" in the_line(kept)
