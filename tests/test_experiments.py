"""Which runs make a table, how they are started, and what is concluded from them."""

import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, below, draw, fake_run, hits
from matplotlib import pyplot
from scipy.stats import ttest_1samp, ttest_rel

import experiments.papers as package
from experiments import claims, figures, plan, printed, report, run, tables
from experiments.evidence import Evidence, Place, interval
from experiments.paper import FAILS, HOLDS, NOT_RUN, UNDECIDED, Experiment, View
from experiments.papers import derrd, derrd_users, find, papers, s2d
from experiments.papers.derrd import ATTENTION, DE, DE_RRD, EXPERIMENTS, ONE_LARGE, RRD
from experiments.papers.s2d import CONTROLS
from experiments.plan import STUDENT, TEACHER, Cell, cells_on, planned
from experiments.results import read_ranks
from Utils.errors import UserError
from Utils.split import LEAVE_ONE_OUT

EVERY = [(paper.name, name) for paper in papers().values() for name in paper.experiments]

# --- the plan --------------------------------------------------------------------------------


def folders(experiment: str, model: str = "BPR", seeds=(0,), labels=()) -> list[str]:
    paper, name = find(experiment)
    runs = plan.plan(paper.experiments[name].cells, "CiteULike", model, seeds, labels)
    return [str(run.folder.logs.relative_to("logs/CiteULike")) for run in runs]


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
@pytest.mark.parametrize(("paper", "name"), EVERY)
def test_a_runs_flags_make_its_settings(paper, name, model):
    """What is compared with a finished run's settings is what the script is told."""
    cells = papers()[paper].experiments[name].cells
    if not cells_on(model, cells):
        with pytest.raises(UserError, match="NeuMF can have none of it"):
            plan.plan(cells, "CiteULike", model, [0])
        return
    for planned_run in plan.plan(cells, "CiteULike", model, [0, 1]):
        kind = plan.load_script(planned_run.cell.method).Settings
        kinds = {field.name: field.type for field in dataclasses.fields(kind)}
        given = {}
        for flag in planned_run.flags:
            name, _, text = flag.removeprefix("--").partition("=")
            number = {"int": int, "float": float}.get(str(kinds[name]).split()[0].strip("<"))
            value = text
            if kinds[name] is bool:
                assert text == ""  # such a flag has no value
                value = True
            elif kinds[name] is not str and text.replace(".", "").replace("e-", "").isdigit():
                value = json.loads(text)
            given[name] = number(value) if number else value
        resolved = plan.resolve(kind, given)[0]
        for name, value in planned_run.cell.changes:
            value = value(model) if callable(value) else value
            if isinstance(value, str):
                value = value.format(seed=resolved.seed, dataset=resolved.dataset)
            assert getattr(resolved, name) == value
        assert resolved == planned_run.settings


def test_seeds_on_the_published_split_have_one_teacher():
    runs = plan.plan(EXPERIMENTS["curves"].cells, "CiteULike", "BPR", [0, 2])
    assert sum(run.cell.label == "Teacher" for run in runs) == 1
    last = runs[-1]
    assert last.folder.logs.name == "published-seed2"
    assert last.settings.teacher == "checkpoints/CiteULike/BPR-d200/no_KD/published"
    assert [str(each.folder.checkpoints) for each in last.teachers()] == [last.settings.teacher]


def test_names_are_checked(monkeypatch):
    cells = EXPERIMENTS["table2"].cells
    with pytest.raises(UserError, match="--methods 'DERRD' is unknown; did you mean DE-RRD"):
        plan.plan(cells, "CiteULike", "BPR", [0], ["DERRD"])
    with pytest.raises(UserError, match="--model 'bpr' is unknown; did you mean BPR"):
        plan.plan(cells, "CiteULike", "bpr", [0])
    assert find("table2") == find("derrd/table2") == (derrd.PAPER, "table2")
    for name in ("tabel2", "drrd/table2", "s2d/table2"):
        with pytest.raises(UserError, match=f"'{name}' is unknown; did you mean table2"):
            find(name)
    monkeypatch.setitem(s2d.PAPER.experiments, "table2", EXPERIMENTS["table2"])
    with pytest.raises(UserError, match="'table2' is of several papers: derrd/table2; s2d/tab"):
        find("table2")
    assert find("s2d/table2") == (s2d.PAPER, "table2")
    with pytest.raises(UserError, match="did you mean s2d/table2"):
        find("s2d/tabel2")


@pytest.mark.parametrize(("text", "seeds"), [("0-4", [0, 1, 2, 3, 4]), ("2,0", [2, 0]), ("7", [7])])
def test_seeds_are_ranges_or_lists(text, seeds):
    assert run.seeds_of(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "0..4"])
def test_what_are_no_seeds_is_refused(text):
    with pytest.raises(UserError, match="write them like 0-4 or 0,2"):
        run.seeds_of(text)


# --- running ---------------------------------------------------------------------------------

SHORT = dataclasses.replace(STUDENT, changes=(("max_epoch", 3),))
LONG = dataclasses.replace(STUDENT, changes=(("max_epoch", 40), ("patience", 40)))


@pytest.fixture
def tiny(workdir, monkeypatch):
    """An experiment of one student on the built-in data."""
    monkeypatch.setitem(EXPERIMENTS, "tiny", Experiment("Tiny", [SHORT]))
    return run.Settings("tiny", dataset="synthetic", seeds="0,1", jobs=2, device="cpu")


def test_what_is_missing_is_run_and_nothing_twice_or_of_other_settings(tiny, workdir, capsys):
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
    # a finished run of other settings is refused, and stops no other
    (path,) = (workdir / "logs").rglob("seed1/config.json")
    kept = json.loads(path.read_text())
    kept["settings"]["lr"] = 0.5
    path.write_text(json.dumps(kept))
    (other,) = (workdir / "logs").rglob("seed0/summary.json")
    other.unlink()
    with pytest.raises(UserError, match=r"1 failed:\n.*holds a run with lr 0\.5 \(now 0\.003\)"):
        run.main(tiny)
    assert other.exists()


def test_a_student_waits_for_its_teachers_weights(workdir, monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "tiny", Experiment("Tiny", [DE, RRD]))
    args = run.Settings("tiny", dataset="synthetic", jobs=2)
    tasks = run.missing(args).runs
    assert [task.name for task in tasks] == [
        "BPR-d200/no_KD/seed0",
        "BPR-d20/DE/seed0",
        "BPR-d20/URRD/seed0",
    ]
    assert all(task.needs == {tasks[0].folder} for task in tasks[1:])
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
        run.Task("student", python("open('student', 'w')"), needs={teacher}),
        run.Task("fine", python("open('fine', 'w')"), folder=other),
        run.Task("after", python("import os; assert os.path.exists('fine')"), needs={other}),
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
        "from experiments import paper, papers, plan, run; from Utils.settings import launch\n"
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # as in a shell
        f"cell = plan.Cell('Student', 'no_KD', changes={LONG.changes!r})\n"
        "papers.papers()['derrd'].experiments['tiny'] = paper.Experiment('Tiny', [cell])\n"
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
    assert out.count("stopped: BPR-d20/no_KD-max_epoch-40-patience-40/seed") == 2

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


def at(cell: Cell, model: str = "BPR") -> Place:
    return Place("CiteULike", model, cell)


def view(evidence: Evidence, name: str) -> View:
    """Return an experiment on CiteULike and BPR."""
    return View(*find(name), evidence, "CiteULike", "BPR")


@pytest.fixture
def logs(tmp_path) -> Path:
    """Runs of three splits: the student, DE well above it, and RRD as good as it."""
    for seed in range(3):
        for i, (cell, share) in enumerate([(STUDENT, 0.3), (DE, 0.6), (RRD, 0.3), (TEACHER, 0.65)]):
            fake_run(tmp_path, at(cell), seed, draw(share, 10 * seed + i))
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
    assert found.sums == pytest.approx(splits[0] - splits[1])
    expected = ttest_rel(*splits).confidence_interval()
    assert interval(found.sums) == pytest.approx(tuple(expected))
    assert "95 % interval {:+.4f} to {:+.4f}".format(*expected) in str(found)


def test_the_interval_of_one_value_is_unknown_and_of_equal_ones_a_point():
    assert interval([0.3]) == (-np.inf, np.inf)
    assert interval([0.25] * 3) == (0.25, 0.25)


def test_equal_differences_are_no_noise(tmp_path):
    for seed, base in enumerate((300, 407, 511)):
        fake_run(tmp_path, at(STUDENT), seed, hits(base))
        fake_run(tmp_path, at(DE), seed, hits(base + 7))
    found = Evidence(tmp_path).compare([(1.0, at(DE)), (-1.0, at(STUDENT))], "H@5")
    assert found.sums == (0.007,) * 3
    assert np.isnan(found.p_splits)
    assert claims.decide(found.sums) == HOLDS


def test_only_common_splits_are_compared(logs):
    fake_run(logs, at(DE_RRD), 2, draw(0.6, 5))
    fake_run(logs, at(DE_RRD), 7, draw(0.0, 6))
    evidence = Evidence(logs)
    found = evidence.compare([(1.0, at(DE_RRD)), (-1.0, at(STUDENT))], "H@5")
    expected = evidence.values(at(DE_RRD), "H@5")[2] - evidence.values(at(STUDENT), "H@5")[2]
    assert (found.splits, found.difference) == (1, pytest.approx(expected))
    assert np.isnan(found.p_splits)
    assert found.p_users < 0.05
    assert evidence.compare([(1.0, at(DE_RRD)), (-1.0, at(DE, "NeuMF"))], "H@5") is None


@pytest.mark.parametrize(
    ("ranks", "reason"),
    [
        (None, "BPR-d20/DE/seed1/ranks.npz: no such file"),
        (np.full(400, 3), "BPR-d20/DE/seed1/ranks.npz: of another epoch than its H@5"),
        (
            np.array([40_000] * 400, dtype=np.uint16).astype(np.int16),
            "BPR-d20/DE/seed1/ranks.npz: its ranks are out of range, the least is -25536",
        ),
        (np.full(400, 3.0), "BPR-d20/DE/seed1/ranks.npz: holds float64 of shape (400,), not a row"),
        (np.full((20, 20), 3), "BPR-d20/DE/seed1/ranks.npz: holds int64 of shape (20, 20), not a"),
    ],
)
def test_a_test_over_users_that_is_dropped_says_why(logs, ranks, reason):
    (path,) = logs.rglob("DE/seed1/ranks.npz")
    path.unlink()
    if ranks is not None:
        np.savez(path, test=ranks)
    evidence = Evidence(logs)
    found = evidence.compare([(1.0, at(DE)), (-1.0, at(STUDENT))], "H@5")
    assert found.no_users.startswith(reason)
    assert np.isnan(found.p_users)
    assert f"no test over users: {reason}" in str(found)
    assert found.splits == 3  # what is tested over splits stays
    assert not np.isnan(found.p_splits)
    assert evidence.user_values(at(DE), "H@5", 1) is None
    text, rows = report.report(evidence, "table2")
    assert f"No test over users of DE: {reason}" in text
    assert {row.method for row in rows if row.no_users} == {"DE"}
    other = evidence.compare([(1.0, at(RRD)), (-1.0, at(STUDENT))], "H@5")
    assert other.no_users == ""
    assert "no test" not in str(other)


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64, np.uint16])
def test_ranks_are_read_whatever_their_integers(tmp_path, kind):
    np.savez(tmp_path / "ranks.npz", test=np.array([1, 500, 3], dtype=kind))
    found, starts = read_ranks(tmp_path / "ranks.npz")
    assert found.dtype == np.int64
    assert found.tolist() == [1, 500, 3]
    assert starts.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([2, 0, 1], ""),
        ([4, -1], "test_counts has -1 to 4, beyond 0 to 3"),
        ([2, 2], "its test_counts are 4 in all, not 3"),
        ([2], "its test_counts are 2 in all, not 3"),
        ([], "its test_counts are 0 in all, not 3"),
        ([1.0, 2.0], "test_counts is float64 of 2, not any integers"),
        (None, "holds no 'test_counts'"),
    ],
)
def test_ranks_of_shares_say_whose_they_are(tmp_path, counts, words):
    path = tmp_path / "share0/ranks.npz"
    path.parent.mkdir()
    kind = float if counts == [1.0, 2.0] else np.int32
    arrays = {} if counts is None else {"test_counts": np.array(counts, dtype=kind)}
    np.savez(path, test=np.array([1, 500, 3]), **arrays)
    if not words:
        assert read_ranks(path)[1].tolist() == [0, 2, 2, 3]
        return
    with pytest.raises(UserError, match=words):
        read_ranks(path)


def test_a_run_of_other_settings_is_no_evidence(logs, capsys):
    (path,) = logs.rglob("DE/seed1/config.json")
    path.write_text(path.read_text().replace('"lmbda_DE": 0.01', '"lmbda_DE": 0.5'))
    assert list(Evidence(logs).values(at(DE), "H@5")) == [0, 2]
    assert "left out: " in (said := capsys.readouterr().err)
    assert "holds a run with lmbda_DE 0.5 (now 0.01)" in said


# --- claims ----------------------------------------------------------------------------------


def verdict(check, logs: Path) -> str:
    return check(derrd.PAPER, Evidence(logs), "CiteULike").verdict


def test_a_verdict_is_a_two_sided_t_test_over_three_splits_or_more():
    generator = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        values = generator.normal(generator.normal(), 1, size=generator.integers(2, 6))
        test = ttest_1samp(values, 0)
        expected = UNDECIDED
        if len(values) > 2 and test.pvalue < 0.05:
            expected = HOLDS if test.statistic > 0 else FAILS
        assert claims.decide(values) == expected
        seen.add((len(values), expected))
    assert len(seen) == 1 + 3 * 3


def test_less_than_the_papers_effect_does_not_hold_and_a_sure_gain_does():
    values = [0.01, -0.01, 0.02]  # 0.0067, up to 0.0446
    assert claims.decide(values) == claims.decide(values, paper=0.044) == UNDECIDED
    assert claims.decide(values, paper=0.045) == FAILS
    assert claims.decide(values[:2], paper=9.0) == UNDECIDED
    assert claims.decide([0.01, 0.012, 0.011], paper=0.05) == HOLDS


def test_all_parts_of_a_claim_must_hold_or_any():
    def combined(*verdicts):
        return claims.combine(verdicts), claims.combine(verdicts, any_of=True)

    assert combined(HOLDS, HOLDS) == (HOLDS, HOLDS)
    assert combined(HOLDS, UNDECIDED) == (UNDECIDED, HOLDS)
    assert combined(FAILS, UNDECIDED) == (FAILS, UNDECIDED)
    assert combined(HOLDS, NOT_RUN, UNDECIDED) == (NOT_RUN, HOLDS)
    assert combined(FAILS, NOT_RUN, UNDECIDED) == (FAILS, NOT_RUN)
    assert combined(FAILS, HOLDS) == (FAILS, HOLDS)
    assert combined(FAILS, FAILS) == (FAILS, FAILS)


def test_better_holds_if_splits_say_so(logs):
    assert verdict(claims.above("BPR", [DE], [STUDENT]), logs) == HOLDS
    assert verdict(claims.above("BPR", [STUDENT], [DE]), logs) == FAILS  # the other way round
    assert verdict(claims.above("BPR", [RRD], [STUDENT]), logs) == UNDECIDED  # no difference
    assert verdict(claims.above("BPR", [DE_RRD], [STUDENT]), logs) == NOT_RUN
    assert verdict(claims.above("NeuMF", [DE], [STUDENT]), logs) == NOT_RUN


def test_users_decide_nothing_alone(logs):
    for seed in (1, 2):
        shutil.rmtree(below(logs, planned(DE, "CiteULike", "BPR", seed)))
    finding = claims.above("BPR", [DE], [STUDENT])(derrd.PAPER, Evidence(logs), "CiteULike")
    assert finding.verdict == UNDECIDED
    assert Evidence(logs).compare([(1.0, at(DE)), (-1.0, at(STUDENT))], "H@5").p_users < 1e-9
    assert finding.detail.endswith(", paper +0.0376")


def test_the_papers_effect_decides_where_its_tables_have_it(logs, monkeypatch):
    half = [dataclasses.replace(cell, phi=0.5) for cell in (DE, STUDENT)]
    for seed, gain in enumerate((4, -3, 5)):  # of 1,000 users
        for cells in ((DE, STUDENT), half):
            for cell, count in zip(cells, (400 + gain, 400), strict=True):
                shutil.rmtree(below(logs, planned(cell, *at(cell)[:2], seed)), ignore_errors=True)
                fake_run(logs, at(cell), seed, hits(count))
    assert verdict(claims.above("BPR", [DE], [STUDENT]), logs) == FAILS
    assert verdict(claims.above("BPR", half[:1], half[1:]), logs) == UNDECIDED
    flag = ("derrd_table2", "CiteULike", "BPR", "DE", "H@5")
    monkeypatch.setattr(printed, "flags", lambda _: {flag: "misprint"})
    finding = claims.above("BPR", [DE], [STUDENT])(derrd.PAPER, Evidence(logs), "CiteULike")
    assert finding.verdict == UNDECIDED
    assert "paper" not in finding.detail


def test_one_failure_decides_and_a_missing_run_does_not(logs):
    assert verdict(claims.above("BPR", [DE], [STUDENT, RRD]), logs) == HOLDS
    assert verdict(claims.above("BPR", [DE], [STUDENT, DE_RRD]), logs) == NOT_RUN
    assert verdict(claims.above("BPR", [STUDENT], [DE, DE_RRD]), logs) == FAILS
    either = claims.above("BPR", [RRD, DE], [STUDENT], any_of=True)
    assert verdict(either, logs) == HOLDS
    assert verdict(claims.above("BPR", [RRD], [STUDENT, DE_RRD], any_of=True), logs) == NOT_RUN
    assert verdict(claims.above("BPR", [STUDENT], [DE], any_of=True), logs) == FAILS


def test_a_gain_can_be_compared_between_base_models(logs):
    for seed in range(3):
        fake_run(logs, at(STUDENT, "NeuMF"), seed, draw(0.2, 50 + seed))
        fake_run(logs, at(RRD, "NeuMF"), seed, draw(0.6, 60 + seed))
    (claim,) = [c for c in derrd.CLAIMS if c.text == "RRD gains more on NeuMF than on BPR"]
    finding = claim.check(derrd.PAPER, Evidence(logs), "CiteULike")
    assert finding.verdict == HOLDS
    assert "RRD on NeuMF - Student on NeuMF - RRD on BPR + Student on BPR" in finding.detail


def test_a_ratio_is_of_means_over_common_splits(logs):
    evidence = Evidence(logs)
    of_mine, of_teacher = (
        np.mean(list(evidence.values(at(cell), "H@5").values())) for cell in (DE, TEACHER)
    )
    finding = claims.ratio("BPR", DE, 0.94)(derrd.PAPER, evidence, "CiteULike")
    assert f"DE / Teacher = {of_mine / of_teacher:.3f}; " in finding.detail
    assert f"DE - 0.935 Teacher = {of_mine - 0.935 * of_teacher:+.4f}" in finding.detail
    assert "paper +0.0016" in finding.detail
    assert verdict(claims.ratio("BPR", DE, 0.5), logs) == HOLDS
    assert verdict(claims.ratio("BPR", DE, 1.5), logs) == FAILS
    assert verdict(claims.ratio("BPR", DE_RRD, 0.1), logs) == NOT_RUN


def test_a_ratio_holds_as_rounded(tmp_path):
    for seed, more in enumerate((0, 1, 2)):
        fake_run(tmp_path, at(DE), seed, hits(468 + more))
        fake_run(tmp_path, at(TEACHER), seed, hits(500))
    assert verdict(claims.ratio("BPR", DE, 0.935), tmp_path) == HOLDS  # 0.936 to 0.940
    assert verdict(claims.ratio("BPR", DE, 0.938), tmp_path) == HOLDS
    assert verdict(claims.ratio("BPR", DE, 0.95), tmp_path) == FAILS


def test_large_students_are_compared_with_a_teacher_that_was_not_stopped_early(tmp_path):
    large, half = (derrd.of_converged(dataclasses.replace(DE_RRD, phi=phi)) for phi in (1.0, 0.5))
    for seed, more in enumerate((0, 1, 2)):
        fake_run(tmp_path, at(large), seed, hits(500 + more))
        fake_run(tmp_path, at(half), seed, hits(520 + more))
        fake_run(tmp_path, at(TEACHER), seed, hits(480))
        fake_run(tmp_path, at(derrd.CONVERGED), seed, hits(510))
    found = {
        claim.text: claim.check(derrd.PAPER, Evidence(tmp_path), "CiteULike")
        for claim in derrd.CLAIMS
        if claim.experiment == "stopping" and claim.text.startswith("BPR")
    }
    above, ratio = found.values()
    assert above.verdict == FAILS
    assert ratio.verdict == HOLDS
    assert "DE-RRD, teacher converged / Teacher, converged = 1.022" in ratio.detail
    table = report.report(Evidence(tmp_path), "stopping")[0]
    assert "| the teacher: converged - patience 30 " in table
    assert "| DE-RRD, phi = 1: teacher converged - that teacher " in table


def test_a_peak_is_of_the_splits_that_all_its_cells_have(logs):
    cells = [STUDENT, DE, RRD]
    assert verdict(claims.peak("BPR", cells, [RRD, STUDENT]), logs) == FAILS
    for seed in (5, 6, 7, 8, 9):  # easy splits, which the others do not have
        fake_run(logs, at(RRD), seed, draw(0.99, seed))
    finding = claims.peak("BPR", cells, [RRD, STUDENT])(derrd.PAPER, Evidence(logs), "CiteULike")
    assert finding.verdict == FAILS
    assert finding.detail.startswith("best: DE, ")
    assert "(3 splits, " in finding.detail
    for seed in range(3):
        fake_run(logs, at(DE_RRD), seed, draw(0.6, 10 * seed + 5))
    assert verdict(claims.peak("BPR", [*cells, DE_RRD], [DE]), logs) == UNDECIDED
    shutil.rmtree(below(logs, planned(RRD, "CiteULike", "BPR", 1)))
    finding = claims.peak("BPR", cells, [DE])(derrd.PAPER, Evidence(logs), "CiteULike")
    assert finding.verdict == UNDECIDED  # two splits in common
    assert "(2 splits, " in finding.detail


def test_a_peak_is_where_the_best_mean_is(logs):
    assert verdict(claims.peak("BPR", [STUDENT, DE, RRD], [DE]), logs) == HOLDS
    assert verdict(claims.peak("BPR", [STUDENT, DE, RRD], [STUDENT, RRD]), logs) == FAILS
    assert verdict(claims.peak("BPR", [STUDENT, DE, DE_RRD], [DE]), logs) == NOT_RUN


def keep_losses(logs: Path, seed: int, shares: list[float]) -> None:
    """Write a curve of DE with these shares of its loss, weighted with 0.01, of the base loss."""
    (folder,) = logs.rglob(f"DE/seed{seed}")
    with open(folder / "metrics.csv", "w") as file:  # epoch 1 is the best
        rows = [[epoch, 100, 10_000 * share] for epoch, share in enumerate(shares)]
        csv.writer(file).writerows([["epoch", "base", "DE"], *rows])


def test_a_share_is_that_of_the_weighted_loss_at_the_best_epoch(logs):
    check = claims.share("BPR", DE, "DE", 0.1, 0.2)
    assert verdict(check, logs) == NOT_RUN
    for seed, best in enumerate((0.15, 0.16, 0.14)):
        assert verdict(check, logs) == (UNDECIDED if seed else NOT_RUN)  # too few splits
        keep_losses(logs, seed, [0.9, best, 0.9])
    assert check(derrd.PAPER, Evidence(logs), "CiteULike") == (
        HOLDS,
        "90% at epoch 0, 15% at 1 of seed 0; 90% at epoch 0, 16% at 1 of seed 1; "
        "90% at epoch 0, 14% at 1 of seed 2",
    )
    assert verdict(claims.share("BPR", DE, "DE", 0.4, 0.5), logs) == FAILS
    assert verdict(claims.share("BPR", DE, "DE", 0.9, 0.9), logs) == FAILS  # not at epoch 0
    assert verdict(claims.share("BPR", DE, "DE", 0.03, 0.06), logs) == FAILS
    assert verdict(claims.share("BPR", DE, "DE", 0.2, 0.2), logs) == HOLDS  # a factor of two
    assert verdict(claims.share("BPR", DE, "DE", 0.3, 0.4), logs) == UNDECIDED  # 0.15 is its end


def test_groups_that_gain_are_counted(logs):
    groups = np.repeat(np.arange(4), 100).astype(np.int8)
    (folder,) = logs.rglob("BPR-d200/no_KD/seed0")
    np.savez(folder / "user_space.npz", groups=groups, coordinates=np.zeros((400, 2)))
    for cell, ranks in ((STUDENT, np.full(400, 50)), (DE, np.where(groups < 3, 1, 50))):
        shutil.rmtree(below(logs, planned(cell, "CiteULike", "BPR", 0)))
        fake_run(logs, at(cell), 0, ranks)
    check = derrd_users.groups_gain("BPR", [DE, ATTENTION, ONE_LARGE])
    assert verdict(check, logs) == NOT_RUN
    for cell, count in ((ATTENTION, 2), (ONE_LARGE, 1)):
        fake_run(logs, at(cell), 0, np.where(groups < count, 1, 50))
    finding = check(derrd.PAPER, Evidence(logs), "CiteULike")
    assert finding.verdict == UNDECIDED
    assert "groups of 4 that gain, seed 0: DE: 3, DE (a) Attention: 2" in finding.detail
    for seed in (1, 2):
        for cell in (TEACHER, STUDENT, DE, ATTENTION, ONE_LARGE):
            source = below(logs, planned(cell, "CiteULike", "BPR", 0))
            copy = source.with_name(f"seed{seed}")
            shutil.copytree(source, copy, dirs_exist_ok=True)
            summary = (copy / "summary.json").read_text().replace('"seed": 0', f'"seed": {seed}')
            (copy / "summary.json").write_text(summary)
            config = (copy / "config.json").read_text().replace('"seed": 0', f'"seed": {seed}')
            (copy / "config.json").write_text(config)
        assert verdict(check, logs) == (HOLDS if seed == 2 else UNDECIDED)


def test_mutual_information_of_known_labellings():
    a = np.array([0, 0, 1, 1])
    assert derrd_users.mutual_information(a, np.array([3, 3, 1, 1])) == pytest.approx(1)
    assert derrd_users.mutual_information(a, np.array([0, 1, 0, 1])) == pytest.approx(0)
    assert derrd_users.mutual_information(a, np.zeros(4, dtype=int)) == 0
    # H(a) = H(b) = log 2; the joint has 3/8, 1/8, 1/8, 3/8
    a, b = np.array([0] * 4 + [1] * 4), np.array([0, 0, 0, 1, 0, 1, 1, 1])
    joint = np.array([3, 1, 1, 3]) / 8
    expected = (2 * np.log(2) + np.sum(joint * np.log(joint))) / np.log(2)
    assert derrd_users.mutual_information(a, b) == pytest.approx(expected)


def test_experts_specialise_if_they_share_more_with_groups_at_the_end(logs):
    groups = np.repeat(np.arange(4), 100).astype(np.int8)
    others = np.tile(np.arange(4), 100)

    def choose(seed: int, epoch: int, users: np.ndarray) -> None:
        (de,) = logs.rglob(f"DE/seed{seed}")
        np.savez(de / f"selection-epoch{epoch}.npz", user=users, item=np.zeros(3))

    check = derrd_users.specialises("BPR", DE)
    for seed in range(3):
        (teacher,) = logs.rglob(f"BPR-d200/no_KD/seed{seed}")
        np.savez(teacher / "user_space.npz", groups=groups)
        choose(seed, 0, others)
        assert verdict(check, logs) == (UNDECIDED if seed else NOT_RUN)
        choose(seed, 20, groups)
    finding = check(derrd.PAPER, Evidence(logs), "CiteULike")
    assert finding.verdict == HOLDS
    assert "0.000 at epoch 0, 1.000 at epoch 20; normalised mutual information, seed 1" in (
        finding.detail
    )
    for seed in range(3):
        choose(seed, 0, groups)
        choose(seed, 100, others)
    assert verdict(check, logs) == FAILS


def test_no_claim_is_decided_without_runs(tmp_path):
    for paper in papers().values():
        for claim in paper.claims:
            for dataset, _ in paper.settings:
                assert claim.check(paper, Evidence(tmp_path), dataset) == (NOT_RUN, "")
            assert claim.experiment in paper.experiments


# --- reports ---------------------------------------------------------------------------------


def test_a_cell_is_compared_with_what_the_paper_compares_it_with(logs):
    fake_run(logs, at(Cell("RD", "RD")), 0, draw(0.2, 1))
    fake_run(logs, at(Cell("CD", "CD")), 0, draw(0.4, 2))
    fake_run(logs, at(Cell("RD", "RD")), 1, draw(0.9, 1))  # a split that others do not have
    fake_run(logs, at(DE_RRD), 0, draw(0.6, 3))
    evidence = Evidence(logs)
    beside = {
        cell.label: (other := derrd.against(evidence, at(cell))) and other.cell.label
        for cell in [*EXPERIMENTS["table2"].cells, *EXPERIMENTS["table4"].cells]
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
    values = list(Evidence(logs).values(at(DE), "H@5").values())
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
    (head, *lines) = csv.reader(tables.to_csv(rows).splitlines())
    assert tuple(head) == tables.Row._fields
    assert len(lines) == 10 * 9


def test_the_grid_of_lambdas_has_the_papers_values(tmp_path):
    cell = next(c for c in EXPERIMENTS["table5"].cells if dict(c.changes)["lmbda_DE"] == 0.1)
    place = Place("Foursquare", "BPR", cell)
    fake_run(tmp_path, place, 0, draw(0.5, 0))
    text, _ = report.report(Evidence(tmp_path), "table5")
    line = next(line for line in text.splitlines() if line.startswith("| 0.1 "))
    mean = Evidence(tmp_path).values(place, "H@5")[0]
    assert line.split("|")[2].strip() == f"{mean:.4f} (0.5269)"
    assert line.split("|")[4].strip() == "not run (0.4928)"


def test_every_published_value_has_a_place():
    """No row of the paper's tables is lost for a name that is spelled otherwise."""
    found = set()
    for experiment in ("table2", "table4", "table5"):
        for dataset, model in derrd.SETTINGS:
            for cell in EXPERIMENTS[experiment].cells:
                for metric in LEAVE_ONE_OUT.metrics:
                    value, _ = derrd.printed(experiment, Place(dataset, model, cell), metric)
                    found.add((experiment, dataset, model, value))
    for table in ("table2", "table4", "table5"):
        for (dataset, model, _, _), value in printed.table(f"derrd_{table}").items():
            assert (table, dataset, model, value) in found
    place = at(dataclasses.replace(DE_RRD, phi=0.5))
    assert derrd.printed("table3", place, "H@5_ratio_to_teacher") == (1.01, "")


def test_the_papers_effect_is_of_cells_that_its_tables_have():
    gain = [(1.0, at(DE)), (-1.0, at(STUDENT))]
    assert derrd.PAPER.effect(gain) == pytest.approx(0.4817 - 0.4441)
    assert derrd.PAPER.effect([*gain, (1.0, at(TEACHER))]) == pytest.approx(
        0.4817 - 0.4441 + 0.5135
    )
    assert derrd.PAPER.effect([(1.0, at(dataclasses.replace(DE, phi=0.5)))]) is None
    assert derrd.PAPER.effect([(1.0, at(ATTENTION))]) is None  # of Foursquare alone
    assert (
        dataclasses.replace(derrd.PAPER, metric="M@20").effect([(1.0, at(STUDENT))]) is None
    )  # a known misprint
    elsewhere = [(weight, place._replace(dataset="Foursquare")) for weight, place in gain]
    assert derrd.PAPER.effect(elsewhere) is None  # of another crawl than ours


def test_a_report_of_no_logs_is_refused_and_leaves_the_readme_alone(workdir):
    before = (ROOT / "README.md").read_bytes()
    with pytest.raises(UserError, match="no finished run here; call this in the project's folder"):
        report.main(report.Settings())
    assert (ROOT / "README.md").read_bytes() == before
    assert not (workdir / "results").exists()


def test_claims_of_another_data_set_say_so(logs):
    evidence = Evidence(logs)
    for claim in derrd.CLAIMS:
        foursquare = claim.section.startswith(("5.3", "5.4"))
        elsewhere = " (the paper: on Foursquare)" if foursquare else ""
        assert claim.text_on("CiteULike") == claim.text + elsewhere
        assert claim.text_on("Foursquare") == claim.text
    assert "(the paper: on Foursquare)" in tables.claims_table(
        derrd.PAPER, evidence, "CiteULike", "table4"
    )
    assert "(the paper: on Foursquare)" not in tables.claims_table(
        derrd.PAPER, evidence, "CiteULike", "table2"
    )


def test_a_report_shows_what_is_undecided(tmp_path):
    for cell in (STUDENT, DE):
        fake_run(tmp_path, at(cell), 0, draw(0.5, 0))
    text, _ = report.report(Evidence(tmp_path), "table2")
    assert "| *undecided* | DE - Student = +0.0000 (1 split" in text


def test_a_panel_of_figure_7_is_of_the_splits_that_all_its_cells_have(logs):
    cells = derrd.POINTS["experts M"]
    for count, seeds in ((5, (0, 1, 7)), (10, (0, 2))):
        for seed in seeds:
            fake_run(logs, at(cells[count]), seed, draw(0.5, 100 * count + seed))
    evidence = Evidence(logs)
    panels = derrd.panels(view(evidence, "figure7"))
    # 30 is the tuned number: the run of DE
    places = {0: STUDENT, 5: cells[5], 10: cells[10], 30: DE}
    expected = {value: [evidence.values(at(cell), "H@5")[0]] for value, cell in places.items()}
    assert panels == {"experts M": {"DE": expected}}


# --- our own method -----------------------------------------------------------------------------


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
    lines = [
        line.split("|") for line in s2d.controls_table(view(evidence, "controls")).splitlines()
    ]
    found = {(line[1].strip(), line[2].strip()): [c.strip() for c in line[3:-1]] for line in lines}
    mine = list(evidence.values(at(spectral), "H@5").values())
    teachers = [evidence.values(at(TEACHER), "H@5")[seed] for seed in range(2)]
    runs, score, share, epoch, time = found["RRD", "spectral"]
    assert (runs, epoch, time) == ("2", "1", "1.6")
    assert score == f"{np.mean(mine):.4f} ± {np.std(mine, ddof=1):.4f}"
    assert share == f"{np.mean(np.divide(mine, teachers)):.1%}"  # as in the figures
    assert found["S2D", "spectral"][:2] == ["0", "not run"]
    (line,) = (
        line
        for line in s2d.answers_table(view(evidence, "controls")).splitlines()
        if "the start: RRD" in line
    )
    difference = evidence.compare([(1.0, at(spectral)), (-1.0, at(random))], "H@5")
    assert [cell.strip() for cell in line.split("|")[2:4]] == [f"{difference.difference:+.4f}", "2"]
    assert "S2D" not in s2d.answers_table(view(evidence, "controls"))
    assert "No test over users" not in s2d.answers_table(view(evidence, "controls"))
    (below(logs, planned(spectral, "CiteULike", "BPR", 1)) / "ranks.npz").unlink()
    assert s2d.answers_table(view(Evidence(logs), "controls")).endswith(
        "\n\nNo test over users of the start: RRD, spectral - random: "
        "BPR-d20/URRD-spectral-reg-0.0001/seed1/ranks.npz: no such file."
    )


def test_sizes_and_times_are_those_of_the_runs(logs):
    half = dataclasses.replace(STUDENT, phi=0.5)
    fake_run(logs, at(half), 0, draw(0.4, 200))
    evidence = Evidence(logs)
    found = figures.shares_by_size(view(evidence, "sizes"), "d")
    paper = figures.shares_by_size(view(evidence, "figure4"), "phi")
    assert paper.keys() == {"Student", "DE", "RRD"}  # other methods, other sizes
    assert paper["Student"] == {phi: found["Student"][round(200 * phi)] for phi in (0.1, 0.5, 1)}
    teachers = evidence.values(at(TEACHER), "H@5")
    assert found.keys() == {"Student"}
    for dim, cell in ((20, STUDENT), (100, half)):
        scores = evidence.values(at(cell), "H@5")
        shares = [scores[seed] / teachers[seed] for seed in scores]
        assert found["Student"][dim] == pytest.approx(shares)
    times = s2d.shares_by_time(view(evidence, "controls"))
    assert times.keys() == {"Student", "DE", "RRD"}
    shares = [value / teachers[seed] for seed, value in evidence.values(at(DE), "H@5").items()]
    assert times["DE"] == ([1.1, 2.1, 3.1], shares)
    assert s2d.share_figure(view(evidence, "controls")) is None  # S2D was not run
    fake_run(logs, at(derrd.S2D), 0, draw(0.6, 300))
    (axes,) = s2d.share_figure(view(Evidence(logs), "controls")).axes
    assert [text.get_text() for text in axes.texts] == ["Student", "DE", "RRD", "S2D (1 run)"]
    (teacher,) = (curve for curve in axes.lines if curve.get_label() == "teacher")
    assert teacher.get_ydata()[0] == 1
    pyplot.close("all")


# --- papers ----------------------------------------------------------------------------------

GENERIC = "plan run tune evidence claims printed paper tables report figures results".split()
GENERIC.append("papers/__init__")


def test_what_is_for_all_papers_names_none():
    methods = {path.stem.removeprefix("main_") for path in ROOT.glob("main_*.py")} - {"no_KD"}
    methods |= {cell.label for cell in derrd.METHODS} - {STUDENT.label}
    named = [*methods, *papers(), "[Tt]able ?[0-9]", "[Ff]igure ?[0-9]", "HetComp", "HyperKDMA"]
    names = re.compile(rf"\b({'|'.join(named)})\b")
    assert names.search("of the DE-RRD paper, figure 4")
    for name in GENERIC:
        text = (ROOT / f"experiments/{name}.py").read_text()
        assert not names.search(text), f"{name}: {names.search(text)}"


NEW_PAPER = """
from experiments.claims import above
from experiments.figures import printed_figure
from experiments.paper import Claim, Experiment, Paper
from experiments.plan import STUDENT, TEACHER, changed

FAST = changed(STUDENT, "Fast", lr=0.05)
TABLE = Experiment("Table 1: all", [TEACHER, STUDENT, FAST], figure=printed_figure)
PAPER = Paper(
    name="tiny",
    title="the tiny paper",
    metric="N@20",
    settings=[("CiteULike", "BPR")],
    experiments={"table1": TABLE, "table2": TABLE},
    claims=[Claim("faster is better", "1", "table1", above("BPR", [FAST], [STUDENT]))],
    overview=["table1"],
    headline="table1",
    printed=lambda _, place, metric: (0.25, "") if place.cell == FAST else ("", ""),
)
"""


def test_a_new_paper_is_one_file(workdir, monkeypatch):
    (workdir / "papers").mkdir()
    (workdir / "papers/tiny.py").write_text(NEW_PAPER)
    (workdir / "papers/tiny_part.py").write_text("raise ImportError('no paper')")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(workdir / "papers")])
    package.papers.cache_clear()
    try:
        paper, _ = find("table1")
        with pytest.raises(UserError, match="several papers: derrd/table2; tiny/table2"):
            find("table2")
        runs = plan.plan(paper.experiments["table1"].cells, "CiteULike", "BPR", [3])
        assert [run.folder.logs.parts[2:] for run in runs] == [
            ("BPR-d200", "no_KD", "seed3"),
            ("BPR-d20", "no_KD", "seed3"),
            ("BPR-d20", "no_KD-lr-0.05", "seed3"),
        ]
        for seed in range(3):
            for run, share in zip(runs, (0.9, 0.3, 0.6), strict=True):
                fake_run(workdir / "logs", at(run.cell), seed, draw(share, seed))
        (workdir / "README.md").write_text("by hand\n<!-- results -->\n<!-- end of results -->\n")
        monkeypatch.setattr(report, "ROOT", workdir)
        report.main(report.Settings())
        evidence = Evidence()
        mean = np.mean(list(evidence.values(at(runs[2].cell), "N@20").values()))
        written = (workdir / "results/tiny/table1.md").read_text()
        (line,) = (line for line in written.splitlines() if line.startswith("| Fast "))
        cells = [cell.strip() for cell in line.split("|")[1:8]]
        assert cells[:3] == ["Fast", "0.1", "3"]
        assert cells[3].startswith(f"{mean:.4f} ± ")
        assert cells[4:] == ["0.2500", f"{mean - 0.25:+.4f}", "Student"]
        assert "| faster is better | 1       | *holds* | Fast - Student = +" in written
        assert (workdir / "results/tiny/table1-CiteULike-BPR.png").exists()
        assert (workdir / "results/methods.png").exists()
        readme = (workdir / "README.md").read_text()
        assert readme.startswith("by hand\n<!-- results -->\n| method ")
        assert "paper on CiteULike: 1 held, 0 did not hold, 0 undecided, 0 not run, of 1." in readme
        assert "## The tiny paper\n" in (workdir / "results/README.md").read_text()
    finally:
        package.papers.cache_clear()
        sys.modules.pop("experiments.papers.tiny", None)
