"""The HetComp paper: its cells, and what is said of made-up runs."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import below, fake_run
from matplotlib import pyplot

from experiments import report, run
from experiments.evidence import Evidence, Place
from experiments.paper import HOLDS, NOT_RUN
from experiments.papers.hetcomp import ALONE, DCD, HETCOMP, METRICS, PAPER, PARTS, PHIS, TEACHERS
from experiments.plan import Cell, plan, planned
from experiments.settings import SIZES


def of_six(cell: Cell) -> Cell:
    return dataclasses.replace(cell, phi=PHIS[6])


def found(count: int) -> np.ndarray:
    """Return ranks of 1,000 users' items of which the first ``count`` are at most 50."""
    return np.where(np.arange(1000) < count, 40, 60).astype(np.int32)


@pytest.fixture
def logs(tmp_path) -> Path:
    """Three splits, on which HetComp is the best student of d = 6."""
    shares = {cell: 500 + 10 * i for i, cell in enumerate(TEACHERS)}
    shares |= {of_six(ALONE): 200, of_six(DCD): 250, of_six(HETCOMP): 300, of_six(PARTS[1]): 280}
    for seed in range(3):
        for i, (cell, count) in enumerate(shares.items()):
            place = Place("CiteULike", "BPR", cell)
            fake_run(tmp_path, place, seed, found(count + (7 * i + 3 * seed) % 5))
            folder = below(tmp_path, planned(cell, "CiteULike", "BPR", seed))
            curve = [f"{epoch},1.0,,\n" for epoch in range(10 + i)]
            curve[0], curve[-1] = "0,1.0,0.1,0.1\n", f"{9 + i},1.0,0.2,0.{i}\n"
            head = "epoch,train_loss,valid_R@50,test_R@50\n"
            (folder / "metrics.csv").write_text(head + "".join(curve))
            config = json.loads((folder / "config.json").read_text())
            scores = {f"test_{metric}": 0.6 for metric in METRICS}
            config["teachers"] = [{"metrics": scores}]
            (folder / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_a_teacher_of_each_kind_keeps_states():
    runs = plan(PAPER.experiments["ensemble"].cells, "CiteULike", "BPR", [1])
    assert [run.settings.model for run in runs] == [
        "BPR", "CML", "NeuMF", "LightGCN", "MultVAE", "ItemVAE"
    ]  # fmt: skip
    for teacher in runs:
        assert teacher.settings.dim == SIZES[teacher.settings.model]["teacher_dim"]
        assert (teacher.settings.keep_states, teacher.folder.logs.name) == (4, "share1")


def test_students_wait_for_all_six(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tasks = run.missing(run.Settings("compression", seeds="0-1")).runs
    students = [task for task in tasks if task.needs]
    assert len(students) == 2 * 2 * 5  # all methods but the student alone, of two sizes
    for task in students:
        assert len(task.needs) == 6
        assert all(folder.name == task.folder.name for folder in task.needs)
    with_one = run.missing(run.Settings("compression", methods=("HetComp",)))
    assert [len(task.needs) for task in with_one.runs] == [0] * 6 + [6] * 2


def test_it_is_laid_beside_its_comparisons(logs):
    text, _ = report.report(Evidence(logs), "compression")
    assert "| HetComp" in text
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    rows = {line[0]: line for line in reversed(lines) if len(line) == 9}  # d = 6 before d = 20
    assert rows["HetComp"][1:4] == ["6", "0.000 M", "3"]
    assert rows["all six as one"][3:5] == ["3", "0.6000 ± 0.0000"]
    assert list(rows)[::-1].index("all six as one") == 2 + len(TEACHERS)  # head and rule
    contrast = next(line for line in lines if line and line[0] == "d = 6: HetComp - DCD")
    assert contrast[2] == "3"
    assert float(contrast[1]) == pytest.approx(0.05, abs=0.005)


def test_claims_are_of_three_splits(logs):
    verdicts = {c.text: c.check(PAPER, Evidence(logs), "CiteULike").verdict for c in PAPER.claims}
    assert verdicts == {
        "HetComp is above w/o KD, d = 6": HOLDS,
        "HetComp is above DCD, d = 6": HOLDS,
        "HetComp is above w/o KD, d = 20": NOT_RUN,
        "HetComp is above DCD, d = 20": NOT_RUN,
    }


def test_recall_is_drawn_over_epochs(logs):
    figure = report.figure_of(Evidence(logs), "compression", "CiteULike", "BPR")
    (axes,) = figure.axes  # nothing of d = 20 was run
    assert axes.get_title() == "d = 6, split 0"
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["w/o KD", "DCD", "HetComp"]
    assert axes.lines[0].get_xydata().tolist() == [[0, 0.1], [15, 0.6]]
    pyplot.close(figure)


def test_parts_are_compared_with_the_whole(logs):
    _, rows = report.report(Evidence(logs), "construction")
    (row,) = (row for row in rows if row.method == PARTS[1].label)
    assert (row.runs, row.against) == (3, "HetComp")
    assert row.gain < 0
