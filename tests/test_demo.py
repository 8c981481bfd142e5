"""What ``make demo`` shows: four runs, and sentences that are computed from them."""

import contextlib
import importlib
import io
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT

from experiments import demo
from experiments.script import launch
from Utils.errors import UserError

SCORES = {"teacher": 0.5, "student": 0.3, "student + A": 0.35, "student + B": 0.52}


def test_the_demo_trains_all_four_and_says_what_came_out(workdir, monkeypatch, capfd):
    """In this process; the next test has a real one."""

    def in_process(command, **_):
        module = importlib.import_module(Path(command[1]).stem)
        said, handler = io.StringIO(), signal.getsignal(signal.SIGINT)
        with monkeypatch.context() as patch, contextlib.redirect_stdout(said):
            patch.setattr(sys, "argv", [str(word) for word in command[1:]])
            launch(module.main, module.Settings, module.__doc__)
        signal.signal(signal.SIGINT, handler)
        return subprocess.CompletedProcess(command, 0, said.getvalue())

    flags = ["--dataset", "synthetic", "--threads", "1", "--max_epoch", "2", "--overwrite"]
    monkeypatch.setattr(demo, "FLAGS", flags)
    fake = SimpleNamespace(run=in_process, PIPE=subprocess.PIPE, STDOUT=subprocess.STDOUT)
    monkeypatch.setattr(demo, "subprocess", fake)
    teacher = "--teacher=checkpoints/synthetic/BPR-d200/no_KD/seed0"  # too short to be the usual
    for label in list(demo.RUNS)[2:]:
        method, dim, more = demo.RUNS[label]
        monkeypatch.setitem(demo.RUNS, label, (method, dim, [*more, teacher]))
    demo.main(demo.Settings())
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert len(lines) < 40
    assert err == ""
    for line, script in zip(lines, ("no_KD", "no_KD", "DERRD", "S2D"), strict=False):
        assert re.fullmatch(
            rf"python main_{script}\.py --dim \d+ .*--max_epoch 2 --overwrite", line
        )
    assert not any(line.startswith(("epoch ", "finished")) for line in lines)
    assert not [line for line in lines[4:] if len(line) > 80]
    for label, (method, dim, _) in demo.RUNS.items():
        summary = demo.read_summary(
            workdir / f"logs/synthetic/BPR-d{dim}/{method}/seed0/summary.json"
        )
        assert summary["epochs"] == 2
        row = next(line for line in lines if line.startswith(f"| {label} "))
        chart = next(line for line in lines if line.startswith(f"{label} "))
        assert f" {summary['num_parameters']:,} " in row
        assert f" {summary['test']['H@5']:.4f} " in row
        assert chart.endswith(f" {summary['test']['H@5']:.4f}")
    for name in re.findall(r"python (\S+\.py)", out):
        assert (ROOT / name).exists()
    for place in re.findall(r"  ((?:logs|checkpoints)/\S+)", out):
        assert len(list(workdir.glob(place))) == 4


def test_a_run_that_fails_ends_the_demo_with_its_last_lines(workdir, monkeypatch, capfd):
    monkeypatch.setattr(demo, "FLAGS", ["--dataset", "synthetic", "--lr", "-1"])
    with pytest.raises(UserError, match=r"main_no_KD\.py failed, as said above"):
        demo.main(demo.Settings())
    assert "--lr -1.0 is out of range; use a number above 0" in capfd.readouterr().err


def test_the_table_says_sizes_and_shares():
    run = {"dim": 8, "num_parameters": 60_000, "train_seconds": 7.6, "eval_seconds": 1.0}
    large = run | {"dim": 80, "num_parameters": 600_000}
    runs = {"teacher": large | {"test": {"H@5": 0.4}}, "student": run | {"test": {"H@5": 0.3}}}
    _, _, first, second = demo.table(runs).splitlines()
    assert [cell.strip() for cell in first.split("|")[1:-1]] == [
        *("teacher", "80", "600,000", "2.4 MB", "0.4000", "100%", "9 s")
    ]
    assert [cell.strip() for cell in second.split("|")[1:-1]] == [
        *("student", "8", "60,000", "240 KB", "0.3000", "75%", "9 s")
    ]


def test_bars_are_shown_where_there_are_no_blocks(monkeypatch):
    run = {"dim": 8, "num_parameters": 60_000, "train_seconds": 7.6, "eval_seconds": 1.0}
    monkeypatch.setattr(demo, "train", lambda *_: run | {"test": {"H@5": 0.3}})
    shown = io.BytesIO()
    with monkeypatch.context() as patch, io.TextIOWrapper(shown, "ascii") as stdout:
        patch.setattr(sys, "stdout", stdout)
        demo.main(demo.Settings())
        stdout.flush()
        assert b"?" * demo.WIDTH + b"  0.3000" in shown.getvalue()


def test_bars_are_as_long_as_the_scores():
    lines = demo.bars(SCORES).splitlines()
    assert all(len(line) == len(lines[0]) <= 80 for line in lines)
    full = [line.count("█") for line in lines]
    assert full == [int(demo.WIDTH * score / 0.52) for score in SCORES.values()]
    assert demo.bars({"a": 0.0, "b": 0.0}).count("█") == 0
    assert demo.bars({"a": 1.0, "b": 0.5 + 3 / 8 / demo.WIDTH}).count("▍") == 1


def test_gains_are_shares_of_the_gap():
    assert demo.gains(SCORES).splitlines() == [
        "The teacher's H@5 is 0.2000 above the student's.",
        "A closes 25% of this gap.",
        "B closes 110% of this gap.",
    ]
    worse = demo.gains(SCORES | {"student + A": 0.29})
    assert "A is below the student, by 0.0100." in worse
    assert "nothing to gain" in demo.gains(SCORES | {"student": 0.5})
