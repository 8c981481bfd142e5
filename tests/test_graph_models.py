"""The graph models against dense products, and how often, with which noise, they propagate."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import killed_in, run, split_of
from test_distillers import all_distillers

import main_no_KD
from Models import build_model
from Models.graph import Graph
from Models.teacher import TrainedTeacher
from Utils.dataset import Pairs, PairSampler, distinct, distinct_by_weight
from Utils.errors import UserError
from Utils.evaluation import Evaluator
from Utils.optimizer import DenseAdam
from Utils.split import Split

USERS, ITEMS, DIM = 7, 12, 5
PAIRS = [(0, 1), (0, 3), (0, 4), (1, 1), (1, 2), (2, 4), (3, 3), (3, 4), (3, 10), (5, 1), (5, 9)]
ALONE = {"user": [4, 6], "item": [0, 5, 6, 7, 8, 11]}  # in none of the pairs
BATCH = Pairs(*torch.tensor([[0, 3, 0, 4, 6], [1, 4, 3, 0, 11], [2, 1, 11, 4, 7]]))
MODELS = [
    ("LightGCN", {"num_layers": 1}),
    ("LightGCN", {"num_layers": 3}),
    ("NGCF", {"num_layers": 1}),
    ("NGCF", {"num_layers": 2}),
    ("SGL", {"num_layers": 1, "dropout": 0.3, "tau_SSL": 0.4}),
    ("SGL", {"num_layers": 2, "dropout": 0.2, "lmbda_SSL": 0.7}),
]


def split_of_pairs(pairs) -> Split:
    users, items = np.array(pairs, dtype=np.int64).T
    return replace(split_of(USERS, ITEMS), train_users=users, train_items=items)


def build(name: str, **options):
    """A small model in double precision with weights of the usual size."""
    model = build_model(name, split_of_pairs(PAIRS), DIM, seed=3, **options).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(2))
    return model


# --- the oracle: dense, in double precision, from the formulas ------------------------------------


def dense(pairs) -> torch.Tensor:
    """``D^-1/2 A D^-1/2`` of all users, then all items; 0 for those without neighbours."""
    a = torch.zeros(USERS + ITEMS, USERS + ITEMS, dtype=torch.float64)
    for user, item in pairs:
        a[user, USERS + item] = a[USERS + item, user] = 1
    scale = torch.tensor([1 / math.sqrt(d) if d else 0.0 for d in a.sum(1).tolist()])
    return torch.diag(scale.double()) @ a @ torch.diag(scale.double())


def slow_factors(model, a: torch.Tensor) -> torch.Tensor:
    """Factors of users, then items, by the papers' formulas."""
    e = torch.cat([model.user.weight, model.item.weight])
    layers = [e]
    for layer in range(model.num_layers):
        if type(model).__name__ == "NGCF":
            w_1, w_2 = model.near[layer].weight.T, model.joint[layer].weight.T
            identity = torch.eye(len(a), dtype=a.dtype)
            e = (a + identity) @ e @ w_1 + (a @ e * e) @ w_2 + model.near[layer].bias
            e = torch.where(e > 0, e, 0.2 * e)
        else:
            e = a @ e
        layers.append(e)
    if type(model).__name__ == "NGCF":
        lengths = (each / each.square().sum(1, keepdim=True).sqrt() for each in layers[1:])
        return torch.cat([layers[0], *lengths], dim=1)
    return torch.stack(layers).mean(0)


def slow_loss(model, batch: Pairs) -> torch.Tensor:
    """BPR, the L2 term and, for SGL, the contrast, one entity after the other."""
    factors, e_0 = slow_factors(model, dense(PAIRS)), [model.user.weight, model.item.weight]
    loss = 0.0
    for u, i, j in zip(*(ids.tolist() for ids in batch), strict=True):
        margin = factors[u] @ factors[USERS + i] - factors[u] @ factors[USERS + j]
        loss = loss - torch.log(1 / (1 + torch.exp(-margin)))
        loss = loss + 2e-4 * ((e_0[0][u] ** 2).sum() + (e_0[1][[i, j]] ** 2).sum())
    if type(model).__name__ == "SGL":
        views = [slow_factors(model, dense(pairs_of(view))) for view in model.views]
        kinds = set(batch.users.tolist()), {USERS + i for i in batch.positives.tolist()}
        for nodes in kinds:
            for e in nodes:
                similar = {f: F.cosine_similarity(views[0][e], views[1][f], dim=0) for f in nodes}
                total = sum(torch.exp(each / model.tau_SSL) for each in similar.values())
                loss = loss - model.lmbda_SSL * (similar[e] / model.tau_SSL - torch.log(total))
    return loss


def pairs_of(graph: Graph) -> list[tuple[int, int]]:
    return list(zip(*(ids.tolist() for ids in graph.edges()), strict=True))


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_factors_losses_and_gradients_are_those_of_dense_products(name, options):
    model = build(name, **options).eval()
    found, expected = torch.cat(model.encode()), slow_factors(model, dense(PAIRS))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(4)).double()
    for fast, slow in (
        (lambda: (torch.cat(model.encode()) * weights).sum(), lambda: (expected * weights).sum()),
        (lambda: model.loss(BATCH), lambda: slow_loss(model, BATCH)),
    ):
        model.begin_epoch(0)
        values = fast(), slow()
        torch.testing.assert_close(*values, rtol=1e-6, atol=1e-6)
        gradients = [torch.autograd.grad(each, list(model.parameters())) for each in values]
        for mine, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(mine.to_dense(), theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_who_is_in_no_pair_has_neither_neighbours_nor_nan(name, options):
    model = build(name, **options)
    sums = dict(zip(("user", "item"), model.graph.sums(*model.encode()), strict=True))
    for kind, ids in ALONE.items():
        assert not sums[kind][ids].any()
        assert sums[kind].abs().sum(1).count_nonzero() == len(sums[kind]) - len(ids)
    torch.nn.init.zeros_(model.user.weight)  # nor has a vector without a direction
    model.loss(BATCH).backward()
    for values in (*model.encode(), *(each.grad for each in model.parameters())):
        assert values.isfinite().all()


def test_a_layer_is_the_mean_with_the_neighbours():
    """Two users with one item each: known without any formula."""
    graph = Graph(torch.tensor([0, 1]), torch.tensor([1, 0]), (2, 3))
    users, items = torch.eye(2), torch.tensor([[3.0, 0], [0, 5], [7, 7]])
    p, q = graph.mean_of_layers(users, items, 1)
    assert p.tolist() == [[0.5, 2.5], [1.5, 0.5]]
    assert q.tolist() == [[1.5, 0.5], [0.5, 2.5], [3.5, 3.5]]


@pytest.mark.parametrize("name", ["LightGCN", "NGCF", "SGL"])
def test_the_graph_is_no_part_of_checkpoints_and_moves_along(name):
    model = build(name)
    layers = ["near.0.weight", "near.0.bias", "joint.0.weight"] if name == "NGCF" else []
    assert set(model.state_dict()) == {"user.weight", "item.weight", *layers}
    assert {each.dtype for each in model.buffers()} == {torch.float64}
    assert {each.layout for each in model.buffers()} == {torch.sparse_csr}
    assert {each.device.type for each in model.to("meta").buffers()} == {"meta"}


# --- noise and views -----------------------------------------------------------------------------


def noise_of(model, epoch: int, steps: int = 2) -> list[torch.Tensor]:
    """What messages are multiplied by in the first steps of an epoch."""
    model.train().begin_epoch(epoch)
    drawn = []
    for _ in range(steps):
        inputs = model.once(model.inputs)
        drawn.append(torch.cat([inputs[2], inputs[5]]))  # of users and of items
        model.loss(BATCH).backward()
    return drawn


def test_noise_is_of_the_seed_and_the_epoch_and_new_in_each_step():
    model, same = build("NGCF", dropout=0.4), build("NGCF", dropout=0.4)
    first, second = noise_of(model, 3)
    assert not torch.equal(first, second)
    assert set(first.unique().tolist()) == {0.0, 1 / 0.6}
    noise_of(same, 1)  # what went before, evaluation included, plays no part
    Evaluator(split_of_pairs(PAIRS), "cpu").ranks(same)
    assert torch.equal(noise_of(same, 3)[1], second)
    assert not torch.equal(noise_of(model, 4)[0], first)
    other = build_model("NGCF", split_of_pairs(PAIRS), DIM, seed=4, dropout=0.4).double()
    assert not torch.equal(noise_of(other, 3)[0], first)


def test_the_share_of_dropped_messages():
    model = build_model("NGCF", split_of(2000, 3000), 20, seed=0, dropout=0.3)
    (noise,) = noise_of(model, 0, steps=1)
    assert (noise == 0).double().mean().item() == pytest.approx(0.3, abs=0.005)
    assert noise.mean().item() == pytest.approx(1, abs=0.01)


def test_noise_is_in_training_where_gradients_are_wanted_and_nowhere_else():
    model = build("NGCF", dropout=0.5)
    noisy = model.encode()[0].detach()
    with torch.no_grad():
        model.begin_epoch(0)
        clean = model.encode()[0]
    model.eval()
    torch.testing.assert_close(model.encode()[0], clean)
    torch.testing.assert_close(torch.cat(model.encode()), slow_factors(model, dense(PAIRS)))
    changed = (noisy - clean).abs().sum(dim=0) > 0
    assert changed.tolist() == [False] * DIM + [True] * DIM  # e^0 is no message


def test_all_losses_of_a_step_see_the_same_noise():
    model = build("NGCF", dropout=0.5, num_layers=2)
    users, items = torch.arange(USERS), torch.arange(ITEMS)
    rows = model.representations(users, items)
    for found, expected in zip(rows.values(), model.encode(), strict=True):
        torch.testing.assert_close(found, expected)


def test_views_are_of_the_seed_and_the_epoch_and_lack_a_share_of_the_edges():
    model = build_model("SGL", split_of(100, 300), DIM, seed=0, dropout=0.2)
    edges = set(pairs_of(model.graph))
    drawn = {}
    for epoch in (0, 1, 0):
        model.begin_epoch(epoch)
        views = [pairs_of(view) for view in model.views]
        for view in views:
            assert len(set(view)) == len(view) == round(0.8 * len(edges))
            assert set(view) < edges
        assert views[0] != views[1]
        assert drawn.setdefault(epoch, views) == views
    assert not set(map(tuple, drawn[0])) & set(map(tuple, drawn[1]))
    other = build_model("SGL", split_of(100, 300), DIM, seed=1, dropout=0.2)
    assert [pairs_of(view) for view in other.views] != drawn[0]


def test_the_contrast_is_the_same_where_repeats_stay_in(monkeypatch):
    """As on devices where the number of distinct users is not known without waiting."""
    model = build("SGL")
    found = []
    for function in (distinct, distinct_by_weight):
        monkeypatch.setattr("Models.sgl.distinct", function)
        loss = model.loss(BATCH)
        found.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    for once, repeated in zip(*found, strict=True):
        torch.testing.assert_close(once.to_dense(), repeated.to_dense())


@pytest.mark.parametrize("name", ["LightGCN", "NGCF", "SGL"])
def test_a_killed_run_ends_with_the_same_bytes(name, workdir, monkeypatch):
    given = {"model": name, "dim": 6, "lr": 0.01, "max_epoch": 4, "num_layers": 2}
    names = ("metrics.csv", "best.pt", "last.pt")

    def read() -> list[bytes]:
        return [next(workdir.rglob(each)).read_bytes() for each in names[:2]]

    run(main_no_KD, **given)
    whole, last = read(), torch.load(next(workdir.rglob("last.pt")), weights_only=True)
    torch.manual_seed(99)  # global state plays no part
    with killed_in(2, monkeypatch):
        run(main_no_KD, **given, overwrite=True)
    run(main_no_KD, **given, resume=True)
    assert read() == whole
    resumed = torch.load(next(workdir.rglob("last.pt")), weights_only=True)
    for key in ("modules", "optimizer"):
        torch.testing.assert_close(resumed[key], last[key], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["NGCF", "SGL"])
def test_a_share_that_leaves_nothing_is_refused(name):
    for dropout in (1.0, 1.5, -0.1, math.nan):
        with pytest.raises(UserError, match=rf"^--dropout {dropout}: leaves nothing; use a share"):
            build(name, dropout=dropout)


# --- how often -----------------------------------------------------------------------------------


@pytest.fixture
def propagations(monkeypatch):
    """The graphs that are propagated along, one after the other."""
    asked = []
    for name in ("sums", "mean_of_layers"):
        original = getattr(Graph, name)

        def counting(graph, *given, original=original):
            asked.append(graph)
            return original(graph, *given)

        monkeypatch.setattr(Graph, name, counting)
    return asked


@pytest.mark.parametrize(
    ("name", "options"), [("LightGCN", {}), ("NGCF", {"num_layers": 2}), ("SGL", {})]
)
def test_a_student_propagates_once_a_step_however_many_losses_look(
    name, options, teacher, split, propagations
):
    student = build_model(name, split, 8, seed=0, **options)
    distillers = all_distillers(student, teacher)
    optimizer = DenseAdam(student.parameters(), lr=0.01, weight_decay=0.0)
    for module in (student, *distillers):
        module.begin_epoch(0)
    views = list(student.views) if name == "SGL" else []
    for batch in list(PairSampler(split, 512, 0, "cpu").epoch(0))[:3]:
        propagations.clear()
        (student.loss(batch) + sum(each.loss(batch) for each in distillers)).backward()
        optimizer.step()
        expected = [student.graph] * (2 if name == "NGCF" else 1) + views
        assert sorted(map(id, propagations)) == sorted(map(id, expected))


@pytest.mark.parametrize("name", ["LightGCN", "NGCF", "SGL"])
def test_a_frozen_teacher_propagates_once_for_all(name, student, teacher, split, propagations):
    frozen = TrainedTeacher(build_model(name, split, 16, seed=0), split, teacher.path)
    assert frozen.metrics
    distillers = all_distillers(student, frozen)
    for epoch in (0, 1):
        for distiller in distillers:
            distiller.begin_epoch(epoch)
        for batch in list(PairSampler(split, 512, 0, "cpu").epoch(epoch))[:2]:
            sum(each.loss(batch) for each in distillers).backward()
    assert frozen.top_items(7).shape == (split.num_users, 7)
    assert len(propagations) == 1
