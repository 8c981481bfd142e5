"""The first epochs of runs, trained again: what is compared, and what is said of it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT

import main_no_KD
from experiments import verify
from experiments.script import start
from experiments.settings import parse
from experiments.verify import first_difference
from Utils.errors import UserError

KEPT = b"epoch,train_loss\n0,3\n1,2\n2,1\n"
CURVES = Path("logs/CiteULike/BPR-d20/no_KD/seed0/metrics.csv")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (b"epoch,train_loss\n0,3\n1,2\n", "the same bytes, 2 epochs"),
        (KEPT, "the same bytes, 3 epochs"),
        (b"epoch,loss\n0,3\n", "line 1 differs"),
        (b"epoch,train_loss\n0,3\n1,2.5\n", "line 3 differs"),
        (KEPT + b"3,0.5\n", "line 5 differs"),  # which is not there
    ],
)
def test_the_first_line_that_differs_is_named(made, said):
    assert first_difference(made, KEPT) == said


@pytest.fixture
def project(workdir, split, monkeypatch) -> list[list[str]]:
    """A project with a finished run of five epochs on tiny data; returns the commands called."""
    commands = []
    monkeypatch.setattr("experiments.script.split_of", lambda _: split)
    start(main_no_KD.main, main_no_KD.Settings, {"max_epoch": 5})
    for name in ("main_no_KD.py", "main_DE.py"):
        (workdir / name).touch()
    monkeypatch.setattr(verify, "ROOT", workdir)

    def in_process(command, cwd, **_):
        commands.append(command)
        flags = " ".join(word.removeprefix("--") for word in command[2:])
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            given = parse(flags, main_no_KD.Settings)
            start(main_no_KD.main, main_no_KD.Settings, given)
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(verify, "subprocess", SimpleNamespace(run=in_process))
    return commands


def test_a_run_is_trained_again_elsewhere_and_compared(project, workdir, capsys):
    before = (workdir / CURVES).read_bytes()
    verify.main(verify.Settings(only=("no_KD",)))
    out = capsys.readouterr().out
    assert "CiteULike BPR-d20 no_KD: the same bytes, 3 epochs\n" in out
    assert "CiteULike BPR-d200 no_KD: logs/ has no curves of it\n" in out
    (command,) = project
    assert {"--dim=20", "--max_epoch=3", "--threads=1"} <= set(command)
    assert (workdir / CURVES).read_bytes() == before
    (workdir / CURVES).write_bytes(before.replace(b"\n2,", b"\n2,9"))
    with pytest.raises(UserError, match=r"^1 runs came out otherwise than logs/ says$"):
        verify.main(verify.Settings(only=("no_KD",)))
    assert "no_KD: line 4 differs\n" in capsys.readouterr().out
    verify.main(verify.Settings(only=("no_KD",), epochs=2))  # of which the change is none
    assert "no_KD: the same bytes, 2 epochs\n" in capsys.readouterr().out


def test_what_a_run_says_when_it_fails_is_passed_on(project, monkeypatch):
    failed = SimpleNamespace(returncode=2, stderr="a warning\nmain_no_KD.py: no data\n")
    monkeypatch.setattr(verify, "subprocess", SimpleNamespace(run=lambda *_, **__: failed))
    with pytest.raises(UserError, match=r"^main_no_KD\.py: no data$"):
        verify.main(verify.Settings(only=("no_KD",)))


def test_students_get_the_usual_teacher(project, workdir, split, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(verify, "split_of", lambda _: split)
    monkeypatch.setattr(verify, "own_teacher", lambda args, _: asked.append(args) or Path("t.pt"))
    verify.main(verify.Settings(only=("DE",)))
    assert [(args.teacher_dim, args.dataset) for args in asked] == [(200, "CiteULike")]
    assert "CiteULike BPR-d20 DE: logs/ has no curves of it\n" in capsys.readouterr().out


def test_an_unknown_method_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"--only 'DERD' is unknown; did you mean DERRD\?"):
        verify.main(verify.Settings(only=("DERD",)))
    assert (ROOT / "main_DERRD.py").exists()
