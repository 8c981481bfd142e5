"""The HyperKDMA paper: its cells, what it prints, verdicts on made-up runs, figures of gates."""

import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import below, fake_run, hits
from matplotlib import pyplot

from experiments import plan, printed, report
from experiments.evidence import Evidence, Place
from experiments.paper import FAILS, HOLDS, NOT_RUN, UNDECIDED, View
from experiments.papers import find, hyperkdma, hyperkdma_users
from experiments.papers.hyperkdma import CHAINS, NUMBERS, PAPER, PHR, WITH_DE, WITH_PHR
from experiments.plan import STUDENT, TEACHER, Cell, planned
from experiments.settings import SIZES
from Utils.errors import UserError

GROUPS = np.repeat(np.arange(4), 250).astype(np.int8)  # of 1,000 users


def at(cell: Cell, model: str = "BPR", dataset: str = "CiteULike") -> Place:
    return Place(dataset, model, cell)


def folder(logs: Path, cell: Cell, seed: int) -> Path:
    return below(logs, planned(cell, "CiteULike", "BPR", seed))


def view(logs: Path, name: str) -> View:
    return View(PAPER, name, Evidence(logs), "CiteULike", "BPR")


def verdict(logs: Path, text: str) -> str:
    """Return the verdict on a claim."""
    (claim,) = (claim for claim in PAPER.claims if claim.text == text)
    return claim.check(PAPER, Evidence(logs), "CiteULike").verdict


def replaced(logs: Path, cell: Cell, count: int) -> None:
    """Give a cell other results on all three splits."""
    for seed in range(3):
        shutil.rmtree(folder(logs, cell, seed), ignore_errors=True)
        fake_run(logs, at(cell), seed, hits(count + 2 * seed))


@pytest.fixture
def logs(tmp_path) -> Path:
    """Three splits: the paper's order within DE, and PHR no better than DE."""
    shares = {TEACHER: 900, STUDENT: 300, PHR: 400}
    shares |= {cell: 400 + 50 * i for i, cell in enumerate(WITH_DE.methods)}
    shares |= {WITH_DE.no_hypernetwork: 500, WITH_DE.no_gate: 520}
    for seed in range(3):
        for i, (cell, count) in enumerate(shares.items()):
            fake_run(tmp_path, at(cell), seed, hits(count + (7 * i + 3 * seed) % 5))
    return tmp_path


# --- cells ---------------------------------------------------------------------------------------


def test_assistants_have_twice_and_three_times_the_students_size_in_all_methods():
    wanted = {"BPR": ("40,60", "40"), "NeuMF": ("50,75", "50")}
    for model, (two, one) in wanted.items():
        for chain, of_chain in ((WITH_DE, two), (WITH_PHR, one)):
            runs = [planned(cell, "CiteULike", model, 0).settings for cell in chain[1:]]
            assert [run.TA_dims for run in runs] == [of_chain, of_chain, *[two] * 4]
            assert all(run.kd == chain.base.label for run in runs[:2])
        assert two.split(",")[0] in hyperkdma.note(View(PAPER, "methods", None, "", model))


def test_folders_say_what_differs():
    names = {
        cell.label: planned(cell, "CiteULike", "BPR", 0).folder.logs.parent.name
        for cell in [*WITH_DE, *WITH_PHR, *NUMBERS.values()]
    }
    assert names["TAKD+DE"] == "TAKD-40-60"
    assert names["DGKD+PHR"] == "DGKD-PHR-40-bf16"
    assert names["HyperKDMA+DE"] == "DETA-40-60-bf16"
    assert names["HyperKDMA+PHR w/o HNet"] == "PHRTA-40-60-bf16-shared"
    assert names["HyperKDMA+DE, m = 8"] == "DETA-bf16"  # the paper's number is the script's
    assert len(set(names.values())) == len(names)


def test_flags_without_a_value_are_given_without_one():
    command = planned(WITH_DE.fixed_targets, "CiteULike", "BPR", 0).command
    assert "--detach_targets" in command
    assert planned(WITH_DE.fixed_targets, "CiteULike", "BPR", 0).settings.detach_targets
    assert not any("detach" in word for word in planned(WITH_DE.full, *at(STUDENT)[:2], 0).command)


def test_gates_are_kept_of_the_whole_method_alone():
    kept = [cell.label for chain in CHAINS for cell in chain if cell.keeps and "TA" in cell.method]
    assert kept == ["HyperKDMA+DE", "HyperKDMA+PHR"]
    for model in set(SIZES) - {"Popularity"}:  # a tenth of which is nothing
        assert planned(WITH_DE.full, "CiteULike", model, 0).settings.save_gates == "-1"


def test_every_run_of_a_chain_waits_for_the_teacher():
    for run in plan.plan(PAPER.experiments["methods"].cells, "CiteULike", "BPR", [1]):
        if run.cell not in (TEACHER, STUDENT):
            [teacher] = run.teachers()
            assert teacher.folder.logs.parts[-3:] == ("BPR-d200", "no_KD", "seed1")


def test_names_of_experiments_are_no_other_papers():
    for name in PAPER.experiments:
        assert find(name) == (PAPER, name)


# --- what the paper has --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "experiment"), [("table2", "methods"), ("table3", "equality"), ("table4", "parts")]
)
def test_every_printed_value_has_a_place(name, experiment):
    cells = {cell.label: cell for cell in PAPER.experiments[experiment].cells}
    for (dataset, model, label, metric), value in printed.table(f"hyperkdma_{name}").items():
        assert model in hyperkdma.MODELS
        found, _ = PAPER.printed(experiment, Place(dataset, model, cells[label]), metric)
        assert found == value


def test_what_is_wrong_in_print_is_said():
    place = at(WITH_DE.no_gate, "SGL")
    value, flag = PAPER.printed("parts", place, "H@5")
    assert value == 0.5086
    assert flag.startswith("Identical to the full model's H@5")
    assert PAPER.effect([(1.0, at(WITH_DE.full, "SGL")), (-1.0, place)]) is None
    value, flag = PAPER.printed("methods", at(STUDENT, "NGCF", "Foursquare"), "N@10")
    assert "likely misprint" in flag
    tables = {name for name, *_ in printed.flags("hyperkdma") if "table" in name}
    assert tables == {f"hyperkdma_table{number}" for number in (1, 2, 4, 5)}


def test_the_papers_eight_assistants_have_its_values_and_other_numbers_none():
    expected = PAPER.printed("", at(WITH_DE.full), "H@5")
    assert expected == (0.4934, "")
    assert PAPER.printed("", at(NUMBERS[8]), "H@5") == expected
    assert PAPER.printed("", at(NUMBERS[4]), "H@5") == ("", "")
    assert PAPER.printed("", at(WITH_DE.fixed_targets), "H@5") == ("", "")


def test_the_papers_order_is_not_everywhere_in_its_tables():
    wrong = []
    for name in ("table2", "table5"):
        values = printed.table(f"hyperkdma_{name}")
        for dataset, model, metric in dict.fromkeys((d, m, k) for d, m, _, k in values):
            for chain in CHAINS:
                for low, high in pairwise(chain.methods):
                    key = (dataset, model, high.label, metric)
                    if values[key] <= values[dataset, model, low.label, metric]:
                        wrong.append(key)
    assert wrong == [
        ("CiteULike", "NeuMF", "HyperKDMA+PHR", "H@10"),
        ("MovieLens-20M", "NeuMF", "HyperKDMA+DE", "N@5"),
    ]
    assert {key[1:] for key in printed.flags("hyperkdma")} >= set(wrong)


# --- verdicts ------------------------------------------------------------------------------------


def test_what_a_cell_is_compared_with(logs):
    beside = {
        cell.label: (other := PAPER.against(Evidence(logs), at(cell))) and other.cell.label
        for cell in [TEACHER, STUDENT, *WITH_DE, *WITH_PHR, *NUMBERS.values()]
    }
    assert beside["Teacher"] is beside["Student"] is None
    assert beside["DE"] == beside["PHR"] == "Student"
    assert beside["TAKD+PHR"] == beside["DGKD+PHR"] == "PHR"
    assert beside["HyperKDMA+DE"] == "DGKD+DE"
    assert beside["HyperKDMA+PHR w/o GNet"] == "HyperKDMA+PHR"
    assert beside["HyperKDMA+DE, m = 4"] == "HyperKDMA+DE"
    assert PAPER.against(None, at(WITH_DE.no_gate)) == at(WITH_DE.full)  # with its sizes
    (row,) = (row for row in view(logs, "parts").main_rows if row.method == WITH_DE.no_gate.label)
    assert row.against == "HyperKDMA+DE"
    assert -0.04 < row.gain < -0.02


LINKS = {
    "TAKD improves DE": (WITH_DE.takd, 300),
    "DGKD is above TAKD": (WITH_DE.dgkd, 400),
    "HyperKDMA is the best: above DGKD, TAKD and plain distillation": (WITH_DE.full, 480),
    "all methods improve the student": (WITH_DE.takd, 200),
    "HyperKDMA needs its hypernetwork": (WITH_DE.no_hypernetwork, 600),
    "HyperKDMA needs its gates": (WITH_DE.no_gate, 600),
}


@pytest.mark.parametrize("text", LINKS)
def test_each_link_of_a_chain_and_each_part_is_a_claim(logs, text):
    cell, lower_or_higher = LINKS[text]
    assert verdict(logs, f"BPR, DE: {text}") == HOLDS
    assert verdict(logs, f"BPR, PHR: {text.replace('improves DE', 'improves PHR')}") == NOT_RUN
    replaced(logs, cell, lower_or_higher)
    assert verdict(logs, f"BPR, DE: {text}") == FAILS
    for seed in (1, 2):
        shutil.rmtree(folder(logs, cell, seed))
    assert verdict(logs, f"BPR, DE: {text}") == UNDECIDED


def test_phr_is_compared_with_de(logs):
    replaced(logs, PHR, 450)
    assert verdict(logs, "BPR: PHR is above DE") == HOLDS
    replaced(logs, PHR, 380)
    assert verdict(logs, "BPR: PHR is above DE") == FAILS


def test_what_cannot_be_run_is_not_run_whatever_was(logs):
    (claim,) = (claim for claim in PAPER.claims if claim.section.endswith("table 5"))
    assert "MovieLens-20M, which is no data set here" in claim.text
    assert claim.check(PAPER, Evidence(logs), "CiteULike") == (NOT_RUN, "")


def test_a_report_says_whose_sizes_these_are(logs):
    text, rows = report.report(Evidence(logs), "hyperkdma/methods")
    assert "## CiteULike, BPR\n\nOur assistants are two and three times" in text
    assert {row.paper for row in rows if row.method == "TAKD+DE"} >= {0.4812}
    assert "*does not hold* | PHR - DE" in text
    (waiting,) = re.findall("- (.*): DGKD is above TAKD ", text)  # once, for all that wait
    assert waiting.startswith("BPR, PHR; NeuMF, DE; NeuMF, PHR; NGCF, DE; ")


# --- how equal users are -------------------------------------------------------------------------


def keep_groups(logs: Path, seed: int) -> None:
    path = folder(logs, TEACHER, seed) / "user_space.npz"
    np.savez(path, groups=GROUPS, coordinates=np.zeros((1000, 2)))


def in_groups(shares: list[float]) -> np.ndarray:
    """Return ranks of which these shares are hits in each of the groups."""
    within = np.tile(np.arange(250) / 250, 4)
    return np.where(within < np.array(shares)[GROUPS], 1, 50).astype(np.int32)


def test_the_spread_is_that_of_the_groups_means_counted_by_users(logs):
    place = at(WITH_DE.full)
    assert hyperkdma_users.spread(Evidence(logs), place, "H@5") == {}
    shutil.rmtree(folder(logs, WITH_DE.full, 0))
    fake_run(logs, place, 0, in_groups([0.2, 0.4, 0.4, 0.6]))
    keep_groups(logs, 0)
    found = hyperkdma_users.spread(Evidence(logs), place, "H@5")
    assert found == {0: pytest.approx(0.02**0.5)}
    lonely = np.append(np.zeros(999, np.int8), np.int8(7))  # a group of one, and numbers between
    np.savez(folder(logs, TEACHER, 0) / "user_space.npz", groups=lonely)
    values = Evidence(logs).user_values(place, "H@5", 0)
    apart = values[:999].mean() - values[999]
    found = hyperkdma_users.spread(Evidence(logs), place, "H@5")
    assert found == {0: pytest.approx(abs(apart) * (999 / 1000 / 1000) ** 0.5)}


def test_users_are_more_equal_where_groups_differ_less(logs):
    text = "BPR, DE: HyperKDMA treats users more equally than plain distillation does"
    assert verdict(logs, text) == NOT_RUN
    for cell, apart in ((WITH_DE.base, 0.2), (WITH_DE.full, 0.1)):
        for seed in range(3):
            shutil.rmtree(folder(logs, cell, seed))
            shares = [0.5 - apart, 0.5, 0.5 + 0.02 * seed, 0.5 + apart]
            fake_run(logs, at(cell), seed, in_groups(shares))
    for seed in range(3):
        assert verdict(logs, text) == (UNDECIDED if seed else NOT_RUN)
        keep_groups(logs, seed)
    assert verdict(logs, text) == HOLDS
    other_way_round = hyperkdma_users.more_equal("BPR", WITH_DE.base, WITH_DE.full)
    finding = other_way_round(PAPER, Evidence(logs), "CiteULike")
    assert finding.verdict == FAILS
    assert finding.detail.startswith("standard deviation over groups: HyperKDMA+DE - DE = -0.07")
    (line,) = (
        line
        for line in hyperkdma_users.spread_table(view(logs, "equality")).splitlines()
        if line.startswith("| HyperKDMA+DE ")
    )
    assert [cell.strip() for cell in line.split("|")[2:5:2]] == ["3", "0.0377"]


# --- figures -------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    pyplot.close("all")


def test_no_figure_without_runs(tmp_path):
    for name in PAPER.experiments:
        assert report.figure_of(Evidence(tmp_path), name, "CiteULike", "BPR") is None


def test_the_number_of_assistants_begins_with_none(logs):
    for m in (2, 8):
        assert report.figure_of(Evidence(logs), "assistants", "CiteULike", "BPR") is None
        replaced(logs, NUMBERS[m], 500 + m)
    (axes,) = report.figure_of(Evidence(logs), "assistants", "CiteULike", "BPR").axes
    (line,) = axes.containers
    evidence = Evidence(logs)
    expected = {
        m: np.mean(list(evidence.values(at(cell), "H@5").values()))
        for m, cell in ((0, WITH_DE.base), (2, NUMBERS[2]), (8, NUMBERS[8]))
    }
    assert line.lines[0].get_xydata() == pytest.approx(np.array(list(expected.items())))
    assert axes.get_xlabel() == "number of assistants, m"
    assert axes.get_ylabel() == "test H@5"


def keep_gates(logs: Path, seed: int, epoch: int, users: np.ndarray, items: np.ndarray) -> Path:
    """Keep the first assistant's gates of a run; the second has the rest."""
    path = folder(logs, WITH_DE.full, seed) / f"gates-epoch{epoch}.npz"
    both = {"user": users, "item": items}
    np.savez(
        path, **{kind: np.stack([g, 1 - g], axis=1, dtype=np.float16) for kind, g in both.items()}
    )
    return path


def test_gates_are_means_of_those_who_are_as_active(logs):
    users, items = np.array([1, 2, 3, 4]), np.array([0, 0, 1, 7])
    of_users, of_items = np.array([0.25, 0.5, 1.0, 0.0]), np.array([0.5, 1.0, 0.25, 0.75])
    assert hyperkdma_users.gate_panels(view(logs, "gates")) == {}
    for seed in (0, 1):
        np.savez(folder(logs, TEACHER, seed) / "activity.npz", user=users, item=items)
        keep_gates(logs, seed, 9, np.zeros(4), np.zeros(4))  # not the last
        keep_gates(logs, seed, 30, of_users / (seed + 1), of_items)
    panels = hyperkdma_users.gate_panels(view(logs, "gates"))
    of_user, of_item = panels.values()
    assert list(of_user) == ["DE, d = 40", "DE, d = 60"]
    expected = {1: [0.25, 0.125], 2: [0.75, 0.375], 4: [0, 0]}
    assert dict(of_user["DE, d = 40"]) == expected
    rest = {value: [1 - mean for mean in means] for value, means in expected.items()}
    assert dict(of_user["DE, d = 60"]) == rest
    assert dict(of_item["DE, d = 40"]) == {0: [0.75] * 2, 1: [0.25] * 2, 4: [0.75] * 2}
    first, second = report.figure_of(Evidence(logs), "gates", "CiteULike", "BPR").axes
    assert (first.get_ylabel(), second.get_ylabel()) == ("mean gate", "")
    assert [axes.get_xlabel() for axes in (first, second)] == list(panels)


def test_gates_of_other_data_are_refused(logs):
    np.savez(folder(logs, TEACHER, 0) / "activity.npz", user=np.ones(4, int), item=np.ones(4, int))
    path = keep_gates(logs, 0, 30, np.ones(4), np.ones(5))
    with pytest.raises(UserError, match=f"^{path}: item does not fit the data; delete it"):
        hyperkdma_users.gate_panels(view(logs, "gates"))
