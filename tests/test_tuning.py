"""The table of tuned settings, and the search that fills it."""

import json
import re
import sys
from dataclasses import replace

import pytest
from conftest import ROOT, SCRIPT_NAMES, killed_in, run

import main_no_KD
from experiments import settings, tune
from experiments.settings import SIZES, Row, load_script, parse, read_table, resolve
from experiments.tune import Trial, combinations, read_trials, run_trial, tuned
from Models import MODELS
from Models.factor_model import FactorModel
from Utils.errors import UserError

# --- the table -----------------------------------------------------------------------------------


def test_every_row_is_complete_and_of_its_script():
    rows = read_table()
    assert len({row[:4] for row in rows}) == len(rows)
    for row in rows:
        kind = load_script(row.method).Settings
        block = kind()
        assert row[:2] + row[3:4] != (block.dataset, block.model, block.dim)  # it would do nothing
        values = parse(row.settings, kind)
        given = {"dataset": row.dataset, "model": row.model, "dim": row.dim}
        args, said = resolve(kind, given)
        assert vars(args).items() >= (values | given).items()
        assert f"settings.csv:{row.line}, for " in said
        # what two searches decide and the block's numbers were not asked for
        assert set(values) >= {"lr", "reg", "batch_size"} - set(MODELS[row.model].unused)


def test_every_model_has_a_row_and_every_method_on_one_whose_losses_are_not_bprs():
    missing = []
    for model in set(MODELS) - {"Popularity"}:  # which has nothing to set
        for name in (script[5:-3] for script in SCRIPT_NAMES):
            dataset = "Toys" if MODELS[model].in_order else "CiteULike"
            given = {"model": model, "dataset": dataset, "dim": SIZES[model]["dim"]}
            said = resolve(load_script(name).Settings, given)[1]
            own = name == "no_KD" or not issubclass(MODELS[model], FactorModel)
            own = own and (name in ("no_KD", "RD") or not MODELS[model].in_order)
            if model != "BPR" and name not in ("SVD", "HetComp") and own and "tuned (" not in said:
                missing.append((model, name))
    assert not missing


@pytest.mark.parametrize("row", read_table(), ids=lambda row: "-".join(map(str, row[:4])))
def test_a_row_that_was_searched_is_the_best_of_its_search(row):
    found = re.fullmatch(r"best of (\d+) runs in (\S+)", row.source)
    assert found or "published" in row.source or "not searched" in row.source
    if found:
        count, path = found.groups()
        trials = read_trials(ROOT / path)
        assert len(trials) == int(count)
        assert path.endswith(f"/{row.dataset}-{row.model}-{row.method}-d{row.dim}.csv")
        best = max(trials, key=lambda trial: (trial.valid == trial.valid, trial.valid))
        kind = load_script(row.method).Settings
        tuned, tried = parse(row.settings, kind), parse(best.settings, kind)
        assert tuned.items() >= {k: v for k, v in tried.items() if k in tuned}.items()


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A table of our own; returns what adds a row to it."""
    path = tmp_path / "settings.csv"
    monkeypatch.setattr(settings, "TABLE", path)
    rows = []

    def add(*row):
        rows.append(Row(*row))
        settings.write_table(rows)

    return add


def test_a_script_says_where_its_settings_are_from(workdir, capsys):
    run(main_no_KD, max_epoch=1, dim=8)
    row = next(row for row in read_table() if row[:4] == ("synthetic", "BPR", "no_KD", 20))
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("given: dataset=synthetic max_epoch=1 dim=8; tuned (")
    assert f"settings.csv:{row.line}, for synthetic BPR no_KD d=20; {row.source}): lr=" in first
    assert first.endswith("; all else as in main_no_KD.py")
    kept = json.loads(next(workdir.rglob("config.json")).read_text())["settings"]
    assert kept.items() >= parse(row.settings, main_no_KD.Settings).items()


# --- the search ----------------------------------------------------------------------------------


def test_combinations_are_all_or_a_random_draw():
    grid, fixed = ("a=1,2", "b=x,y,z"), ("c=5",)
    every = combinations(grid, fixed, 0)
    assert every == [f"a={a} b={b} c=5" for a in (1, 2) for b in "xyz"]
    some = combinations(grid, fixed, 4)
    assert len(set(some)) == 4
    assert set(some) < set(every)
    assert some == combinations(grid, fixed, 4)
    assert combinations(grid, fixed, 7) == every


@pytest.fixture
def searched(tmp_path, monkeypatch, table):
    """The search in a folder of its own, with its own table."""
    monkeypatch.setattr(tune, "LOGS", tmp_path / "tuning_logs")
    monkeypatch.setattr(tune, "read_table", settings.read_table)
    table("synthetic", "BPR", "no_KD", 20, "lr=0.001 reg=0.001 batch_size=1024", "us")
    text = "lr=0.01 reg=0.0 batch_size=512 K=5 T=3.0 T1=1.0 T2=0.0"
    table("synthetic", "BPR", "CD", 20, text, "us")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_search_trains_each_combination_once_and_fills_the_table(searched, capfd):
    args = tune.Settings(
        "no_KD", ("lr=0.02,0.001",), ("max_epoch=2",), dataset="synthetic", dim=8, jobs=2, fill=True
    )
    tune.main(args)
    (log,) = (searched / "tuning_logs").iterdir()
    assert log.name == "synthetic-BPR-no_KD-d8.csv"
    trials = read_trials(log)
    assert [trial.settings for trial in trials] == [
        f"lr={lr} reg=0.001 batch_size=1024 max_epoch=2" for lr in (0.02, 0.001)
    ]
    assert trials[0].valid > trials[1].valid
    for trial in trials:  # validation, not test
        folder = searched / "tuning" / log.stem / trial.settings.replace(" ", "_")
        summary = json.loads(next(folder.rglob("summary.json")).read_text())
        assert trial.valid == summary["valid"]["H@5"] != summary["test"]["H@5"]
        assert trial.epochs == 2
    (row,) = (row for row in settings.read_table() if row.dim == 8)
    assert row[:4] == ("synthetic", "BPR", "no_KD", 8)
    assert row.settings == "lr=0.02 reg=0.001 batch_size=1024"
    assert row.source.startswith("best of 2 runs in ")
    assert len(settings.read_table()) == 3
    tune.main(replace(args, grid=("lr=0.02,0.001,0.01",)))
    assert "2 of 3 runs are in" in capfd.readouterr().out
    assert len(read_trials(log)) == 3
    assert len(settings.read_table()) == 3  # replaced


def test_a_search_by_shares_looks_at_their_metric(searched):
    args = tune.Settings(
        "no_KD", ("lr=0.02",), ("max_epoch=1", "split=share"), dataset="synthetic", dim=8
    )
    tune.main(args)
    (trial,) = read_trials(searched / "tuning_logs/synthetic-BPR-no_KD-d8.csv")
    summary = json.loads(next(searched.rglob("share0/summary.json")).read_text())
    assert trial.valid == summary["valid"]["R@50"]


def test_a_search_takes_what_logs_holds_and_keeps_what_another_search_adds(
    searched, capfd, monkeypatch
):
    usual = {"dim": 8, "max_epoch": 1}
    run(main_no_KD, **usual, lr=0.02, name="here")
    run(main_no_KD, **usual, lr=0.03, seed=1)  # of another split
    trained = []

    def run_trial(point, command, folder):
        trained.append(point)
        tune.add_trials(log, Trial("of another search", 0.0, 0, 1, 1))
        return Trial(point, 0.0, 0, 1, 1)

    log = searched / "tuning_logs/synthetic-BPR-no_KD-d8.csv"
    monkeypatch.setattr(tune, "run_trial", run_trial)
    grid = ("lr=0.02,0.03",)
    tune.main(tune.Settings("no_KD", grid, ("max_epoch=1",), dataset="synthetic", dim=8))
    assert "1 more are in logs/" in capfd.readouterr().out
    assert trained == ["lr=0.03 reg=0.001 batch_size=1024 max_epoch=1"]
    kept, *others = read_trials(log)
    assert kept.settings == "lr=0.02 reg=0.001 batch_size=1024 max_epoch=1"
    summary = json.loads(next(searched.glob("logs/**/seed0/summary.json")).read_text())
    assert kept.valid == summary["valid"]["H@5"]
    assert {trial.settings for trial in others} == {*trained, "of another search"}


def test_a_search_trains_the_teacher_first_and_survives_runs_that_fail(
    searched, monkeypatch, capfd
):
    def short(kind, given):
        return resolve(kind, given | {"max_epoch": 1})

    monkeypatch.setattr("experiments.teacher.resolve", short)
    run(main_no_KD, dim=200, max_epoch=1)
    grid = ("lmbda_CD=0.1,1e38", "K=5,600")
    args = tune.Settings("CD", grid, ("max_epoch=1",), dataset="synthetic", dim=8, jobs=1)
    with pytest.raises(UserError, match=r"failed: 2 of 4 runs; the first: .* into lists of 500"):
        tune.main(args)
    (log,) = (searched / "tuning_logs").iterdir()
    best, diverged = read_trials(log)
    for trial, lmbda in ((best, "0.1"), (diverged, "1e+38")):
        usual = "K=5 T=3.0 T1=1.0 T2=0.0 pool=500 refresh=10"
        usual += " lr=0.01 reg=0.0 batch_size=512 max_epoch=1"
        assert trial.settings == f"lmbda_CD={lmbda} {usual}"
    assert not diverged.valid > 0
    failed = [line for line in capfd.readouterr().out.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 2
    assert all("600" in line for line in failed)


def test_a_run_of_a_search_that_was_stopped_is_resumed(searched, monkeypatch):
    values = {"dataset": "synthetic", "dim": 8, "lr": 0.01, "reg": 0.0, "batch_size": 1024}
    values |= {"max_epoch": 4}
    text = " ".join(f"{name}={value}" for name, value in values.items())
    (searched / "run").mkdir()
    with monkeypatch.context() as patch, killed_in(2, monkeypatch):
        patch.chdir(searched / "run")
        run(main_no_KD, **values)
    command = [sys.executable, str(ROOT / "main_no_KD.py")]
    trial = run_trial(text, command, searched / "run")
    assert "resumed after epoch" in next((searched / "run").rglob("train.log")).read_text()
    assert trial.epochs == 4
    assert run_trial(text, command, searched / "run") == trial  # it is finished now


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "DERD"}, r"method 'DERD' is unknown; did you mean DERRD\?"),
        ({"grid": ("lambda_CD=1",)}, "setting 'lambda_CD' is unknown; did you mean lmbda_CD"),
        ({"grid": ("K",)}, "'K' is no list of values; write it like lr=0.01,0.001"),
        ({"grid": ("lr=x,0.1",)}, r"lr=x: not a number; write one, like 0\.001"),
        ({"grid": ("K=5.0,7",)}, r"K=5\.0: not a whole number; write one, like 10"),
        ({"fixed": ("data_dir",)}, "data_dir: write each setting once, like lr=0.001"),
        ({"fixed": ("lr=0.1",)}, "lr=0.1: write each setting once"),
        ({"model": "BRP"}, "--model 'BRP' is unknown; did you mean BPR"),
        ({"dataset": "Foursqare"}, "--dataset 'Foursqare' is unknown; did you mean Foursquare"),
    ],
)
def test_a_search_that_cannot_be_is_refused(searched, changes, words):
    usual = {"method": "CD", "grid": ("lr=0.1",)}
    with pytest.raises(UserError, match=words):
        tune.main(tune.Settings(**usual | changes))


def test_what_stands_in_the_script_is_not_filled_into_the_table(searched, monkeypatch, capfd):
    """A row would do nothing there, so whoever searched is told where the numbers go."""
    monkeypatch.setattr(tune, "search", lambda args, todo, log: [])
    log = searched / "tuning_logs/CiteULike-BPR-no_KD-d20.csv"
    point = "lr=0.02 reg=0.001 batch_size=1024"
    tune.add_trials(log, Trial(point, 0.5, 3, 9, 1))
    before = settings.read_table()
    tune.main(tune.Settings("no_KD", ("lr=0.02",), fill=True))
    out = capfd.readouterr().out
    assert f"best of 1: {point}" in out
    assert "main_no_KD.py is of this data set, model and size: write it there, by hand" in out
    assert settings.read_table() == before


def test_a_search_decides_every_number_of_a_block_but_the_size():
    # of the base models
    options = [
        "num_layers",
        "dropout",
        "lmbda_SSL",
        "tau_SSL",
        "margin",
        "beta_KL",
        "alpha",
        "ridge",
        "length",
        "num_targets",
        "n_v",
        "n_h",
    ]
    assert tuned(load_script("no_KD").Settings) == [*options, "lr", "reg", "batch_size"]
    assert set(tuned(load_script("S2D").Settings)) == {
        *("w", "K", "tau", "num_samples", "lr", "reg", "batch_size")
    }
    assert tuned(load_script("SVD").Settings) == []
