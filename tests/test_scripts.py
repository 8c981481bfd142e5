"""Every ``main_*.py`` as a user runs it: help, mistakes, interruptions, sudden death."""

import ast
import importlib
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import (
    ROOT,
    SCRIPT_NAMES,
    assert_refused,
    killed_in,
    run,
    run_script,
    start_script,
)

import main_DE
import main_no_KD
from experiments.script import launch
from Utils import settings

SMALL = ("--dataset", "synthetic", "--dim", "8", "--threads", "1")

pytestmark = pytest.mark.usefixtures("workdir")


@pytest.fixture
def call(monkeypatch, capsys) -> Callable[..., SimpleNamespace]:
    """Return what starts a script with flags in this process, where another one adds nothing."""

    def call(script: str, *flags: str) -> SimpleNamespace:
        module = importlib.import_module(Path(script).stem)
        handler, status = signal.getsignal(signal.SIGINT), 0
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [script, *flags])
            try:
                launch(module.main, module.Settings, module.__doc__)
            except SystemExit as end:
                status = end.code
            finally:
                signal.signal(signal.SIGINT, handler)
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=status, stdout=out, stderr=err)

    return call


@pytest.mark.parametrize("script", SCRIPT_NAMES)
def test_help_shows_every_setting_with_its_default_and_meaning(script, call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = call(script, "--help")
    kind = importlib.import_module(Path(script).stem).Settings
    assert result.returncode == 0
    for field in fields(kind):
        assert f"--{field.name} " in result.stdout
    shown = result.stdout.split("options")[1]
    assert shown.count("(default: ") == len(fields(kind))


@pytest.mark.parametrize("script", SCRIPT_NAMES)
def test_a_script_is_short_and_every_setting_is_explained(script):
    """On its line, or on the one above."""
    text = (ROOT / script).read_text()
    lines = text.splitlines()
    assert len(lines) < 110
    block = next(
        node
        for node in ast.parse(text).body
        if isinstance(node, ast.ClassDef) and node.name == "Settings"
    )
    for field in block.body[1:]:
        if not isinstance(field, ast.AnnAssign) or "ClassVar" in ast.unparse(field):  # no setting
            continue
        line, above = lines[field.lineno - 1], lines[field.lineno - 2]
        assert "  # " in line or above.strip().startswith("# "), line


@pytest.mark.parametrize("script", SCRIPT_NAMES)
def test_a_script_imports_first_what_takes_care_of_ctrl_c(script):
    """And nothing that takes long before it."""
    nodes = ast.parse((ROOT / script).read_text()).body
    names = [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    names += [each.name for node in nodes if isinstance(node, ast.Import) for each in node.names]
    own = [name for name in names if name.partition(".")[0] not in sys.stdlib_module_names]
    assert own[0] == "experiments.script"
    assert {name.partition(".")[0] for name in own} <= {"experiments", "Models", "Utils"}


@pytest.mark.parametrize("script", SCRIPT_NAMES)
def test_a_run_from_the_shell_works(script, workdir, teacher_path, call):
    """Each as the shell starts it, and two of them from there."""
    names = {field.name for field in fields(importlib.import_module(Path(script).stem).Settings)}
    flags = {"max_epoch": 1, "teacher": teacher_path, "num_experts": 3, "TA_dims": 12}
    chosen = [f"--{name}={value}" for name, value in flags.items() if name in names]
    assistants = int("kd" in names)
    if assistants:  # one that passes for a run of the usual length
        run(main_DE, dim=12, teacher=str(teacher_path), max_epoch=1)
        (path,) = workdir.rglob("config.json")
        path.write_text(path.read_text().replace('"max_epoch": 1,', '"max_epoch": 1000,'))
    start = call
    if script in ("main_no_KD.py", "main_S2D.py"):
        start = partial(run_script, cwd=workdir)
    result = start(script, *SMALL, *chosen)
    assert result.returncode == 0, result.stderr
    assert "test   H@5 0." in result.stdout
    assert result.stderr == ""
    assert len(list((workdir / "logs").rglob("summary.json"))) == 1 + assistants


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--dimension", "20"], "dimension"),
        (["--model", "NeuFM"], "--model 'NeuFM' is unknown; did you mean NeuMF? There are BPR; "),
        (["--dataset", "citeulike"], "--dataset 'citeulike' is unknown; did you mean CiteULike? "),
        (["--dataset", "MovieLens"], "--dataset 'MovieLens' is unknown; There are AmazonVideoG"),
        (["--dim", "many"], "many"),
        (["--selection", "best"], "best"),
    ],
)
def test_an_unknown_flag_or_choice_is_refused(workdir, call, flags, word):
    result = call("main_no_KD.py", *flags)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert word in result.stderr
    assert not list(workdir.iterdir())


def test_an_error_of_the_user_is_one_line(workdir):
    (workdir / "data/CiteULike").mkdir(parents=True)
    (workdir / "data/CiteULike/users.dat").write_text("2 1 2\n3 1\n")
    result = run_script("main_no_KD.py", "--data_dir", "data", cwd=workdir)
    assert_refused(result, "main_no_KD.py: data/CiteULike/users.dat:2: the count says 3 items")
    assert len(result.stderr.splitlines()) == 1
    assert not (workdir / "logs").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dim", "0"], ["--dim 0 is out of range"]),
        (["--lr", "-1"], ["--lr -1.0 is out of range"]),
        (["--batch_size", "0"], ["--batch_size 0 is out of range"]),
        (["--seed", "-1"], ["--seed -1 is out of range"]),
        (["--num_layers", "2"], ["--num_layers 2: BPR has no such setting; leave it out"]),
        (["--model=NeuMF", "--num_layers=5"], ["--num_layers 5: layers that halve from 8 units"]),
        (["--model=NGCF", "--dropout=1.0"], ["--dropout 1.0: leaves nothing; use a share below 1"]),
        (["--model=SGL", "--dropout=1.5"], ["--dropout 1.5 is out of range; use a share, from 0"]),
        (["--model=SGL", "--tau_SSL=0"], ["--tau_SSL 0.0 is out of range; use a number above 0"]),
        (["--model=LightGCN", "--dropout=0"], ["--dropout 0.0: LightGCN has no such setting; lea"]),
        (["--lr", "1e38"], ["epoch ", "batch ", "train_loss is ", "smaller --lr"]),
    ],
)
def test_a_setting_that_cannot_work_is_one_line(call, flags, words):
    assert_refused(call("main_no_KD.py", *SMALL, *flags), *words)


def test_a_checkpoint_cut_short_is_one_line(workdir, call, monkeypatch):
    with killed_in(2, monkeypatch):
        run(main_no_KD, dim=8)
    (path,) = (workdir / "checkpoints").rglob("last.pt")
    path.write_bytes(path.read_bytes()[:1000])
    result = call("main_no_KD.py", *SMALL, "--resume")
    assert_refused(result, "last.pt: cut short", "--overwrite to start again")


def test_the_environment_names_the_data_folder_and_a_flag_overrides_it(call, monkeypatch):
    monkeypatch.setenv("RECDISTILL_DATA", "elsewhere")
    result = call("main_no_KD.py", "--split", "published")
    assert_refused(result, "elsewhere/CiteULike/published_split0.npz: no such file; put")
    result = call("main_no_KD.py", "--split", "published", "--data_dir", "here")
    assert_refused(result, "here/CiteULike/published_split0.npz")


def test_an_output_folder_that_cannot_be_made_is_one_line(workdir, call):
    (workdir / "logs").write_text("a file where the folder should be")
    result = call("main_no_KD.py", *SMALL)
    assert_refused(result, "logs/synthetic", "cannot write", "choose another folder")


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="no file system that refuses everybody")
def test_a_read_only_output_folder_is_one_line(workdir, call):
    (workdir / "logs").symlink_to("/sys")  # read-only even for the superuser
    result = call("main_no_KD.py", *SMALL)
    assert_refused(result, "logs/synthetic", "cannot write", "choose another folder")
    assert not (workdir / "checkpoints").exists()


@pytest.mark.parametrize("room", [100, 20_000, 200_000])
def test_a_full_disk_is_one_line_and_what_was_written_stays_whole(workdir, room):
    """Files may not grow past ``room`` bytes, which fails like a disk without room."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    run(main_no_KD, dim=8, max_epoch=1)  # so that the split is there
    flags = (*SMALL, "--name", "full", "--max_epoch", "3")
    result = run_script("main_no_KD.py", *flags, cwd=workdir, preexec_fn=limit)
    assert_refused(result, "cannot write", "make room")
    assert not list(workdir.rglob(".*.tmp"))
    run(main_no_KD, dim=8, max_epoch=3, name="full", overwrite=True)
    assert (workdir / "logs/synthetic/BPR-d8/no_KD-full/seed0/summary.json").exists()


def _wait_for_epochs(workdir: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = list((workdir / "logs").rglob("metrics.csv"))
        if found and found[0].read_text().count("\n") > count:
            return
        time.sleep(0.01)
    pytest.fail("the run did not start")


def test_ctrl_c_keeps_the_last_whole_epoch_and_says_how_to_go_on(workdir, monkeypatch, capsys):
    flags = (*SMALL, "--max_epoch", "400", "--patience", "400")
    process = start_script("main_no_KD.py", *flags, "--overwrite", cwd=workdir)
    _wait_for_epochs(workdir, 3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert "interrupted; epochs up to" in last
    assert last.endswith(f"python {ROOT / 'main_no_KD.py'} {' '.join(flags)} --resume")
    epoch = int(last.split("epochs up to ")[1].split()[0])
    (metrics,) = (workdir / "logs").rglob("metrics.csv")
    assert metrics.read_text().splitlines()[-1].startswith(f"{epoch},")
    with killed_in(epoch + 2, monkeypatch):
        run(main_no_KD, dim=8, max_epoch=400, patience=400, resume=True)
    assert f"resumed after epoch {epoch}\n" in capsys.readouterr().out
    assert metrics.read_text().splitlines()[-1].startswith(f"{epoch + 1},")


KILLED = """
import os, random, signal, sys, threading
sys.path.insert(0, {root!r})
import main_no_KD, Utils.run
from experiments.script import launch

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def end_epoch(run, epoch, end=Utils.run.Run._end_epoch):
    end(run, epoch)
    if epoch == {epoch}:
        threading.Timer(random.random() / 10, kill).start()
    if epoch == {epoch} + 8:
        kill()

Utils.run.Run._end_epoch = end_epoch
Utils.run.CHECKPOINT_SHARE = 1e9  # last.pt is written after each epoch
launch(main_no_KD.main, main_no_KD.Settings, "")
"""


def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(workdir, monkeypatch):
    """SIGKILL, again and again, leaves nothing that a resumed run does not put right.

    Whoever is killed sets the clock of it, so that the moment is one of the run on any machine.
    """
    whole, killed = workdir / "whole", workdir / "killed"
    given = {"dim": 8, "threads": 1, "max_epoch": 36, "patience": 36}
    flags = [f"--{name}={value}" for name, value in given.items()]
    whole.mkdir()
    monkeypatch.chdir(whole)
    run(main_no_KD, **given)
    killed.mkdir()
    for epoch in (0, 12, 24):
        (killed / "killed.py").write_text(KILLED.format(root=str(ROOT), epoch=epoch))
        path = str(killed / "killed.py")
        result = run_script(path, "--dataset=synthetic", *flags, "--resume", cwd=killed)
        assert result.returncode == -signal.SIGKILL, result.stderr
    assert not list(killed.rglob("summary.json"))
    monkeypatch.chdir(killed)
    run(main_no_KD, **given, resume=True)
    for name in ("metrics.csv", "best.pt", "ranks.npz"):
        (expected,), (found,) = whole.rglob(name), killed.rglob(name)
        assert found.read_bytes() == expected.read_bytes(), name
    (expected,), (found,) = (
        [torch.load(path, weights_only=True) for path in folder.rglob("last.pt")]
        for folder in (whole, killed)
    )
    for key in ("modules", "optimizer", "history"):
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=0)
    assert not list(killed.rglob(".*.tmp"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("name", ["train.log", "metrics.csv"])
def test_a_log_that_takes_no_more_is_one_line(workdir, call, name):
    folder = workdir / "logs/synthetic/BPR-d8/no_KD/seed0"
    folder.mkdir(parents=True)
    (folder / name).symlink_to("/dev/full")
    result = call("main_no_KD.py", *SMALL, "--max_epoch", "2")
    assert_refused(result, "cannot write (No space left on device); make room")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="no file system that refuses everybody")
def test_read_only_checkpoints_are_named(workdir, call):
    (workdir / "checkpoints").symlink_to("/sys")
    result = call("main_no_KD.py", *SMALL)
    assert_refused(result, "checkpoints/synthetic", "cannot write", "mend its rights")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dim=1000000000"], ["--dim 1000000000: training BPR takes ", " GB or more", "smaller"]),
        (["--dim=100000000000"], ["--dim 100000000000 is out of range", "below 2,147,483,648"]),
        (["--threads=100000"], ["--threads 100000: this machine has ", " cores; use "]),
        (["--batch_size=3000000000"], ["--batch_size 3000000000 is out of range"]),
    ],
)
def test_what_the_machine_cannot_hold_is_refused_at_once(workdir, call, flags, words):
    result = call("main_no_KD.py", *SMALL[:4], *flags)
    assert_refused(result, *words)
    assert not (workdir / "logs").exists()


def test_memory_that_is_not_there_is_one_line(workdir, teacher_path):
    flags = ("--teacher", str(teacher_path), "--num_experts", "200000000")
    result = run_script("main_DE.py", *SMALL, *flags, cwd=workdir)
    assert_refused(result, "out of memory (", "bytes more were asked for); use smaller sizes")


def test_ctrl_c_again_and_again_is_one_line(workdir):
    flags = (*SMALL, "--max_epoch", "400", "--patience", "400")
    process = start_script("main_no_KD.py", *flags, cwd=workdir)
    _wait_for_epochs(workdir, 3)
    for _ in range(5):
        process.send_signal(signal.SIGINT)
        time.sleep(0.003)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1].startswith("main_no_KD.py: interrupted; ")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="nothing says what is imported")
@pytest.mark.parametrize("after", [0, 0.1, 0.5, 1])
def test_ctrl_c_during_imports_is_one_line(workdir, after):
    process = start_script("main_no_KD.py", *SMALL, "--patience", "1000", cwd=workdir)
    maps = Path(f"/proc/{process.pid}/maps")
    while "numpy" not in maps.read_text():  # so Python itself is ready, and torch is not
        time.sleep(0.005)
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.splitlines()[-1].startswith("main_no_KD.py: interrupted")
    assert "Traceback" not in err


def test_a_closed_pipe_is_one_line_and_the_run_can_go_on(workdir, monkeypatch):
    flags = (*SMALL, "--max_epoch", "200", "--patience", "200")
    process = start_script("main_no_KD.py", *flags, cwd=workdir)
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=120) == 2
    goes_on = "--resume goes on from the last checkpoint"
    assert err == f"main_no_KD.py: whoever read the output is gone; {goes_on}\n"
    with killed_in(5, monkeypatch):
        run(main_no_KD, dim=8, max_epoch=200, patience=200, resume=True)
    (metrics,) = (workdir / "logs").rglob("metrics.csv")
    assert metrics.read_text().splitlines()[-1].startswith("4,")


def test_a_run_that_is_finished_elsewhere_is_made_again_here_and_says_so(
    workdir, monkeypatch, capsys
):
    monkeypatch.setattr("Utils.run_folder.ROOT", workdir / "project")
    said = []
    for name in ("project", "elsewhere", "elsewhere"):
        (workdir / name).mkdir(exist_ok=True)
        monkeypatch.chdir(workdir / name)
        capsys.readouterr()
        run(main_no_KD, dim=8, max_epoch=1)
        words = f"holds a finished run; it is made again here, {workdir / name}\n"
        said.append(words in capsys.readouterr().out)
    assert said == [False, True, False]


@pytest.mark.parametrize(("library", "calls"), [("glibc", [-1, -2, -3]), ("", [])])
def test_freed_memory_is_kept_where_the_c_library_can(monkeypatch, library, calls):
    asked = []
    monkeypatch.setattr(settings.platform, "libc_ver", lambda: (library, ""))
    fake = SimpleNamespace(mallopt=lambda option, _: asked.append(option))
    monkeypatch.setattr(settings.ctypes, "CDLL", lambda _: fake)
    settings.use_device(settings.RunSettings(device="cpu"))
    assert asked == calls
