"""Which runs make a table, how they are started, and what is concluded from them."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from scipy.stats import ttest_rel

from experiments import beyond, claims, plan, published, report, run
from experiments.claims import FAILS, HOLDS, NOT_RUN
from experiments.evidence import Evidence, Place
from experiments.plan import CONTROLS, DE, DE_RRD, EXPERIMENTS, RRD, STUDENT, TEACHER, Cell, planned
from Utils.errors import UserError
from Utils.evaluation import metrics

# --- the plan --------------------------------------------------------------------------------


def folders(experiment: str, model: str = "BPR", seeds=(0,), labels=()) -> list[str]:
    runs = plan.plan(experiment, "CiteULike", model, seeds, labels)
    return [str(run.folder.relative_to("CiteULike")) for run in runs]


def test_table_2_has_the_papers_methods_and_sizes():
    methods = ["no_KD", "RD", "CD", "DE", "URRD", "DERRD"]
    assert folders("table2") == [
        "BPR-d200/no_KD/seed0",
        *(f"BPR-d20/{method}/seed0" for method in [*methods, "SVD", "IRRRD", "S2D"]),
    ]
    assert folders("table2", "NeuMF", labels=["Teacher", "DE-RRD"], seeds=[3, 1]) == [
        "NeuMF-d250/no_KD/seed3",
        "NeuMF-d25/DERRD/seed3",
        "NeuMF-d250/no_KD/seed1",
        "NeuMF-d25/DERRD/seed1",
    ]
    assert not any("SVD" in folder for folder in folders("table2", "NeuMF"))


def test_points_with_the_tuned_settings_share_the_methods_run():
    found = folders("table5")
    assert len(found) == 16
    assert "BPR-d20/DERRD/seed0" in found  # 0.01 and 0.001 are tuned
    assert "BPR-d20/DERRD-lmbda_DE-0.1-lmbda_RRD-0.0001/seed0" in found
    assert "BPR-d20/DERRD-lmbda_RRD-0.1/seed0" in found
    assert folders("figure4").count("BPR-d200/no_KD/seed0") == 1  # phi = 1 without a teacher


@pytest.mark.parametrize("model", ["BPR", "NeuMF"])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_runs_flags_make_its_settings(experiment, model):
    """What is compared with a finished run's settings is what the script is told."""
    if not plan.cells_of(experiment, model):
        with pytest.raises(UserError, match="figure6 is of base models that encode users apart"):
            plan.plan(experiment, "CiteULike", model, [0])
        return
    for planned_run in plan.plan(experiment, "CiteULike", model, [0, 1]):
        kind = plan.load_script(planned_run.cell.method).Settings
        kinds = {field.name: field.type for field in dataclasses.fields(kind)}
        given = {}
        for flag in planned_run.flags:
            name, _, text = flag.removeprefix("--").partition("=")
            number = {"int": int, "float": float}.get(str(kinds[name]).split()[0].strip("<"))
            value = json.loads(text) if text.replace(".", "").replace("e-", "").isdigit() else text
            given[name] = number(value) if number else value
        resolved = plan.resolve(planned_run.cell.method, kind(**given))[0]
        for name, _ in planned_run.cell.changes:
            assert getattr(resolved, name) == dict(planned_run.cell.changes)[name]
        assert resolved == planned_run.settings


def test_seeds_on_the_published_split_have_one_teacher():
    runs = plan.plan("curves", "CiteULike", "BPR", [0, 2])
    assert sum(run.cell.label == "Teacher" for run in runs) == 1
    last = runs[-1]
    assert last.folder.name == "published-seed2"
    assert last.settings.teacher == "checkpoints/CiteULike/BPR-d200/no_KD/published"
    assert str(last.teacher().weights.parent) == last.settings.teacher


def test_names_are_checked():
    with pytest.raises(UserError, match="did you mean table2"):
        plan.plan("tabel2", "CiteULike", "BPR", [0])
    with pytest.raises(UserError, match="--methods 'DERRD' is unknown; did you mean DE-RRD"):
        plan.plan("table2", "CiteULike", "BPR", [0], ["DERRD"])
    with pytest.raises(UserError, match="--model 'bpr' is unknown; did you mean BPR"):
        plan.plan("table2", "CiteULike", "bpr", [0])


@pytest.mark.parametrize(("text", "seeds"), [("0-4", [0, 1, 2, 3, 4]), ("2,0", [2, 0]), ("7", [7])])
def test_seeds_are_ranges_or_lists(text, seeds):
    assert run.seeds_of(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "0..4"])
def test_what_are_no_seeds_is_refused(text):
    with pytest.raises(UserError, match="write them like 0-4 or 0,2"):
        run.seeds_of(text)


# --- running ---------------------------------------------------------------------------------

SHORT = dataclasses.replace(STUDENT, changes=(("max_epoch", 3),))
LONG = dataclasses.replace(STUDENT, changes=(("max_epoch", 150), ("patience", 150)))


@pytest.fixture
def tiny(workdir, monkeypatch):
    """An experiment of one student on the built-in data."""
    monkeypatch.setitem(EXPERIMENTS, "tiny", [SHORT])
    return run.Settings("tiny", dataset="synthetic", seeds="0,1", jobs=2, device="cpu")


def test_what_is_missing_is_run_and_nothing_twice(tiny, workdir, capsys):
    run.main(dataclasses.replace(tiny, dry_run=True))
    assert "2 to run, of 2 planned" in capsys.readouterr().out
    assert not (workdir / "logs").exists()
    run.main(tiny)
    said = capsys.readouterr().out
    assert said.count("done: BPR-d20/no_KD-max_epoch-3/seed") == 2
    summaries = sorted((workdir / "logs").rglob("summary.json"))
    assert [path.parent.name for path in summaries] == ["seed0", "seed1"]
    written = [path.stat().st_mtime_ns for path in summaries]
    summaries[1].unlink()
    run.main(tiny)
    assert "1 to run, of 2 planned" in capsys.readouterr().out
    assert summaries[0].stat().st_mtime_ns == written[0]
    assert summaries[1].exists()


def test_a_finished_run_of_other_settings_is_refused_and_stops_no_other(tiny, workdir):
    run.main(tiny)
    (path,) = (workdir / "logs").rglob("seed1/config.json")
    kept = json.loads(path.read_text())
    kept["settings"]["lr"] = 0.5
    path.write_text(json.dumps(kept))
    (other,) = (workdir / "logs").rglob("seed0/summary.json")
    other.unlink()
    with pytest.raises(UserError, match=r"1 failed:\n.*holds a run with lr 0\.5 \(now 0\.001\)"):
        run.main(tiny)
    assert other.exists()


def test_a_student_waits_for_its_teachers_weights(workdir, monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "tiny", [DE, RRD])
    args = run.Settings("tiny", dataset="synthetic", jobs=2)
    tasks = run.missing(args).runs
    assert [task.name for task in tasks] == [
        "BPR-d200/no_KD/seed0",
        "BPR-d20/DE/seed0",
        "BPR-d20/URRD/seed0",
    ]
    assert {task.needs for task in tasks[1:]} == {tasks[0].folder}
    weights = Path("checkpoints/synthetic/BPR-d200/no_KD/seed0/best.pt")
    weights.parent.mkdir(parents=True)
    torch.save({"finished": True}, weights)
    assert len(run.missing(args).runs) == 2
    torch.save({"finished": False}, weights)
    assert len(run.missing(args).runs) == 3


def test_a_failure_is_reported_and_stops_its_students_alone(workdir):
    def python(code: str) -> list[str]:
        return ["-c", code]

    teacher, other = Path("logs/D/t/no_KD/seed0"), Path("logs/D/o/no_KD/seed0")
    tasks = [
        run.Task("teacher", python("import sys; sys.exit('no luck')"), folder=teacher),
        run.Task("student", python("open('student', 'w')"), needs=teacher),
        run.Task("fine", python("open('fine', 'w')"), folder=other),
        run.Task("after", python("import os; assert os.path.exists('fine')"), needs=other),
        run.Task("killed", python("import os; os.kill(os.getpid(), 9)")),
    ]
    pool = run.Pool(tasks, jobs=2)
    pool.run("test")
    assert sorted(pool.failures) == [
        "killed: killed by signal 9",
        "student: not started, its teacher failed",
        "teacher: no luck",
    ]
    assert Path("fine").exists()
    assert not Path("student").exists()


def start_runner(workdir: Path) -> subprocess.Popen:
    """Start the runner on two longer runs, as a process of its own."""
    code = (
        "import sys; sys.argv = 'run.py tiny --dataset=synthetic --seeds=0-1 --jobs=2'.split()\n"
        "from experiments import plan, run; from Utils.settings import launch\n"
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # as in a shell
        f"plan.EXPERIMENTS['tiny'] = [plan.Cell('Student', 'no_KD', changes={LONG.changes!r})]\n"
        "launch(run.main, run.Settings, '')"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=workdir, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for_epochs(workdir: Path, count: int) -> None:
    for _ in range(600):
        curves = list((workdir / "logs").rglob("metrics.csv"))
        if len(curves) == 2 and all(path.read_text().count("\n") > count for path in curves):
            return
        time.sleep(0.05)
    pytest.fail("the runs did not start")


def test_killed_or_interrupted_it_goes_on_where_it_was(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    stopped.mkdir()
    out, err = start_runner(whole).communicate(timeout=120)
    assert "all 2 are in logs/" in out, err

    process = start_runner(stopped)
    wait_for_epochs(stopped, 3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "interrupted; the same command goes on" in err
    assert out.count("stopped: BPR-d20/no_KD-max_epoch-150-patience-150/seed") == 2

    process = start_runner(stopped)
    wait_for_epochs(stopped, 8)
    process.kill()
    process.communicate()
    time.sleep(1)  # what it had started dies with it, so that the folders are free
    assert not list(stopped.rglob("summary.json")), "the runs ended before they were stopped"

    out, err = start_runner(stopped).communicate(timeout=120)
    assert "all 2 are in logs/" in out, err
    assert out.count("(goes on)") == 2
    for path in sorted(whole.rglob("metrics.csv")):
        assert (stopped / path.relative_to(whole)).read_bytes() == path.read_bytes()


# --- evidence --------------------------------------------------------------------------------


def fake_run(logs: Path, place: Place, seed: int, ranks: np.ndarray) -> None:
    """Write what a finished run leaves, with these test ranks."""
    wanted = planned(place.cell, place.dataset, place.model, seed)
    folder = logs / wanted.folder
    folder.mkdir(parents=True)
    test = metrics(torch.from_numpy(ranks))
    summary = {"seed": seed, "test": test, "best_epoch": 1, "split": f"seed{seed}"}
    summary |= {"train_seconds": 60.0 * (seed + 1), "eval_seconds": 6.0}
    (folder / "summary.json").write_text(json.dumps(summary))
    settings = dataclasses.asdict(wanted.settings)
    (folder / "config.json").write_text(json.dumps({"settings": settings}))
    np.savez(folder / "ranks.npz", test=ranks)


def at(cell: Cell, model: str = "BPR") -> Place:
    return Place("CiteULike", model, cell)


def draw(hits: float, seed: int, users: int = 400) -> np.ndarray:
    """Return ranks of which about a share ``hits`` are at most 5."""
    generator = np.random.default_rng(seed)
    return np.where(generator.random(users) < hits, 3, 50).astype(np.int16)


@pytest.fixture
def logs(tmp_path) -> Path:
    """Runs of three splits: the student, DE well above it, and RRD as good as it."""
    for seed in range(3):
        for i, (cell, hits) in enumerate([(STUDENT, 0.3), (DE, 0.6), (RRD, 0.3), (TEACHER, 0.65)]):
            fake_run(tmp_path, at(cell), seed, draw(hits, 10 * seed + i))
    return tmp_path


def test_a_comparison_is_a_paired_t_test(logs):
    evidence = Evidence(logs)
    found = evidence.compare([(1.0, at(DE)), (-1.0, at(STUDENT))], "H@5")
    ranks = {
        cell: np.stack([draw(hits, 10 * seed + i) <= 5 for seed in range(3)])
        for i, (cell, hits) in enumerate([("student", 0.3), ("DE", 0.6)])
    }
    splits = [values.mean(axis=1) for values in (ranks["DE"], ranks["student"])]
    users = [values.mean(axis=0) for values in (ranks["DE"], ranks["student"])]
    assert found.splits == 3
    assert found.difference == pytest.approx(splits[0].mean() - splits[1].mean())
    assert found.p_splits == pytest.approx(ttest_rel(*splits).pvalue)
    assert found.p_users == pytest.approx(ttest_rel(*users).pvalue)


def test_only_common_splits_are_compared(logs):
    fake_run(logs, at(DE_RRD), 2, draw(0.6, 5))
    fake_run(logs, at(DE_RRD), 7, draw(0.0, 6))
    evidence = Evidence(logs)
    found = evidence.compare([(1.0, at(DE_RRD)), (-1.0, at(STUDENT))], "H@5")
    expected = evidence.values(at(DE_RRD))[2] - evidence.values(at(STUDENT))[2]
    assert (found.splits, found.difference) == (1, pytest.approx(expected))
    assert np.isnan(found.p_splits)
    assert found.p_users < 0.05
    assert evidence.compare([(1.0, at(DE_RRD)), (-1.0, at(DE, "NeuMF"))], "H@5") is None


def test_a_run_of_other_settings_is_no_evidence(logs, capsys):
    (path,) = logs.rglob("DE/seed1/config.json")
    path.write_text(path.read_text().replace('"lmbda_DE": 0.01', '"lmbda_DE": 0.5'))
    assert list(Evidence(logs).values(at(DE))) == [0, 2]
    assert "left out: " in (said := capsys.readouterr().err)
    assert "holds a run with lmbda_DE 0.5 (now 0.01)" in said


# --- claims ----------------------------------------------------------------------------------


def verdict(check, logs: Path) -> str:
    return check(Evidence(logs), "CiteULike").verdict


def test_better_holds_if_it_is_significant(logs):
    assert verdict(claims.above("BPR", [DE], [STUDENT]), logs) == HOLDS
    assert verdict(claims.above("BPR", [STUDENT], [DE]), logs) == FAILS  # the other way round
    assert verdict(claims.above("BPR", [RRD], [STUDENT]), logs) == FAILS  # no difference
    assert verdict(claims.above("BPR", [DE_RRD], [STUDENT]), logs) == NOT_RUN
    assert verdict(claims.above("NeuMF", [DE], [STUDENT]), logs) == NOT_RUN


def test_one_failure_decides_and_a_missing_run_does_not(logs):
    assert verdict(claims.above("BPR", [DE], [STUDENT, RRD]), logs) == HOLDS
    assert verdict(claims.above("BPR", [DE], [STUDENT, DE_RRD]), logs) == NOT_RUN
    assert verdict(claims.above("BPR", [RRD], [STUDENT, DE_RRD]), logs) == FAILS
    either = claims.above("BPR", [RRD, DE], [STUDENT], any_of=True)
    assert verdict(either, logs) == HOLDS
    assert verdict(claims.above("BPR", [RRD], [STUDENT, DE_RRD], any_of=True), logs) == NOT_RUN
    assert verdict(claims.above("BPR", [RRD], [STUDENT], any_of=True), logs) == FAILS


def test_a_gain_can_be_compared_between_base_models(logs):
    for seed in range(2):
        fake_run(logs, at(STUDENT, "NeuMF"), seed, draw(0.2, 50 + seed))
        fake_run(logs, at(RRD, "NeuMF"), seed, draw(0.6, 60 + seed))
    (claim,) = [c for c in claims.CLAIMS if c.text == "RRD gains more on NeuMF than on BPR"]
    finding = claim.check(Evidence(logs), "CiteULike")
    assert finding.verdict == HOLDS
    assert "RRD on NeuMF - Student on NeuMF - RRD on BPR + Student on BPR" in finding.detail


def test_a_ratio_holds_as_rounded(logs):
    evidence = Evidence(logs)
    of_mine, of_teacher = (
        np.mean(list(evidence.values(at(cell)).values())) for cell in (DE, TEACHER)
    )
    share = of_mine / of_teacher
    assert verdict(claims.ratio("BPR", DE, share + 0.004), logs) == HOLDS
    assert verdict(claims.ratio("BPR", DE, share + 0.006), logs) == FAILS
    assert verdict(claims.ratio("BPR", DE_RRD, 0.1), logs) == NOT_RUN


def test_a_peak_is_where_the_best_mean_is(logs):
    assert verdict(claims.peak("BPR", [STUDENT, DE, RRD], [DE]), logs) == HOLDS
    assert verdict(claims.peak("BPR", [STUDENT, DE, RRD], [STUDENT, RRD]), logs) == FAILS
    assert verdict(claims.peak("BPR", [STUDENT, DE, DE_RRD], [DE]), logs) == NOT_RUN


def test_a_share_is_that_of_the_weighted_loss_up_to_the_best_epoch(logs):
    check = claims.share("BPR", DE, "DE", 0.2, 0.2)
    assert verdict(check, logs) == NOT_RUN
    (folder,) = logs.rglob("DE/seed0")
    with open(folder / "metrics.csv", "w") as file:  # epoch 1 is the best
        rows = [["epoch", "base", "DE"], [0, 100, 500], [1, 100, 1500], [2, 100, 9000]]
        csv.writer(file).writerows(rows)
    finding = check(Evidence(logs), "CiteULike")  # lambda is 0.01
    assert finding == (HOLDS, "5% at epoch 0, 15% at epoch 1 of seed 0")
    assert verdict(claims.share("BPR", DE, "DE", 0.4, 0.5), logs) == FAILS
    assert verdict(claims.share("BPR", DE, "DE", 0.01, 0.02), logs) == FAILS
    assert verdict(claims.share("BPR", DE, "DE", 0.02, 0.03), logs) == HOLDS


def test_groups_that_gain_are_counted(logs):
    groups = np.repeat(np.arange(4), 100).astype(np.int8)
    (folder,) = logs.rglob("BPR-d200/no_KD/seed0")
    np.savez(folder / "user_space.npz", groups=groups, coordinates=np.zeros((400, 2)))
    for cell, ranks in ((STUDENT, np.full(400, 50)), (DE, np.where(groups < 3, 1, 50))):
        shutil.rmtree(logs / planned(cell, "CiteULike", "BPR", 0).folder)
        fake_run(logs, at(cell), 0, ranks)
    check = claims.groups_gain("BPR")
    assert verdict(check, logs) == NOT_RUN
    for cell, count in ((claims.ATTENTION, 2), (claims.ONE_LARGE, 1)):
        fake_run(logs, at(cell), 0, np.where(groups < count, 1, 50))
    finding = check(Evidence(logs), "CiteULike")
    assert finding.verdict == HOLDS
    assert "groups of 4 that gain, seed 0: DE: 3, DE (a) Attention: 2" in finding.detail


def test_mutual_information_of_known_labellings():
    a = np.array([0, 0, 1, 1])
    assert claims.mutual_information(a, np.array([3, 3, 1, 1])) == pytest.approx(1)
    assert claims.mutual_information(a, np.array([0, 1, 0, 1])) == pytest.approx(0)
    assert claims.mutual_information(a, np.zeros(4, dtype=int)) == 0
    # H(a) = H(b) = log 2; the joint has 3/8, 1/8, 1/8, 3/8
    a, b = np.array([0] * 4 + [1] * 4), np.array([0, 0, 0, 1, 0, 1, 1, 1])
    joint = np.array([3, 1, 1, 3]) / 8
    expected = (2 * np.log(2) + np.sum(joint * np.log(joint))) / np.log(2)
    assert claims.mutual_information(a, b) == pytest.approx(expected)


def test_experts_specialise_if_they_share_more_with_groups_at_the_end(logs):
    groups = np.repeat(np.arange(4), 100).astype(np.int8)
    (teacher,) = logs.rglob("BPR-d200/no_KD/seed0")
    (de,) = logs.rglob("DE/seed0")
    np.savez(teacher / "user_space.npz", groups=groups)
    np.savez(de / "selection-epoch0.npz", user=np.tile(np.arange(4), 100), item=np.zeros(3))
    assert verdict(claims.specialises("BPR"), logs) == NOT_RUN
    np.savez(de / "selection-epoch20.npz", user=groups, item=np.zeros(3))
    assert verdict(claims.specialises("BPR"), logs) == HOLDS
    np.savez(de / "selection-epoch0.npz", user=groups, item=np.zeros(3))
    np.savez(de / "selection-epoch100.npz", user=np.tile(np.arange(4), 100), item=np.zeros(3))
    assert verdict(claims.specialises("BPR"), logs) == FAILS


def test_no_claim_is_decided_without_runs(tmp_path):
    for claim in claims.CLAIMS:
        for dataset in ("CiteULike", "Foursquare"):
            assert claim.check(Evidence(tmp_path), dataset) == (NOT_RUN, "")
        assert claim.experiment in EXPERIMENTS


# --- reports ---------------------------------------------------------------------------------


def test_a_cell_is_compared_with_what_the_paper_compares_it_with(logs):
    fake_run(logs, at(Cell("RD", "RD")), 0, draw(0.2, 1))
    fake_run(logs, at(Cell("CD", "CD")), 0, draw(0.4, 2))
    fake_run(logs, at(Cell("RD", "RD")), 1, draw(0.9, 1))  # a split that others do not have
    fake_run(logs, at(DE_RRD), 0, draw(0.6, 3))
    evidence = Evidence(logs)
    beside = {
        cell.label: (other := report.against(evidence, at(cell))) and other.cell.label
        for cell in [*EXPERIMENTS["table2"], *EXPERIMENTS["table4"]]
    }
    assert beside["Teacher"] is beside["Student"] is None
    assert beside["DE"] == beside["RD"] == beside["SVD"] == "Student"
    assert beside["DE-RRD"] == "CD"  # the better baseline where both were run
    assert beside["RRD"] == "RD"
    assert beside["DE (a) Attention"] == "DE"
    assert beside["RRD (e) Interesting ranking"] == "RRD"


def test_a_report_has_ours_beside_the_papers(logs):
    text, rows = report.report(Evidence(logs), "table2")
    by_key = {(row.model, row.method, row.metric): row for row in rows}
    row = by_key["BPR", "DE", "H@5"]
    values = list(Evidence(logs).values(at(DE)).values())
    assert (row.runs, row.paper, row.against) == (3, 0.4817, "Student")
    assert row.mean == pytest.approx(np.mean(values))
    assert row.deviation == pytest.approx(np.std(values, ddof=1))
    assert f"{row.mean:.4f} ± {row.deviation:.4f}" in text
    assert f"{row.mean - 0.4817:+.4f}" in text
    assert by_key["BPR", "DE-RRD", "H@5"].runs == 0
    assert "not run" in text
    assert by_key["BPR", "Student", "M@20"].flag  # a known misprint
    assert "0.3133†" in text
    assert "## Foursquare" not in text
    assert "*holds*" in text
    (head, *lines) = csv.reader(report.to_csv(rows).splitlines())
    assert tuple(head) == report.Row._fields
    assert len(lines) == 10 * 9


def test_the_grid_of_lambdas_has_the_papers_values(tmp_path):
    cell = next(c for c in EXPERIMENTS["table5"] if dict(c.changes)["lmbda_DE"] == 0.1)
    place = Place("Foursquare", "BPR", cell)
    fake_run(tmp_path, place, 0, draw(0.5, 0))
    text, _ = report.report(Evidence(tmp_path), "table5")
    line = next(line for line in text.splitlines() if line.startswith("| 0.1 "))
    mean = Evidence(tmp_path).values(place)[0]
    assert line.split("|")[2].strip() == f"{mean:.4f} (0.5269)"
    assert line.split("|")[4].strip() == "not run (0.4928)"


def test_every_published_value_has_a_place():
    """No row of the paper's tables is lost for a name that is spelled otherwise."""
    found = set()
    for experiment in ("table2", "table4", "table5"):
        for dataset, model in report.SETTINGS:
            for cell in EXPERIMENTS[experiment]:
                for metric in report.METRICS:
                    value, _ = published.paper_value(
                        experiment, Place(dataset, model, cell), metric
                    )
                    found.add((experiment, dataset, model, value))
    for table in ("table2", "table4", "table5"):
        for (dataset, model, _, _), value in published.table(table).items():
            assert (table, dataset, model, value) in found
    place = at(dataclasses.replace(DE_RRD, phi=0.5))
    assert published.paper_value("table3", place, "H@5_ratio_to_teacher") == (1.01, "")


def test_the_papers_effect_is_of_cells_that_its_tables_have():
    gain = [(1.0, at(DE)), (-1.0, at(STUDENT))]
    assert published.effect(gain, "H@5") == pytest.approx(0.4817 - 0.4441)
    assert published.effect([*gain, (1.0, at(TEACHER))], "H@5") == pytest.approx(
        0.4817 - 0.4441 + 0.5135
    )
    assert published.effect([(1.0, at(dataclasses.replace(DE, phi=0.5)))], "H@5") is None
    assert published.effect([(1.0, at(claims.ATTENTION))], "H@5") is None  # of Foursquare alone
    assert published.effect([(1.0, at(STUDENT))], "M@20") is None  # a known misprint


def test_a_report_of_no_logs_is_refused_and_leaves_the_readme_alone(workdir):
    before = (ROOT / "README.md").read_bytes()
    with pytest.raises(UserError, match="no finished run here; call this in the project's folder"):
        report.main(report.Settings())
    assert (ROOT / "README.md").read_bytes() == before
    assert not (workdir / "results").exists()


# --- beyond the papers ---------------------------------------------------------------------------


def test_controls_are_a_loss_and_a_start_and_nothing_else():
    """Of each pair, the settings that decide what is trained differ in the start alone."""
    for loss, pair in CONTROLS.items():
        random, spectral = (
            dataclasses.asdict(planned(c, "CiteULike", "BPR", 1).settings) for c in pair
        )
        assert spectral["start"] == "spectral"
        if loss == "BPR":  # a start without a teacher has a script of its own
            assert spectral["lmbda_RRD"] == 0
            same = ("seed", "dim", "batch_size", "selection", "patience", "max_epoch")
            assert [random[name] for name in same] == [spectral[name] for name in same]
            continue
        assert random.pop("start") == "random"
        differing = {key for key, value in random.items() if spectral[key] != value}
        assert differing <= {"name", "lr", "reg"}  # searched for each


def test_controls_are_laid_beside_each_other(logs):
    random, spectral = CONTROLS["RRD"]
    for seed in range(2):
        fake_run(logs, at(spectral), seed, draw(0.5, 100 + seed))
    evidence = Evidence(logs)
    lines = [line.split("|") for line in beyond.controls_table(evidence, *at(RRD)[:2]).splitlines()]
    found = {(line[1].strip(), line[2].strip()): [c.strip() for c in line[3:-1]] for line in lines}
    mine = list(evidence.values(at(spectral)).values())
    teachers = [evidence.values(at(TEACHER))[seed] for seed in range(2)]
    runs, score, share, epoch, time = found["RRD", "spectral"]
    assert (runs, epoch, time) == ("2", "1", "1.6")
    assert score == f"{np.mean(mine):.4f} ± {np.std(mine, ddof=1):.4f}"
    assert share == f"{np.mean(np.divide(mine, teachers)):.1%}"  # as in the figures
    assert found["S2D", "spectral"][:2] == ["0", "not run"]
    (line,) = (
        line
        for line in beyond.contrasts_table(evidence, *at(RRD)[:2]).splitlines()
        if "the start: RRD" in line
    )
    difference = evidence.compare([(1.0, at(spectral)), (-1.0, at(random))], "H@5")
    assert [cell.strip() for cell in line.split("|")[2:4]] == [f"{difference[0]:+.4f}", "2"]
    assert "S2D" not in beyond.contrasts_table(evidence, *at(RRD)[:2])


def test_sizes_and_times_are_those_of_the_runs(logs):
    half = dataclasses.replace(STUDENT, phi=0.5)
    fake_run(logs, at(half), 0, draw(0.4, 200))
    evidence = Evidence(logs)
    found = beyond.shares_by_size(evidence, "sizes", "CiteULike", "BPR", "d")
    paper = beyond.shares_by_size(evidence, "figure4", "CiteULike", "BPR", "phi")
    assert paper.keys() == {"Student", "DE", "RRD"}  # other methods, other sizes
    assert paper["Student"] == {phi: found["Student"][round(200 * phi)] for phi in (0.1, 0.5, 1)}
    teachers = evidence.values(at(TEACHER))
    assert found.keys() == {"Student"}
    for dim, cell in ((20, STUDENT), (100, half)):
        scores = evidence.values(at(cell))
        shares = [scores[seed] / teachers[seed] for seed in scores]
        assert found["Student"][dim] == pytest.approx(shares)
    times = beyond.shares_by_time(evidence, "CiteULike", "BPR")
    assert times.keys() == {"Student", "DE", "RRD"}
    shares = [value / teachers[seed] for seed, value in evidence.values(at(DE)).items()]
    assert times["DE"] == ([1.1, 2.1, 3.1], shares)
