"""Every script that distils: its settings act, it resumes, and weight 0 changes nothing."""

import csv
import dataclasses
import json
import math
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import get_args

import conftest
import numpy as np
import pytest
import torch
from conftest import SCRIPT_NAMES, STUDENTS, TINY, TINY_NAME, killed_in, settings

import experiments.teacher
import main_CD
import main_CLDRD
import main_DCD
import main_DE
import main_DERRD
import main_DETA
import main_DGKD
import main_HetComp
import main_IRRRD
import main_MTD
import main_no_KD
import main_PHR
import main_PHRTA
import main_RCEKD
import main_RD
import main_S2D
import main_SVD
import main_TAKD
import main_UnKD
import main_URRD
from experiments.teacher import load_teacher
from Models import build_model
from Models.low_rank import low_rank_factors
from Models.teacher import read_teacher
from Utils.errors import UserError
from Utils.evaluation import Evaluator
from Utils.files import sha256_of
from Utils.run_folder import epochs_of
from Utils.sources import load_split
from Utils.split import FULL_RANKING, LEAVE_ONE_OUT, Split
from Utils.tables import Reading

METRICS = LEAVE_ONE_OUT.metrics
CHAINS = (main_TAKD, main_DGKD)  # with assistants that are runs of their own
METHODS = (  # a term beside the base
    *(main_RD, main_CD, main_DE, main_URRD, main_IRRRD, main_DERRD, main_PHR, main_DETA),
    *(main_PHRTA, main_DCD, main_CLDRD, main_MTD, main_RCEKD, main_UnKD, *CHAINS),
)
TRAINED = (*METHODS, main_S2D)
SMALL = {
    "dim": 8,
    "max_epoch": 3,  # the temperature of the first two is the same
    "lr": 0.01,
    "reg": 0.001,
    "batch_size": 2048,
    "num_experts": 3,
    "tau_0": 0.5,
    "K": 6,
    "L": 5,
    "K_I": 4,
    "L_I": 3,
    "pool": 50,
    "T": 10.0,
    "T_I": 10.0,
    "lmbda_DE": 0.01,
    "lmbda_RRD": 0.001,
    "lmbda_IR": 0.0005,
    "lmbda_RD": 0.1,
    "mu": 0.1,
    "num_samples": 20,
    "warm_up": 1,
    "lmbda_CD": 0.1,
    "T1": 2.0,
    "T2": -1.0,
    "refresh": 2,
    "lmbda_RCE": 0.1,
    "beta": 3.0,
    "lmbda_UnKD": 0.1,
    "num_groups": 2,
    "num_pairs": 4,
    "w": 0.3,
    "tau": 2.0,
    "lmbda_PHR": 0.01,
    "lmbda_TA": 0.01,
    "lmbda_KD": 0.01,
    "num_TAs": 2,
    "lmbda_UCD": 0.01,
    "lmbda_ICD": 0.005,
    "n": 6,
    "eps": 0.1,
    "lmbda_CLDRD": 0.1,
    "stage_epochs": 1,
    "lmbda_MTD": 0.001,
}
NO_KD = {
    "valid_share",
    "test_share",
    "dataset",
    "seed",
    "dim",
    "lr",
    "reg",
    "batch_size",
    "max_epoch",
    "patience",
}
NO_KD |= {"split", "data_dir", "selection", "model", "device", "threads", "name", "resume"}
NO_KD |= {
    "overwrite",
    "keep_states",
    "optimizer",
    "eval_users",
}  # tested with main_no_KD, of which the scripts' lines are copies
NO_KD |= {field.name for field in dataclasses.fields(Reading)}  # tested in test_tables.py

OTHER_VALUES = {
    "seed": 1,
    "lr": 0.02,
    "reg": 0.1,
    "batch_size": 512,
    "dim": 9,
    "lmbda_DE": 0.02,
    "num_experts": 4,
    "tau_0": 0.25,
    "tau_P": 1e-3,
    "P": 10,
    "expert_selection": "attention",
    "variant": "paper",
    "lmbda_RRD": 0.002,
    "K": 7,
    "L": 6,
    "T": 5.0,
    "pool": 60,
    "interesting": "top",
    "ranking": "full",
    "lmbda_IR": 0.001,
    "K_I": 5,
    "L_I": 4,
    "T_I": 5.0,
    "lmbda_RD": 0.2,
    "mu": 1e-3,
    "num_samples": 30,
    "warm_up": 2,
    "weights": "uniform",
    "lmbda_CD": 0.2,
    "T1": 1.0,
    "T2": 0.0,
    "sampling": "student",
    "lmbda_RCE": 0.2,
    "beta": 1.0,
    "lmbda_UnKD": 0.2,
    "num_groups": 3,
    "num_pairs": 5,
    "start": "spectral",
    "w": 0.5,
    "tau": 1.0,
    "lmbda_PHR": 0.02,
    "lmbda_TA": 0.02,
    "lmbda_KD": 0.02,
    "kd": "PHR",
    "num_TAs": 3,
    "TA_dims": "10",
    "num_dropped": 2,
    "enrichment": "none",
    "precision": "bf16",
    "projection": "shared",
    "gate": "none",
    "detach_targets": True,
    "lmbda_UCD": 0.02,
    "lmbda_ICD": 0.01,
    "n": 7,
    "eps": 0.01,
    "lmbda_CLDRD": 0.2,
    "stage_epochs": 2,
    "lmbda_MTD": 0.002,
}
OF_ONE_SCRIPT = {(main_DCD, "sampling"): "top"}
OF_PHR = {"enrichment", "precision"}  # of main_TAKD.py and main_DGKD.py these act with --kd PHR
ELSEWHERE = {
    **dict.fromkeys(("alpha", "ridge"), "test_ials.py"),
    **dict.fromkeys(("length", "num_targets", "n_v", "n_h"), "test_sequences.py"),
    **dict.fromkeys(("teachers", "teacher_weights", "combine"), "test_ensemble.py"),
    "keep_states": "test_states.py",
    "teacher": "test_teacher.py",
    "teacher_dim": "test_teacher.py",
    "layer": "test_distillers.py",
    "refresh": "test_the_students_list_is_made_anew_after_some_epochs",
    **dict.fromkeys(
        ("num_layers", "dropout", "lmbda_SSL", "tau_SSL", "margin", "beta_KL"),
        "test_every_method_runs_on_every_base_model_and_resumes",
    ),
    "save_selection": "test_the_experts_of_the_wanted_epochs_are_kept",
    "save_gates": "test_the_gates_of_the_wanted_epochs_are_kept",
}

pytestmark = pytest.mark.usefixtures("workdir", "at_hand")

run = partial(conftest.run, dataset=TINY)
trained_teacher = partial(conftest.trained_teacher, dataset=TINY)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    """Where the data is kept."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def at_hand(workdir, data_dir) -> None:
    """It is made once, and not for each run."""
    (workdir / "datasets").symlink_to(data_dir)


@pytest.fixture(scope="module")
def split(data_dir) -> Split:
    """Its split of seed 0."""
    return load_split(TINY, "seed", 0, str(data_dir))


@pytest.fixture(scope="module")
def teacher_path(tiny_path) -> Path:
    """The checkpoint of a teacher that was trained on it, BPR, d = 16."""
    return tiny_path


@pytest.fixture(scope="module")
def neumf_path(tmp_path_factory) -> Path:
    """The checkpoint of another, NeuMF."""
    return trained_teacher(tmp_path_factory.mktemp("neumf"), max_epoch=3, reg=0.0, model="NeuMF")


@pytest.fixture(scope="session")
def assistant_of(tmp_path_factory):
    """The checkpoint of an assistant of a size, which learned from nobody."""

    @cache
    def path(**given):
        with pytest.MonkeyPatch.context() as patch:
            folder = tmp_path_factory.mktemp("assistant")
            patch.chdir(folder)
            run(main_no_KD, **given, lr=0.01, reg=0.001, max_epoch=2)
        return next(folder.rglob("best.pt"))

    return path


@pytest.fixture(autouse=True)
def assistants(monkeypatch, assistant_of):
    """Assistants are at hand at once; tests/test_assistants.py has real ones."""
    original = experiments.teacher.trained_run

    def trained_run(method, given, split, role="teacher"):
        if role == "teacher":
            return original(method, given, split, role)
        told = "dim", "model", "split", "seed", "dataset", "data_dir"
        return assistant_of(**{name: given[name] for name in told})

    monkeypatch.setattr(experiments.teacher, "trained_run", trained_run)


def small(script: ModuleType, teacher_path, **changes) -> dict:
    """What is given for a run of a second on the built-in data."""
    names = {field.name for field in dataclasses.fields(script.Settings)}
    values = {name: value for name, value in SMALL.items() if name in names}
    if script is main_S2D:
        values |= {"batch_size": 100, "start": "random"}  # users
    return values | {"teacher": str(teacher_path)} | changes


def train(script: ModuleType, teacher_path, **changes) -> None:
    """Run it."""
    run(script, **small(script, teacher_path, **changes))


def method(script: ModuleType) -> str:
    return script.__name__.removeprefix("main_")


def read(workdir, script: ModuleType, name: str, folder: str = "") -> bytes:
    (path,) = workdir.rglob(f"{method(script)}{folder}/*/{name}")
    return path.read_bytes()


def rows(workdir, script: ModuleType) -> list[dict[str, str]]:
    return list(csv.DictReader(read(workdir, script, "metrics.csv").decode().splitlines()))


def test_every_script_is_here():
    elsewhere = (main_SVD, main_no_KD, main_HetComp)  # the last in test_hetcomp.py
    assert {f"{m.__name__}.py" for m in (*TRAINED, *elsewhere)} == set(SCRIPT_NAMES)


@pytest.mark.parametrize("script", METHODS)
def test_the_loss_is_the_base_and_the_weighted_terms(script, teacher_path, usual):
    weights = {
        name.removeprefix("lmbda_"): value
        for name, value in small(script, teacher_path).items()
        if name.startswith("lmbda_")
    }
    for row in csv.DictReader(usual(script).decode().splitlines()):
        terms = {name: float(row[name]) for name in weights}
        assert all(value > 0 for value in terms.values())
        total = float(row["base"]) + sum(weights[name] * terms[name] for name in weights)
        assert float(row["train_loss"]) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("script", METHODS)
def test_without_weight_nothing_changes(script, workdir, teacher_path):
    """Base losses and metrics equal those of main_no_KD.py, digit for digit."""
    args = small(script, teacher_path, max_epoch=4)
    run(script, **args | {name: 0.0 for name in args if name.startswith("lmbda_")})
    run(
        main_no_KD, **{name: args[name] for name in ("dim", "lr", "reg", "batch_size", "max_epoch")}
    )
    for mine, plain in zip(rows(workdir, script), rows(workdir, main_no_KD), strict=True):
        assert mine["base"] == mine["train_loss"] == plain["train_loss"]
        for part in ("valid", "test"):
            assert [mine[f"{part}_{n}"] for n in METRICS] == [plain[f"{part}_{n}"] for n in METRICS]
    mine, plain = (
        torch.load(next(workdir.rglob(f"{name}/*/best.pt")), weights_only=True)["weights"]
        for name in (method(script), "no_KD")
    )
    assert all(torch.equal(mine[name], plain[name]) for name in plain)


@pytest.mark.parametrize("script", TRAINED)
def test_a_resumed_run_equals_one_that_was_never_stopped(
    script, workdir, teacher_path, monkeypatch
):
    """Byte for byte; experts, selection noise and drawn lists included."""
    args = small(script, teacher_path, max_epoch=4)
    names = ("metrics.csv", "best.pt", "ranks.npz")
    run(script, **args)
    whole = [read(workdir, script, name) for name in names]
    (path,) = workdir.rglob(f"{method(script)}/*/last.pt")
    last = torch.load(path, weights_only=True)
    torch.manual_seed(99)  # global state plays no part
    np.random.seed(99)
    with killed_in(2, monkeypatch):
        run(script, **args, overwrite=True)
    run(script, **args, resume=True)
    assert "resumed after epoch" in read(workdir, script, "train.log").decode()
    assert [read(workdir, script, name) for name in names] == whole
    resumed = torch.load(path, weights_only=True)
    for key in ("modules", "optimizer", "history"):
        torch.testing.assert_close(resumed[key], last[key], rtol=0, atol=0)


def test_a_run_is_not_resumed_with_another_teacher(workdir, teacher_path, monkeypatch):
    args = small(main_URRD, teacher_path)
    with monkeypatch.context() as patch:
        patch.setattr("Utils.run.Run._finish", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(main_URRD, **args)
    monkeypatch.setattr("Models.teacher.sha256_of", lambda _: "another")
    with pytest.raises(UserError, match=r"its teacher_sha256 is .*, not another"):
        run(main_URRD, **args, resume=True)


# --- settings act --------------------------------------------------------------------------------


def named(script: ModuleType) -> set[str]:
    return {field.name for field in dataclasses.fields(script.Settings)}


def test_every_setting_has_a_test():
    for script in (*TRAINED, main_SVD):
        assert named(script) <= NO_KD | OTHER_VALUES.keys() | ELSEWHERE.keys(), script


@pytest.fixture(scope="module")
def usual(tmp_path_factory, teacher_path):
    """What the scripts give with the small settings, each run once."""

    @cache
    def metrics(script: ModuleType, **changes) -> bytes:
        folder = tmp_path_factory.mktemp("usual")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            train(script, teacher_path, **changes)
        return read(folder, script, "metrics.csv")

    return metrics


LATE = {  # they act after an epoch of three steps, or in the first by little more than rounding
    *("tau_P", "P", "mu", "num_samples", "warm_up", "stage_epochs"),
    *("variant", "precision", "T", "pool"),
}
CASES = [(script, name) for script in TRAINED for name in OTHER_VALUES if name in named(script)]


@pytest.mark.parametrize(("script", "name"), CASES)
def test_a_setting_that_is_accepted_is_used(script, name, workdir, teacher_path, usual):
    others = {"kd": "PHR"} if script in CHAINS and name in OF_PHR else {}
    others |= {} if name in LATE else {"max_epoch": 1}
    changes = others | {name: OF_ONE_SCRIPT.get((script, name), OTHER_VALUES[name])}
    if name == "seed":  # another split, so the teacher is another one as well
        run(main_no_KD, dim=16, seed=1, max_epoch=1)
        changes |= {"teacher": f"checkpoints/{TINY_NAME}/BPR-d16/no_KD/seed1"}
    train(script, teacher_path, **changes)
    (path,) = workdir.glob(f"logs/*/*/{method(script)}/*/metrics.csv")
    assert path.read_bytes() != usual(script, **others)


def test_de_rrd_uses_every_setting_of_both(workdir, teacher_path, usual):
    """The two methods' settings reach them, the shared ones both."""
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DE", "RRD"):
            original = getattr(main_DERRD, name)

            def build(*models, name=name, original=original, **given):
                seen[name] = given
                return original(*models, **given)

            build.require = original.require
            patch.setattr(main_DERRD, name, build)
        given = small(main_DERRD, teacher_path, variant="paper", T=4.0)
        run(main_DERRD, **given)
    args = dataclasses.asdict(settings(main_DERRD, **given))
    for name, apart in (("DE", ("num_experts", "P", "layer")), ("RRD", ("K", "L", "T", "pool"))):
        assert seen[name] == {setting: args[setting] for setting in seen[name]}
        assert seen[name].keys() >= {*apart, "variant", "seed"}
    both = seen["DE"].keys() | seen["RRD"].keys()
    own = {name for name in main_DERRD.Settings.__annotations__ if not name.startswith("lmbda_")}
    around = {"dim", "start", "save_selection", "lr", "reg", "batch_size", "of_record"}
    assert own - around == both - {"seed"}


@pytest.mark.parametrize("script", [*TRAINED, main_SVD, main_no_KD])
def test_a_number_out_of_range_is_refused_at_once(script):
    """Before a teacher is trained, or anything else."""
    kinds = {
        field.name: {int, float} & {field.type, *get_args(field.type)}
        for field in dataclasses.fields(script.Settings)
    }
    numbers = {name: kind.pop() for name, kind in kinds.items() if kind}
    assert len(numbers) >= 4
    for name, kind in numbers.items():
        from_zero = name in (
            "reg",
            "seed",
            "threads",
            "warm_up",
            "w",
            "dropout",
            "beta_KL",
            "keep_states",
            "eval_users",
            "valid_share",
            "test_share",
        )
        from_zero |= name.startswith("lmbda")
        from_zero |= (script, name) in ((main_S2D, "num_samples"), (main_DGKD, "num_dropped"))
        any_sign = name in ("T2", "min_rating")
        wrong = [] if any_sign else [-1] if from_zero else [-1, 0]
        wrong += [math.nan, math.inf] if kind is float else []
        for number in map(kind, wrong):
            for build in (script.Settings, partial(settings, script)):
                with pytest.raises(UserError, match=rf"^--{name} {number} is out of range; use "):
                    build(**{name: number})
        for number in (0,) if from_zero else (0, -1) if any_sign else ():
            script.Settings(**{name: kind(number)})


@pytest.mark.parametrize("selection", ["gumbel", "attention", "one_large", "one_small"])
def test_every_expert_selection_learns(selection, workdir, teacher_path):
    train(main_DE, teacher_path, expert_selection=selection, max_epoch=6)
    distances = [float(row["DE"]) for row in rows(workdir, main_DE)]
    assert distances[-1] < 0.9 * distances[0]


# --- what is kept --------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [main_DE, main_DERRD])
def test_the_experts_of_the_wanted_epochs_are_kept(script, workdir, teacher_path, split):
    train(script, teacher_path, save_selection="0,2,-1", max_epoch=5)
    found = sorted((workdir / "logs").rglob("selection-epoch*.npz"))
    assert [path.name for path in found] == [f"selection-epoch{epoch}.npz" for epoch in (0, 2, 4)]
    for path in found:
        with np.load(path) as kept:
            assert kept["user"].shape == (split.num_users,)
            assert kept["item"].shape == (split.num_items,)
            assert set(kept["user"]) <= {0, 1, 2}
    train(script, teacher_path, save_selection="-1", patience=1, lr=1.0, name="short",
                      max_epoch=50)  # fmt: skip
    (path,) = workdir.rglob("*-short/*/selection-epoch*.npz")
    epochs = json.loads(read(workdir, script, "summary.json", "-short"))["epochs"]
    assert path.name == f"selection-epoch{epochs - 1}.npz"
    assert epochs < 50


@pytest.mark.parametrize("script", [main_DETA, main_PHRTA])
def test_the_gates_of_the_wanted_epochs_are_kept(script, workdir, teacher_path, split):
    train(script, teacher_path, save_gates="0,-1")
    found = sorted((workdir / "logs").rglob("gates-epoch*.npz"))
    assert [path.name for path in found] == ["gates-epoch0.npz", "gates-epoch2.npz"]
    gates = []
    for path in found:
        with np.load(path) as kept:
            gates.append(np.concatenate([kept["user"], kept["item"]]))
            assert kept["user"].shape == (split.num_users, 2)
        np.testing.assert_allclose(gates[-1].sum(axis=1), 1, atol=1e-3)
    assert not np.array_equal(*gates)  # they learn


def test_epochs_are_written_with_commas():
    assert epochs_of("0,20,-1") == [0, 20, -1]
    assert epochs_of("") == []
    for text in ("0;20", "first", "-2", "1,,2"):
        with pytest.raises(UserError, match=f"'{text}' lists no epochs; write them like 0,20,-1"):
            epochs_of(text)


@pytest.mark.parametrize("script", [*TRAINED, main_SVD])
def test_the_record_says_which_teacher_it_was_and_a_finished_run_asks_none(
    script, workdir, teacher_path, teacher, split, assistant_of, monkeypatch, capsys
):
    train(script, teacher_path)
    record, *_ = json.loads(read(workdir, script, "config.json"))["teachers"]
    if script is main_TAKD:  # who teaches is the last assistant, of the size between
        of_split = {"split": "seed", "seed": 0, "dataset": TINY, "data_dir": "datasets"}
        path = assistant_of(dim=11, model="BPR", **of_split)
        teacher = read_teacher(path, split, torch.device("cpu"), "")
    assert record["sha256"] == teacher.sha256
    assert record["dim"] == teacher.model.dim
    assert record["metrics"]["test_H@5"] == pytest.approx(teacher.metrics["test_H@5"], abs=1e-6)
    assert teacher.describe() in read(workdir, script, "train.log").decode()
    monkeypatch.setattr(script, "load_teacher", lambda *_: pytest.fail("not needed"))
    capsys.readouterr()
    train(script, teacher_path)
    assert "holds this run, finished" in capsys.readouterr().out


# --- the baseline without training ---------------------------------------------------------------


def test_the_approximation_is_the_truncated_svd_of_the_scores():
    users = torch.randn(30, 7, generator=torch.Generator().manual_seed(0))
    items = torch.randn(40, 7, generator=torch.Generator().manual_seed(1))
    scores = (users @ items.T).double()
    left, values, right = torch.linalg.svd(scores)
    for dim in (1, 4, 7):
        p, q = low_rank_factors(users, items, dim)
        expected = left[:, :dim] * values[:dim] @ right[:dim]
        torch.testing.assert_close(p @ q.T, expected.float(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(p.norm(dim=0), q.norm(dim=0))  # half to either side


def test_the_baseline_is_evaluated_without_training(workdir, teacher_path, teacher, split):
    train(main_SVD, teacher_path)
    student = build_model("BPR", split, 8, seed=5)
    best = torch.load(next(workdir.rglob("SVD/*/best.pt")), weights_only=True)
    student.load_state_dict(best["weights"])
    p, q = teacher.model.encode()
    left, values, right = torch.linalg.svd((p @ q.T).double())
    expected = (left[:, :8] * values[:8] @ right[:8]).float()
    torch.testing.assert_close(
        student.score_all(torch.arange(split.num_users)), expected, rtol=0, atol=1e-3
    )
    found = json.loads(read(workdir, main_SVD, "summary.json"))
    measured = Evaluator(split, "cpu").evaluate(student)[0]
    assert found["test"]["H@5"] == pytest.approx(measured["test_H@5"], abs=1e-6)
    assert found["epochs"] == 1
    assert list(rows(workdir, main_SVD)[0])[:2] == ["epoch", "valid_H@5"]
    training = {"lr", "reg", "batch_size", "max_epoch", "patience", "num_layers"}
    assert named(main_SVD).isdisjoint(training)  # what does nothing is no setting
    assert json.loads(read(workdir, main_SVD, "config.json"))["settings"].keys() == named(main_SVD)


def test_scores_of_any_teacher_have_such_a_baseline(workdir, neumf_path, split):
    with pytest.raises(UserError, match="--model NeuMF: its scores are not inner products"):
        run(main_SVD, model="NeuMF")
    assert not (workdir / "checkpoints").exists()  # and no teacher was trained for that
    train(main_SVD, neumf_path)
    args = settings(main_SVD, teacher=str(neumf_path), dim=8)
    teacher = load_teacher(args, split, torch.device("cpu"))
    student = build_model("BPR", split, 8, seed=5)
    best = torch.load(next(workdir.rglob("SVD/*/best.pt")), weights_only=True)
    student.load_state_dict(best["weights"])
    users = torch.arange(split.num_users)
    scores = teacher.model.score_all(users).double()
    values = np.linalg.svd(scores.numpy(), compute_uv=False)
    least = np.sqrt(np.square(values[8:]).sum())
    assert least < (scores - student.score_all(users)).norm().item() < 1.01 * least


# --- every method on every base model ------------------------------------------------------------


OPTIONS = {  # of the students, not all as the models' defaults
    "NeuMF": {"num_layers": 2},
    "LightGCN": {"num_layers": 2},
    "NGCF": {"num_layers": 1, "dropout": 0.2},
    "SGL": {"num_layers": 1, "dropout": 0.3, "lmbda_SSL": 0.02, "tau_SSL": 0.4},
    "CML": {"margin": 0.8},
    "MultVAE": {"dropout": 0.3, "beta_KL": 0.5},
    "ItemVAE": {"dropout": 0.3, "beta_KL": 0.5},
}
BY_USERS = (
    *(main_RD, main_CD, main_URRD, main_IRRRD, main_CLDRD, main_MTD, main_RCEKD, main_UnKD),
)  # for which users alone will do


@pytest.mark.parametrize("model", sorted(set(STUDENTS) - {"BPR"}))  # tested elsewhere
@pytest.mark.parametrize("script", METHODS)
def test_every_method_runs_on_every_base_model_and_resumes(
    script, model, workdir, teacher_path, neumf_path, monkeypatch
):
    """Two epochs at once, and with a death in between, the student's own options included."""
    path, options = neumf_path if model == "NeuMF" else teacher_path, OPTIONS[model]
    args = small(script, path, model=model, max_epoch=2, **options)
    if model == "ItemVAE" or (model == "MultVAE" and script not in BY_USERS):
        said = f"its batches are {'items' if model == 'ItemVAE' else 'users'}, and this"
        if script is main_DCD and model == "MultVAE":  # the item side alone is refused
            said = "it does not train on pairs"
        with pytest.raises(UserError, match=f"^--model {model}: {said}"):
            run(script, **args)
        return
    args["batch_size"] = 100 if model == "MultVAE" else 1024  # users, pairs: a few steps
    args["dim"] = 4 if model == "NGCF" else 8  # whose factors are two layers side by side
    names = ("metrics.csv", "best.pt")
    run(script, **args)
    whole = [read(workdir, script, name) for name in names]
    best = torch.load(next(workdir.rglob(f"{method(script)}/*/best.pt")), weights_only=True)
    assert best["options"] == options
    with killed_in(1, monkeypatch):
        run(script, **args, overwrite=True)
    run(script, **args, resume=True)
    assert [read(workdir, script, name) for name in names] == whole
    terms = [name for name in args.keys() - options if name.startswith("lmbda_")]
    for row in rows(workdir, script):
        assert all(float(row[name.removeprefix("lmbda_")]) > 0 for name in terms)


@pytest.mark.parametrize("model", ["BPR", "NeuMF"])
def test_a_teacher_of_another_base_model_gives_its_scores(model, workdir, teacher_path, neumf_path):
    other = {"BPR": neumf_path, "NeuMF": teacher_path}[model]
    train(main_RD, other, model=model, max_epoch=1)
    kept = json.loads(read(workdir, main_RD, "config.json"))["teachers"][0]["model"]
    assert {kept, model} == {"BPR", "NeuMF"}
    with pytest.raises(UserError, match="use a teacher of the same base model, or --layer embed"):
        train(main_DE, other, model=model)
    train(main_DE, other, model=model, layer="embeddings", max_epoch=1)


@pytest.mark.parametrize("model", sorted(set(STUDENTS) - {"BPR", "NeuMF"}))
def test_other_kinds_teach_a_student_of_bpr(model, workdir):
    """Its representations, which may be larger than its size, and its lists."""
    path = trained_teacher(workdir / "teacher", max_epoch=1, model=model, **OPTIONS[model])
    for script in (main_DE, main_URRD):
        train(script, path, max_epoch=1)
        (record,) = json.loads(read(workdir, script, "config.json"))["teachers"]
        assert (record["model"], record["dim"]) == (model, 16)


def test_a_students_run_is_the_next_ones_teacher(workdir, teacher_path):
    train(main_DE, teacher_path, dim=12, max_epoch=2, name="first")
    folder = f"checkpoints/{TINY_NAME}/BPR-d12/DE-first/seed0"
    train(main_URRD, folder)
    config = json.loads(read(workdir, main_URRD, "config.json"))
    (record,) = config["teachers"]
    assert record["path"] == f"{folder}/best.pt"
    assert record["sha256"] == sha256_of(workdir / folder / "best.pt")
    assert record["dim"] == config["settings"]["teacher_dim"] == 12
    first = json.loads(read(workdir, main_DE, "summary.json", "-first"))
    assert record["metrics"]["test_H@5"] == pytest.approx(first["test"]["H@5"], abs=1e-6)
    log = read(workdir, main_URRD, "train.log").decode()
    assert "teacher BPR d=12: " in log
    assert all(float(row["RRD"]) > 0 for row in rows(workdir, main_URRD))


@pytest.mark.parametrize("script", [main_CD, main_DCD])
def test_the_students_list_is_made_anew_after_some_epochs(script, workdir, teacher_path):
    runs = []
    given = {"sampling": "student"} if script is main_CD else {}
    for refresh in (1, 2, 3):
        name = f"refresh{refresh}"
        train(script, teacher_path, **given, refresh=refresh, name=name)
        runs.append(read(workdir, script, "metrics.csv", f"-{name}").splitlines())
    assert runs[0][:2] == runs[1][:2] == runs[2][:2]  # epoch 0
    assert runs[0][2] != runs[1][2] == runs[2][2]  # epoch 1
    assert runs[1][3] != runs[2][3]


# --- every method on the split by shares ---------------------------------------------------------

BY_SHARES = [f"{part}_{name}" for part in ("valid", "test") for name in FULL_RANKING.metrics]


@pytest.fixture(scope="module")
def shares(data_dir) -> Split:
    """The data, split by shares."""
    return load_split(TINY, "share", 0, str(data_dir))


@pytest.fixture(scope="module")
def shares_path(tmp_path_factory):
    """The checkpoint of a teacher that was trained on the split by shares."""
    folder = tmp_path_factory.mktemp("shares")
    return trained_teacher(folder, split="share", max_epoch=11, reg=0.001)


def by_shares(script: ModuleType, shares_path) -> dict:
    """What is given for a run that is evaluated twice, in a few steps an epoch."""
    lasting = {"max_epoch": 11, "batch_size": 100 if script is main_S2D else 1024}
    given = small(script, shares_path, split="share") | lasting
    return {name: value for name, value in given.items() if name in named(script)}


@pytest.mark.parametrize("script", [*TRAINED, main_no_KD])
def test_every_method_runs_by_shares(script, workdir, shares_path, shares):
    run(script, **by_shares(script, shares_path))
    found = rows(workdir, script)
    assert [row["epoch"] for row in found] == [str(epoch) for epoch in range(11)]
    for epoch, row in enumerate(found):
        assert float(row["train_loss"]) > 0
        assert {row[name] != "" for name in BY_SHARES} == {epoch in (0, 10)}
    summary = json.loads(read(workdir, script, "summary.json"))
    assert summary["split"] == "share0"
    assert summary["test"]["R@50"] == pytest.approx(
        float(found[summary["best_epoch"]]["test_R@50"]), abs=1e-6
    )
    (path,) = workdir.glob(f"logs/*/*/{method(script)}/share0/ranks.npz")
    with np.load(path) as kept:
        for part in ("valid", "test"):
            held_out = getattr(shares, part)
            assert np.array_equal(kept[f"{part}_counts"], held_out.counts)
            assert kept[part].shape == held_out.items.shape


@pytest.mark.parametrize("script", [main_no_KD, main_S2D, main_URRD, main_DERRD])
def test_a_run_is_resumed_between_two_evaluations(script, workdir, shares_path, monkeypatch):
    """When only the losses are known."""
    given = by_shares(script, shares_path)
    run(script, **given)
    names = ("metrics.csv", "best.pt", "ranks.npz")
    whole = [read(workdir, script, name) for name in names]
    with killed_in(5, monkeypatch):
        run(script, **given, overwrite=True)
    run(script, **given, resume=True)
    assert "resumed after epoch" in read(workdir, script, "train.log").decode()
    assert [read(workdir, script, name) for name in names] == whole


def test_the_baseline_by_shares(workdir, shares_path, shares):
    run(main_SVD, **by_shares(main_SVD, shares_path))
    (row,) = rows(workdir, main_SVD)
    assert list(row) == ["epoch", *BY_SHARES]
    student = build_model("BPR", shares, 8, seed=5)
    best = torch.load(next(workdir.rglob("SVD/*/best.pt")), weights_only=True)
    student.load_state_dict(best["weights"])
    for name, value in Evaluator(shares, "cpu").evaluate(student)[0].items():
        assert float(row[name]) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("script", [*TRAINED, main_SVD, main_no_KD])
def test_the_published_rule_is_refused_by_shares(script, workdir):
    """Before a teacher is trained for it."""
    with pytest.raises(
        UserError, match=r"^--selection 'published_code' is unknown; There are pape"
    ):
        run(script, split="share", selection="published_code")
    assert not (workdir / "logs").exists()
    assert not (workdir / "checkpoints").exists()


def test_a_teacher_of_another_kind_of_split_is_refused(workdir, teacher_path):
    with pytest.raises(UserError, match=r"its split is seed0, not share0; name another --teacher"):
        train(main_URRD, teacher_path, split="share")
