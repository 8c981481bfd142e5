"""A run: what it keeps, how it stops, and that it can be stopped and resumed anywhere."""

import csv
import dataclasses
import json
import os
import shutil
import subprocess

import numpy as np
import pytest
import torch
from conftest import killed_in, run, settings
from torch import nn

import main_DE
import main_no_KD
from experiments.evidence import Evidence
from experiments.results import read_curves, read_ranks, read_runs, results_table
from experiments.teacher import load_teacher
from main_no_KD import Settings
from Models import build_model
from Models.distillers import DE, RRD
from Models.distillers.distiller import Distiller
from Utils.dataset import PairSampler
from Utils.errors import UserError
from Utils.evaluation import Evaluator
from Utils.files import lock_folder, read_checkpoint
from Utils.run import Run
from Utils.settings import use_device
from Utils.sources import load_split
from Utils.split import FULL_RANKING, LEAVE_ONE_OUT
from Utils.tables import Reading

FOLDER = "synthetic/BPR-d8/no_KD/seed0"
SMALL = {"dim": 8, "max_epoch": 4, "lr": 0.01, "reg": 0.001, "batch_size": 1024}
METRICS = LEAVE_ONE_OUT.metrics


def train(**changes) -> None:
    """Train a second or two on the built-in data."""
    run(main_no_KD, **SMALL | changes)


def small(**changes) -> Settings:
    """The settings of that."""
    return settings(main_no_KD, **SMALL | changes)


def read(folder, name: str) -> bytes:
    """Return a file of the run's logs or checkpoints."""
    kind = "checkpoints" if name.endswith(".pt") else "logs"
    return (folder / kind / FOLDER / name).read_bytes()


def test_a_run_leaves_what_the_readme_says(workdir, capsys):
    train()
    config, summary = (json.loads(read(workdir, f"{n}.json")) for n in ("config", "summary"))
    assert config["settings"] == dataclasses.asdict(small())
    split = load_split("synthetic", "seed", 0, "datasets")
    assert config["data"]["source_sha256"] == split.source_sha256
    assert {"python", "torch", "numpy"} <= config["versions"].keys()
    expected = {
        "script": "main_no_KD.py",
        "method": "no_KD",
        "dataset": "synthetic",
        "split": "seed0",
        "model": "BPR",
        "dim": 8,
        "seed": 0,
        "selection": "paper",
        "epochs": 4,
        "num_parameters": 8 * (split.num_users + split.num_items),
        "device": "cpu",
    }
    assert summary.items() >= expected.items()
    assert summary["valid"].keys() == summary["test"].keys() == set(METRICS)
    assert all(summary[key] > 0 for key in ("train_seconds", "eval_seconds", "peak_rss_mb"))

    rows = list(csv.DictReader(read(workdir, "metrics.csv").decode().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    names = [f"{part}_{name}" for part in ("valid", "test") for name in METRICS]
    assert list(rows[0]) == ["epoch", "train_loss", *names]
    best = max(rows, key=lambda row: float(row["valid_H@5"]))
    assert summary["best_epoch"] == int(best["epoch"])
    assert summary["test"]["N@10"] == pytest.approx(float(best["test_N@10"]), abs=1e-6)

    log = read(workdir, "train.log").decode().splitlines()
    assert "main_no_KD.py: " in log[0]
    assert "lr=0.01" in log[0]
    assert log[1] == split.describe()
    assert "on cpu" in log[2]
    assert "epoch    3" in "\n".join(log)
    said, *lines = capsys.readouterr().out.splitlines()  # no terminal here: plain lines
    assert lines == log
    assert said.startswith("given: dataset=synthetic dim=8 max_epoch=4 lr=0.01 reg=0.001 batch_s")
    assert not list(workdir.rglob(".*"))  # nothing temporary stays


def test_the_kept_weights_are_those_of_the_best_epoch(workdir):
    train()
    summary = json.loads(read(workdir, "summary.json"))
    split = load_split("synthetic", "seed", 0, "datasets")
    best = torch.load(workdir / "checkpoints" / FOLDER / "best.pt", weights_only=True)
    assert best["epoch"] == summary["best_epoch"]
    model = build_model("BPR", split, 8, seed=1)
    model.load_state_dict(best["weights"])
    values, ranks = Evaluator(split, "cpu").evaluate(model)
    for name in METRICS:
        assert summary["test"][name] == pytest.approx(values[f"test_{name}"], abs=1e-6)
    with np.load(workdir / "logs" / FOLDER / "ranks.npz") as kept:
        for part in ("valid", "test"):
            assert kept[part].tolist() == ranks[part].tolist()


def test_equal_commands_give_equal_bytes(workdir):
    train()
    first = [read(workdir, name) for name in ("metrics.csv", "best.pt", "ranks.npz")]
    torch.manual_seed(99)  # global state plays no part
    np.random.seed(99)
    train(overwrite=True)
    assert [read(workdir, name) for name in ("metrics.csv", "best.pt", "ranks.npz")] == first


def test_the_published_rule_mixes_epochs_and_says_so(workdir):
    train(selection="published_code", max_epoch=20, patience=3, lr=0.1)
    summary = json.loads(read(workdir, "summary.json"))
    rows = list(csv.DictReader(read(workdir, "metrics.csv").decode().splitlines()))
    for n, epoch in summary["selected_epochs"].items():
        best = max(range(len(rows)), key=lambda e, n=n: float(rows[e][f"valid_H@{n}"]))
        assert epoch == best
        expected = float(rows[best][f"test_M@{n}"])
        assert summary["test"][f"M@{n}"] == pytest.approx(expected, abs=1e-6)
    assert len(set(summary["selected_epochs"].values())) > 1
    assert summary["best_epoch"] == summary["selected_epochs"]["5"]


# --- settings act --------------------------------------------------------------------------------

OTHER_VALUES = {  # another value for each setting that changes what is learned
    "seed": 1,
    "lr": 0.02,
    "reg": 0.1,
    "batch_size": 512,
    "dim": 9,
    "max_epoch": 3,
    "patience": 1,
    "optimizer": "rows",
}
ELSEWHERE = {  # settings whose effect is tested by another test of this file
    "dataset": "test_data_and_split_are_taken_from_the_settings",
    "split": "test_data_and_split_are_taken_from_the_settings",
    "valid_share": "test_data_and_split_are_taken_from_the_settings",
    "test_share": "test_data_and_split_are_taken_from_the_settings",
    "data_dir": "test_data_and_split_are_taken_from_the_settings",
    "eval_users": "test_a_sample_of_users_is_measured_and_said",
    "selection": "test_the_published_rule_mixes_epochs_and_says_so",
    "model": "test_the_model_is_taken_from_the_settings",
    "num_layers": "test_a_models_own_setting_is_used",
    "dropout": "test_a_models_own_setting_is_used",
    "lmbda_SSL": "test_a_models_own_setting_is_used",
    "tau_SSL": "test_a_models_own_setting_is_used",
    "keep_states": "test_states_are_kept_if_wanted",
    "device": "test_device_and_threads_are_set",
    "threads": "test_device_and_threads_are_set",
    "name": "test_other_settings_need_a_name_or_overwrite",
    "resume": "test_an_unfinished_run_is_not_lost_by_accident",
    "overwrite": "test_a_finished_run_is_left_alone",
}


def test_every_setting_has_a_test():
    names = {field.name for field in dataclasses.fields(Settings)}
    # tests of CML, auto-encoders, iALS, sequences
    of_models = {"margin", "beta_KL", "alpha", "ridge", "length", "num_targets", "n_v", "n_h"}
    of_own_files = {field.name for field in dataclasses.fields(Reading)}  # test_tables.py
    assert names == OTHER_VALUES.keys() | ELSEWHERE.keys() | of_models | of_own_files
    assert all(callable(globals()[test]) for test in ELSEWHERE.values())


def test_states_are_kept_if_wanted(workdir):
    """Which ones is for test_states.py."""
    train(max_epoch=8, keep_states=2)
    assert len(list(workdir.rglob("state-epoch*.pt"))) == 1


@pytest.mark.parametrize("setting", OTHER_VALUES)
def test_a_setting_that_is_accepted_is_used(workdir, setting):
    base = {"max_epoch": 12, "lr": 0.1} if setting == "patience" else {}
    train(**base)
    first = read(workdir, "metrics.csv")
    train(**base | {setting: OTHER_VALUES[setting], "name": "other"})
    (other,) = (workdir / "logs").rglob("no_KD-other/*/metrics.csv")
    assert other.read_bytes() != first


def test_data_and_split_are_taken_from_the_settings(workdir, monkeypatch):
    asked = []
    load = "Utils.sources.load_split"
    monkeypatch.setattr(load, lambda *args: asked.append(args) or 1 / 0)
    elsewhere = {"split": "published", "seed": 3, "data_dir": "elsewhere"}
    shares = {"split": "share", "seed": 1, "valid_share": 0.1, "test_share": 0.3}
    for given in ({}, shares, elsewhere | {"dataset": "CiteULike"}):
        with pytest.raises(ZeroDivisionError):
            train(**given)
    monkeypatch.setenv("RECDISTILL_DATA", "from the environment")
    with pytest.raises(ZeroDivisionError):
        train()
    assert [each[:5] for each in asked] == [
        ("synthetic", "seed", 0, "datasets", (None, None)),
        ("synthetic", "share", 1, "datasets", (0.1, 0.3)),
        ("CiteULike", "published", 3, "elsewhere", (None, None)),
        ("synthetic", "seed", 0, "from the environment", (None, None)),
    ]


def test_a_sample_of_users_is_measured_and_said(workdir, capsys):
    """The same training as without, and a run of its own, which is not compared over users."""
    train(max_epoch=2)
    train(max_epoch=2, eval_users=100)
    assert "synthetic (seed0-users100): 1,000 users" in (said := capsys.readouterr().out)
    assert "100 users are measured" in said
    whole, some = read_runs(workdir / "logs")
    losses, few = (read_curves(run["folder"].curves)["train_loss"] for run in (whole, some))
    assert losses.tolist() == few.tolist()
    ranks, starts = read_ranks(some["folder"].ranks)
    assert (len(starts), len(ranks)) == (1001, 100)
    assert some["test"]["H@5"] == pytest.approx((ranks <= 5).mean())
    assert some["folder"].read_config()["settings"]["eval_users"] == 100
    assert Evidence(workdir / "logs").user_gains(whole, some, "H@5") == (None, "another split")
    assert "| own, 100 users |" in results_table([whole, some])
    with pytest.raises(UserError, match="--eval_users 1000: no sample, as 1,000 users of synth"):
        train(eval_users=1000)


def test_the_model_is_taken_from_the_settings(workdir):
    for num_layers in (1, 2):
        name = f"{num_layers}-layers"
        train(model="NeuMF", num_layers=num_layers, max_epoch=1, name=name)
        (path,) = workdir.rglob(f"checkpoints/synthetic/NeuMF-d8/no_KD-{name}/seed0/best.pt")
        best = torch.load(path, weights_only=True)
        assert best["model"] == "NeuMF"
        assert best["options"] == {"num_layers": num_layers}
        widths = [w.shape for name, w in best["weights"].items() if name.startswith("hidden")]
        assert widths[-2:] == [(8, 16), (8,)] if num_layers == 1 else [(4, 8), (4,)]


@pytest.mark.parametrize(
    ("model", "setting", "value"),
    [
        ("LightGCN", "num_layers", 2),
        ("NGCF", "num_layers", 2),
        ("NGCF", "dropout", 0.0),
        ("SGL", "dropout", 0.5),
        ("SGL", "lmbda_SSL", 0.0),
        ("SGL", "tau_SSL", 2.0),
    ],
)
def test_a_models_own_setting_is_used(workdir, model, setting, value):
    found = []
    for name, given in (("usual", {}), ("other", {setting: value})):
        train(model=model, max_epoch=1, name=name, **given)
        (path,) = workdir.rglob(f"checkpoints/synthetic/{model}-d8/no_KD-{name}/seed0/best.pt")
        found.append(torch.load(path, weights_only=True))
    usual, other = (best["options"] for best in found)
    assert other == usual | {setting: value}
    assert other != usual
    assert not torch.equal(*(best["weights"]["user.weight"] for best in found))


def test_device_and_threads_are_set(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = torch.get_num_threads()
    assert use_device(small(threads=2)).type == "cpu"
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
    with pytest.raises(UserError, match="--device cuda: PyTorch sees no CUDA device"):
        use_device(small(device="cuda"))
    with pytest.raises(UserError, match="--threads -1"):
        use_device(small(threads=-1))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("dim", 0),
        ("lr", -0.1),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("reg", -1.0),
        ("batch_size", 0),
        ("max_epoch", 0),
        ("patience", 0),
        ("seed", -1),
        ("name", "../up"),
    ],
)
def test_a_setting_out_of_range_is_refused_before_anything_is_written(workdir, setting, value):
    with pytest.raises(UserError, match=rf"--{setting} .*{value}"):
        train(**{setting: value})
    assert not (workdir / "logs").exists()
    assert not (workdir / "checkpoints").exists()


# --- starting again ------------------------------------------------------------------------------


def run_until(epoch: int, monkeypatch, **changes) -> None:
    """Run, and die while epoch ``epoch`` is being trained."""
    with killed_in(epoch, monkeypatch):
        train(**changes)


def test_a_finished_run_is_left_alone(workdir, capsys):
    train()
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    capsys.readouterr()
    for again in ({}, {"resume": True}):
        train(**again)
        assert "holds this run, finished: test H@5" in capsys.readouterr().out
        assert {path: path.stat().st_mtime_ns for path in before} == before
    train(overwrite=True)
    assert read(workdir, "train.log").decode().count("main_no_KD.py:") == 1
    assert {path: path.stat().st_mtime_ns for path in before} != before


def test_an_unfinished_run_is_not_lost_by_accident(workdir, monkeypatch):
    train()
    whole = read(workdir, "metrics.csv"), read(workdir, "best.pt")
    run_until(2, monkeypatch, overwrite=True)
    with pytest.raises(UserError, match="unfinished run; --resume goes on, --overwrite starts"):
        train()
    with pytest.raises(UserError, match="use one of them"):
        train(resume=True, overwrite=True)
    train(resume=True)
    assert (read(workdir, "metrics.csv"), read(workdir, "best.pt")) == whole
    assert "resumed after epoch" in read(workdir, "train.log").decode()


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_a_resumed_run_equals_one_that_was_never_stopped(workdir, monkeypatch, epoch):
    train()
    names = ("metrics.csv", "best.pt", "ranks.npz")
    whole = [read(workdir, name) for name in names]
    last = torch.load(workdir / "checkpoints" / FOLDER / "last.pt", weights_only=True)
    shutil.rmtree(workdir / "logs")
    shutil.rmtree(workdir / "checkpoints")
    run_until(epoch, monkeypatch)
    train(resume=True)
    assert [read(workdir, name) for name in names] == whole
    resumed = torch.load(workdir / "checkpoints" / FOLDER / "last.pt", weights_only=True)
    for key in ("modules", "optimizer", "history"):
        torch.testing.assert_close(resumed[key], last[key], rtol=0, atol=0)


def test_a_run_that_updates_rows_alone_is_resumed_with_the_same_bytes(workdir, monkeypatch):
    rows = {"optimizer": "rows", "max_epoch": 3}
    names = ("metrics.csv", "best.pt", "ranks.npz")
    train(**rows)
    whole = [read(workdir, name) for name in names]
    path = workdir / "checkpoints" / FOLDER / "last.pt"
    last = torch.load(path, weights_only=True)
    run_until(1, monkeypatch, **rows, overwrite=True)
    with pytest.raises(UserError, match=r"holds a run with optimizer rows \(now dense\)"):
        train(**rows | {"optimizer": "dense"}, resume=True)
    begun = torch.load(path, weights_only=True)
    wrong = {"step": torch.tensor(-1.0)} | {f"exp_avg{end}": torch.zeros(8) for end in ("", "_sq")}
    for moments in (begun["optimizer"]["state"][0] | {"step": wrong["step"]}, wrong):
        state = begun["optimizer"]["state"] | {0: moments}
        torch.save(begun | {"optimizer": begun["optimizer"] | {"state": state}}, path)
        with pytest.raises(
            UserError, match=r"last\.pt: its moments (are of -1\.0 steps|do not fit)"
        ):
            train(**rows, resume=True)
    torch.save(begun, path)
    train(**rows, resume=True)
    assert [read(workdir, name) for name in names] == whole
    resumed = torch.load(path, weights_only=True)
    for key in ("modules", "optimizer", "history"):
        torch.testing.assert_close(resumed[key], last[key], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": "LightGCN"}, "LightGCN learns from all rows of its tables"),
        ({"model": "MultVAE"}, "MultVAE learns from all rows of its tables"),
        ({"model": "iALS"}, "optimizer rows: iALS is solved for, and not trained in steps"),
    ],
)
def test_what_has_no_rows_of_its_own_to_update_is_refused(given, words, workdir):
    with pytest.raises(UserError, match=words):
        run(main_no_KD, optimizer="rows", **given)
    assert not (workdir / "logs").exists()


def test_other_settings_need_a_name_or_overwrite(workdir, monkeypatch):
    train()
    with pytest.raises(UserError, match=r"holds a run with lr 0\.01 \(now 0\.02\); use --name"):
        train(lr=0.02)
    train(lr=0.02, name="fast")
    assert (workdir / "logs/synthetic/BPR-d8/no_KD-fast/seed0/summary.json").exists()
    run_until(2, monkeypatch, overwrite=True)
    with pytest.raises(UserError, match="holds a run with"):
        train(lr=0.02, resume=True)


def test_a_finished_run_is_not_taken_for_one_on_other_data(workdir, split, monkeypatch):
    train()
    changed = dataclasses.replace(split, valid=split.test, test=split.valid)
    monkeypatch.setattr("experiments.script.split_of", lambda _: changed)
    for again in ({}, {"resume": True}):
        with pytest.raises(UserError, match=r"holds a run on other data .*--name NAME .*--overwri"):
            train(**again)


def test_a_finished_run_goes_on_with_more_epochs(workdir):
    train(max_epoch=6)
    names = ("metrics.csv", "best.pt", "ranks.npz")
    whole = [read(workdir, name) for name in names]
    train(max_epoch=3, overwrite=True)
    with pytest.raises(UserError, match=r"max_epoch 3 \(now 6\); --resume goes on with it, or use"):
        train(max_epoch=6)
    train(max_epoch=6, resume=True)
    assert [read(workdir, name) for name in names] == whole
    assert json.loads(read(workdir, "summary.json"))["epochs"] == 6
    assert json.loads(read(workdir, "config.json"))["settings"]["max_epoch"] == 6
    with pytest.raises(UserError, match=r"max_epoch 6 \(now 4\); use --name"):
        train(max_epoch=4, resume=True)
    shutil.rmtree(workdir / "checkpoints")
    with pytest.raises(UserError, match=r"holds a shorter run, but .* --overwrite starts again"):
        train(max_epoch=9, resume=True)
    assert json.loads(read(workdir, "summary.json"))["epochs"] == 6


def test_logs_that_are_removed_during_a_run_stop_it_and_are_written_anew(workdir, monkeypatch):
    train()
    names = ("metrics.csv", "best.pt", "ranks.npz")
    whole = [read(workdir, name) for name in names]
    shutil.rmtree(workdir / "logs")
    shutil.rmtree(workdir / "checkpoints")
    monkeypatch.setattr("Utils.run.CHECKPOINT_SHARE", 1e9)  # last.pt after each epoch
    original = PairSampler.epoch

    def removing(sampler, epoch):
        if epoch == 2:
            shutil.rmtree(workdir / "logs")
        return original(sampler, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(PairSampler, "epoch", removing)
        with pytest.raises(UserError, match=r"train\.log: was removed or replaced while the run"):
            train()
    assert not (workdir / "logs").exists()
    train(resume=True)
    assert [read(workdir, name) for name in names] == whole
    shutil.rmtree(workdir / "logs")  # after its end: all is there but its logs
    train(resume=True)
    assert [read(workdir, name) for name in names] == whole
    assert json.loads(read(workdir, "summary.json"))["epochs"] == 4


def test_ranks_of_a_large_catalogue_stay_what_they_are(workdir, monkeypatch):
    found = Evaluator.ranks

    def large(evaluator, model):
        return {part: ranks + 40_000 for part, ranks in found(evaluator, model).items()}

    monkeypatch.setattr(Evaluator, "ranks", large)
    train(max_epoch=1)
    with np.load(workdir / "logs" / FOLDER / "ranks.npz") as kept:
        assert kept["test"].dtype == np.int32
        assert kept["test"].min() > 40_000


@pytest.mark.parametrize("part", ["exp_avg", "exp_avg_sq"])
def test_moments_that_do_not_fit_are_refused(workdir, monkeypatch, part):
    """One row too short, and the fused update writes past the end of the heap's block."""
    run_until(2, monkeypatch)
    path = workdir / "checkpoints" / FOLDER / "last.pt"
    last = torch.load(path, weights_only=True)
    moments = last["optimizer"]["state"][0]
    moments[part] = moments[part][:-1].clone()
    torch.save(last, path)
    words = rf"last\.pt: its moments do not fit, 0\.{part} is 999 x 8 float32, not 1000 x 8 float32"
    with pytest.raises(UserError, match=words):
        train(resume=True)


def test_what_killed_processes_had_begun_to_write_is_cleared_and_nothing_else(workdir):
    folder = workdir / "checkpoints" / FOLDER
    folder.mkdir(parents=True)
    ended = subprocess.Popen(["true"])
    ended.wait()
    stale, alive = (folder / f".best.pt.{pid}.tmp" for pid in (ended.pid, os.getppid()))
    foreign = folder / ".notes.tmp"
    for path in (stale, alive, foreign):
        path.write_bytes(b"half")
    train(max_epoch=1)
    assert not stale.exists()
    assert alive.exists()
    assert foreign.exists()


def test_a_seed_on_the_published_split_has_a_folder_of_its_own(workdir, split, monkeypatch):
    published = dataclasses.replace(split, name="published")
    monkeypatch.setattr("experiments.script.split_of", lambda _: published)
    train(split="published")
    train(split="published", seed=2)
    folders = sorted(path.parent.name for path in (workdir / "logs").rglob("summary.json"))
    assert folders == ["published", "published-seed2"]


def test_two_runs_never_share_a_folder(workdir):
    folder = workdir / "checkpoints" / FOLDER
    folder.mkdir(parents=True)
    with (
        lock_folder(folder),
        pytest.raises(UserError, match="another process writes here; wait for it or use --name"),
    ):
        train()
    train()  # and the folder is free again afterwards
    train(overwrite=True)


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_a_checkpoint_cut_short_is_refused(workdir, monkeypatch, keep):
    run_until(2, monkeypatch)
    path = workdir / "checkpoints" / FOLDER / "last.pt"
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(
        UserError, match=r"last\.pt: cut short, damaged or no checkpoint; .*--overwrite"
    ):
        train(resume=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"dim": 9}, "its dim is 9, not 8"), ({"seed": 1}, "its split is seed1, not seed0")],
)
def test_a_checkpoint_of_another_size_or_data_set_is_refused(workdir, monkeypatch, change, words):
    run_until(2, monkeypatch)
    run_until(2, monkeypatch, **change)
    (other,) = set((workdir / "checkpoints").rglob("last.pt")) - {
        workdir / "checkpoints" / FOLDER / "last.pt"
    }
    shutil.copy(other, workdir / "checkpoints" / FOLDER / "last.pt")
    with pytest.raises(UserError, match=words):
        train(resume=True)


def test_a_checkpoint_of_other_data_under_the_same_name_is_refused(workdir, monkeypatch, split):
    run_until(2, monkeypatch)
    changed = dataclasses.replace(split, valid=split.test, test=split.valid)
    monkeypatch.setattr("experiments.script.split_of", lambda _: changed)
    with pytest.raises(UserError, match=r"its split_sha256 is .*, not "):
        train(resume=True)


def test_a_foreign_checkpoint_is_refused(workdir):
    torch.save([1, 2], workdir / "list.pt")
    with pytest.raises(UserError, match="its format is None"):
        read_checkpoint(workdir / "list.pt", {"format": "x"}, torch.device("cpu"))


# --- what goes wrong -----------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_best(workdir, monkeypatch):
    build = main_no_KD.new_model

    def exploding(*arguments):
        model = build(*arguments)
        loss, calls = model.loss, iter(range(10**6))
        model.loss = lambda batch: loss(batch) * (float("nan") if next(calls) == 40 else 1)
        return model

    monkeypatch.setattr(main_no_KD, "new_model", exploding)
    with pytest.raises(
        UserError, match=r"epoch 1, batch 13: train_loss is nan; .*--lr \(now 0\.01"
    ):
        train()
    best = torch.load(workdir / "checkpoints" / FOLDER / "best.pt", weights_only=True)
    assert best["epoch"] == 0
    assert best["weights"]["user.weight"].isfinite().all()


class Echo(Distiller):
    """A network that makes the user's representation the item's, or fails."""

    def __init__(self, student, divisor: int = 1, **draws) -> None:
        super().__init__(**draws)
        self.student, self.divisor, self.begun = student.representations, divisor, []
        self.linear = nn.Linear(8, 8)

    def begin_epoch(self, epoch):
        self.begun.append((epoch, self.training))

    def loss(self, batch):
        hidden = self.student(batch.users, batch.positives)
        return (self.linear(hidden["user"]) - hidden["item"]).square().sum() / self.divisor


def distil(run: Run, distiller: Distiller) -> None:
    """Train with one half of the distillation term."""
    sampler = PairSampler(run.split, 1024, 0, "cpu")
    with run:
        for epoch in run.epochs():
            for batch in sampler.epoch(epoch):
                base, kd = run.model.loss(batch), distiller.loss(batch)
                run.step(base + 0.5 * kd, base=base, DE=kd)


def test_the_part_that_is_not_finite_is_named(workdir, split):
    model = build_model("BPR", split, 8, seed=0)
    echo = Echo(model, divisor=0)
    with pytest.raises(UserError, match="epoch 0, batch 0: train_loss is inf and DE is inf; try"):
        distil(Run(small(), split, model, echo), echo)


def test_parts_of_the_loss_become_columns_and_distillers_are_trained(workdir, split):
    model = build_model("BPR", split, 8, seed=0)
    echo = Echo(model)
    before = echo.linear.weight.clone()
    run = Run(small(max_epoch=2), split, model, echo)
    distil(run, echo)
    rows = list(csv.DictReader(run.folder.curves.read_text().splitlines()))
    for row in rows:
        total = float(row["base"]) + 0.5 * float(row["DE"])
        assert float(row["train_loss"]) == pytest.approx(total, rel=1e-4)
    assert not torch.equal(echo.linear.weight, before)
    assert echo.begun == [(0, True), (1, True)]  # by the run itself, after an evaluation as well
    best = torch.load(run.folder.best, weights_only=True)
    assert best["weights"].keys() == model.state_dict().keys()  # the student alone is kept


# --- several distillers, several teachers --------------------------------------------------------

EXPERTS = {"num_experts": 3, "tau_0": 1.0, "tau_P": 0.1, "P": 10}


def test_two_distillers_that_would_draw_the_same_are_refused(workdir, split, student, teacher):
    two = [DE(student, teacher, **EXPERTS) for _ in range(2)]
    with pytest.raises(ValueError, match=r"two DE distillers with the name '': name each, name="):
        Run(small(), split, student, *two)
    rrd = RRD(student, teacher, K=5, L=5, T=1.0)
    Run(small(), split, student, two[0], rrd)  # these are not alike
    assert not (workdir / "logs").exists()


def test_two_distillers_with_names_draw_apart(workdir, split, student, teacher):
    one, same, other = (DE(student, teacher, **EXPERTS, name=name) for name in ("a", "a", "b"))
    Run(small(), split, student, one, other)
    weights, again, others = (list(de.parameters()) for de in (one, same, other))
    assert all(torch.equal(w, o) for w, o in zip(weights, again, strict=True))
    random = [(w, o) for w, o in zip(weights, others, strict=True) if w.count_nonzero()]
    assert random
    assert not any(torch.equal(w, o) for w, o in random)
    for de in (one, same, other):
        de.begin_epoch(3)
    noise, again, others = (
        torch.rand(50, generator=de.noise).tolist() for de in (one, same, other)
    )
    assert noise == again != others


def test_two_teachers_are_recorded(workdir, split, teacher, neumf_path):
    args = settings(main_DE, teacher=str(neumf_path), dim=8)
    neumf = load_teacher(args, split, torch.device("cpu"))
    model = build_model("BPR", split, 8, seed=0)
    run = Run(small(max_epoch=1), split, model, Echo(model), teachers=[teacher, neumf])
    distil(run, run.modules[1])
    config = json.loads(run.folder.config.read_text())
    assert [of["model"] for of in config["teachers"]] == ["BPR", "NeuMF"]
    assert [of["sha256"] for of in config["teachers"]] == [teacher.sha256, neumf.sha256]
    assert "teacher" not in config
    log = run.folder.log.read_text()
    assert teacher.describe() in log
    assert neumf.describe() in log
    best = torch.load(run.folder.best, weights_only=True)
    assert best["teacher_sha256"] == f"{teacher.sha256}+{neumf.sha256}"
    again = Run(small(max_epoch=2, resume=True), split, model, Echo(model), teachers=[teacher])
    with pytest.raises(UserError, match=r"its teacher_sha256 is \w+\+\w+\.*, not \w+; use"), again:
        pass


# --- arrays that a method keeps ------------------------------------------------------------------


def test_arrays_are_kept_of_the_wanted_epochs_and_refused_at_once(workdir, split):
    model = build_model("BPR", split, 8, seed=0)
    echo = Echo(model)
    calls = []

    def first_users() -> dict[str, np.ndarray]:
        calls.append(len(echo.begun))
        return {"user": model.user.weight[:3].detach().numpy().copy()}

    run = Run(small(max_epoch=3), split, model, echo)
    run.keep([1, -1], users=first_users)
    run.keep([], never=lambda: pytest.fail("nothing is to be kept"))
    assert calls == [0]
    distil(run, echo)
    assert calls == [0, 2, 3]
    assert sorted(path.name for path in workdir.rglob("*.npz")) == [
        *("ranks.npz", "users-epoch1.npz", "users-epoch2.npz")
    ]
    with np.load(run.folder.kept("users", 2)) as kept:
        assert np.array_equal(kept["user"], model.user.weight[:3].detach().numpy())


# --- by shares -----------------------------------------------------------------------------------


def test_a_run_by_shares_is_evaluated_now_and_then(workdir, shares):
    train(split="share", max_epoch=12)
    folder = workdir / "logs/synthetic/BPR-d8/no_KD/share0"
    head, *lines = (folder / "metrics.csv").read_text().splitlines()
    names = [f"{part}_{name}" for part in ("valid", "test") for name in FULL_RANKING.metrics]
    assert head.split(",") == ["epoch", "train_loss", *names]
    assert [line.split(",")[0] for line in lines] == [str(epoch) for epoch in range(12)]
    for epoch, line in enumerate(lines):
        _, loss, *values = line.split(",")
        assert float(loss) > 0
        assert [value != "" for value in values] == [epoch in (0, 10)] * len(names)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["valid"].keys() == summary["test"].keys() == set(FULL_RANKING.metrics)
    assert summary["selected_epochs"] == {"10": 10, "50": 10}
    assert summary["best_epoch"] == 10
    assert summary["epochs"] == 12
    model = build_model("BPR", shares, 8, seed=0)
    best = torch.load(next(workdir.rglob("best.pt")), weights_only=True)
    model.load_state_dict(best["weights"])
    values, ranks = Evaluator(shares, "cpu").evaluate(model)
    for name in FULL_RANKING.metrics:
        assert summary["test"][name] == pytest.approx(values[f"test_{name}"], abs=1e-6)
    with np.load(folder / "ranks.npz") as kept:
        for part in ("valid", "test"):
            assert np.array_equal(kept[part], ranks[part].numpy())
            assert np.array_equal(kept[f"{part}_counts"], getattr(shares, part).counts)


def test_patience_by_shares_is_of_evaluations(workdir):
    train(split="share", max_epoch=100, patience=1, lr=1.0)
    summary = json.loads(next(workdir.rglob("summary.json")).read_text())
    assert summary["epochs"] == summary["best_epoch"] + 11
    assert summary["epochs"] < 100


# --- a fact of the data --------------------------------------------------------------------------


def test_a_larger_model_is_better_by_more_than_the_noise(workdir):
    """On the built-in data, so that what a student has to gain there is real."""
    found = {}
    for dim, max_epoch in ((20, 40), (200, 20)):
        for seed in range(3):
            train(dim=dim, seed=seed, max_epoch=max_epoch, lr=0.004)
            folder = workdir / f"logs/synthetic/BPR-d{dim}/no_KD/seed{seed}"
            found[dim, seed] = json.loads((folder / "summary.json").read_text())["test"]["H@5"]
    sizes = [np.array([found[dim, seed] for seed in range(3)]) for dim in (20, 200)]
    gain = sizes[1] - sizes[0]
    assert gain.mean() > 3 * max(sizes[0].std(ddof=1), sizes[1].std(ddof=1), gain.std(ddof=1))
