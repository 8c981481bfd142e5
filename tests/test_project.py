"""What the project says of itself is so: results, layout, imports."""

import ast
import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import tyro
from conftest import ROOT, assert_refused

from benchmarks import bench_training
from experiments import report, results, tables
from experiments.evidence import Evidence
from experiments.papers import papers
from experiments.results import (
    read_course,
    read_curves,
    read_published_curves,
    read_runs,
    results_table,
)
from Models import MODELS
from Utils.errors import UserError
from Utils.evaluation import metrics
from Utils.files import read_npz
from Utils.run_folder import SECONDS, RunFolder
from Utils.selection import Selection
from Utils.split import FULL_RANKING, LEAVE_ONE_OUT, HeldOut, protocol_of

METRICS = LEAVE_ONE_OUT.metrics
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "experiments/LOG.md"]
DOCUMENTS += [f"{folder}/README.md" for folder in ("results", "logs", "benchmarks", "datasets")]
README = (ROOT / "README.md").read_text()
EVERY = [(paper.name, name) for paper in papers().values() for name in paper.experiments]


def committed() -> list[dict]:
    """Return the runs that are under version control, not those that somebody has just made."""
    runs = read_runs(ROOT / "logs")
    git = ["git", "-C", str(ROOT), "ls-files", "logs"]
    listing = subprocess.run(git, capture_output=True, text=True)
    if listing.returncode:  # no repository, so nobody has added to what was unpacked
        return runs
    tracked = listing.stdout.split()
    return [r for r in runs if str(r["folder"].summary.relative_to(ROOT)) in tracked]


@pytest.fixture(scope="module")
def evidence(tmp_path_factory) -> Evidence:
    """What the runs say that are under version control."""
    folder = tmp_path_factory.mktemp("committed")
    runs = [run["folder"].logs for run in committed()]
    for path in [*runs, *(ROOT / "logs").glob("*/inference")]:
        link = folder / path.relative_to(ROOT)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    return Evidence(folder / "logs")


def between_marks(text: str) -> str:
    return text.split("<!-- results -->")[1].split("<!-- end of results -->")[0].strip()


def test_the_readmes_results_are_those_of_the_logs(evidence):
    assert between_marks(README) == report.readme_results(evidence)
    assert between_marks((ROOT / "results/README.md").read_text()) == report.overview(evidence)


@pytest.mark.parametrize(("paper", "name"), EVERY)
def test_the_kept_reports_are_those_of_the_logs(evidence, paper, name):
    text, rows = report.report(evidence, f"{paper}/{name}")
    assert (ROOT / f"results/{paper}/{name}.md").read_text() == text
    assert (ROOT / f"results/{paper}/{name}.csv").read_text() == tables.to_csv(rows)


def test_figures_are_kept_of_what_was_run(evidence):
    drawn = {
        f"{paper}/{name}-{dataset}-{model}.png"
        for paper, name in EVERY
        for dataset, model in papers()[paper].settings
        if report.figure_of(evidence, f"{paper}/{name}", dataset, model)
    }
    plt.close("all")
    folder = ROOT / "results"
    kept = {str(path.relative_to(folder)) for path in folder.rglob("*.png")}
    assert kept == drawn | {"methods.png"}


@pytest.mark.parametrize(
    "run", committed(), ids=lambda run: str(run["folder"].logs.relative_to(ROOT))
)
def test_a_kept_run_is_consistent(run):
    """Its ranks and, where it is kept, its curve say what the summary says."""
    protocol = protocol_of(run["split"])
    ragged = protocol is not LEAVE_ONE_OUT
    if run["folder"].ranks.exists():
        counts = ["valid_counts", "test_counts"] if ragged else []
        kept = read_npz(run["folder"].ranks, ["valid", "test", "epoch", *counts])
        assert kept["epoch"] == run["best_epoch"]
        for part in ("valid", "test"):
            held_out = HeldOut.one_each(kept[part])
            if ragged:
                starts = np.concatenate([[0], kept[f"{part}_counts"].cumsum()])
                held_out = HeldOut(starts, kept[part])
            found = metrics(torch.from_numpy(kept[part]), held_out, protocol)
            every = protocol.metrics
            for name in every if run["selection"] == "paper" else every[:3]:
                assert found[name] == pytest.approx(run[part][name], abs=1e-6)
    if not run["folder"].curves.exists():
        assert run["seed"] != 0
        return
    columns = read_curves(run["folder"].curves)
    assert columns["epoch"].tolist() == list(range(run["epochs"]))
    if run["folder"].log.exists():
        took = read_course(run["folder"])[1].sum(axis=0)
        assert took == pytest.approx([run[part] for part in SECONDS], rel=0.02, abs=0.5)
    patience = run["folder"].read_config()["settings"].get("patience")
    selection = Selection(run["selection"], protocol, patience)
    for epoch in range(0, run["epochs"], protocol.every):
        assert not selection.stops
        selection.update(epoch, {name: values[epoch] for name, values in columns.items()})
    assert selection.stops or run["method"] == "SVD"  # one evaluation
    assert run["best_epoch"] == selection.best_epoch
    for name, value in run["test"].items():
        cutoff = name.partition("@")[2]
        epoch = selection.epoch_for(int(cutoff)) if cutoff else selection.best_epoch
        assert value == pytest.approx(columns[f"test_{name}"][epoch], abs=1e-5)


def test_the_kept_logs_are_small():
    listing = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "logs"], capture_output=True, text=True
    )
    sizes = [(ROOT / name).stat().st_size for name in listing.stdout.split()]
    assert sum(sizes) < 20e6


def test_the_table_is_mean_and_standard_deviation():
    base = {"dataset": "D", "selection": "paper", "model": "BPR", "method": "no_KD", "name": ""}
    base |= {"dim": 20, "num_parameters": 608_000, "train_seconds": 60.4, "eval_seconds": 3.0}
    runs = [
        base | {"split": f"seed{i}", "test": dict.fromkeys(METRICS, value)}
        for i, value in enumerate((0.4, 0.5))
    ]
    runs.append(base | {"split": "published", "name": "x", "test": dict.fromkeys(METRICS, 0.3)})
    runs += [base | {"split": "published", "name": "better", "test": dict.fromkeys(METRICS, 0.31)}]
    lines = results_table(runs).splitlines()
    assert len(lines) == 5
    assert "| 63 " in lines[2]
    assert "0.608 M" in lines[2]
    assert lines[2].count("0.4500 ± 0.0707") == 9
    assert "no_KD-better" in lines[3]  # the best of a group first
    assert "no_KD-x" in lines[4]
    assert lines[4].count("0.3000 ") == 9
    shares = base | {"split": "share1", "test": dict.fromkeys(FULL_RANKING.metrics, 0.2)}
    tables = results_table([*runs, shares]).split("\n\n")  # other metrics, another table
    assert tables[0].splitlines() == lines
    assert "R@50" in tables[1]
    assert "| shares |" in tables[1]


def test_the_results_of_nothing_are_an_error(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}: no finished run of CiteULike"):
        results.main(results.Settings(logs=tmp_path, dataset="CiteULike"))


@pytest.fixture
def summary() -> dict:
    """What a finished run says of itself."""
    text = (ROOT / "logs/CiteULike/BPR-d20/DERRD/seed0/summary.json").read_text()
    return json.loads(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"format": "recdist', "cut short, damaged or no JSON file"),
        ("", "cut short, damaged or no JSON file"),
        ("\xff", "cut short, damaged or no JSON file"),
        ("[]", "cut short, damaged or no JSON file"),
        ("{}", "its dataset is null"),
        ({"dim": "20"}, 'its dim is "20"'),
        ({"seed": True}, "its seed is true"),
        ({"best_epoch": 1.5}, r"its best_epoch is 1\.5"),
        ({"name": None}, "its name is null"),
        ({"train_seconds": "7"}, 'its train_seconds is "7"'),
        ({"valid": []}, "its valid H@5 is null"),
        ({"test": None}, "its test H@5 is null"),
        ({"test": {"H@5": 0.5}}, "its test N@5 is null"),
        ({"valid": dict.fromkeys(METRICS, float("nan"))}, "its valid H@5 is NaN"),
    ],
)
def test_a_broken_summary_is_refused_by_name(tmp_path, summary, text, words):
    path = tmp_path / "D/BPR-d20/no_KD/seed0/summary.json"
    path.parent.mkdir(parents=True)
    if isinstance(text, dict):
        text = json.dumps(summary | text)
    path.write_bytes(text.encode("latin-1"))
    remedy = "; delete its folder, or run it again with --overwrite$"
    with pytest.raises(UserError, match=f"^{path}: {words}.*{remedy}"):
        results.main(results.Settings(logs=tmp_path))
    path.write_text(json.dumps(summary))
    (run,) = read_runs(tmp_path)
    assert run == summary | {"folder": RunFolder.at(path.parent)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ":1: no header that begins with epoch"),
        ("0,0.5\n1,0.4\n", ":1: no header that begins with epoch"),
        ("epoch,train_loss\n", ":2: no epoch"),
        ("epoch,train_loss\n0,1\n1\n", ":3: 1 columns, not 2"),
        ("epoch,train_loss\n0,1,2\n", ":2: 3 columns, not 2"),
        ("epoch,train_loss\n0,1\n\n", ":3: 1 columns, not 2"),
        ("epoch,train_loss\n0,1\n1,two\n", ":3: could not convert string to float: 'two'"),
        ("epoch,train_loss\n0,nan\n", ":2: a number that is not finite"),
        ("epoch,train_loss,valid_R@50\n0,,0.5\n", ":2: could not convert string to float: ''"),
        ("\xff", ": 'utf-8' codec can't decode"),
        (None, ": .*No such file"),
    ],
)
def test_broken_curves_are_refused_with_their_line(tmp_path, text, words):
    path = tmp_path / "metrics.csv"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    remedy = "; delete its folder, or run it again with --overwrite$"
    with pytest.raises(UserError, match=f"^{path}{words}.*{remedy}"):
        read_curves(path)
    path.write_text("epoch,train_loss\n0,1\n1,0.5\n")
    assert {name: values.tolist() for name, values in read_curves(path).items()} == {
        **{"epoch": [0, 1], "train_loss": [1, 0.5]}
    }
    path.write_text("epoch,train_loss,valid_R@50\n0,1,0.5\n1,0.5,\n")  # evaluated every so often
    assert np.isnan(read_curves(path)["valid_R@50"]).tolist() == [False, True]


def test_a_report_without_matplotlib_says_what_to_install():
    """As after ``make demo``, whose environment has what requirements.txt says and no more."""
    code = (
        "import runpy, sys; sys.modules['matplotlib'] = None;"
        "runpy.run_module('experiments.report', run_name='__main__')"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert_refused(result, "a figure needs the package matplotlib; pip install matplotlib")


def test_what_commands_import_is_in_the_requirements():
    """Without what only tests, figures and notebooks need."""
    names = (ROOT / "requirements.txt").read_text()
    known = {*sys.stdlib_module_names, "Utils", "Models", "experiments", "benchmarks", "matplotlib"}
    for folder in ("Models", "Utils", "experiments", "experiments/papers", "benchmarks", "."):
        for path in (ROOT / folder).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                modules = [node.module] if isinstance(node, ast.ImportFrom) else []
                if isinstance(node, ast.Import):
                    modules = [alias.name for alias in node.names]
                for module in {name.split(".")[0] for name in modules} - known:
                    assert f"\n{module}==" in names or module.startswith("main_"), path


def test_published_curves_are_read_by_method(tmp_path):
    path = tmp_path / "curves.csv"
    with open(path, "w") as file:
        rows = [["method", "epoch", "train_loss"], ["A", 0, 3.5], ["B", 0, 1], ["A", 1, 2]]
        csv.writer(file).writerows(rows)
    found = read_published_curves(path, "A")
    assert found.keys() == {"epoch", "train_loss"}
    assert np.array_equal(found["train_loss"], [3.5, 2])


def test_the_layout_names_every_file():
    layout = README + (ROOT / "CONTRIBUTING.md").read_text()
    for folder in ("", "Models", "Utils", "experiments", "experiments/papers"):
        for path in (ROOT / folder).glob("*.py"):
            assert path.name == "__init__.py" or path.name in layout, path


# what may not be imported, by the folder of who would
FORBIDDEN = {
    "Utils": ("Models", "main_", "experiments", "benchmarks"),
    "Models": ("main_", "experiments", "benchmarks", "Models.distillers"),
    # no distiller knows a base model's class
    "Models/distillers": (
        *("main_", "experiments", "benchmarks"),
        *{model.__module__ for model in MODELS.values()},
    ),
    # no script is started but by name, and no paper is known
    "experiments": ("main_", "benchmarks", *(f"experiments.papers.{name}" for name in papers())),
    "experiments/papers": ("main_", "benchmarks", "experiments.run", "experiments.report"),
    "benchmarks": ("main_",),
    "": ("main_", "benchmarks", "experiments.papers", "experiments.plan", "experiments.run"),
}


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_point_one_way(folder):
    """Scripts, then experiments, then Models.distillers, then Models, then Utils."""
    for path in (ROOT / folder).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            assert not any(m.startswith(FORBIDDEN[folder]) for m in modules), f"{path}: {modules}"


def test_the_documents_commands_and_links_exist():
    for document in DOCUMENTS:
        text = (ROOT / document).read_text()
        for script in re.findall(r"python (\S+\.py)", text):
            assert (ROOT / script).exists() or f"# {script}\n" in text, script  # an example's
        for module in re.findall(r"python -m ((?:experiments|benchmarks)[.\w]*)", text):
            assert (ROOT / (module.replace(".", "/") + ".py")).exists(), f"{document}: {module}"
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (ROOT / document).parent.joinpath(link).exists(), f"{document}: {link}"


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 200


def benchmark(*arguments: str) -> subprocess.CompletedProcess:
    """Run the benchmark of training, on the built-in data."""
    command = [sys.executable, "-m", "benchmarks.bench_training", "--dataset", "synthetic"]
    return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_the_benchmark_runs_the_rows_that_are_named():
    short = ("--epochs", "1", "--thread_counts", "1")
    result = benchmark("--only", "no_KD, d = 20", "no_KD, NeuMF, d = 25", *short)
    assert result.returncode == 0, result.stderr
    rows = [line.split(" | ")[0] for line in result.stdout.splitlines() if line.startswith("| no")]
    assert rows == ["| no_KD, d = 20", "| no_KD, NeuMF, d = 25"]


@pytest.mark.parametrize(
    ("name", "near"), [("no_KD, d", "no_KD, d = 20"), ("DE soft", "DE, soft"), ("s2d", "S2D")]
)
def test_the_benchmark_refuses_a_row_that_it_has_not(name, near):
    result = benchmark("--only", "URRD", name)
    assert_refused(result, f"bench_training.py: --only '{name}' is unknown; did you mean {near}?")
    assert result.stdout == ""


def test_the_documented_benchmarks_are_of_rows_that_there_are():
    text = (ROOT / "benchmarks/README.md").read_text()
    text = text.split("## Performance")[1].split("```")[1].removeprefix("shell\n")
    commands = [shlex.split(line) for line in text.replace("\\\n", "").splitlines()]
    assert len(commands) > 1
    for command in commands:
        args = tyro.cli(bench_training.Settings, args=command[3:], use_underscores=True)
        assert args.only
        assert set(args.only) <= bench_training.ROWS.keys()


def test_the_worked_examples(tmp_path):
    """They are written into a copy, as a reader would, and their commands are run."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("what belongs to the project is not known without git")
    for name in tracked.stdout.split():
        if name.endswith((".py", ".toml", ".csv")) and not name.startswith(("logs/", "results/")):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    examples = (ROOT / "CONTRIBUTING.md").read_text()
    for name, code in re.findall(r"```python\n# (\S+)\n(.*?)```", examples, flags=re.DOTALL):
        with open(tmp_path / name, "a") as file:
            file.write(code)
    (commands,) = re.findall(r"```shell\n(.*?)```", examples, flags=re.DOTALL)
    small = "--dataset synthetic --threads 1"
    models = ("GMF", "NeighbourMean")
    lines = [f"PATH={Path(sys.executable).parent}:$PATH"]
    lines += [f"python main_no_KD.py --model {m} --dim 24 --max_epoch 2 {small}" for m in models]
    teacher = "--teacher checkpoints/synthetic/{}-d24/no_KD/seed0"  # not the usual one
    for line in commands.splitlines():
        model = next(m for m in models if m in line)
        flags = f" --max_epoch 2 {small} {teacher.format(model)}" if "main_" in line else ""
        lines.append(line.partition("   #")[0] + flags)
    refused = f"python main_SVD.py --model NeighbourMean {small} {teacher.format('NeighbourMean')}"
    lines.append(f"! {refused}")
    done = subprocess.run(
        ["sh", "-ec", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "--model NeighbourMean: its factors are not kept, but computed" in done.stderr
    columns = read_curves(tmp_path / "logs/synthetic/GMF-d20/Match/seed0/metrics.csv")
    assert np.all(columns["Match"] > 0)
    total = columns["base"] + 0.01 * columns["Match"]
    assert columns["train_loss"] == pytest.approx(total, rel=1e-4)
    assert (tmp_path / "logs/synthetic/NeighbourMean-d20/DE/seed0/summary.json").exists()
    assert re.search(r"\d+ passed", done.stdout)
