"""What a teacher knows, where it is found, and which one is refused."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run, run_script, settings, start_script

import main_no_KD
import main_URRD
from experiments.estimate import expected_time
from experiments.settings import resolve
from experiments.teacher import load_teacher
from Models.distillers import CD, DE, RD, RRD, S2D
from Models.teacher import Teacher, TrainedTeacher
from Utils.dataset import Pairs
from Utils.errors import UserError
from Utils.evaluation import Evaluator
from Utils.files import lock_folder, sha256_of
from Utils.run import Run
from Utils.sources import load_interactions
from Utils.split import leave_one_out

CPU = torch.device("cpu")
TOPS = ("logs", "checkpoints")


def load(split, **changes) -> TrainedTeacher:
    args = settings(main_URRD, **{"dim": 8, "teacher_dim": 16} | changes)
    return load_teacher(args, split, CPU)


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


def test_long_lists_are_made_in_chunks_and_stay_in_files(copied, split, workdir, monkeypatch):
    expected = load(split, teacher=copied).top_items(30)
    (workdir / "copy/top_items.npz").unlink()
    monkeypatch.setattr("Utils.files.LARGE", 1000)
    monkeypatch.setattr("Models.teacher.HELD", 7 * split.num_items)
    original, mapped = np.memmap, []
    monkeypatch.setattr(
        np, "memmap", lambda *of, **given: mapped.append(original(*of, **given)) or mapped[-1]
    )
    for _ in ("made", "read"):
        mapped.clear()
        found = load(split, teacher=copied).top_items(30)
        assert torch.equal(found, expected)
        assert any(np.shares_memory(found.numpy(), each) for each in mapped)
    assert {path.name for path in (workdir / "copy").iterdir()} == {"best.pt", "top_items.npz"}


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
    with pytest.raises(UserError, match=r"top_items\.npz: cut short.* delete it"):
        teacher.top_items(30)


def test_lists_that_cannot_be_kept_are_used_all_the_same(copied, split, monkeypatch, capsys):
    def full(_):
        raise UserError("copy: no room")

    monkeypatch.setattr("Models.teacher.write_whole", full)
    assert load(split, teacher=copied).top_items(30).shape == (split.num_users, 30)
    expected = "warning: the teacher's lists are not kept: copy: no room\n"
    assert capsys.readouterr().err == expected


@pytest.fixture
def short(monkeypatch):
    """Teachers of two epochs, and of the settings that they have with that."""

    def resolved(kind, given):
        return resolve(kind, given | {"max_epoch": 2})

    monkeypatch.setattr("experiments.teacher.resolve", resolved)
    return {"dim": 16, "max_epoch": 2, "device": "cpu"}


def test_a_teacher_is_found_by_data_model_size_and_seed(workdir, split, short, monkeypatch):
    for dim, seed in ((16, 0), (17, 0), (16, 1)):
        run(main_no_KD, **short | {"dim": dim, "seed": seed})
    monkeypatch.setattr("experiments.teacher._run", lambda _: pytest.fail("no need to train"))
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


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A student from the shell in an empty folder, and that folder, with the usual teacher."""
    folder = tmp_path_factory.mktemp("made")
    flags = "--dataset=synthetic", "--dim=4", "--teacher_dim=16", "--threads=1"
    return run_script("main_SVD.py", *flags, cwd=folder), folder


def test_a_missing_teacher_is_trained_first(made, split, monkeypatch):
    result, folder = made
    assert result.returncode == 0, result.stderr
    words = (
        "no finished teacher in checkpoints/synthetic/BPR-d16/no_KD/seed0: training it first, in "
    )
    assert words in result.stdout
    assert "roughly 0.0 minutes on a CPU\npython main_no_KD.py --dataset=synthetic" in result.stdout
    assert result.stdout.index("\nteacher BPR d=16: ") > result.stdout.index("finished after")
    assert (folder / "logs/synthetic/BPR-d16/no_KD/seed0/summary.json").exists()
    monkeypatch.chdir(folder)
    (log,) = Path("logs/synthetic/BPR-d16").rglob("summary.json")
    took = sum(json.loads(log.read_text())[f"{part}_seconds"] for part in ("train", "eval"))
    args = settings(main_no_KD, dataset="synthetic", dim=16)
    assert expected_time(args, split) == f", in roughly {took / 60:.1f} minutes, as before"
    named = [load(split, teacher=f"{top}/synthetic/BPR-d16/no_KD/seed0") for top in TOPS]
    assert named[0].sha256 == named[1].sha256
    assert not expected_time(dataclasses.replace(args, model="LightGCN"), split)  # not known
    monkeypatch.setattr("experiments.teacher._run", lambda _: pytest.fail("no need to train"))
    run(main_URRD, dim=4, teacher_dim=16, max_epoch=2, threads=1)


def test_a_teacher_that_cannot_be_trained_is_one_line(workdir, split, capfd):
    (workdir / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"^the teacher could not be trained, as said above; --tea"):
        load(split)
    assert "main_no_KD.py: " in capfd.readouterr().err


@pytest.fixture
def trained_here(short, monkeypatch) -> list[list[str]]:
    """Train missing teachers in this process; return the flags of each training."""
    commands = []

    def train(command):
        commands.append(command[2:])
        run(main_no_KD, **short | {"resume": True})
        return 0

    monkeypatch.setattr("experiments.teacher._run", train)
    return commands


@pytest.mark.parametrize("function", ["_finish", "_summarize"])
def test_an_unfinished_teacher_of_ones_own_is_trained_to_its_end(
    workdir, split, short, trained_here, monkeypatch, function
):
    """Wherever it was killed, and be it between its last two files."""
    with monkeypatch.context() as patch:
        patch.setattr(Run, function, lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(main_no_KD, **short)
    assert not (workdir / "logs/synthetic/BPR-d16/no_KD/seed0/summary.json").exists()
    load(split)
    assert trained_here[0][-2:] == ["--dim=16", "--resume"]
    assert (workdir / "logs/synthetic/BPR-d16/no_KD/seed0/summary.json").exists()
    load(split)
    assert len(trained_here) == 1


def test_a_teacher_trained_again_for_its_weights_leaves_the_logs_alone(
    workdir, split, short, trained_here, capsys
):
    run(main_no_KD, **short)
    logs = workdir / "logs/synthetic/BPR-d16/no_KD/seed0"
    checkpoints = workdir / "checkpoints/synthetic/BPR-d16/no_KD/seed0"
    (logs / "user_space.npz").write_bytes(b"computed from its weights")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in logs.iterdir()}
    weights = (checkpoints / "best.pt").read_bytes()
    (checkpoints / "best.pt").unlink()
    load(split)
    assert len(trained_here) == 1
    assert (
        f"the same as in {logs.relative_to(workdir)}, which stays as it is"
        in capsys.readouterr().out
    )
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in logs.iterdir()} == before
    assert (checkpoints / "best.pt").read_bytes() == weights
    assert sorted(path.name for path in checkpoints.iterdir()) == ["best.pt", "last.pt"]
    # what comes out otherwise, as on another machine, is said and kept beside the weights
    kept = json.loads((logs / "summary.json").read_text())
    kept["test"]["H@5"] += 0.001
    (logs / "summary.json").write_text(json.dumps(kept))
    (checkpoints / "best.pt").unlink()
    load(split)
    assert "trained again, this run came out otherwise" in capsys.readouterr().err
    assert json.loads((logs / "summary.json").read_text()) == kept
    assert (checkpoints / "again/summary.json").exists()
    load(split)
    assert len(trained_here) == 2


def test_a_teacher_of_other_settings_is_refused_with_both_ways_out(workdir, split, short):
    run(main_no_KD, **short | {"max_epoch": 1, "lr": 0.5})
    with pytest.raises(UserError) as error:
        load(split)
    folder = "synthetic/BPR-d16/no_KD/seed0"
    assert f"logs/{folder}: is no teacher of the usual settings" in str(error.value)
    assert "but has lr 0.5 (now 0.003), max_epoch 1 (now 2); take it" in str(error.value)
    assert f"with --teacher checkpoints/{folder}, or train" in str(error.value)
    assert str(error.value).endswith("--dim=16 --overwrite")
    assert load(split, teacher=f"checkpoints/{folder}").model.dim == 16


def test_a_student_that_lacks_a_teacher_waits_for_who_trains_it(made, workdir):
    """The other one is this process, which is done when it has the files and lets go."""
    place = "checkpoints/synthetic/BPR-d16/no_KD/seed0"
    (workdir / place).mkdir(parents=True)
    flags = "--dataset=synthetic", "--dim=5", "--teacher_dim=16", "--threads=1"
    with lock_folder(workdir / place):
        student = start_script("main_SVD.py", *flags, cwd=workdir)
        said = []
        while "another process writes here; waiting for its end" not in "".join(said[-1:]):
            said.append(student.stdout.readline())
            assert said[-1], student.communicate()
        for part in (place, place.replace("checkpoints", "logs")):
            shutil.copytree(made[1] / part, workdir / part, dirs_exist_ok=True)
    out, err = student.communicate(timeout=240)
    assert student.returncode == 0, err
    assert "holds this run, finished" in out  # so it is not trained again
    assert out.count("finished after") == 1  # the student
    assert "teacher BPR d=16: " in out


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


def test_a_state_for_resume_is_told_from_a_model(short, split, workdir):
    run(main_no_KD, **short)
    path = next(workdir.rglob("last.pt"))
    with pytest.raises(UserError, match=r"last\.pt: is a state for --resume, not a model; best\.p"):
        load(split, teacher=str(path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dim": 17}, r"its weights do not fit, user\.weight is 1000 x 16 float32, not 1000 x 17"),
        ({"dim": 10**9}, "--dim 1000000000: training BPR takes"),
        ({"dim": -1}, "does not say what model it is"),
        ({"dim": "16"}, "does not say what model it is"),
        ({"options": {"num_layers": 2}}, "--num_layers 2: BPR has no such setting"),
        ({"options": {"num_layers": "2"}}, "does not say what model it is"),
        ({"model": "NGCF", "options": {"num_layers": 1.0}}, "does not say what model it is"),
        ({"model": "NGCF", "options": {"dropout": math.nan}}, "does not say what model it is"),
        ({"model": "NGCF", "options": {"dropout": -0.5}}, "does not say what model it is"),
        ({"model": "NGCF", "options": {"dropout": 1.0}}, "--dropout 1.0: leaves nothing; use a sh"),
        ({"model": "NGCF"}, r"its weights do not fit, near\.0\.weight is missing"),
        ({"weights": {}}, r"its weights do not fit, user\.weight is missing"),
        ({"weights": None}, r"its weights do not fit, user\.weight is missing"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(copied, split, change, words):
    torch.save(torch.load(copied, weights_only=True) | change, copied)
    with pytest.raises(UserError, match=words):
        load(split, teacher=copied)


def test_weights_that_are_not_finite_are_refused(copied, split):
    content = torch.load(copied, weights_only=True)
    content["weights"]["item.weight"][7, 3] = torch.nan
    torch.save(content, copied)
    with pytest.raises(UserError, match=r"best\.pt: has numbers that are not finite; name another"):
        load(split, teacher=copied)


def test_a_single_flipped_bit_is_seen(copied, split, workdir):
    """In the weights, where it would move the metrics a little and nothing else."""
    path = workdir / copied
    content = bytearray(path.read_bytes())
    weights = torch.load(path, weights_only=True)["weights"]["item.weight"]
    place = content.index(weights[100].numpy().tobytes()) + 3
    content[place] ^= 0b0000_0100
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"best\.pt: cut short, damaged or no checkpoint"):
        load(split, teacher=copied)


@pytest.mark.parametrize("kind", ["items", "users"])
@pytest.mark.parametrize("bad", [-1, 10**6, "float", "short"])
def test_lists_with_what_is_no_item_or_user_are_refused(copied, split, workdir, kind, bad):
    """They would be read from memory that belongs to others."""
    teacher = load(split, teacher=copied)
    getattr(teacher, f"top_{kind}")(30)
    path = workdir / f"copy/top_{kind}.npz"
    with np.load(path) as kept:
        top, sha256 = kept["top"], kept["teacher_sha256"]
    if isinstance(bad, int):
        top[5, 5] = bad
    else:
        top = top.astype(np.float32) if bad == "float" else top[:-1]
    np.savez(path, top=top, teacher_sha256=sha256)
    with pytest.raises(UserError, match=rf"top_{kind}\.npz: top (is|has) .*; delete it and"):
        getattr(teacher, f"top_{kind}")(30)


def test_the_size_of_a_named_teacher_is_kept(workdir, teacher_path, capsys):
    given = {"K": 5, "L": 5, "T": 1.0, "lmbda_RRD": 0.1, "lr": 0.01, "reg": 0.0, "dim": 8}
    given |= {"teacher": str(teacher_path), "teacher_dim": 200, "max_epoch": 1}
    run(main_URRD, **given)
    config = json.loads(next((workdir / "logs").rglob("config.json")).read_text())
    assert config["settings"]["teacher_dim"] == config["teachers"][0]["dim"] == 16
    capsys.readouterr()
    run(main_URRD, **given)  # the same run, so there is nothing to do
    assert "holds this run, finished" in capsys.readouterr().out


# --- a teacher that is no trained model ----------------------------------------------------------


class Lists(Teacher):
    """Knows lists of items and nothing else."""

    sha256 = "of lists"
    device = CPU

    def __init__(self, split, top) -> None:
        self.split, self.top = split, top

    def top_items(self, count):
        return self.top[:, :count]


CAPABILITIES = {
    "top_users": (3,),
    "score": (torch.tensor([0]), torch.tensor([0])),
    "score_all": (torch.tensor([0]),),
    "representations": (torch.tensor([0]), torch.tensor([0])),
    "embeddings": (torch.tensor([0]), torch.tensor([0])),
}


def test_what_a_teacher_lacks_is_said_in_one_line(split):
    lists = Lists(split, torch.zeros(3, 3, dtype=torch.int32))
    said = [r"lists of users", "scores", "scores of all items", "representations", "embeddings"]
    for (name, arguments), what in zip(CAPABILITIES.items(), said, strict=True):
        words = rf"^Lists: this teacher has no {what}; use one that has, or another method$"
        with pytest.raises(UserError, match=words):
            getattr(lists, name)(*arguments)
    with pytest.raises(
        UserError, match="this teacher has no states of earlier epochs; use one that has"
    ):
        _ = lists.states
    with pytest.raises(UserError, match="this teacher has no lists of items"):
        Teacher().top_items(3)
    assert lists.encode() is None
    assert lists.record() == {"sha256": "of lists"}


def test_a_trained_teacher_has_all_of_it(teacher, split):
    for name, arguments in CAPABILITIES.items():
        assert getattr(teacher, name)(*arguments) is not None
    assert teacher.encode() is not None
    assert teacher.top_items(3).shape == (split.num_users, 3)
    assert len(teacher.states) == 3


def test_lists_are_enough_for_methods_that_ask_for_no_more(split, teacher, student):
    lists = Lists(split, teacher.top_items(60))
    given = {"K": 5, "L": 5, "T": 3.0, "pool": 50, "seed": 1}
    users = torch.arange(100)
    batch = Pairs(users, users, users + 1)
    losses = []
    for knows in (lists, teacher):
        rrd = RRD(student, knows, **given)
        rrd.begin_epoch(0)
        losses.append(rrd.loss(batch).item())
    assert losses[0] == losses[1] > 0
    RD(student, lists, K=5, T=1.0, mu=0.1, num_samples=5, warm_up=1)
    experts = {"num_experts": 3, "tau_0": 1.0, "tau_P": 0.1, "P": 10}
    with pytest.raises(
        UserError, match=r"^Lists: this teacher has no representations; use one that has"
    ):
        DE(student, lists, **experts)
    with pytest.raises(
        UserError, match=r"^Lists: this teacher has no embeddings; use one that has"
    ):
        DE(student, lists, **experts, layer="embeddings")
    with pytest.raises(UserError, match=r"^Lists: this teacher has no scores"):
        S2D(student, lists, K=5, tau=1.0)
    cd = CD(student, lists, K=5, T=3.0, T1=1.0, T2=0.0, pool=50)
    with pytest.raises(UserError, match=r"^Lists: this teacher has no scores"):
        cd.begin_epoch(0)


def test_a_file_that_is_no_teacher_is_refused(split, workdir):
    (workdir / "best.pt").write_bytes(b"nothing")
    with pytest.raises(
        UserError, match=r"best\.pt: cut short, damaged or no checkpoint; name another --teac"
    ):
        load(split, teacher="best.pt")
    own = workdir / "checkpoints/synthetic/BPR-d16/no_KD/seed0/best.pt"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"nothing")
    with pytest.raises(
        UserError, match=r"best\.pt: cut short, .*; delete it to have it made again"
    ):
        load(split)
    with pytest.raises(UserError, match=r"absent/best\.pt: no such file; name another --teacher"):
        load(split, teacher="absent/best.pt")
