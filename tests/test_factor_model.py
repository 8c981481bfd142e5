"""Factors that are computed: once a step, once for a frozen teacher, for every distiller."""

import numpy as np
import pytest
import torch
from conftest import run, split_of
from test_distillers import BATCH, all_distillers

import main_DE
import main_no_KD
import main_SVD
from Models import MODELS, build_model
from Models.distillers import S2D
from Models.factor_model import FactorModel
from Models.recommender import embedding_table
from Models.teacher import TrainedTeacher
from Utils.dataset import PairSampler
from Utils.errors import UserError
from Utils.evaluation import Evaluator
from Utils.optimizer import DenseAdam


class Graph(FactorModel):
    """A user's factors are its own vector and the sum of its items', an item's the reverse."""

    def __init__(self, split, dim, generator=None):
        super().__init__(split, dim)
        self.user = embedding_table(split.num_users, dim, generator)
        self.item = embedding_table(split.num_items, dim, generator)
        pairs = np.stack([split.train_users, split.train_items])
        shape, ones = (split.num_users, split.num_items), torch.ones(pairs.shape[1])
        seen = torch.sparse_coo_tensor(pairs, ones, shape, check_invariants=True).coalesce()
        self.register_buffer("seen", seen, persistent=False)
        self.propagations = 0

    def factors(self):
        """Propagate once."""
        self.propagations += 1
        p, q = self.user.weight, self.item.weight
        return p + self.seen @ q, q + self.seen.T @ p


@pytest.fixture
def graph(split, monkeypatch):
    """A trained-like student, d = 8, whose factors are computed."""
    monkeypatch.setitem(MODELS, "Graph", Graph)
    return build_model("Graph", split, 8, seed=0)


def begin(modules) -> None:
    for module in modules:
        module.begin_epoch(0)


def test_a_trained_graph_is_propagated_once_a_step_however_many_losses_look(graph, teacher, split):
    distillers = all_distillers(graph, teacher)
    optimizer = DenseAdam(graph.parameters(), lr=0.01, weight_decay=0.0)
    begin([graph, *distillers])
    for batch in list(PairSampler(split, 512, 0, "cpu").epoch(0))[:4]:
        before, graph.propagations = graph.user.weight.clone(), 0
        loss = graph.loss(batch) + sum(each.loss(batch) for each in distillers)
        loss.backward()
        optimizer.step()
        assert graph.propagations == 1
        assert not torch.equal(graph.user.weight, before)


def test_the_step_is_seen_though_the_update_is_fused(graph):
    """Else factors of before the step would be kept."""
    optimizer = DenseAdam(graph.parameters(), lr=0.1, weight_decay=0.0)
    graph.loss(BATCH).backward()
    before = graph.encode()[0].clone()
    optimizer.step()
    expected = graph.user.weight + graph.seen @ graph.item.weight
    torch.testing.assert_close(graph.encode()[0], expected)
    assert not torch.equal(graph.encode()[0], before)
    other = build_model("Graph", split_of(graph.num_users, graph.num_items), 8, seed=5)
    graph.load_state_dict(other.state_dict())
    torch.testing.assert_close(
        graph.encode()[0], graph.user.weight + graph.seen @ graph.item.weight
    )


def test_gradients_may_be_accumulated_over_several_backward_passes(graph):
    graph.loss(BATCH).backward()
    once = graph.item.weight.grad.clone()
    graph.loss(BATCH).backward()
    torch.testing.assert_close(graph.item.weight.grad, 2 * once)


def test_evaluation_in_between_leaves_the_gradients_right(graph, split):
    Evaluator(split, "cpu").ranks(graph)
    graph.loss(BATCH).backward()
    assert graph.user.weight.grad is not None


def test_a_frozen_graph_is_propagated_once(graph, student, split, teacher):
    graph.propagations = 0
    frozen = TrainedTeacher(graph, split, teacher.path)
    assert frozen.metrics
    distillers = [*all_distillers(student, frozen), S2D(student, frozen, K=5, tau=1.0)]
    for epoch in (0, 1):
        for distiller in distillers[:-1]:
            distiller.begin_epoch(epoch)
            distiller.loss(BATCH)
    assert frozen.top_items(7).shape == (split.num_users, 7)
    assert frozen.score_all(torch.arange(5)).shape == (5, split.num_items)
    assert graph.propagations == 1


def test_a_start_from_given_factors_is_refused(graph, teacher_path, workdir):
    with pytest.raises(UserError, match=r"^--model Graph: its factors are not kept, but computed"):
        run(main_SVD, model="Graph", dim=8, teacher=str(teacher_path))


def test_what_is_computed_is_no_part_of_checkpoints(graph):
    assert graph.state_dict().keys() == {"user.weight", "item.weight"}
    assert graph.num_parameters() == 8 * (graph.num_users + graph.num_items)


def test_popularity_is_a_count_of_users_and_the_first_of_equals_is_above(split, workdir):
    model = build_model("Popularity", split, 1, seed=0)
    counts = np.bincount(split.train_items, minlength=split.num_items)
    order = np.lexsort((np.arange(split.num_items), -counts))
    for users in (torch.tensor([0, 7]), torch.tensor([split.num_users - 1])):
        ranked = model.score_all(users).argsort(dim=1, descending=True)
        assert all(mine.tolist() == order.tolist() for mine in ranked)
    run(main_no_KD, model="Popularity", max_epoch=2)
    assert (workdir / "logs/synthetic/Popularity-d1/no_KD/seed0/summary.json").exists()
    with pytest.raises(UserError, match="--model Popularity: is solved for, and not trained"):
        run(main_DE, model="Popularity", dim=1)
