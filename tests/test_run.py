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
from conftest import killed_in

import main_no_KD
from main_no_KD import Settings, main
from Models import build_model
from Utils.data_utils import load_split
from Utils.dataset import PairSampler
from Utils.errors import UserError
from Utils.evaluation import METRICS, Evaluator
from Utils.files import lock_folder, read_checkpoint
from Utils.run import Run
from Utils.settings import use_device

FOLDER = "synthetic/BPR-d8/no_KD/seed0"


def small(**changes) -> Settings:
    """A run of a few seconds on the built-in data."""
    usual = {"dataset": "synthetic", "dim": 8, "max_epoch": 4, "lr": 0.01, "reg": 0.001}
    usual["batch_size"] = 1024
    return Settings(**usual | changes)


def read(folder, name: str) -> bytes:
    """Return a file of the run's logs or checkpoints."""
    kind = "checkpoints" if name.endswith(".pt") else "logs"
    return (folder / kind / FOLDER / name).read_bytes()


def test_a_run_leaves_what_the_readme_says(workdir, capsys):
    main(small())
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
    assert log == capsys.readouterr().out.splitlines()  # no terminal here: plain lines
    assert not list(workdir.rglob(".*"))  # nothing temporary stays


def test_the_kept_weights_are_those_of_the_best_epoch(workdir):
    main(small())
    summary = json.loads(read(workdir, "summary.json"))
    split = load_split("synthetic", "seed", 0, "datasets")
    best = torch.load(workdir / "checkpoints" / FOLDER / "best.pt", weights_only=True)
    assert best["epoch"] == summary["best_epoch"]
    model = build_model("BPR", split.num_users, split.num_items, 8, seed=1)
    model.load_state_dict(best["weights"])
    values, ranks = Evaluator(split, "cpu").evaluate(model)
    for name in METRICS:
        assert summary["test"][name] == pytest.approx(values[f"test_{name}"], abs=1e-6)
    with np.load(workdir / "logs" / FOLDER / "ranks.npz") as kept:
        for part in ("valid", "test"):
            assert kept[part].tolist() == ranks[part].tolist()


def test_equal_commands_give_equal_bytes(workdir):
    main(small())
    first = [read(workdir, name) for name in ("metrics.csv", "best.pt", "ranks.npz")]
    torch.manual_seed(99)  # global state plays no part
    np.random.seed(99)
    main(small(overwrite=True))
    assert [read(workdir, name) for name in ("metrics.csv", "best.pt", "ranks.npz")] == first


def test_the_published_rule_mixes_epochs_and_says_so(workdir):
    main(small(selection="published_code", max_epoch=20, patience=3, lr=0.1))
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
}
ELSEWHERE = {  # settings whose effect is tested by another test of this file
    "dataset": "test_data_and_split_are_taken_from_the_settings",
    "split": "test_data_and_split_are_taken_from_the_settings",
    "data_dir": "test_data_and_split_are_taken_from_the_settings",
    "selection": "test_the_published_rule_mixes_epochs_and_says_so",
    "model": "test_the_model_is_taken_from_the_settings",
    "num_layers": "test_the_model_is_taken_from_the_settings",
    "device": "test_device_and_threads_are_set",
    "threads": "test_device_and_threads_are_set",
    "name": "test_other_settings_need_a_name_or_overwrite",
    "resume": "test_an_unfinished_run_is_not_lost_by_accident",
    "overwrite": "test_a_finished_run_is_left_alone",
}


def test_every_setting_has_a_test():
    names = {field.name for field in dataclasses.fields(Settings)}
    assert names == OTHER_VALUES.keys() | ELSEWHERE.keys()
    assert all(callable(globals()[test]) for test in ELSEWHERE.values())


@pytest.mark.parametrize("setting", OTHER_VALUES)
def test_a_setting_that_is_accepted_is_used(workdir, setting):
    base = {"max_epoch": 12, "lr": 0.1} if setting == "patience" else {}
    main(small(**base))
    first = read(workdir, "metrics.csv")
    main(small(**base | {setting: OTHER_VALUES[setting], "name": "other"}))
    (other,) = (workdir / "logs").rglob("no_KD-other/*/metrics.csv")
    assert other.read_bytes() != first


def test_data_and_split_are_taken_from_the_settings(workdir, monkeypatch):
    asked = []
    monkeypatch.setattr(main_no_KD, "load_split", lambda *args: asked.append(args) or 1 / 0)
    for settings in (small(), Settings(split="published", seed=3, data_dir="elsewhere")):
        with pytest.raises(ZeroDivisionError):
            main(settings)
    monkeypatch.setenv("RECDISTILL_DATA", "from the environment")
    with pytest.raises(ZeroDivisionError):
        main(small())
    assert asked == [
        ("synthetic", "seed", 0, "datasets"),
        ("CiteULike", "published", 3, "elsewhere"),
        ("synthetic", "seed", 0, "from the environment"),
    ]


def test_the_model_is_taken_from_the_settings(workdir):
    for num_layers in (1, 2):
        name = f"{num_layers}-layers"
        main(small(model="NeuMF", num_layers=num_layers, max_epoch=1, name=name))
        (path,) = workdir.rglob(f"checkpoints/synthetic/NeuMF-d8/no_KD-{name}/seed0/best.pt")
        best = torch.load(path, weights_only=True)
        assert best["model"] == "NeuMF"
        assert best["options"] == {"num_layers": num_layers}
        widths = [w.shape for name, w in best["weights"].items() if name.startswith("hidden")]
        assert widths[-2:] == [(8, 16), (8,)] if num_layers == 1 else [(4, 8), (4,)]


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
        main(small(**{setting: value}))
    assert not (workdir / "logs").exists()
    assert not (workdir / "checkpoints").exists()


# --- starting again ------------------------------------------------------------------------------


def run_until(epoch: int, monkeypatch, **changes) -> None:
    """Run, and die while epoch ``epoch`` is being trained."""
    with killed_in(epoch, monkeypatch):
        main(small(**changes))


def test_a_finished_run_is_left_alone(workdir, capsys):
    main(small())
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    capsys.readouterr()
    for again in (small(), small(resume=True)):
        main(again)
        assert "holds this run, finished: test H@5" in capsys.readouterr().out
        assert {path: path.stat().st_mtime_ns for path in before} == before
    main(small(overwrite=True))
    assert read(workdir, "train.log").decode().count("main_no_KD.py:") == 1
    assert {path: path.stat().st_mtime_ns for path in before} != before


def test_an_unfinished_run_is_not_lost_by_accident(workdir, monkeypatch):
    main(small())
    whole = read(workdir, "metrics.csv"), read(workdir, "best.pt")
    run_until(2, monkeypatch, overwrite=True)
    with pytest.raises(UserError, match="unfinished run; --resume goes on, --overwrite starts"):
        main(small())
    with pytest.raises(UserError, match="use one of them"):
        main(small(resume=True, overwrite=True))
    main(small(resume=True))
    assert (read(workdir, "metrics.csv"), read(workdir, "best.pt")) == whole
    assert "resumed after epoch" in read(workdir, "train.log").decode()


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_a_resumed_run_equals_one_that_was_never_stopped(workdir, monkeypatch, epoch):
    main(small())
    names = ("metrics.csv", "best.pt", "ranks.npz")
    whole = [read(workdir, name) for name in names]
    last = torch.load(workdir / "checkpoints" / FOLDER / "last.pt", weights_only=True)
    shutil.rmtree(workdir / "logs")
    shutil.rmtree(workdir / "checkpoints")
    run_until(epoch, monkeypatch)
    main(small(resume=True))
    assert [read(workdir, name) for name in names] == whole
    resumed = torch.load(workdir / "checkpoints" / FOLDER / "last.pt", weights_only=True)
    for key in ("modules", "optimizer", "history"):
        torch.testing.assert_close(resumed[key], last[key], rtol=0, atol=0)


def test_other_settings_need_a_name_or_overwrite(workdir, monkeypatch):
    main(small())
    with pytest.raises(UserError, match=r"holds a run with lr 0\.01 \(now 0\.02\); use --name"):
        main(small(lr=0.02))
    main(small(lr=0.02, name="fast"))
    assert (workdir / "logs/synthetic/BPR-d8/no_KD-fast/seed0/summary.json").exists()
    run_until(2, monkeypatch, overwrite=True)
    with pytest.raises(UserError, match="holds a run with"):
        main(small(lr=0.02, resume=True))


def test_a_finished_run_is_not_taken_for_one_on_other_data(workdir, split, monkeypatch):
    main(small())
    changed = dataclasses.replace(split, valid=split.test, test=split.valid)
    monkeypatch.setattr(main_no_KD, "load_split", lambda *_: changed)
    for again in (small(), small(resume=True)):
        with pytest.raises(UserError, match=r"holds a run on other data .*--name NAME .*--overwri"):
            main(again)


def test_a_finished_run_goes_on_with_more_epochs(workdir):
    main(small(max_epoch=6))
    names = ("metrics.csv", "best.pt", "ranks.npz")
    whole = [read(workdir, name) for name in names]
    main(small(max_epoch=3, overwrite=True))
    with pytest.raises(UserError, match=r"max_epoch 3 \(now 6\); --resume goes on with it, or use"):
        main(small(max_epoch=6))
    main(small(max_epoch=6, resume=True))
    assert [read(workdir, name) for name in names] == whole
    assert json.loads(read(workdir, "summary.json"))["epochs"] == 6
    assert json.loads(read(workdir, "config.json"))["settings"]["max_epoch"] == 6
    with pytest.raises(UserError, match=r"max_epoch 6 \(now 4\); use --name"):
        main(small(max_epoch=4, resume=True))
    shutil.rmtree(workdir / "checkpoints")
    with pytest.raises(UserError, match=r"holds a shorter run, but .* --overwrite starts again"):
        main(small(max_epoch=9, resume=True))
    assert json.loads(read(workdir, "summary.json"))["epochs"] == 6


def test_logs_that_are_removed_during_a_run_stop_it_and_are_written_anew(workdir, monkeypatch):
    main(small())
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
            main(small())
    assert not (workdir / "logs").exists()
    main(small(resume=True))
    assert [read(workdir, name) for name in names] == whole
    shutil.rmtree(workdir / "logs")  # after its end: all is there but its logs
    main(small(resume=True))
    assert [read(workdir, name) for name in names] == whole
    assert json.loads(read(workdir, "summary.json"))["epochs"] == 4


def test_ranks_of_a_large_catalogue_stay_what_they_are(workdir, monkeypatch):
    found = Evaluator.ranks

    def large(evaluator, model):
        return {part: ranks + 40_000 for part, ranks in found(evaluator, model).items()}

    monkeypatch.setattr(Evaluator, "ranks", large)
    main(small(max_epoch=1))
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
        main(small(resume=True))


def test_what_killed_processes_had_begun_to_write_is_cleared_and_nothing_else(workdir):
    folder = workdir / "checkpoints" / FOLDER
    folder.mkdir(parents=True)
    ended = subprocess.Popen(["true"])
    ended.wait()
    stale, alive = (folder / f".best.pt.{pid}.tmp" for pid in (ended.pid, os.getppid()))
    foreign = folder / ".notes.tmp"
    for path in (stale, alive, foreign):
        path.write_bytes(b"half")
    main(small(max_epoch=1))
    assert not stale.exists()
    assert alive.exists()
    assert foreign.exists()


def test_a_seed_on_the_published_split_has_a_folder_of_its_own(workdir, split, monkeypatch):
    published = dataclasses.replace(split, name="published")
    monkeypatch.setattr(main_no_KD, "load_split", lambda *_: published)
    main(small(split="published"))
    main(small(split="published", seed=2))
    folders = sorted(path.parent.name for path in (workdir / "logs").rglob("summary.json"))
    assert folders == ["published", "published-seed2"]


def test_two_runs_never_share_a_folder(workdir):
    folder = workdir / "checkpoints" / FOLDER
    folder.mkdir(parents=True)
    with (
        lock_folder(folder),
        pytest.raises(UserError, match="another process writes here; wait for it or use --name"),
    ):
        main(small())
    main(small())  # and the folder is free again afterwards
    main(small(overwrite=True))


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_a_checkpoint_cut_short_is_refused(workdir, monkeypatch, keep):
    run_until(2, monkeypatch)
    path = workdir / "checkpoints" / FOLDER / "last.pt"
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(
        UserError, match=r"last\.pt: cut short, damaged or no checkpoint; .*--overwrite"
    ):
        main(small(resume=True))


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
        main(small(resume=True))


def test_a_checkpoint_of_other_data_under_the_same_name_is_refused(workdir, monkeypatch, split):
    run_until(2, monkeypatch)
    changed = dataclasses.replace(split, valid=split.test, test=split.valid)
    monkeypatch.setattr(main_no_KD, "load_split", lambda *_: changed)
    with pytest.raises(UserError, match=r"its split_sha256 is .*, not "):
        main(small(resume=True))


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
        model.loss = lambda *batch: loss(*batch) * (float("nan") if next(calls) == 40 else 1)
        return model

    monkeypatch.setattr(main_no_KD, "new_model", exploding)
    with pytest.raises(
        UserError, match=r"epoch 1, batch 13: train_loss is nan; .*--lr \(now 0\.01"
    ):
        main(small())
    best = torch.load(workdir / "checkpoints" / FOLDER / "best.pt", weights_only=True)
    assert best["epoch"] == 0
    assert best["weights"]["user.weight"].isfinite().all()


def train(run: Run, model, sampler: PairSampler, distil) -> None:
    """Train with ``distil(base, batch)`` as the distillation term, weighted by one half."""
    with run:
        for epoch in run.epochs():
            for batch in sampler.epoch(epoch):
                base = model.loss(*batch)
                kd = distil(base, batch)
                run.step(base + 0.5 * kd, base=base, DE=kd)
            run.evaluate()


def test_the_part_that_is_not_finite_is_named(workdir, split):
    model = build_model("BPR", split.num_users, split.num_items, 8, seed=0)
    run = Run("DE", small(), split, model)
    with pytest.raises(UserError, match="epoch 0, batch 0: train_loss is inf and DE is inf; try"):
        train(run, model, PairSampler(split, 1024, 0, "cpu"), lambda base, _: base / 0)


def test_parts_of_the_loss_become_columns_and_distillers_are_trained(workdir, split):
    model = build_model("BPR", split.num_users, split.num_items, 8, seed=0)
    distiller = torch.nn.Linear(8, 8)
    before = distiller.weight.clone()

    def distil(_, batch):
        hidden = model.representations(batch[0], batch[1])
        return (distiller(hidden["user"]) - hidden["item"]).square().sum()

    run = Run("DE", small(max_epoch=2), split, model, distiller)
    train(run, model, PairSampler(split, 1024, 0, "cpu"), distil)
    rows = list(csv.DictReader((run.logs / "metrics.csv").read_text().splitlines()))
    for row in rows:
        total = float(row["base"]) + 0.5 * float(row["DE"])
        assert float(row["train_loss"]) == pytest.approx(total, rel=1e-4)
    assert not torch.equal(distiller.weight, before)
    best = torch.load(run.checkpoints / "best.pt", weights_only=True)
    assert best["weights"].keys() == model.state_dict().keys()  # the student alone is kept


def test_a_larger_model_is_better_by_more_than_the_noise(workdir):
    """On the built-in data, so that what a student has to gain there is real."""
    found = {}
    for dim, max_epoch in ((20, 160), (200, 80)):
        for seed in range(3):
            main(small(dim=dim, seed=seed, max_epoch=max_epoch, lr=0.001))
            folder = workdir / f"logs/synthetic/BPR-d{dim}/no_KD/seed{seed}"
            found[dim, seed] = json.loads((folder / "summary.json").read_text())["test"]["H@5"]
    sizes = [np.array([found[dim, seed] for seed in range(3)]) for dim in (20, 200)]
    gain = sizes[1] - sizes[0]
    assert gain.mean() > 3 * max(sizes[0].std(ddof=1), sizes[1].std(ddof=1), gain.std(ddof=1))
