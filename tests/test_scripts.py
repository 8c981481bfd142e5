"""Every ``main_*.py`` as a user runs it: help, mistakes, interruptions, sudden death."""

import ast
import importlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, SCRIPT_NAMES, assert_refused, run_script, start_script

from Utils import settings

SMALL = ("--dataset", "synthetic", "--dim", "8", "--threads", "1")

pytestmark = pytest.mark.usefixtures("workdir")


@pytest.mark.parametrize("script", SCRIPT_NAMES)
def test_help_shows_every_setting_with_its_default_and_meaning(script, workdir):
    result = run_script(script, "--help", cwd=workdir, env=os.environ | {"COLUMNS": "200"})
    kind = importlib.import_module(Path(script).stem).Settings
    assert result.returncode == 0
    for field in fields(kind):
        assert f"--{field.name} " in result.stdout
    shown = result.stdout.split("options")[1]
    assert shown.count("(default: ") == len(fields(kind))


@pytest.mark.parametrize("script", SCRIPT_NAMES)
def test_a_script_is_short_and_every_setting_is_explained(script):
    text = (ROOT / script).read_text()
    lines = text.splitlines()
    assert len(lines) < 150
    block = next(
        node
        for node in ast.parse(text).body
        if isinstance(node, ast.ClassDef) and node.name == "Settings"
    )
    for field in block.body[1:]:
        if "ClassVar" in ast.unparse(field):  # not a setting
            continue
        assert lines[field.lineno - 2].strip().startswith("# "), lines[field.lineno - 1]


@pytest.mark.parametrize("script", SCRIPT_NAMES)
def test_a_run_from_the_shell_works(script, workdir, teacher_path):
    names = {field.name for field in fields(importlib.import_module(Path(script).stem).Settings)}
    flags = {"max_epoch": 2, "teacher": teacher_path, "num_experts": 3}
    chosen = [f"--{name}={value}" for name, value in flags.items() if name in names]
    result = run_script(script, *SMALL, *chosen, cwd=workdir)
    assert result.returncode == 0, result.stderr
    assert "test   H@5 0." in result.stdout
    assert result.stderr == ""
    assert len(list((workdir / "logs").rglob("summary.json"))) == 1


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--dimension", "20"], "dimension"),
        (["--model", "NeuFM"], "--model 'NeuFM' is unknown; did you mean NeuMF?"),
        (["--dataset", "citeulike"], "citeulike"),
        (["--dim", "many"], "many"),
        (["--selection", "best"], "best"),
    ],
)
def test_an_unknown_flag_or_choice_is_refused(workdir, flags, word):
    result = run_script("main_no_KD.py", *flags, cwd=workdir)
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
        (["--lr", "1e38"], ["epoch ", "batch ", "train_loss is ", "smaller --lr"]),
    ],
)
def test_a_setting_that_cannot_work_is_one_line(workdir, flags, words):
    assert_refused(run_script("main_no_KD.py", *SMALL, *flags, cwd=workdir), *words)


def test_a_checkpoint_cut_short_is_one_line(workdir):
    process = start_script("main_no_KD.py", *SMALL, cwd=workdir)
    _wait_for_epochs(workdir, 3)
    process.kill()
    process.communicate()
    (path,) = (workdir / "checkpoints").rglob("last.pt")
    path.write_bytes(path.read_bytes()[:1000])
    result = run_script("main_no_KD.py", *SMALL, "--resume", cwd=workdir)
    assert_refused(result, "last.pt: cut short", "--overwrite to start again")


def test_the_environment_names_the_data_folder_and_a_flag_overrides_it(workdir):
    environment = os.environ | {"RECDISTILL_DATA": "elsewhere"}
    flags = ("--split", "published")
    result = run_script("main_no_KD.py", *flags, cwd=workdir, env=environment)
    assert_refused(result, "elsewhere/CiteULike/published_split0.npz: no such file; put")
    flags += ("--data_dir", "here")
    result = run_script("main_no_KD.py", *flags, cwd=workdir, env=environment)
    assert_refused(result, "here/CiteULike/published_split0.npz")


def test_an_output_folder_that_cannot_be_made_is_one_line(workdir):
    (workdir / "logs").write_text("a file where the folder should be")
    result = run_script("main_no_KD.py", *SMALL, cwd=workdir)
    assert_refused(result, "logs/synthetic", "cannot write", "choose another folder")


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="no file system that refuses everybody")
def test_a_read_only_output_folder_is_one_line(workdir):
    (workdir / "logs").symlink_to("/sys")  # read-only even for the superuser
    result = run_script("main_no_KD.py", *SMALL, cwd=workdir)
    assert_refused(result, "logs/synthetic", "cannot write", "choose another folder")
    assert not (workdir / "checkpoints").exists()


@pytest.mark.parametrize("room", [100, 20_000, 200_000])
def test_a_full_disk_is_one_line_and_what_was_written_stays_whole(workdir, room):
    """Files may not grow past ``room`` bytes, which fails like a disk without room."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    assert run_script("main_no_KD.py", *SMALL, "--max_epoch", "1", cwd=workdir).returncode == 0
    flags = (*SMALL, "--name", "full", "--max_epoch", "50")
    result = run_script("main_no_KD.py", *flags, cwd=workdir, preexec_fn=limit)
    assert_refused(result, "cannot write", "make room")
    assert not list(workdir.rglob(".*.tmp"))
    result = run_script("main_no_KD.py", *flags, "--overwrite", cwd=workdir)
    assert result.returncode == 0, result.stderr


def _wait_for_epochs(workdir: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = list((workdir / "logs").rglob("metrics.csv"))
        if found and found[0].read_text().count("\n") > count:
            return
        time.sleep(0.01)
    pytest.fail("the run did not start")


def test_ctrl_c_keeps_the_last_whole_epoch_and_says_how_to_go_on(workdir):
    flags = (*SMALL, "--max_epoch", "400", "--patience", "400")
    process = start_script("main_no_KD.py", *flags, "--overwrite", cwd=workdir)
    _wait_for_epochs(workdir, 3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert "interrupted; epochs up to" in last
    assert last.endswith(f"python {ROOT / 'main_no_KD.py'} {' '.join(flags)} --resume")
    epoch = int(last.split("epochs up to ")[1].split()[0])
    (metrics,) = (workdir / "logs").rglob("metrics.csv")
    assert metrics.read_text().splitlines()[-1].startswith(f"{epoch},")
    process = start_script("main_no_KD.py", *flags, "--resume", cwd=workdir)
    _wait_for_epochs(workdir, epoch + 2)
    process.kill()
    assert f"resumed after epoch {epoch}\n" in process.communicate()[0]


def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(workdir):
    """SIGKILL, again and again, leaves nothing that a resumed run does not put right."""
    whole, killed = workdir / "whole", workdir / "killed"
    whole.mkdir()
    killed.mkdir()
    flags = (*SMALL, "--dim", "64", "--max_epoch", "160", "--patience", "160")
    assert run_script("main_no_KD.py", *flags, cwd=whole).returncode == 0
    for attempt in range(5):
        process = start_script("main_no_KD.py", *flags, "--resume", cwd=killed)
        _wait_for_epochs(killed, 10 * attempt)
        time.sleep(random.random() / 2)
        process.kill()
        process.communicate()
    assert not list(killed.rglob("summary.json")), "the run ended before it was killed"
    result = run_script("main_no_KD.py", *flags, "--resume", cwd=killed)
    assert result.returncode == 0, result.stderr
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
def test_a_log_that_takes_no_more_is_one_line(workdir, name):
    folder = workdir / "logs/synthetic/BPR-d8/no_KD/seed0"
    folder.mkdir(parents=True)
    (folder / name).symlink_to("/dev/full")
    result = run_script("main_no_KD.py", *SMALL, "--max_epoch", "2", cwd=workdir)
    assert_refused(result, "cannot write (No space left on device); make room")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="no file system that refuses everybody")
def test_read_only_checkpoints_are_named(workdir):
    (workdir / "checkpoints").symlink_to("/sys")
    result = run_script("main_no_KD.py", *SMALL, cwd=workdir)
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
def test_what_the_machine_cannot_hold_is_refused_at_once(workdir, flags, words):
    result = run_script("main_no_KD.py", *SMALL[:4], *flags, cwd=workdir)
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
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1].startswith("main_no_KD.py: interrupted; ")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="nothing says what is imported")
@pytest.mark.parametrize("after", [0, 0.1, 0.5, 1])
def test_ctrl_c_during_imports_is_one_line(workdir, after):
    process = start_script("main_no_KD.py", *SMALL, "--max_epoch", "2", cwd=workdir)
    maps = Path(f"/proc/{process.pid}/maps")
    while "numpy" not in maps.read_text():  # so Python itself is ready, and torch is not
        time.sleep(0.005)
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.splitlines()[-1].startswith("main_no_KD.py: interrupted")
    assert "Traceback" not in err


def test_a_closed_pipe_is_one_line_and_the_run_can_go_on(workdir):
    flags = (*SMALL, "--max_epoch", "200", "--patience", "200")
    process = start_script("main_no_KD.py", *flags, cwd=workdir)
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 2
    goes_on = "--resume goes on from the last checkpoint"
    assert err == f"main_no_KD.py: whoever read the output is gone; {goes_on}\n"
    process = start_script("main_no_KD.py", *flags, "--resume", cwd=workdir)
    _wait_for_epochs(workdir, 5)
    process.kill()
    assert "Traceback" not in process.communicate()[1]


def test_a_run_that_is_finished_elsewhere_is_made_again_here_and_says_so(workdir, tmp_path):
    code = (
        "import sys; from pathlib import Path; import Utils.run, main_no_KD\n"
        f"Utils.run.ROOT = Path({str(workdir / 'project')!r})\n"
        "main_no_KD.main(main_no_KD.Settings(dataset='synthetic', dim=8, max_epoch=1))"
    )
    (workdir / "project").mkdir()
    (workdir / "elsewhere").mkdir()
    said = []
    for name in ("project", "elsewhere", "elsewhere"):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=workdir / name, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append("holds a finished run; it is made again here, in " in done.stdout)
    assert said == [False, True, False]


@pytest.mark.parametrize(("library", "calls"), [("glibc", [-1, -2]), ("", [])])
def test_freed_memory_is_kept_where_the_c_library_can(monkeypatch, library, calls):
    asked = []
    monkeypatch.setattr(settings.platform, "libc_ver", lambda: (library, ""))
    fake = SimpleNamespace(mallopt=lambda option, _: asked.append(option))
    monkeypatch.setattr(settings.ctypes, "CDLL", lambda _: fake)
    settings.use_device(settings.RunSettings(device="cpu"))
    assert asked == calls
