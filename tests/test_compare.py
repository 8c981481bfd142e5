"""Runs beside the first one: rows, tests over users, names, pictures, and what is refused."""

import json
import math
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, assert_refused, fake_run, hits, killed_in, run, run_script
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from scipy.stats import ttest_rel

import compare
import main_no_KD
import main_SVD
from experiments.evidence import Place, interval, user_test
from experiments.papers.derrd import DE, RRD
from experiments.plan import STUDENT
from experiments.results import find_runs, names_apart, read_course, read_curves, read_run
from Utils.errors import UserError
from Utils.run_folder import SECONDS, RunFolder


def compared(capsys, *folders: object, **given) -> tuple[dict[str, list[str]], str]:
    """Return the rows of the printed table, by name, and all that was said."""
    compare.main(compare.Settings(tuple(map(Path, folders)), **given))
    said = capsys.readouterr().out
    lines = [line for line in said.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {row[0]: row[1:] for row in [["head", *rows[0][1:]], *rows[2:]]}, said


# --- tests over users ----------------------------------------------------------------------------


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 5))
def test_gains_and_losses_of_hits_are_as_uneven_by_luck(gains, losses, same):
    """All outcomes of so many fair coins that are no likelier are counted, exactly."""
    coins = gains + losses
    ways = [math.comb(coins, heads) for heads in range(coins + 1)]
    as_uneven = Fraction(sum(each for each in ways if each <= ways[gains]), 2**coins)
    name, test = user_test("H@10")
    differences = np.repeat([1.0, -1.0, 0.0], [gains, losses, same])
    assert name == "exact McNemar"
    assert test(differences) == pytest.approx(float(as_uneven))


def discount(rank: int, n: int) -> float:
    return 1 / math.log2(rank + 1) if rank <= n else 0.0


@pytest.fixture
def logs(tmp_path) -> Path:
    """Three runs on one split, 1,000 users, and one on another split."""
    generator = np.random.default_rng(0)
    for seed, cell, ranks in (
        *((0, STUDENT, hits(400)), (0, DE, np.roll(hits(450), 20)), (1, DE, hits(300))),
        (0, RRD, generator.integers(1, 30, 1000).astype(np.int32)),
    ):
        fake_run(tmp_path / "logs", Place("CiteULike", "BPR", cell), seed, ranks)
    return tmp_path / "logs/CiteULike/BPR-d20"


def test_runs_stand_beside_the_first(logs, capsys):
    rows, said = compared(capsys, logs / "no_KD/seed0", logs)
    assert list(rows) == ["head", "no_KD/seed0", "DE/seed0", "DE/seed1", "URRD/seed0"]
    metrics = ["H@5", "H@10", "N@10", "best epoch", "minutes"]
    tested = ["of the first", "difference", "95 % interval", "p, exact McNemar"]
    assert rows["head"] == ["d", "parameters", "memory", *metrics, *tested]
    ndcg = [f"{hit * discount(3, 10):.4f}" for hit in (0.4, 0.45)]
    first = ["1", "1", "0 KB", "0.4000", "0.4000", ndcg[0], "1", "1.1"]
    assert rows["no_KD/seed0"] == [*first, "100.0%", "", "", ""]
    # of 450 hits, 380 are of users with a hit in the first run, who has 20 others
    moved = np.repeat([1.0, -1.0, 0.0], [70, 20, 910])
    half = 1.96234 * moved.std(ddof=1) / 1000**0.5  # Student's t, 999 degrees of freedom
    p = 2 * sum(math.comb(90, k) for k in range(21)) / 2**90
    said_of_it = ["112.5%", "+0.0500", f"{0.05 - half:+.4f} to {0.05 + half:+.4f}", f"{p:.2g}"]
    assert rows["DE/seed0"][3:] == ["0.4500", "0.4500", ndcg[1], "1", "1.1", *said_of_it]
    assert rows["DE/seed1"][-5:] == ["2.1", "75.0%", "-0.1000", "", ""]
    assert "No test over users of DE/seed1: another split." in said
    assert "No learning curves of no_KD/seed0, DE/seed0, DE/seed1, URRD/seed0" in said


def test_other_metrics_than_hits_have_a_paired_t_test(logs, capsys):
    rows, _ = compared(capsys, logs / "no_KD/seed0", logs / "URRD/seed0", metrics="N@20,M@5")
    each = []
    for name in ("URRD", "no_KD"):
        ranks = np.load(logs / name / "seed0/ranks.npz")["test"]
        each.append([discount(rank, 20) for rank in ranks.tolist()])
    test = ttest_rel(*each)
    low, high = test.confidence_interval()
    means = np.mean(each, axis=1)
    assert rows["head"][3:5] == ["N@20", "M@5"]
    assert rows["head"][-1] == "p, paired t"
    assert rows["URRD"][3] == f"{means[0]:.4f}"
    assert rows["URRD"][-4:] == [
        *(f"{means[0] / means[1]:.1%}", f"{means[0] - means[1]:+.4f}"),
        *(f"{low:+.4f} to {high:+.4f}", f"{test.pvalue:.2g}"),
    ]


def test_a_run_beside_its_copy_differs_in_nothing(logs, capsys):
    shutil.copytree(logs / "DE/seed0", logs / "DE-copy/seed0")
    rows, _ = compared(capsys, logs / "DE/seed0", logs / "DE-copy/seed0")
    assert rows["DE-copy"][-4:] == ["100.0%", "+0.0000", "+0.0000 to +0.0000", "1"]


def rewrite(path: Path, **parts: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))


def test_users_are_compared_on_the_same_split_and_of_the_reported_epoch(logs, capsys):
    first, other = logs / "no_KD/seed0", logs / "DE/seed0"

    def reason() -> str:
        rows, said = compared(capsys, first, other)
        assert rows["DE"][-4:] == ["112.5%", "+0.0500", "", ""]
        return next(line for line in said.splitlines() if line.startswith("No test over users"))

    for folder, sha256 in ((first, "a"), (other, "b")):
        rewrite(folder / "config.json", data={"split_sha256": sha256})
    assert reason() == "No test over users of DE: another split."
    rewrite(other / "config.json", data={"split_sha256": "a"})
    ranks = hits(450)
    np.savez(other / "ranks.npz", test=hits(440))
    assert "DE: BPR-d20/DE/seed0/ranks.npz: of another epoch than its H@5." in reason()
    np.savez(other / "ranks.npz", test=np.tile(ranks, 2))
    assert reason() == "No test over users of DE: ranks of 2,000 users, not 1,000."
    (other / "ranks.npz").write_bytes(b"PK")
    assert "DE: BPR-d20/DE/seed0/ranks.npz: cut short, damaged or no .npz file" in reason()
    (first / "ranks.npz").unlink()
    np.savez(other / "ranks.npz", test=ranks)
    assert "BPR-d20/no_KD/seed0/ranks.npz: no such file" in reason()


# --- which runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["D/B-d20/DE/seed0"], ["DE"]),
        (["D/B-d20/DE/seed0", "D/B-d20/RD/seed0"], ["DE", "RD"]),
        (["D/B-d20/DE/seed0", "D/B-d2/DE/seed1"], ["B-d20/seed0", "B-d2/seed1"]),
        (["D/B-d9/no_KD/seed0", "D/B-d2/RD/seed0"], ["B-d9/no_KD", "B-d2/RD"]),
        (["D/B/DE/seed0", "../../their/logs/D/B/DE/seed0"], ["my", "their"]),
        (["D/B/DE/seed0", "../../logs/D/B/DE/seed0"], ["home/my", "home"]),
    ],
)
def test_names_are_what_differs(paths, names):
    folders = [Path("/home/my/logs", path).resolve() for path in paths]
    assert names_apart([RunFolder(folder, folder) for folder in folders]) == names


def test_runs_are_found_by_either_folder_and_by_those_above(logs):
    every = [folder.logs for folder in find_runs(logs)]
    assert every == [logs / name for name in ("DE/seed0", "DE/seed1", "URRD/seed0", "no_KD/seed0")]
    assert [each.logs for each in find_runs(logs.parents[1])] == every
    assert [each.logs for each in find_runs(logs / "../BPR-d20/DE")] == every[:2]
    checkpoints = logs.parents[2] / "checkpoints"
    assert [each.logs for each in find_runs(checkpoints)] == every
    assert [each.logs for each in find_runs(checkpoints / "CiteULike/BPR-d20/URRD/seed0")] == [
        every[2]
    ]
    moved = checkpoints / "of/logs"
    shutil.copytree(logs.parent, moved / "CiteULike")
    assert [each.logs for each in find_runs(moved)][2] == moved / "CiteULike/BPR-d20/URRD/seed0"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("RD", "BPR-d20/RD: no such folder; name a run's folder"),
        ("DE/seed0/config.json", "config.json: no such folder"),
        ("empty", "BPR-d20/empty: holds no run; name a run's folder, such as logs/"),
        ("../../../checkpoints/D", "logs/D: no such folder"),
    ],
)
def test_what_is_no_run_is_said(logs, name, words):
    (logs / "empty").mkdir()
    with pytest.raises(UserError, match=words):
        find_runs(logs / name)


def test_a_run_lies_as_deep_as_runs_do(monkeypatch):
    monkeypatch.setattr(Path, "rglob", lambda *_: [Path("/a/run/config.json")])
    with pytest.raises(UserError, match="/tmp: holds no run"):
        find_runs(Path("/tmp"))


def test_what_has_no_table_of_its_own_is_refused(logs, tmp_path):
    def refused(*folders: Path, **given) -> str:
        with pytest.raises(UserError) as error:
            compare.main(compare.Settings(folders, **given))
        return str(error.value)

    fake_run(tmp_path / "logs", Place("synthetic", "BPR", STUDENT), 0, hits(3, users=9))
    (logs / "DE/seed1").rename(logs / "DE/share1")
    assert refused() == "name runs of one data set and one kind of split, not none"
    kinds = "CiteULike by H@5; CiteULike by R@50; synthetic by H@5"
    assert refused(tmp_path / "logs").endswith(f"one kind of split, not {kinds}")
    assert "--metrics 'H@7' is unknown; did you mean H@" in refused(logs / "no_KD", metrics="H@7")
    assert "--metrics 'R@50' is unknown" in refused(logs / "no_KD", metrics="H@5,R@50")
    assert "--output x.pdf: the picture is a PNG" in refused(logs / "no_KD", output=Path("x.pdf"))
    (logs / "DE/seed0/summary.json").write_text("{")
    assert "DE/seed0/summary.json: cut short, damaged" in refused(logs / "DE/seed0")
    (logs / "DE/seed0/summary.json").unlink()
    rewrite(logs / "DE/seed0/config.json", settings={})
    assert "DE/seed0/config.json: its dim is None; delete its folder" in refused(logs / "DE/seed0")


# --- runs as they are left, and pictures ---------------------------------------------------------

SMALL = {"lr": 0.01, "reg": 0.001}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with two finished runs, and one that was killed."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(main_no_KD, dim=16, max_epoch=4, **SMALL)
        run(main_no_KD, dim=8, max_epoch=3, **SMALL)
        with killed_in(2, patch):
            run(main_no_KD, dim=4, max_epoch=9, **SMALL)
    return folder


@pytest.fixture
def place(trained, tmp_path, monkeypatch) -> Path:
    """A copy of it as the current folder."""
    shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def folder_of(dim: int) -> RunFolder:
    return find_runs(Path(f"logs/synthetic/BPR-d{dim}"))[0]


def test_the_table_and_the_picture_are_of_the_runs(place, capsys):
    rows, said = compared(capsys, "checkpoints/synthetic/BPR-d16/no_KD/seed0", "logs/synthetic")
    assert list(rows)[1:] == ["BPR-d16", "BPR-d4 (unfinished)", "BPR-d8"]
    first, second = (read_run(folder_of(dim)) for dim in (16, 8))
    parameters = 2998 * 16
    assert rows["BPR-d16"][:3] == ["16", f"{parameters:,}", f"{parameters * 4 / 1000:.0f} KB"]
    assert rows["BPR-d8"][3:6] == [f"{second['test'][m]:.4f}" for m in ("H@5", "H@10", "N@10")]
    assert rows["BPR-d8"][6] == str(second["best_epoch"])
    share = second["test"]["H@5"] / first["test"]["H@5"]
    assert rows["BPR-d8"][8] == f"{share:.1%}"
    low, high = (float(bound) for bound in rows["BPR-d8"][-2].split(" to "))
    assert low < float(rows["BPR-d8"][-3]) < high
    assert "No test" not in said
    assert said.endswith("\ncompare.png has the learning curves.\n")
    picture = imread("compare.png")
    assert picture.shape[0] > 300
    assert picture.shape[1] > 900
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 10


def test_an_unfinished_run_has_what_it_has_so_far(place, capsys):
    columns = read_curves(folder_of(4).curves)
    assert columns["epoch"].tolist() == [0, 1]
    best = int(columns["valid_H@5"].argmax())
    row = compared(capsys, "logs/synthetic")[0]["BPR-d4 (unfinished)"]
    assert row[:3] == ["4", "", ""]
    assert row[3:6] == [f"{columns[f'test_{m}'][best]:.4f}" for m in ("H@5", "H@10", "N@10")]
    assert row[6] == str(best)
    folder_of(4).curves.write_text("")  # as in its first epoch
    rows, said = compared(capsys, "logs/synthetic")
    assert rows["BPR-d4 (unfinished)"] == ["4", *[""] * 11]
    assert "No learning curves of BPR-d4 (unfinished): no metrics.csv" in said
    rows, said = compared(capsys, "logs/synthetic/BPR-d4", "logs/synthetic/BPR-d8")
    assert rows["BPR-d8"][-4:] == [""] * 4


def test_times_are_those_of_the_epochs(place):
    folder = folder_of(8)
    seconds = read_course(folder)[1]
    summary = read_run(folder)
    assert seconds.shape == (3, 2)
    assert seconds.sum(axis=0) == pytest.approx([summary[part] for part in SECONDS], abs=0.02)
    text = folder.log.read_text()
    again = "epoch    1  train_loss 1.0000  7.500 s + 0.250 s\nepoch    8  x 1.000 s + 1.000 s\n"
    folder.log.write_text(text + again)  # killed, and gone on with from an earlier epoch
    assert read_course(folder)[1][1].tolist() == [7.5, 0.25]
    folder.log.write_text(text.replace("epoch    2", "spoiled"))
    with pytest.raises(UserError, match=r"train\.log: no time of epoch 2; delete its folder"):
        read_course(folder)
    folder.log.write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"train\.log: 'utf-8' codec"):
        read_course(folder)


def test_curves_of_another_kind_of_split_are_refused(place):
    path = folder_of(8).curves
    path.write_text(path.read_text().replace("valid_N@10", "valid_R@50"))
    with pytest.raises(UserError, match=r"metrics\.csv:1: no valid_N@10; delete its folder"):
        compare.main(compare.Settings((Path("logs/synthetic/BPR-d8"),)))


def test_one_run_is_a_row_and_runs_of_one_epoch_are_points(place, capsys, teacher_path):
    run(main_SVD, dim=2, teacher=str(teacher_path))
    capsys.readouterr()
    rows, _ = compared(capsys, "logs/synthetic/BPR-d2", output=Path("new/one.png"))
    assert list(rows) == ["head", "SVD"]
    assert rows["SVD"][-4:] == ["100.0%", "", "", ""]
    assert imread("new/one.png").size


def test_other_splits_show_what_selects(workdir, capsys):
    run(main_no_KD, dim=4, max_epoch=2, split="share", **SMALL)
    capsys.readouterr()
    rows, said = compared(capsys, "logs", metrics="MAP@10,R@10")
    assert rows["head"][3:5] == ["MAP@10", "R@10"]
    assert rows["head"][-1] == "p, paired t"
    rows, said = compared(capsys, "logs")
    assert rows["head"][3:6] == ["R@50", "R@10", "N@10"]
    assert "compare.png has the learning curves" in said


def test_without_matplotlib_the_table_is_printed_and_the_package_named(place):
    code = (
        "import runpy, sys; sys.modules['matplotlib'] = None; sys.argv[0] = 'compare.py';"
        f"runpy.run_path({str(ROOT / 'compare.py')!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", code, "logs/synthetic"]
    environment = {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert_refused(result, "compare.py: a figure needs the package matplotlib; pip install")
    assert "| BPR-d16 " in result.stdout
    assert not (place / "compare.png").exists()


# --- the kept logs -------------------------------------------------------------------------------


def test_kept_runs_are_compared_from_the_shell(tmp_path):
    methods = ["no_KD", "DE", "S2D"]
    folders = [ROOT / f"logs/CiteULike/BPR-d20/{method}/seed0" for method in methods]
    result = run_script("compare.py", *map(str, folders), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    first, second = (np.load(folder / "ranks.npz")["test"] <= 5 for folder in folders[:2])
    scores = [json.loads((each / "summary.json").read_text())["test"]["H@5"] for each in folders]
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("| DE "))
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    gains, losses = int((second & ~first).sum()), int((first & ~second).sum())
    tail = sum(math.comb(gains + losses, k) for k in range(min(gains, losses) + 1))
    p = float(Fraction(2 * tail, 2 ** (gains + losses)))
    low, high = interval(second.astype(float) - first)
    assert cells[-4:] == [
        *(f"{scores[1] / scores[0]:.1%}", f"{(gains - losses) / len(first):+.4f}"),
        *(f"{low:+.4f} to {high:+.4f}", f"{p:.2g}"),
    ]
    assert imread(tmp_path / "compare.png").shape[1] > 900
    assert_refused(run_script("compare.py", "nothing", cwd=tmp_path), "nothing: no such folder")
