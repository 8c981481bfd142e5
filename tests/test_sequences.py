"""Sequences: what comes before what, models that look at it, against slow loops."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import killed_in, real_file, run

import main_CD
import main_CLDRD
import main_DCD
import main_DE
import main_HetComp
import main_IRRRD
import main_no_KD
import main_RCEKD
import main_RD
import main_S2D
import main_SVD
import main_UnKD
import main_URRD
from experiments import windows as what_counts
from Models import build_model
from Models.distillers import S2D
from Models.teacher import TrainedTeacher, top_lists
from Utils.dataset import SequenceSampler, Users, Windows
from Utils.errors import UserError
from Utils.evaluation import Evaluator
from Utils.interactions import Interactions, read_sequences
from Utils.sources import SOURCES, load_split, split_name
from Utils.split import HeldOut, Split, by_time

CPU = torch.device("cpu")
NONE = 60  # the number of items, which stands for no item


def interactions(*sequences: list[int], num_items: int = NONE) -> Interactions:
    users = np.repeat(np.arange(len(sequences)), [len(each) for each in sequences])
    items = np.array([item for each in sequences for item in each])
    return Interactions(users, items, np.arange(len(sequences)), np.arange(num_items), "0" * 64)


def split_of(train: list[list[int]], valid: list[list[int]], test: list[list[int]]) -> Split:
    def held_out(lists: list[list[int]]) -> HeldOut:
        users = np.repeat(np.arange(len(lists)), [len(each) for each in lists])
        return HeldOut.of_pairs(
            users, np.array([i for each in lists for i in each], np.int64), len(lists)
        )

    trained = held_out(train)
    return Split(
        "data", "time", "0" * 64, np.arange(len(train)), np.arange(NONE), trained.users,
        trained.items, held_out(valid), held_out(test), None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def small() -> Split:
    """12 users of 3 to 25 items, some of them less than a window."""
    rng = np.random.default_rng(0)
    lists = [rng.permutation(NONE)[: 5 + 2 * u].tolist() for u in range(12)]
    return by_time(interactions(*lists))


def model_of(name: str, split: Split, **options) -> torch.nn.Module:
    """Return a model in float64 whose parameters are no small numbers."""
    model = build_model(name, split, 6, seed=1, **options)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))
    if hasattr(model, "item"):
        torch.nn.init.zeros_(model.item.weight[-1])
    return model.double()


# --- files and splits ----------------------------------------------------------------------------


def test_lines_of_a_user_are_one_sequence(tmp_path, capsys):
    path = tmp_path / "items.txt"
    path.write_text("7 30 10\n5 10\n7 20 30\n5 40 30\n")
    found = read_sequences(path, 3)
    assert found.user_ids.tolist() == [7, 5]
    assert found.item_ids[found.items].tolist() == [30, 10, 20, 10, 40, 30]
    assert found.users.tolist() == [0, 0, 0, 1, 1, 1]
    assert "dropped 1 items that a user had before" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("1 2 3\n4\n", ":2: no item on the line"),
        ("1 2 3\n\n", ":2: no item on the line"),
        ("1 2 x\n", ":1: 'x' is not a number; a line is 'user item item ...'"),
        ("-1 2\n", ":1: item -1 is out of range"),
        (f"1 {2**63}\n", "out of range"),
        ("1 2\n", "no user has 3 items"),
    ],
)
def test_a_broken_file_is_refused_in_a_line(tmp_path, text, words):
    path = tmp_path / "items.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read_sequences(path, 3)


def test_the_last_ones_are_held_out():
    found = by_time(
        interactions(
            list(range(10)),  # 7, 1 and 2
            list(range(6, 1, -1)),  # 3, 1 and 1, of which the test's is trained on by the first
            [0, 1],  # nothing is left for training
            [*range(20, 50), *range(10)],  # 28, 4 and 8; 48, 49 are nobody else's
        )
    )
    trained = [found.train_items[found.train_users == u].tolist() for u in range(4)]
    assert trained == [list(range(7)), [6, 5, 4], [], list(range(20, 48))]
    parts = {
        part: [held.items[slice(*held.starts[[u, u + 1]])].tolist() for u in range(4)]
        for part, held in (("valid", found.valid), ("test", found.test))
    }
    # of the first, 7 to 9 are trained on by nobody, so he is not measured
    assert parts["valid"] == [[], [3], [0], [0, 1]]
    assert parts["test"] == [[], [2], [1], [2, 3, 4, 5, 6]]
    assert found.name == "time"
    other = by_time(interactions(list(range(8)), list(range(32))), valid=0.25, test=0.5)
    assert other.name == "time-25-50"
    assert other.train_items.tolist() == [0, 1, *range(8)]
    assert [other.valid.items.tolist(), other.test.items.tolist()] == [[2, 3], [4, 5, 6, 7]]
    with pytest.raises(UserError, match="nobody is left"):
        by_time(interactions([0, 1, 2], [3, 4, 5]))


def test_data_without_order_are_refused(tmp_path):
    with pytest.raises(UserError, match="CiteULike are in no order of time; those in Amazon"):
        load_split("CiteULike", "time", 0, str(tmp_path))
    assert [split_name("time", seed) for seed in (0, 2)] == ["time", "time-seed2"]


# --- windows -------------------------------------------------------------------------------------


def test_windows_of_sequences_made_by_hand():
    split = split_of(
        [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10], [11, 12, 13], [14, 15], [16]],
        [[20, 21], [22], [23], [], [24]],
        [[30], [31], [32], [], [33]],
    )
    found = Windows(split, L=2, T=2)
    assert found.users[:7].tolist() == [0, 0, 0, 0, 1, 1, 2]
    rows = list(zip(found.items.tolist(), found.targets.tolist(), strict=False))
    assert rows[:2] == [([NONE, 1], [2, 3]), ([1, 2], [3, 4])]
    assert rows[2:4] == [([2, 3], [4, 5]), ([3, 4], [5, 6])]
    assert rows[4:6] == [([NONE, 7], [8, 9]), ([7, 8], [9, 10])]
    assert rows[6:] == [([NONE, 11], [12, 13])]  # and 14, 15 have nothing before them
    before = found.items[7:].tolist()
    assert before[:5] == [[5, 6], [9, 10], [12, 13], [14, 15], [NONE, 16]]
    assert before[5:10] == [[20, 21], [10, 22], [13, 23], [14, 15], [16, 24]]
    assert before[10:] == [[21, 30], [22, 31], [23, 32], [14, 15], [24, 33]]
    assert found.users[7:].tolist() == [0, 1, 2, 3, 4] * 3


def test_windows_may_not_overlap():
    split = split_of([[1, 2, 3, 4, 5, 6, 7]], [[8]], [[9]])
    found = Windows(split, L=2, T=1, step=2)
    assert found.items[:3].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert found.targets.tolist() == [[3], [5], [7]]
    assert Windows(split, L=3, T=1, step=3).items[:2].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert Windows(split, L=4, T=1, step=4).items[:2].tolist() == [[NONE, NONE, 1, 2], [3, 4, 5, 6]]


def test_what_has_no_windows_is_refused(small, split):
    with pytest.raises(UserError, match="--split seed: sequences are needed, so take --split time"):
        Windows(split, 2, 1)
    short = split_of([[1], [2]], [[2], [1]], [[3], [4]])
    with pytest.raises(UserError, match="nobody has more than 1 items for training"):
        Windows(short, 2, 1)


def test_a_users_future_is_not_in_his_past(small):
    """An item that is in one user's future alone is in none of his windows, but the last ones."""
    found = Windows(small, L=4, T=1)
    windows = len(found.targets)
    for user in range(small.num_users):
        mine = found.users == user
        valid, test = (
            set(part.items[slice(*part.starts[[user, user + 1]])])
            for part in (small.valid, small.test)
        )
        trained = mine[: windows + small.num_users]
        seen = set(found.items[: len(trained)][trained].flatten())
        assert not seen & (valid | test)
        assert not set(found.targets[mine[:windows]].flatten()) & (valid | test)
        assert not set(found.items[: -small.num_users][mine[: -small.num_users]].flatten()) & test


def test_every_window_comes_once_with_negatives_of_its_user(small):
    windows = Windows(small, 4, 1)
    sampler = SequenceSampler(small, 16, 0, CPU, windows=windows, count=3)
    batches = list(sampler.epoch(0))
    numbers, targets, others = map(torch.cat, zip(*batches, strict=True))
    assert numbers.sort().values.tolist() == list(range(len(windows.targets)))
    assert torch.equal(targets, torch.from_numpy(windows.targets)[numbers])
    for number, drawn in zip(numbers, others, strict=True):
        trained = small.train_items[small.train_users == windows.users[number]]
        assert not set(drawn.tolist()) & set(trained)
    again, other = (torch.cat([b.others for b in sampler.epoch(e)]) for e in (0, 1))
    assert torch.equal(others, again)
    assert not torch.equal(others, other)


# --- models --------------------------------------------------------------------------------------


def caser_by_loops(model, window: int) -> torch.Tensor:
    """Return all items' scores after a window."""
    L, d = model.length, model.dim
    ids = model.window_items[window]
    E = torch.stack([model.item.weight[i] for i in ids])
    features = []
    for f in range(model.n_v):
        total = sum(model.vertical.weight[f, place] * E[place] for place in range(L))
        features += list(total + model.vertical.bias[f])
    for height in range(1, L + 1):
        layer = model.horizontal[height - 1]
        for f in range(model.n_h):
            sums = [
                (layer.weight[f].view(height, d) * E[p : p + height]).sum() + layer.bias[f]
                for p in range(L - height + 1)
            ]
            features.append(max(sums))
    z = torch.sigmoid(model.last.weight @ torch.stack(features) + model.last.bias)
    p = model.user.weight[model.window_users[window]]
    return torch.stack([row[:d] @ z + row[d : 2 * d] @ p + row[-1] for row in model.output.weight])


def sasrec_by_loops(model, window: int) -> torch.Tensor:
    """Return the states after each item of a window that is one."""

    def norm(layer, states):
        shape = (model.dim,)
        return {
            p: torch.nn.functional.layer_norm(state, shape, layer.weight, layer.bias)
            for p, state in states.items()
        }

    ids = model.window_items[window]
    places = [place for place in range(model.length) if ids[place] != NONE]
    states = {p: model.item.weight[ids[p]] * model.dim**0.5 + model.place[p] for p in places}
    for block in model.blocks:
        asking, after = norm(block.norms[0], states), {}
        for p in places:
            query = block.query(asking[p]) / model.dim**0.5
            before = [q for q in places if q <= p]
            scores = torch.stack([query @ block.key(states[q]) for q in before])
            values = torch.stack([block.value(states[q]) for q in before])
            after[p] = asking[p] + scores.softmax(dim=0) @ values
        inner = norm(block.norms[1], after)
        states = {p: s + block.second(block.first(s).relu()) for p, s in inner.items()}
    return torch.stack(list(norm(model.norm, states).values()))


SIZES = {"Caser": {"length": 4, "n_h": 3}, "SASRec": {"length": 5}}


def expected_scores(model, window: int) -> torch.Tensor:
    if type(model).__name__ == "Caser":
        return caser_by_loops(model, window)
    return model.item.weight[:NONE] @ sasrec_by_loops(model, window)[-1]


@pytest.mark.parametrize("name", SIZES)
def test_scores_are_those_of_loops(name, small):
    model = model_of(name, small, **SIZES[name]).eval()
    windows = torch.tensor([0, 3, model.num_windows + 1, model.num_windows + NONE // 5 + 5])
    expected = torch.stack([expected_scores(model, int(w)) for w in windows])
    torch.testing.assert_close(model.score_all(windows), expected)
    items = torch.tensor([[1, 2], [0, 0], [59, 5], [4, 1]])
    torch.testing.assert_close(model.score(windows, items), expected.gather(1, items))
    torch.testing.assert_close(model.score(windows, items[:, 0]), expected[range(4), items[:, 0]])
    many = torch.arange(NONE).expand(4, -1)
    torch.testing.assert_close(model.score(windows, many), expected)
    for part, first in (("valid", 0), ("test", small.num_users), ("next", 2 * small.num_users)):
        rows, table = model.encode_before(part)
        mine = [model.num_windows + first + user for user in range(small.num_users)]
        torch.testing.assert_close(rows @ table.T, model.score_all(torch.tensor(mine)))


@pytest.mark.parametrize("name", SIZES)
def test_losses_and_gradients_are_those_of_loops(name, small):
    model = model_of(name, small, dropout=0.0, **SIZES[name]).train()
    batch = next(iter(model.sampler(small, 8, 0, CPU).epoch(0)))
    total = 0
    for window, targets, others in zip(*batch, strict=True):
        if name == "Caser":
            scores = caser_by_loops(model, int(window))
            total = total + (1 + (-scores[targets]).exp()).log().sum()
            total = total + (1 + scores[others].exp()).log().sum()
            continue
        ids = model.window_items[window].tolist()
        following = [*ids[1:], int(targets)]
        places = [place for place in range(model.length) if ids[place] != NONE]
        for state, place in zip(sasrec_by_loops(model, int(window)), places, strict=True):
            above, below = (state @ model.item.weight[i] for i in (following[place], others[place]))
            total = total + (1 + (-above).exp()).log() + (1 + below.exp()).log()
    total.backward()
    expected = {name: p.grad.to_dense() for name, p in model.named_parameters()}
    model.zero_grad()
    loss = model.loss(batch)
    torch.testing.assert_close(loss, total)
    loss.backward()
    for key, parameter in model.named_parameters():
        wanted = expected[key].clone()
        if key == "item.weight":
            wanted[-1] = 0  # what is no item is not trained
        torch.testing.assert_close(parameter.grad.to_dense(), wanted)


@pytest.mark.parametrize(
    ("name", "option", "changed"),
    [
        ("Caser", "length", 3),
        ("Caser", "num_targets", 2),
        ("Caser", "n_v", 4),
        ("Caser", "n_h", 2),
        ("SASRec", "length", 3),
        ("SASRec", "num_layers", 1),
    ],
)
def test_every_option_acts(name, option, changed, small):
    losses = []
    for options in ({}, {option: changed}):
        model = model_of(name, small, dropout=0.0, **(SIZES[name] | options))
        losses.append(model.loss(next(iter(model.sampler(small, 8, 0, CPU).epoch(0)))).item())
    assert losses[0] != losses[1]


@pytest.mark.parametrize("name", SIZES)
def test_dropout_is_of_the_epoch_and_of_training_alone(name, small):
    model = model_of(name, small, dropout=0.5, **SIZES[name]).train()
    batch = next(iter(model.sampler(small, 8, 0, CPU).epoch(0)))
    losses = []
    for epoch in (0, 0, 1):
        model.begin_epoch(epoch)
        losses.append(model.loss(batch).item())
    assert losses[0] == losses[1] != losses[2]
    windows = torch.arange(4)
    with torch.no_grad():
        assert torch.equal(model.score_all(windows), model.score_all(windows))


@pytest.mark.parametrize("name", SIZES)
def test_nobody_has_no_scores(name, small):
    model = model_of(name, small, **SIZES[name])
    assert model.score_all(torch.empty(0, dtype=torch.int64)).shape == (0, small.num_items)


@pytest.mark.parametrize("name", SIZES)
def test_held_out_items_are_ranked_after_what_came_before(name, small):
    model = model_of(name, small, **SIZES[name]).eval()
    values, ranks = Evaluator(small, CPU).evaluate(model)
    precisions = []
    for part, held in (("valid", small.valid), ("test", small.test)):
        other = small.test if part == "valid" else small.valid
        for user in range(small.num_users):
            mine, others = (
                each.items[slice(*each.starts[[user, user + 1]])] for each in (held, other)
            )
            query = model.num_windows + user + small.num_users * (part == "test")
            scores = expected_scores(model, query).detach()
            trained = small.train_items[small.train_users == user]
            scores[np.concatenate([trained, others])] = -torch.inf
            found = ranks[part][slice(*held.starts[[user, user + 1]])].tolist()
            assert found == [int((scores >= scores[i]).sum()) for i in mine]
            if part == "test" and len(mine):
                ordered = sorted(found)
                precisions.append(np.mean([(k + 1) / rank for k, rank in enumerate(ordered)]))
    assert values["test_MAP"] == pytest.approx(np.mean(precisions))


def test_what_a_sequence_has_not_is_refused(small, split):
    model = model_of("Caser", small)
    one = torch.zeros(1, dtype=torch.int64)
    for asked, words in (
        (model.representations, "representations of users"),
        (model.embeddings, "representations of users"),
        (lambda users, items: model.score(users[None], items), "lists of users"),
    ):
        with pytest.raises(UserError, match=f"--model Caser: has no {words}"):
            asked(one, one)
    with pytest.raises(UserError, match="sequences are needed"):
        build_model("SASRec", split, 6, seed=0)
    with pytest.raises(UserError, match="leaves nothing"):
        model_of("SASRec", small, dropout=1.0)


# --- runs ----------------------------------------------------------------------------------------


@pytest.fixture
def data(workdir, monkeypatch) -> str:
    """A small file in place of a public one: 200 users who walk on from item to item."""
    rng = np.random.default_rng(0)
    lines = []
    for user in range(200):
        walk = (rng.integers(80) + rng.integers(1, 3, 20).cumsum()) % 80
        lines.append(f"{user + 1} " + " ".join(str(i + 1) for i in dict.fromkeys(walk.tolist())))
    path = workdir / "data" / "Toys" / "Toys_and_Games.txt"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    source = dataclasses.replace(SOURCES["Toys"], sha256=digest)
    monkeypatch.setitem(SOURCES, "Toys", source)
    return str(path.parents[1])


@pytest.mark.parametrize("name", SIZES)
def test_a_run_learns_dies_and_goes_on_with_the_same_bytes(name, data, monkeypatch):
    given = {"model": name, "dataset": "Toys", "data_dir": data, "dim": 8, "batch_size": 64}
    given |= {"lr": 0.01, "reg": 0.0, "dropout": 0.2, "max_epoch": 6}
    run(main_no_KD, **given, name="whole")
    with killed_in(2, monkeypatch):
        run(main_no_KD, **given)
    run(main_no_KD, **given, resume=True)
    folders = [Path(f"logs/Toys/{name}-d8/no_KD{of}/time") for of in ("-whole", "")]
    whole, resumed = ((folder / "metrics.csv").read_bytes() for folder in folders)
    assert whole == resumed
    summary = json.loads((folders[0] / "summary.json").read_text())
    assert summary["split"] == "time"
    assert summary["test"]["MAP"] > 0.2  # by chance: some 0.1


def test_another_seed_is_of_training_alone(data):
    given = {"model": "Caser", "dataset": "Toys", "data_dir": data, "dim": 8, "max_epoch": 2}
    for seed in (0, 1):
        run(main_no_KD, **given, seed=seed)
    configs = [
        json.loads(Path(f"logs/Toys/Caser-d8/no_KD/{split}/config.json").read_text())
        for split in ("time", "time-seed1")
    ]
    assert len({config["data"]["split_sha256"] for config in configs}) == 1
    curves = [path.read_text() for path in sorted(Path("logs").rglob("metrics.csv"))]
    assert curves[0] != curves[1]


def test_models_without_order_learn_from_the_same_data(data):
    run(main_no_KD, dataset="Toys", data_dir=data, dim=8, lr=0.01, max_epoch=2)
    assert Path("logs/Toys/BPR-d8/no_KD/time/summary.json").exists()
    path = Path("checkpoints/Toys/BPR-d8/no_KD/time")
    with pytest.raises(UserError, match="BPR does not look at sequences"):
        what_counts.main(what_counts.Settings(path, data_dir=Path(data)))


@pytest.mark.parametrize("name", SIZES)
def test_what_a_model_goes_by_is_taken_away_and_given_back(name, data, capsys):
    run(main_no_KD, model=name, dataset="Toys", data_dir=data, dim=8, lr=0.01, max_epoch=6)
    folder = Path(f"Toys/{name}-d8/no_KD/time")
    summary = json.loads(("logs" / folder / "summary.json").read_text())
    capsys.readouterr()
    what_counts.main(what_counts.Settings("checkpoints" / folder, data_dir=Path(data)))
    _, _, *lines = capsys.readouterr().out.splitlines()
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    rows = {label: [float(value) for value in values] for label, *values in table}
    *ablated, without_items = rows.items()
    assert [label for label, _ in ablated[2:]] == ["who the user is"] * (name == "Caser")
    expected = [summary[part][metric] for part in ("valid", "test") for metric in ("N@10", "MAP")]
    assert rows["nothing"] == pytest.approx(expected, abs=1e-4)
    assert rows["validation items"][:2] == rows["nothing"][:2]
    assert rows["validation items"][3] < rows["nothing"][3]  # they walk on from the latest item
    assert without_items[0] == "items"
    assert all(less < whole for less, whole in zip(without_items[1], rows["nothing"], strict=True))


@pytest.mark.parametrize(
    ("dataset", "numbers"),
    [("Toys", (19_412, 11_924, 167_597)), ("Beauty", (22_363, 12_101, 198_502))],
)
def test_the_public_files_are_what_they_are(dataset, numbers):
    source = SOURCES[dataset]
    found = read_sequences(real_file(dataset, source.file), source.min_count)
    assert found.sha256 == source.sha256
    assert (len(found.user_ids), len(found.item_ids), len(found.items)) == numbers


# --- distillation --------------------------------------------------------------------------------


def test_lists_of_windows_are_those_of_a_dense_sort(small):
    model = model_of("Caser", small).eval()
    asked = model.asked(small)
    assert asked.num_users == model.num_windows
    found = top_lists(model, asked, "items", 7).long()
    for window, mine in enumerate(found):
        scores = expected_scores(model, window).detach()
        user = model.window_users[window].item()
        scores[small.train_items[small.train_users == user]] = -torch.inf
        assert mine.tolist() == scores.argsort(descending=True)[:7].tolist()


def test_a_step_encodes_its_windows_once_however_many_losses_look(small, monkeypatch):
    model, encoded = model_of("Caser", small).requires_grad_(), []
    encode = model.encode_windows
    monkeypatch.setattr(model, "encode_windows", lambda w: encoded.append(len(w)) or encode(w))
    windows, items = torch.tensor([7, 2, 5]), torch.arange(12).view(3, 4)
    first = model.score(windows, items)
    order = torch.tensor([2, 0, 1])
    assert torch.equal(model.score(windows[order], items[order]), first[order])
    with torch.no_grad():
        assert torch.equal(model.score(windows, items), first)  # the same units are dropped
    assert encoded == [3]
    model.score(torch.tensor([7, 0]), items[:2])
    assert encoded == [3, 2]
    first.sum().backward()
    again = torch.autograd.grad(model.score(windows, items).sum(), model.last.weight)
    assert encoded == [3, 2, 3]
    with torch.no_grad():
        model.last.weight += again[0]
    model.score(windows, items)
    assert encoded == [3, 2, 3, 3]


@pytest.mark.parametrize("name", ["Caser", "SASRec"])
def test_s2d_of_windows_is_a_softmax_over_all_items(name, small, tmp_path):
    (tmp_path / "best.pt").touch()  # whose hash a teacher has
    teacher = TrainedTeacher(model_of(name, small, length=4), small, tmp_path / "best.pt")
    student = model_of(name, small, length=4).eval()  # without dropout
    windows = torch.tensor([0, 3, len(student.windows.targets) - 1])
    found = S2D(student, teacher, K=6, tau=2.0).losses(Users(windows))
    hard = soft = 0.0
    for window in windows.tolist():
        log_p = student.score_all(torch.tensor([window])).squeeze().log_softmax(dim=0)
        targets = student.windows.targets[window].tolist()
        hard -= sum(log_p[item] for item in targets) / len(targets)
        scores = teacher.score_all(torch.tensor([window])).squeeze()
        user = student.window_users[window].item()
        scores[small.train_items[small.train_users == user]] = -torch.inf
        values, items = scores.topk(6)
        soft -= ((values / 2.0).softmax(dim=0) * log_p[items]).sum()
    torch.testing.assert_close(found, (hard, soft))


@pytest.fixture
def taught(data) -> dict[str, object]:
    """The settings of a small student of Caser, and of a teacher that is trained."""
    given = {"model": "Caser", "dataset": "Toys", "data_dir": data, "batch_size": 64, "lr": 0.01}
    run(main_no_KD, **given, dim=12, max_epoch=2)
    teacher = "checkpoints/Toys/Caser-d12/no_KD/time"
    return given | {"dim": 8, "teacher": teacher, "max_epoch": 3}


@pytest.mark.parametrize(
    ("script", "options"),
    [
        (main_RD, {"K": 5, "num_samples": 10, "warm_up": 1}),
        (main_CD, {"K": 5, "pool": 20}),
        (main_CD, {"K": 5, "pool": 20, "sampling": "student"}),
        (main_CD, {"K": 5, "sampling": "uniform"}),
        (main_URRD, {"K": 5, "L": 5, "pool": 20}),
        (main_RCEKD, {"K": 5, "L": 5, "pool": 20}),
        (main_UnKD, {"pool": 20}),
        (main_CLDRD, {}),
        (main_DCD, {"lmbda_ICD": 0.0, "n": 5, "pool": 20}),
        (main_S2D, {"K": 5, "start": "random"}),
        (main_S2D, {"K": 5, "start": "random", "num_samples": 10}),
    ],
)
def test_methods_of_lists_learn_after_sequences(script, options, taught, monkeypatch):
    with killed_in(1, monkeypatch):
        run(script, **taught, **options)
    run(script, **taught, **options, resume=True)
    run(script, **taught, **options, name="whole")
    curves = [path.read_bytes() for path in Path("logs/Toys/Caser-d8").rglob("metrics.csv")]
    assert curves[0] == curves[1]
    run(main_no_KD, dataset="Toys", data_dir=taught["data_dir"], dim=12, max_epoch=1)
    of_users = taught | {"teacher": "checkpoints/Toys/BPR-d12/no_KD/time"}
    with pytest.raises(UserError, match="is asked for 200 users or windows, and the student for"):
        run(script, **of_users, **options, name="other")


def test_scores_of_windows_are_not_taken_for_those_of_users(taught):
    given = taught | {"model": "BPR"}
    of_windows = {"teacher": given.pop("teacher")}
    for script, changes, words in (
        (main_SVD, of_windows, "has scores of windows, and none of users"),
        (main_HetComp, of_windows, "is asked for 2,600 users or windows, and the student for 200"),
        (main_DCD, of_windows | {"lmbda_UCD": 0.0, "n": 5, "pool": 20}, "lists of users, for each"),
        (main_URRD, {"teachers": of_windows["teacher"]}, "no scores of users to average"),
        (main_URRD, {"teachers": "BPR,Caser"}, "of users, and Caser has one of a user for each w"),
        (main_CD, {"teachers": "BPR", "model": "SASRec"}, "of users, and SASRec has one of a"),
    ):
        names = {field.name for field in dataclasses.fields(script.Settings)}
        mine = {name: value for name, value in (given | changes).items() if name in names}
        with pytest.raises(UserError, match=words):
            run(script, **mine)
    (trained,) = Path("checkpoints/Toys").glob("*/no_KD")
    assert trained.parent.name == "Caser-d12"  # and nothing for an ensemble


def test_a_teacher_of_longer_windows_teaches(taught):
    run(main_RD, **taught, K=5, num_samples=10, length=3)
    with pytest.raises(UserError, match="use models of sequences with the same --num_targets"):
        run(main_RD, **taught, K=5, num_samples=10, num_targets=2, name="other")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (main_DE, "its batches are users and targets and others, and this method needs"),
        (main_DCD, "it does not train on pairs"),
        (main_HetComp, "inner products"),
        (main_IRRRD, "lists of users for an item, for each is asked after a window"),
    ],
)
def test_methods_of_users_alone_are_refused_before_a_teacher_is_trained(script, words, data):
    with pytest.raises(UserError, match=words):
        run(script, model="Caser", dataset="Toys", data_dir=data, dim=8)
    assert not Path("checkpoints").exists()


def test_a_spectral_start_is_refused_before_a_teacher_is_trained(data):
    given = {"model": "Caser", "dataset": "Toys", "data_dir": data, "dim": 8}
    with pytest.raises(UserError, match=r"inner products of factors.*--start random"):
        run(main_S2D, **given, start="spectral")
    assert not Path("checkpoints").exists()
