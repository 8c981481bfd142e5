"""Ranks and metrics against a slow double loop written from the definitions."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from conftest import split_of

from Models import build_model
from Models.recommender import Recommender
from Utils.evaluation import Evaluator, metrics
from Utils.sampled_product import sampled_product
from Utils.split import FULL_RANKING, LEAVE_ONE_OUT, HeldOut


class Table(Recommender):
    """Scores from a given (num_users, num_items) table: any ranking can be staged."""

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__(split_of(*scores.shape), dim=1)
        self.scores = scores

    def score(self, users, items):
        return self.scores[users.unsqueeze(1), items.long()]

    def score_all(self, users):
        return self.scores[users]

    def loss(self, batch):
        raise NotImplementedError

    def representations(self, users, items):
        raise NotImplementedError

    embeddings = representations


def slow_ranks(scores: np.ndarray, split, column: np.ndarray) -> list[int]:
    """Return ranks by counting, for each user, the candidates that do not score lower."""
    ranks = []
    for user in range(split.num_users):
        target = scores[user, column[user]]
        rank = 1
        for item in split.candidates[user]:
            if not scores[user, item] < target:
                rank += 1
        ranks.append(rank)
    return ranks


def slow_metrics(ranks: list[int]) -> dict[str, float]:
    """Return the metrics as DE-RRD's section 5.1 and its README define them."""
    found = dict.fromkeys(LEAVE_ONE_OUT.metrics, 0.0)
    for rank in ranks:
        for n in (5, 10, 20):
            if rank <= n:
                found[f"H@{n}"] += 1 / len(ranks)
                found[f"N@{n}"] += math.log(2) / math.log(rank + 1) / len(ranks)
                found[f"M@{n}"] += 1 / rank / len(ranks)
    return found


@pytest.mark.parametrize("kind", ["distinct", "ties", "nan"])
def test_ranks_and_metrics_equal_the_slow_loop(split, kind):
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(split.num_users, split.num_items)).astype(np.float32)
    scores[np.arange(split.num_users), split.test.items] += rng.exponential(2, split.num_users)
    if kind == "ties":
        scores = scores.round()
    if kind == "nan":
        scores[rng.random(scores.shape) < 0.05] = np.nan
    values, ranks = Evaluator(split, "cpu").evaluate(Table(torch.from_numpy(scores)))
    for part, column in (("valid", split.valid.items), ("test", split.test.items)):
        expected = slow_ranks(scores, split, column)
        assert ranks[part].tolist() == expected
        for name, value in slow_metrics(expected).items():
            assert values[f"{part}_{name}"] == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("kind", ["split", "shares"])
def test_a_sample_has_the_ranks_that_its_users_have_among_all(kind, request):
    """Of a seed and of no other; nobody is trained on anything else, or loses what is known."""
    every = request.getfixturevalue(kind)
    some = every.measuring(90, 3)
    users = np.flatnonzero(some.test.counts)
    assert len(users) == 90
    assert np.array_equal(users, np.flatnonzero(every.measuring(90, 3).valid.counts))
    assert not np.array_equal(users, np.flatnonzero(every.measuring(90, 4).test.counts))
    assert np.array_equal(some.train_items, every.train_items)
    assert np.array_equal(some.known.starts, every.known.starts)
    assert some.name == f"{every.name}-users90"
    assert some.protocol == every.protocol
    model = build_model("BPR", every, 8, seed=0)
    found, expected = (Evaluator(split, "cpu").ranks(model) for split in (some, every))
    share = some.of_users(users)
    for part in ("valid", "test"):
        places = getattr(every, part).places(users)
        assert torch.equal(found[part], expected[part][places])
        assert np.array_equal(getattr(share, part).items, getattr(every, part).items[places])
    assert share.candidates is None or np.array_equal(share.candidates, some.candidates)


def test_the_other_held_out_item_is_no_candidate(split):
    scores = torch.zeros(split.num_users, split.num_items)
    users = torch.arange(split.num_users)
    scores[users, torch.from_numpy(split.valid.items)] = 2
    scores[users, torch.from_numpy(split.test.items)] = 1
    ranks = Evaluator(split, "cpu").ranks(Table(scores))
    assert ranks["valid"].eq(1).all()
    assert ranks["test"].eq(1).all()


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_model_that_cannot_tell_items_apart_is_ranked_last(split, value):
    model = build_model("BPR", split, 4, seed=0)
    for table in model.parameters():
        torch.nn.init.constant_(table, value)
    ranks = Evaluator(split, "cpu").ranks(model)
    assert ranks["valid"].eq(500).all()
    assert ranks["test"].eq(500).all()


def test_factors_and_scores_give_the_same_ranks(split):
    model = build_model("BPR", split, 16, seed=0).double()
    fast = Evaluator(split, "cpu").ranks(model)
    scores = model.score_all(torch.arange(split.num_users)).detach()
    slow = Evaluator(split, "cpu").ranks(Table(scores))
    assert torch.equal(fast["valid"], slow["valid"])
    assert torch.equal(fast["test"], slow["test"])


def test_factors_are_computed_once_an_evaluation(split, monkeypatch):
    model = build_model("BPR", split, 16, seed=0)
    tables, calls = model.encode(), []  # of a graph model, each call would be a propagation
    monkeypatch.setattr(model, "encode", lambda: calls.append(1) or tables)
    Evaluator(split, "cpu").ranks(model)
    assert len(calls) == 1


def test_evaluation_leaves_the_mode_as_it_was(split):
    model = build_model("BPR", split, 4, seed=0)
    for training in (True, False):
        model.train(training)
        Evaluator(split, "cpu").ranks(model)
        assert model.training is training


def test_sampled_product_equals_a_gather():
    generator = torch.Generator().manual_seed(0)
    users = torch.randn(7, 5, generator=generator)
    items = torch.randn(30, 5, generator=generator)
    columns = torch.stack([torch.randperm(30, generator=generator)[:9] for _ in users]).int()
    expected = torch.einsum("bd,bkd->bk", users, items[columns.long()])
    torch.testing.assert_close(sampled_product(users, items, columns), expected)


def test_sampled_products_gradient_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    rows, table = (
        torch.randn(n, 3, generator=generator, dtype=torch.float64, requires_grad=True)
        for n in (4, 9)
    )
    columns = torch.randint(9, (4, 5), generator=generator)
    columns[0] = columns[0, 0]  # repeats add up
    assert torch.autograd.gradcheck(sampled_product, (rows, table, columns))


def test_metrics_of_known_ranks():
    ranks = torch.tensor([1, 3, 8, 500])
    found = metrics(ranks, HeldOut.one_each(ranks.numpy()), LEAVE_ONE_OUT)
    assert found["H@5"] == 0.5
    assert found["H@10"] == 0.75
    assert found["N@5"] == pytest.approx((1 + 0.5) / 4)
    assert found["M@10"] == pytest.approx((1 + 1 / 3 + 1 / 8) / 4)


# --- in full ------------------------------------------------------------------------------------


def slow_full(scores: np.ndarray, split, part: str) -> tuple[list[int], dict[str, float]]:
    """Return ranks among all items and the mean metrics, user by user and item by item."""
    parts = {"valid": split.valid, "test": split.test}
    other = parts["test" if part == "valid" else "valid"]
    ranks, users = [], []
    for user in range(split.num_users):
        trained = set(split.train_items[split.train_users == user].tolist())
        mine, others = (
            of.items[of.starts[user] : of.starts[user + 1]].tolist() for of in (parts[part], other)
        )
        candidates = set(range(split.num_items)) - trained - set(others)
        found = []
        for item in mine:
            above = [c for c in candidates - {item} if not scores[user, c] < scores[user, item]]
            found.append(1 + len(above))
        ranks += found
        if not mine:
            continue
        row = {}
        for n in (10, 50):
            best = sorted(rank for rank in found if rank <= n)
            row[f"R@{n}"] = len(best) / len(mine)
            row[f"P@{n}"] = len(best) / n
            ideal = sum(1 / math.log2(1 + r) for r in range(1, min(len(mine), n) + 1))
            row[f"N@{n}"] = sum(1 / math.log2(1 + r) for r in best) / ideal
            precisions = [(k + 1) / rank for k, rank in enumerate(best)]
            row[f"MAP@{n}"] = sum(precisions) / min(len(mine), n)
        users.append(row)
    return ranks, {name: sum(row[name] for row in users) / len(users) for name in users[0]}


@pytest.mark.parametrize("kind", ["distinct", "ties", "nan", "factors"])
@pytest.mark.parametrize("chunk", [7, 1000])
def test_full_ranks_and_metrics_equal_the_slow_loop(shares, kind, chunk, monkeypatch):
    monkeypatch.setattr("Utils.evaluation.USERS_CPU", chunk)
    few = first_users(shares, 90)
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(few.num_users, few.num_items)).astype(np.float32)
    for part in (few.valid, few.test):
        scores[part.users, part.items] += rng.exponential(2, len(part.items))
    if kind == "ties":
        scores = scores.round()
    if kind == "nan":
        scores[rng.random(scores.shape) < 0.05] = np.nan
    model = Table(torch.from_numpy(scores))
    if kind == "factors":
        model = build_model("BPR", few, 4, seed=0).double()
        scores = model.score_all(torch.arange(few.num_users)).detach().numpy()
    values, ranks = Evaluator(few, "cpu").evaluate(model)
    assert values.keys() == {f"{part}_{name}" for part in ranks for name in FULL_RANKING.metrics}
    for part in ("valid", "test"):
        expected, means = slow_full(scores, few, part)
        assert ranks[part].dtype == torch.int32
        assert ranks[part].tolist() == expected
        for name, value in means.items():
            assert values[f"{part}_{name}"] == pytest.approx(value, abs=1e-12)


def first_users(split, count: int):
    """The same split with its first users alone, whom the slow loop can afford."""
    kept = split.train_users < count
    parts = {
        part: HeldOut(held_out.starts[: count + 1], held_out.items[: held_out.starts[count]])
        for part, held_out in (("valid", split.valid), ("test", split.test))
    }
    columns = {"train_users": split.train_users[kept], "train_items": split.train_items[kept]}
    return dataclasses.replace(split, user_ids=split.user_ids[:count], **columns, **parts)


def test_full_ranking_of_a_known_answer():
    """Two users, six items; user 1 has nothing held out and does not count."""
    held_out = HeldOut(np.array([0, 2, 2]), np.array([1, 4]))
    ranks = torch.tensor([2, 60], dtype=torch.int32)
    found = metrics(ranks, held_out, FULL_RANKING)
    assert found["R@10"] == found["R@50"] == 0.5
    assert found["P@10"] == 0.1
    assert found["MAP@10"] == 0.25
    assert found["N@50"] == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)))


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_full_ranking_puts_a_model_that_cannot_tell_items_apart_last(shares, value):
    model = build_model("BPR", shares, 4, seed=0)
    for table in model.parameters():
        torch.nn.init.constant_(table, value)
    ranks = Evaluator(shares, "cpu").ranks(model)
    trained = np.bincount(shares.train_users, minlength=shares.num_users)
    for part, other in (("valid", shares.test), ("test", shares.valid)):
        users = getattr(shares, part).users
        last = shares.num_items - trained[users] - other.counts[users]
        assert ranks[part].tolist() == last.tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device at hand")
def test_cuda_gives_the_ranks_of_the_cpu(split):
    model = build_model("BPR", split, 16, seed=0)
    expected = Evaluator(split, "cpu").ranks(model)
    found = Evaluator(split, "cuda").ranks(model.cuda())
    assert (expected["test"] - found["test"]).abs().max() <= 1  # float32 sums in another order
