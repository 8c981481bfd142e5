"""Ranks and metrics against a slow double loop written from the definitions."""

import math

import numpy as np
import pytest
import torch

from Models import build_model
from Models.recommender import Recommender
from Utils.evaluation import METRICS, Evaluator, metrics
from Utils.sampled_product import sampled_product


class Table(Recommender):
    """Scores from a given (num_users, num_items) table: any ranking can be staged."""

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__(*scores.shape, dim=1)
        self.scores = scores

    def score(self, users, items):
        return self.scores[users.unsqueeze(1), items.long()]

    def score_all(self, users):
        return self.scores[users]

    def loss(self, users, positives, negatives):
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
    found = dict.fromkeys(METRICS, 0.0)
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
    scores[np.arange(split.num_users), split.test] += rng.exponential(2, split.num_users)
    if kind == "ties":
        scores = scores.round()
    if kind == "nan":
        scores[rng.random(scores.shape) < 0.05] = np.nan
    values, ranks = Evaluator(split, "cpu").evaluate(Table(torch.from_numpy(scores)))
    for part, column in (("valid", split.valid), ("test", split.test)):
        expected = slow_ranks(scores, split, column)
        assert ranks[part].tolist() == expected
        for name, value in slow_metrics(expected).items():
            assert values[f"{part}_{name}"] == pytest.approx(value, abs=1e-12)


def test_the_other_held_out_item_is_no_candidate(split):
    scores = torch.zeros(split.num_users, split.num_items)
    users = torch.arange(split.num_users)
    scores[users, torch.from_numpy(split.valid)] = 2
    scores[users, torch.from_numpy(split.test)] = 1
    ranks = Evaluator(split, "cpu").ranks(Table(scores))
    assert ranks["valid"].eq(1).all()
    assert ranks["test"].eq(1).all()


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_model_that_cannot_tell_items_apart_is_ranked_last(split, value):
    model = build_model("BPR", split.num_users, split.num_items, 4, seed=0)
    for table in model.parameters():
        torch.nn.init.constant_(table, value)
    ranks = Evaluator(split, "cpu").ranks(model)
    assert ranks["valid"].eq(500).all()
    assert ranks["test"].eq(500).all()


def test_factors_and_scores_give_the_same_ranks(split):
    model = build_model("BPR", split.num_users, split.num_items, 16, seed=0).double()
    fast = Evaluator(split, "cpu").ranks(model)
    model.encode = lambda: None
    slow = Evaluator(split, "cpu").ranks(model)
    assert torch.equal(fast["valid"], slow["valid"])
    assert torch.equal(fast["test"], slow["test"])


def test_factors_are_computed_once_an_evaluation(split, monkeypatch):
    model = build_model("BPR", split.num_users, split.num_items, 16, seed=0)
    tables, calls = model.encode(), []  # of a graph model, each call would be a propagation
    monkeypatch.setattr(model, "encode", lambda: calls.append(1) or tables)
    Evaluator(split, "cpu").ranks(model)
    assert len(calls) == 1


def test_evaluation_leaves_the_mode_as_it_was(split):
    model = build_model("BPR", split.num_users, split.num_items, 4, seed=0)
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
    found = metrics(torch.tensor([1, 3, 8, 500]))
    assert found["H@5"] == 0.5
    assert found["H@10"] == 0.75
    assert found["N@5"] == pytest.approx((1 + 0.5) / 4)
    assert found["M@10"] == pytest.approx((1 + 1 / 3 + 1 / 8) / 4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device at hand")
def test_cuda_gives_the_ranks_of_the_cpu(split):
    model = build_model("BPR", split.num_users, split.num_items, 16, seed=0)
    expected = Evaluator(split, "cpu").ranks(model)
    found = Evaluator(split, "cuda").ranks(model.cuda())
    assert (expected["test"] - found["test"]).abs().max() <= 1  # float32 sums in another order
