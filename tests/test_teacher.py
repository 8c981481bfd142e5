"""What a teacher knows, where it is found, and which one is refused."""

import dataclasses
import shutil
import subprocess

import numpy as np
import pytest
import torch
from conftest import assert_refused, run_script

import main_no_KD
import main_URRD
from Models import build_model
from Utils.data_utils import leave_one_out, load_interactions
from Utils.errors import UserError
from Utils.evaluation import Evaluator
from Utils.files import sha256_of
from Utils.run import Run
from Utils.teacher import Teacher, load_teacher

CPU = torch.device("cpu")


def settings(**changes) -> main_URRD.Settings:
    return main_URRD.Settings(**{"dataset": "synthetic", "dim": 8, "teacher_dim": 16} | changes)


def load(split, **changes) -> Teacher:
    return load_teacher(settings(**changes), split, CPU, build_model)


@pytest.fixture
def copied(teacher_path, workdir) -> str:
    """A copy of the teacher's checkpoint, alone in a folder."""
    (workdir / "copy").mkdir()
    shutil.copy(teacher_path, "copy/best.pt")
    return "copy/best.pt"


def test_its_representations_and_scores_are_the_models(teacher):
    users, items = torch.tensor([3, 9]), torch.tensor([8, 1])
    found = teacher.representations(users, items)
    for kind, expected in teacher.model.representations(users, items).items():
        assert torch.equal(found[kind], expected)
        assert not found[kind].requires_grad
    expected = (found["user"] * found["item"]).sum(dim=1)
    torch.testing.assert_close(teacher.score(users, items), expected)


def test_top_lists_are_those_of_all_scores(copied, split):
    teacher = load(split, teacher=copied)
    scores = teacher.model.score_all(torch.arange(split.num_users))
    scores[split.train_users, split.train_items] = -torch.inf
    for found, expected in ((teacher.top_items(70), scores), (teacher.top_users(70), scores.T)):
        assert found.dtype == torch.int32
        values = expected.gather(1, found.long())
        torch.testing.assert_close(values, expected.topk(70).values)
        assert values.isfinite().all()


def test_top_lists_are_made_once_and_of_the_right_teacher(copied, split, workdir, capsys):
    teacher = load(split, teacher=copied)
    path = workdir / "copy/top_items.npz"
    first = teacher.top_items(30)
    with np.load(path) as kept:
        assert kept["teacher_sha256"] == sha256_of(teacher.path)
        assert kept["top"].shape == (split.num_users, 30)
    made = path.stat().st_mtime_ns
    assert torch.equal(load(split, teacher=copied).top_items(20), first[:, :20])
    assert path.stat().st_mtime_ns == made
    assert torch.equal(teacher.top_items(40)[:, :30], first)  # longer ones are made anew
    assert path.stat().st_mtime_ns > made
    assert capsys.readouterr().err == ""
    with np.load(path) as kept:
        arrays = {"top": kept["top"][:, ::-1], "teacher_sha256": "another"}
    np.savez(path, **arrays)
    assert torch.equal(teacher.top_items(30), first)
    warning = "warning: copy/top_items.npz: is of another teacher; making it anew\n"
    assert capsys.readouterr().err == warning
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"top_items\.npz: cut short .* delete it"):
        teacher.top_items(30)


def test_lists_that_cannot_be_kept_are_used_all_the_same(copied, split, monkeypatch, capsys):
    def full(_):
        raise UserError("copy: no room")

    monkeypatch.setattr("Utils.teacher.write_whole", full)
    assert load(split, teacher=copied).top_items(30).shape == (split.num_users, 30)
    expected = "warning: the teacher's lists are not kept: copy: no room\n"
    assert capsys.readouterr().err == expected


def test_a_teacher_is_found_by_data_model_size_and_seed(workdir, split, monkeypatch):
    for dim, seed in ((16, 0), (17, 0), (16, 1)):
        main_no_KD.main(main_no_KD.Settings(dataset="synthetic", dim=dim, seed=seed, max_epoch=1))
    monkeypatch.setattr("subprocess.run", lambda *_: pytest.fail("there is no need to train"))
    other = leave_one_out(load_interactions("synthetic", "unused"), 1, "synthetic")
    for dim, seed, data in ((16, 0, split), (17, 0, split), (16, 1, other)):
        teacher = load(data, teacher_dim=dim, seed=seed, name="a-name-of-the-students")
        folder = f"checkpoints/synthetic/BPR-d{dim}/no_KD/seed{seed}"
        assert str(teacher.path) == f"{folder}/best.pt"
        assert teacher.model.dim == dim
        best = torch.load(teacher.path, weights_only=True)["weights"]
        assert torch.equal(teacher.model.user.weight, best["user.weight"])


def test_a_path_or_its_folder_names_a_teacher(copied, split):
    for path in (copied, "copy"):
        assert load(split, teacher=path).path.samefile(copied)


def test_it_is_scored_again(teacher, split):
    expected = Evaluator(split, "cpu").evaluate(teacher.model)[0]
    assert teacher.metrics == expected
    line = teacher.describe()
    assert "teacher BPR d=16: 47,968 parameters" in line
    for part in ("valid", "test"):
        assert f"{part} H@5 {expected[f'{part}_H@5']:.4f}" in line


def test_a_missing_teacher_is_trained_first(workdir):
    flags = ("--dataset=synthetic", "--dim=4", "--teacher_dim=100", "--max_epoch=2", "--threads=1")
    result = run_script("main_SVD.py", *flags[:3], flags[4], cwd=workdir)
    assert result.returncode == 0, result.stderr
    words = (
        "no finished teacher in checkpoints/synthetic/BPR-d100/no_KD/seed0: training it first, in "
    )
    assert words in result.stdout
    assert "roughly 0.0 minutes on a CPU\npython main_no_KD.py --dataset=synthetic" in result.stdout
    assert result.stdout.index("\nteacher BPR d=100: ") > result.stdout.index("finished after")
    assert (workdir / "logs/synthetic/BPR-d100/no_KD/seed0/summary.json").exists()
    result = run_script("main_URRD.py", *flags, cwd=workdir)
    assert "training it first" not in result.stdout


def test_a_teacher_that_cannot_be_trained_is_one_line(workdir):
    (workdir / "checkpoints").write_text("a file where the folder should be")
    result = run_script("main_SVD.py", "--dataset=synthetic", cwd=workdir)
    assert "main_no_KD.py: " in result.stderr
    assert_refused(result, "main_SVD.py: the teacher could not be trained, as said above")


def test_an_unfinished_teacher_of_ones_own_is_trained_to_its_end(workdir, split, monkeypatch):
    args = main_no_KD.Settings(dataset="synthetic", dim=16, max_epoch=2)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_finish", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            main_no_KD.main(args)
    commands, run = [], subprocess.run

    def resume(command, **options):
        if command[0] == "git":
            return run(command, **options)
        commands.append(command[2:])
        main_no_KD.main(dataclasses.replace(args, resume=not args.overwrite))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("subprocess.run", resume)
    load(split)
    assert commands[0][-2:] == ["--dim=16", "--resume"]
    load(split)
    assert len(commands) == 1
    (workdir / "checkpoints/synthetic/BPR-d16/no_KD/seed0/best.pt").unlink()
    args = dataclasses.replace(args, overwrite=True)
    load(split)
    assert commands[1][-2:] == ["--dim=16", "--overwrite"]  # there was nothing to resume


def test_a_doubtful_teacher_is_used_with_a_warning(copied, split, capsys):
    content = torch.load(copied, weights_only=True)
    torch.save(content | {"finished": False}, copied)
    load(split, teacher=copied)
    assert "copy/best.pt: this teacher was never trained to its end;" in capsys.readouterr().err
    torch.save(content, copied)
    load(split, teacher=copied, dim=16)
    assert capsys.readouterr().err == ""
    load(split, teacher=copied, dim=17)
    expected = "warning: copy/best.pt: the teacher (d=16) is smaller than the student (d=17)\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": "CiteULike"}, "its dataset is CiteULike, not synthetic; name another --te"),
        ({"split": "seed1"}, "its split is seed1, not seed0; name another --teacher, or none"),
        ({"split_sha256": "0"}, "its split_sha256 is 0, not "),
        ({"model": "NeuFM"}, "'NeuFM' is unknown; did you mean NeuMF?"),
        ({"format": "older"}, "its format is older, not recdistill run"),
    ],
)
def test_a_teacher_of_something_else_is_refused(copied, split, change, words):
    torch.save(torch.load(copied, weights_only=True) | change, copied)
    with pytest.raises(UserError, match=words):
        load(split, teacher=copied)


def test_a_file_that_is_no_teacher_is_refused(split, workdir):
    (workdir / "best.pt").write_bytes(b"nothing")
    with pytest.raises(
        UserError, match=r"best\.pt: cut short or no checkpoint; name another --teac"
    ):
        load(split, teacher="best.pt")
    own = workdir / "checkpoints/synthetic/BPR-d16/no_KD/seed0/best.pt"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"nothing")
    with pytest.raises(
        UserError, match=r"best\.pt: cut short .*; delete it to have it trained anew"
    ):
        load(split)
    with pytest.raises(UserError, match=r"absent/best\.pt: no such file; name another --teacher"):
        load(split, teacher="absent/best.pt")
