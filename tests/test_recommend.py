"""A trained model in use: lists against a dense sort, fold-in against NumPy, exports alone."""

import csv
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_refused, run, run_script, split_of

import main_SVD
import recommend
from experiments import export, inference, latency, serving
from experiments.serving import (
    Served,
    histories,
    known_users,
    lists_of,
    read_history,
    read_run,
    write_lists,
)
from Models import build_model, fold_in
from Utils.errors import UserError
from Utils.evaluation import Evaluator
from Utils.interactions import Interactions
from Utils.run_folder import RunFolder
from Utils.sources import load_interactions
from Utils.split import HeldOut, by_time

CPU = torch.device("cpu")


def served(split, model, folder=Path("logs/d/m/s/seed0")) -> Served:
    """A run that was never trained."""
    test = dict.fromkeys(split.protocol.metrics, 0.5)
    summary = {"dataset": "d", "model": "m", "dim": model.dim, "method": "s", "name": ""}
    return Served(
        RunFolder.at(folder),
        {},
        summary | {"test": test},
        split,
        model.eval().requires_grad_(False),
    )


def named(split, kind: str):
    """The split with other ids: shuffled numbers, or texts that a CSV has to quote."""
    rng = np.random.default_rng(0)
    ids = [rng.permutation(count) + 7 for count in (split.num_users, split.num_items)]
    if kind == "text":
        ids = [np.array([f'0{n}, "é"' for n in each]) for each in ids]
    return dataclasses.replace(split, user_ids=ids[0], item_ids=ids[1])


def model_of(name: str, split, dim: int = 8):
    """A model whose scores are of the usual size, in double precision, where none are equal."""
    model = build_model(name, split, dim, seed=0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    return model.double().eval()


def read(path: Path) -> list[tuple]:
    """Return the rows of a file of lists: user and item as texts, rank, score."""
    if path.suffix == ".csv":
        with open(path, newline="", encoding="utf-8") as file:
            head, *rows = csv.reader(file)
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(path)
        head, rows = table.column_names, zip(*(c.to_pylist() for c in table.columns), strict=True)
    assert list(head) == ["user", "item", "rank", "score"]
    return [(str(user), str(item), int(rank), float(score)) for user, item, rank, score in rows]


def write(path: Path, asked, of: Served, count: int) -> int:
    """Write the lists of some users."""
    ids = of.split.item_ids
    return write_lists(path, asked.ids, ids, lists_of(asked, len(ids), count, CPU))


def by_sorting(users, items, scores: torch.Tensor, seen: list[set], count: int) -> list[tuple]:
    """Return the rows that there should be, from dense scores and the ids of all."""
    rows = []
    for user, mine, had in zip(users, scores.detach().numpy(), seen, strict=True):
        best = [item for item in np.argsort(-mine) if item not in had][:count]
        rows += [(str(user), str(items[i]), rank, mine[i]) for rank, i in enumerate(best, 1)]
    return rows


def of_all(split, scores: torch.Tensor, count: int) -> list[tuple]:
    """Return the rows that there should be of all users."""
    return by_sorting(split.user_ids, split.item_ids, scores, known_to(split), count)


def known_to(split) -> list[set]:
    seen = [set() for _ in range(split.num_users)]
    pairs = [(split.train_users, split.train_items)]
    pairs += [(part.users, part.items) for part in (split.valid, split.test)]
    for users, items in pairs:
        for user, item in zip(users, items, strict=True):
            seen[user].add(item)
    return seen


def assert_same(found: list[tuple], expected: list[tuple]) -> None:
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    scores, wanted = ([row[3] for row in rows] for rows in (found, expected))
    np.testing.assert_allclose(scores, wanted, rtol=1e-5)


# --- lists ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "suffix", "size"),
    [
        ("BPR", "numbers", ".csv", 1),
        ("BPR", "text", ".parquet", 7),
        ("MultVAE", "numbers", ".parquet", 64),
        ("NeuMF", "text", ".csv", 1000),
    ],
)
def test_lists_are_those_of_a_dense_sort(tmp_path, monkeypatch, name, kind, suffix, size):
    split = named(split_of(60, 45), kind)
    model = model_of(name, split)
    monkeypatch.setattr(serving, "ROOM", size * split.num_items)
    monkeypatch.setattr(serving, "ROWS", 100)
    path, of = tmp_path / f"lists{suffix}", served(split, model)
    rows = write(path, known_users(of, None), of, 10)
    scores = model.score_all(torch.arange(split.num_users))
    assert_same(read(path), of_all(split, scores, 10))
    assert rows == 10 * split.num_users


def test_where_few_items_are_left_a_list_is_shorter(tmp_path):
    split = split_of(12, 23)
    model, path = model_of("BPR", split), tmp_path / "lists.csv"
    of = served(split, model)
    write(path, known_users(of, None), of, 100)
    scores = model.score_all(torch.arange(12))
    assert_same(read(path), of_all(split, scores, 100))
    assert len(read(path)) == 12 * 23 - sum(map(len, known_to(split)))


def test_chosen_users_are_answered_in_their_order(tmp_path):
    split = named(split_of(60, 45), "text")
    of, path = served(split, model_of("BPR", split)), tmp_path / "users.txt"
    path.write_text("".join(f"{split.user_ids[user]}\n" for user in (40, 3, 59)), "utf-8")
    write(tmp_path / "few.csv", known_users(of, path), of, 5)
    write(tmp_path / "all.csv", known_users(of, None), of, 5)
    few, every = read(tmp_path / "few.csv"), read(tmp_path / "all.csv")
    expected = [row for user in (40, 3, 59) for row in every[5 * user : 5 * user + 5]]
    assert_same(few, expected)
    path.write_text(f"{split.user_ids[1]}\nnobody\n")
    with pytest.raises(UserError, match=f"^{path}:2: user 'nobody' was not there at training"):
        known_users(of, path)


def test_models_of_sequences_answer_after_all_known_items():
    split = by_time(load_interactions("synthetic", "unused"))
    model = model_of("SASRec", split, 4)
    places = torch.tensor([0, 999, 5])
    found = known_users(served(split, model), None).score(places)
    windows = model.num_windows + 2 * split.num_users + places
    assert model.window_items[windows, -1].tolist() == [
        split.test.items[split.test.starts[user + 1] - 1] for user in places
    ]
    torch.testing.assert_close(found, model.score_all(windows))


def test_all_that_is_known_of_users(shares):
    known, some = shares.known, np.array([5, 2, 900])
    starts = known.starts
    mine = [set(known.items[slice(*starts[[u, u + 1]])]) for u in range(shares.num_users)]
    assert mine == known_to(shares)
    part = shares.of_users(some)
    assert part.user_ids.tolist() == shares.user_ids[some].tolist()
    assert known_to(part) == [known_to(shares)[user] for user in some]
    for place, user in enumerate(some):
        ours, theirs = part.test.of(np.array([place])), shares.test.of(np.array([user]))
        assert ours.items.tolist() == theirs.items.tolist()


# --- fold-in -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 30])
def test_a_folded_vector_is_that_of_the_normal_equations(dim):
    rng = np.random.default_rng(0)
    items, alpha, ridge = rng.standard_normal((40, dim)), 50.0, 3.0
    taken = HeldOut(np.array([0, 3, 3, 14]), np.array([*range(3), *range(20, 31)]))
    found = fold_in.fold_in(torch.from_numpy(items), taken, alpha, ridge)
    for user, mine in enumerate(([0, 1, 2], [], range(20, 31))):
        r = np.zeros(40)
        r[list(mine)] = 1
        weights = np.diag(1 + alpha * r)
        left = items.T @ weights @ items + ridge * np.eye(dim)
        np.testing.assert_allclose(found[user], np.linalg.solve(left, items.T @ weights @ r))


def test_who_was_there_is_ranked_nearly_as_trained(split):
    """A model of the same objective, which is found again but for the last half of a sweep."""
    model = build_model("iALS", split, 8, seed=0, alpha=50.0, ridge=20.0).eval()
    for epoch in range(6):
        model.begin_epoch(epoch)
    found = fold_in.choose(model, split)
    assert found.num_users == split.num_users
    assert found.same > 0.6  # by chance, a hundredth
    assert found.folded["test_H@5"] > found.trained["test_H@5"] - 0.02
    assert found.trained == pytest.approx(Evaluator(split, CPU).evaluate(model)[0])
    vectors = fold_in.fold_in(model.item, split.train, found.alpha, found.ridge)
    model.assign(vectors, model.item)
    assert found.folded == pytest.approx(Evaluator(split, CPU).evaluate(model)[0])
    assert f"{found.same:.0%} of the first 20 items the same" in found.describe("H@5")


def test_the_weights_are_the_best_on_validation(split, student, monkeypatch):
    monkeypatch.setattr(fold_in, "ALPHAS", (1, 50))
    monkeypatch.setattr(fold_in, "RIDGES", (2, 20))
    monkeypatch.setattr(fold_in, "MOST", 300)
    part = split.of_users(np.arange(0, 1000, 4))
    items = student.item.weight.detach()
    evaluator, given = Evaluator(part, CPU), build_model("BPR", part, 8, seed=0)
    tried = {}
    for alpha in (1, 50):
        for ridge in (2, 20):
            alpha_ = alpha * split.num_items / len(part.train_users) * part.num_users
            weights = alpha_, ridge * float(items.double().square().sum()) / 8
            given.assign(fold_in.fold_in(items, part.train, *weights), items)
            tried[weights] = evaluator.evaluate(given)[0]["valid_H@5"]
    found = fold_in.choose(student, split)
    assert len(set(tried.values())) > 1
    assert tried[found.alpha, found.ridge] == max(tried.values()) == found.folded["valid_H@5"]
    assert found.num_users == 250


def test_newcomers_are_folded_in_and_answered(tmp_path, capsys, student, split):
    of, path = served(split, student), tmp_path / "new.csv"
    path.write_text("x,item,user\n1,10,ann\n,11,ann\n,10,ann\n,10000,ann\n,10001,bob\n,12,7\n")
    asked = serving.new_users(of, path)
    said = capsys.readouterr()
    assert "fold-in, alpha" in said.out
    assert "dropped 2 interactions" in said.err
    assert "and 1 users who have no others" in said.err
    assert asked.ids.tolist() == ["ann", "7"]
    item = {each: place for place, each in enumerate(split.item_ids.tolist())}
    user = split.user_ids.tolist().index(7)
    mine = [{item[10], item[11]}, known_to(split)[user] | {item[12]}]
    assert [set(asked.seen.of(np.array([n])).items) for n in (0, 1)] == mine
    write(tmp_path / "lists.csv", asked, of, 4)
    found = fold_in.choose(student, split)
    items = student.item.weight.detach()
    vectors = fold_in.fold_in(items, asked.seen, found.alpha, found.ridge)
    expected = by_sorting(asked.ids, split.item_ids, vectors @ items.T, mine, 4)
    assert_same(read(tmp_path / "lists.csv"), expected)


def test_histories_are_matched_by_text(split):
    ids = np.array(["7", "007", "new"]), np.array(["5", "05", "9"])
    found = Interactions(np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2]), *ids, "")
    users, taken = histories(found, split, Path("f"))
    assert users.tolist() == ["7", "007", "new"]
    assert taken.of(np.array([1, 2])).counts.tolist() == [1, 1]
    assert split.item_ids[taken.of(np.array([1, 2])).items].tolist() == [9, 9]
    with pytest.raises(UserError, match="f: no item of it was there at training"):
        histories(dataclasses.replace(found, item_ids=np.array(["a", "b", "c"])), split, Path("f"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("user,item\n", "has a header and no rows"),
        ("user,thing\n1,2\n", "has no item column of a usual name, but user, thing"),
        ("user,item\n1,2\n1,2,3\n", ":3: expected 2 columns, got 3"),
        ("1 2\n1\n", ":2: no item on the line"),
        ("\xff,\n", "not UTF-8"),
        (None, "no such file; correct the path"),
    ],
)
def test_broken_histories_are_refused(tmp_path, text, words):
    path = tmp_path / "history"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=f"^{path}.*{words}"):
        read_history(path)


def test_histories_as_lines(tmp_path):
    path = tmp_path / "history.txt"
    path.write_text("5 1 2\n6 2\n")
    found = read_history(path)
    assert found.user_ids.tolist() == ["5", "6"]
    assert found.item_ids[found.items].tolist() == ["1", "2", "2"]


def test_who_cannot_be_folded_in(split):
    with pytest.raises(UserError, match="--history: scores of NeuMF are not inner products"):
        fold_in.choose(build_model("NeuMF", split, 4, seed=0), split)


# --- export --------------------------------------------------------------------------------------


def lines_of(folder: Path) -> str:
    """Return the code that the exported page shows first."""
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.S)[0]


@pytest.mark.parametrize("name", ["BPR", "CML", "MultVAE"])
def test_an_export_answers_without_the_project(tmp_path, name):
    pytest.importorskip("safetensors")
    split = named(split_of(60, 45), "text")
    model, folder = model_of(name, split).float(), tmp_path / "exports" / "é"
    said = export.export(folder, served(split, model))
    assert {path.name for path in folder.iterdir()} >= {"README.md", "users.txt", "items.txt"}
    assert "factors.safetensors" in said
    code = lines_of(folder)
    assert len(code.strip().splitlines()) == 3 + 3  # with two imports and an empty line
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    best = model.score_all(torch.tensor([0]))[0].topk(10).indices
    assert done.stdout.strip() == str([str(split.item_ids[item]) for item in best])


def test_an_index_finds_what_exact_search_does(tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    faiss = pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    users, items = (rng.standard_normal((n, 8), dtype=np.float32) for n in (50, 3000))
    exact = np.argsort(-users @ items.T)[:, :100]
    for limit, kind in ((200_000, "all items compared"), (10, r"\d+ of 219 lists visited")):
        monkeypatch.setattr(export, "EXACT", limit)
        content, said, recall = export._index(faiss, users, items)
        index = faiss.deserialize_index(np.frombuffer(content, np.uint8))
        found = index.search(users, 100)[1]
        hits = [len(set(a) & set(b)) for a, b in zip(found, exact, strict=True)]
        assert recall == pytest.approx(np.mean(hits) / 100, abs=1e-3)
        assert recall >= 0.99
        assert re.fullmatch(kind, said)


def test_an_export_without_an_index_says_what_is_missing(tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    split = split_of(60, 45)
    monkeypatch.setitem(sys.modules, "faiss", None)
    said = export.export(tmp_path / "made", served(split, model_of("BPR", split)))
    assert "left out: items.faiss needs the package faiss-cpu; pip install faiss-cpu" in said
    assert not (tmp_path / "made/items.faiss").exists()
    assert "There is no index" in (tmp_path / "made/README.md").read_text()


def test_what_cannot_be_exported_is_refused(tmp_path, monkeypatch):
    split = split_of(60, 45)
    of = served(split, model_of("BPR", split))
    with pytest.raises(UserError, match="scores of NeuMF are not inner products"):
        export.export(tmp_path / "new", served(split, model_of("NeuMF", split)))
    for bad in ("a\nb", "a\r", "a\u2028b"):
        ids = np.array([bad, *map(str, range(44))])
        broken = served(dataclasses.replace(split, item_ids=ids), of.model)
        with pytest.raises(UserError, match=r"item '.*' has a line break; give it another id"):
            export.export(tmp_path / "new", broken)
    (tmp_path / "file").touch()
    for target in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match=f"--export {target}: is there already"):
            export.export(target, of)
    with pytest.raises(UserError, match=f"{tmp_path}/file/new: cannot write"):
        export.export(tmp_path / "file/new", of)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(UserError, match="--export needs the package safetensors; pip install"):
        export.export(tmp_path / "new", of)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


# --- runs ----------------------------------------------------------------------------------------


@pytest.fixture
def finished(teacher_path, tmp_path) -> Path:
    """The checkpoints of a finished run, in a place of their own."""
    root = tmp_path / "place"
    shutil.copytree(teacher_path.parents[5], root)
    return root / teacher_path.parent.relative_to(teacher_path.parents[5])


def test_a_run_is_named_by_either_folder_or_its_weights(finished, split, workdir):
    logs = RunFolder.named(finished).logs
    assert logs.parts[-5] == "logs"
    for path in (finished, finished / "best.pt", logs, logs / "summary.json"):
        of = read_run(path, "unused", CPU)
        assert of.folder == RunFolder(logs, finished)
        assert of.split.sha256 == split.sha256
        kept = torch.load(finished / "best.pt", weights_only=True)["weights"]
        assert torch.equal(of.factors()[0], kept["user.weight"])


def test_the_script_writes_lists_beside_the_weights(finished, workdir):
    pytest.importorskip("pyarrow")
    result = run_script("recommend.py", str(finished), "--top", "3", "--threads", "1", cwd=workdir)
    assert result.returncode == 0, result.stderr
    assert "3,000 rows, for 1,000 users" in result.stdout
    of = read_run(finished, "unused", CPU)
    scores = of.model.double().score_all(torch.arange(1000))
    expected = of_all(of.split, scores, 3)
    assert_same(read(finished / "recommendations.parquet"), expected)
    assert list(workdir.glob("**/*.tmp")) == []


def test_sizes_and_times_stand_beside_the_teachers(finished, workdir, monkeypatch, capsys, split):
    monkeypatch.setattr(inference, "NUM_SINGLE", 3)
    run(main_SVD, dim=4, teacher=str(finished))
    capsys.readouterr()
    path = Path("checkpoints/synthetic/BPR-d4/SVD/seed0").resolve()
    recommend.main(recommend.Settings(run=path, latency=True, top=5, threads=1))
    kept = json.loads(RunFolder.named(path).latency.read_text())
    assert (kept["format"], kept["top_n"], kept["num_items"]) == (latency.FORMAT, 5, 1998)
    sizes = [(row["role"], row["dim"], row["num_parameters"]) for row in kept["rows"]]
    count = split.num_users + split.num_items
    assert sizes == [("this run", 4, 4 * count), ("teacher", 16, 16 * count)]
    reached = json.loads((workdir / "logs/synthetic/BPR-d4/SVD/seed0/summary.json").read_text())
    assert kept["rows"][0]["test"] == reached["test"]["H@5"] != kept["rows"][1]["test"] > 0
    for row in kept["rows"]:
        assert 0 < row["milliseconds_p50"] <= row["milliseconds_p99"]
        assert row["seconds_all_users"] > 0
    assert not (path / "recommendations.parquet").exists()
    table = capsys.readouterr().out.splitlines()[-4:]
    assert [line.split("|")[1].strip() for line in table[2:]] == ["this run", "teacher"]
    (finished / "best.pt").unlink()
    of = read_run(path, "unused", CPU)
    for record in (5, [5], [{"members": []}], [{"members": [{"path": 5}]}], [{"sha256": ""}]):
        assert list(latency.teachers(dataclasses.replace(of, config={"teachers": record}))) == []
        assert "config.json: names no checkpoint of it" in capsys.readouterr().err
    recommend.main(recommend.Settings(run=path, latency=True, top=5, threads=1))
    said = capsys.readouterr()
    assert "a teacher is not measured" in said.err
    assert said.out.splitlines()[-1].startswith("| this run")


@pytest.mark.parametrize(
    ("change", "given", "words"),
    [
        (None, {"run": Path("nothing")}, "nothing: no such run; name its folder, such as"),
        ("logs/**/summary.json", {}, "holds an unfinished run; this goes on with it: .* --resume"),
        ("checkpoints/**/best.pt", {}, "no weights of a finished run; this makes them: .* --resu"),
        ("checkpoints/**/best.pt=", {}, "best.pt: cut short, damaged or no checkpoint"),
        ("logs/**/config.json=", {}, "config.json: cut short, damaged or no JSON file"),
        ("logs/**/summary.json={}", {}, "summary.json: its dataset is null"),
        (
            None,
            {"output": Path("x.txt")},
            r"--output x\.txt: lists are written as \.parquet or \.csv",
        ),
        (None, {"top": 0}, "--top 0 is out of range"),
        (None, {"users": Path("a"), "history": Path("b")}, "use one of them"),
        (None, {"users": Path("a"), "output": Path("a.csv")}, "a: no such file"),
        (
            None,
            {"history": Path("a"), "output": Path("a.csv")},
            "a: no such file; correct the path",
        ),
        (None, {"threads": -1}, "--threads -1 is out of range"),
    ],
)
def test_what_cannot_be_served_is_one_line(finished, workdir, change, given, words):
    if change:
        name, replaced, content = change.partition("=")
        (path,) = finished.parents[4].glob(name)
        path.write_text(content) if replaced else path.unlink()
    with pytest.raises(UserError, match=words):
        recommend.main(recommend.Settings(**{"run": finished} | given))
    assert not Path("a.csv").exists()


def test_a_mistake_on_the_command_line_is_one_line(workdir):
    assert_refused(run_script("recommend.py", "logs", cwd=workdir), "recommend.py: logs: no such")


def test_lists_without_pyarrow(finished, workdir, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        UserError, match=r"Parquet, unlike --output lists\.csv, needs the package py"
    ):
        recommend.main(recommend.Settings(run=finished))
    recommend.main(recommend.Settings(run=finished, output=Path("lists.csv"), top=2))
    assert len(read(Path("lists.csv"))) == 2000
