"""Every base model keeps the contract, and its loss and scores are its paper's."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import UNORDERED, split_of
from torch import Tensor

from Models import MODELS, build_model
from Models.recommender import Recommender
from Utils.dataset import Batch, Items, Pairs, Users
from Utils.errors import UserError
from Utils.optimizer import DenseAdam

USERS, ITEMS = 12, 30
SPLIT = split_of(USERS, ITEMS)


KINDS = [(name, {}) for name in UNORDERED if name != "Popularity"]  # which is given no weights
KINDS += [("NeuMF", {"num_layers": 3}), ("NGCF", {"num_layers": 2})]


@pytest.fixture(params=KINDS, ids=str)
def model(request):
    """A small model of every kind, in double precision, without noise."""
    name, options = request.param
    return build_model(name, SPLIT, 6, seed=0, **options).double().eval()


@pytest.fixture(params=[each for each in KINDS if not MODELS[each[0]].unused], ids=str)
def trained(request):
    """Those that are trained in steps."""
    name, options = request.param
    return build_model(name, SPLIT, 6, seed=0, **options).double().eval()


@pytest.fixture(params=[True, False], ids=["gradients", "no gradients"])
def gradients(request):
    """With gradients and without, which may be computed in other ways."""
    with torch.set_grad_enabled(request.param):
        yield


def batch_for(model: Recommender, users: Tensor, positives: Tensor, negatives: Tensor) -> Batch:
    """What the model is trained on: these pairs, or their users or items alone."""
    if model.sampler.batch is Pairs:
        return Pairs(users, positives, negatives)
    kinds = {Users: users, Items: positives}
    return model.sampler.batch(kinds[model.sampler.batch].unique())


@pytest.mark.usefixtures("gradients")
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_scores_agree_for_pairs_lists_and_all_items(model, precision, monkeypatch):
    monkeypatch.setattr("Models.neumf.CHUNK", 24)  # blocks of 4 pairs, where lists are in blocks
    model.to(precision)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(2))
    users = torch.tensor([3, 0, 3])
    items = torch.tensor([[1, 2, 29], [0, 0, 5], [4, 3, 2]])
    everything = model.score_all(users)
    assert everything.shape == (3, ITEMS)
    torch.testing.assert_close(model.score(users, items), everything.gather(1, items))
    torch.testing.assert_close(model.score(users, items[:, 1]), everything.gather(1, items)[:, 1])
    lists = torch.tensor([[3, 0], [5, 5], [11, 3]])  # of users, for items 1, 2 and 29
    expected = model.score_all(torch.arange(USERS)).T[items[0]].gather(1, lists)
    torch.testing.assert_close(model.score(lists, items[0]), expected)
    every_item = torch.arange(ITEMS).expand(3, -1)  # more pairs than items
    torch.testing.assert_close(model.score(users, every_item.flip(1)), everything.flip(1))
    factors = model.encode()
    if factors:
        torch.testing.assert_close(everything, (factors[0] @ factors[1].T)[users])


def test_what_is_assigned_is_what_scores_are_made_of(model):
    users, items = torch.randn(USERS, 6).double(), torch.randn(ITEMS, 6).double()
    if type(model).assign is Recommender.assign:
        with pytest.raises(UserError, match="its factors are not kept, but computed, so it cannot"):
            model.assign(users, items)
        return
    model.assign(users, items)
    torch.testing.assert_close(model.score_all(torch.arange(USERS)), users @ items.T)
    for found, expected in zip(model.encode(), (users, items), strict=True):
        torch.testing.assert_close(found, expected)


def test_representations_are_of_users_and_items_or_of_pairs(model):
    users, items = torch.tensor([0, 5, 5]), torch.tensor([7, 7, 1])
    last, first = model.representations(users, items), model.embeddings(users, items)
    assert set(last) in ({"user", "item"}, {"pair"})
    assert set(first) == {"user", "item"}
    for found in (last, first):
        for kind, value in found.items():
            assert len(value) == 3
            assert torch.equal(value[0], value[1]) == (kind == "item")
            assert torch.equal(value[1], value[2]) == (kind == "user")
    if "user" in last:
        size = last["item"].shape[1]  # which may be several times ``dim``
        assert model.representations(users, items[:1])["item"].shape == (1, size)


def test_the_seed_decides_the_first_weights(model):
    name, options = type(model).__name__, {o: getattr(model, o) for o in model.options}
    same, other = (build_model(name, SPLIT, 6, seed=seed, **options).double() for seed in (0, 1))
    for key, value in model.state_dict().items():
        assert torch.equal(value, same.state_dict()[key])
        assert value.unique().numel() == 1 or not torch.equal(value, other.state_dict()[key])


def test_the_loss_is_a_sum_over_the_batch(trained):
    trained.lmbda_SSL = 0.0  # but for a contrast within the batch
    users, positives, negatives = torch.tensor([[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    columns = users, positives, negatives
    parts = [trained.loss(batch_for(trained, *(ids[[i]] for ids in columns))) for i in range(3)]
    torch.testing.assert_close(trained.loss(batch_for(trained, *columns)), sum(parts))


def test_the_gradient_is_that_of_finite_differences(trained):
    # with repeats and shared items
    batch = batch_for(trained, *torch.tensor([[0, 1, 0], [3, 4, 3], [6, 3, 8]]))
    for parameter in trained.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(5))
    trained.loss(batch).backward()
    for parameter in trained.parameters():
        gradient = parameter.grad.to_dense()
        for place in range(0, parameter.numel(), 2):
            flat = parameter.detach().view(-1)
            kept, step = flat[place].item(), 1e-6
            flat[place] = kept + step
            above = trained.loss(batch).item()
            flat[place] = kept - step
            below = trained.loss(batch).item()
            flat[place] = kept
            assert gradient.view(-1)[place].item() == pytest.approx(
                (above - below) / (2 * step), abs=1e-6
            )


def test_gradients_of_lists_are_those_of_pairs(trained):
    users, items = torch.tensor([3, 0, 3]), torch.tensor([[1, 2, 29], [0, 0, 5], [4, 3, 2]])
    weights = torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).double()
    flat = (users.repeat_interleave(3), items.flatten())
    found = []
    for pairs in (
        (users, items),
        flat,
        (flat[0].view(3, 3).T, torch.tensor([1, 2, 29])),
        (flat[0].view(3, 3).T.flatten(), torch.tensor([1, 2, 29]).repeat_interleave(3)),
    ):
        scores = trained.score(*pairs)
        (scores.view(3, 3) * weights).sum().backward()
        found.append([parameter.grad.to_dense() for parameter in trained.parameters()])
        trained.zero_grad()
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[2], found[3])


def test_the_loss_is_finite_for_large_scores(trained):
    for parameter in trained.parameters():
        torch.nn.init.constant_(parameter, 1e2)
        parameter.detach()[::2] *= -1
    for batch in (torch.tensor([[0], [1], [2]]), torch.tensor([[0], [2], [1]])):
        assert trained.loss(batch_for(trained, *batch)).isfinite()


def test_a_checkerboard_is_learned(trained):
    """Even users took even items, odd users odd ones: the right ranking is known."""
    users, positives = torch.cartesian_prod(torch.arange(USERS), torch.arange(ITEMS)).T
    users, positives = (t[users % 2 == positives % 2] for t in (users, positives))
    board = replace(SPLIT, train_users=users.numpy(), train_items=positives.numpy())
    options = {option: getattr(trained, option) for option in trained.options}
    trained = build_model(type(trained).__name__, board, 6, seed=0, **options).eval()
    optimizer = DenseAdam(trained.parameters(), lr=0.05, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        shift = torch.randint(ITEMS // 2, users.shape, generator=generator)
        negatives = (positives + 1 + 2 * shift) % ITEMS
        trained.loss(batch_for(trained, users, positives, negatives)).backward()
        optimizer.step()
        trained.after_step()
    best = trained.score_all(torch.arange(USERS)).topk(ITEMS // 2).indices
    assert torch.equal(best % 2, (torch.arange(USERS) % 2).unsqueeze(1).expand_as(best))


def test_bpr_is_the_negative_log_sigmoid_of_the_margin():
    model = build_model("BPR", SPLIT, 6, seed=0).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(7))
    batch = torch.tensor([[0, 1], [3, 4], [6, 3]])

    def slow(users: Tensor, positives: Tensor, negatives: Tensor) -> float:
        total = 0.0
        p, q = (table.tolist() for table in model.encode())
        for u, i, j in zip(users.tolist(), positives.tolist(), negatives.tolist(), strict=True):
            margin = sum(a * (b - c) for a, b, c in zip(p[u], q[i], q[j], strict=True))
            total -= math.log(1 / (1 + math.exp(-margin)))
        return total

    assert model.loss(Pairs(*batch)).item() == pytest.approx(slow(*batch))


def test_bpr_counts_its_parameters_as_the_paper_does():
    # DE-RRD, Table 3: 6.08 M and 0.608 M, with one user and one item more than there are.
    assert build_model("BPR", split_of(5220, 25182), 200, seed=0).num_parameters() == 6_080_400
    assert build_model("BPR", split_of(5220, 25182), 20, seed=0).num_parameters() == 608_040


# --- NeuMF -----------------------------------------------------------------------------------


def slow_neumf(model, user: int, item: int) -> float:
    """The score of one pair, by its formula."""
    tables = {f"{part}_{kind}": getattr(model, part)[kind].weight.tolist()
              for part in ("gmf", "mlp") for kind in ("user", "item")}  # fmt: skip
    last = tables["mlp_user"][user] + tables["mlp_item"][item]  # joined
    for layer in model.hidden:
        weight, bias = layer.weight.tolist(), layer.bias.tolist()
        last = [
            max(sum(w * x for w, x in zip(row, last, strict=True)) + b, 0.0)
            for row, b in zip(weight, bias, strict=True)
        ]
    pairs = zip(tables["gmf_user"][user], tables["gmf_item"][item], strict=True)
    joined = [p * q for p, q in pairs] + last
    (weight,), (bias,) = model.output.weight.tolist(), model.output.bias.tolist()
    return sum(w * x for w, x in zip(weight, joined, strict=True)) + bias


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_neumf_scores_and_loses_as_its_formulas_say(num_layers):
    model = build_model("NeuMF", SPLIT, 6, seed=0, num_layers=num_layers).double()
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    assert [layer.out_features for layer in model.hidden] == [6, 3, 1][:num_layers]
    users, positives, negatives = batch = torch.tensor([[0, 1, 0], [3, 4, 3], [6, 3, 8]])
    total = 0.0
    for user, positive, negative in zip(*batch.tolist(), strict=True):
        total -= math.log(1 / (1 + math.exp(-slow_neumf(model, user, positive))))
        total -= math.log(1 - 1 / (1 + math.exp(-slow_neumf(model, user, negative))))
    assert model.loss(Pairs(users, positives, negatives)).item() == pytest.approx(total)
    found = model.score(users, negatives).tolist()
    assert found == pytest.approx([slow_neumf(model, u, i) for u, i in ((0, 6), (1, 3), (0, 8))])
    pairs = model.representations(users, positives)["pair"]
    torch.testing.assert_close(model.output(pairs).squeeze(1), model.score(users, positives))


def test_neumf_counts_its_parameters_as_the_paper_does():
    # DE-RRD, Table 3: 15.33 M, 7.63 M and 1.52 M, with one user and one item more than there are.
    for dim, millions in ((250, 15.33), (125, 7.63), (25, 1.52)):
        model = build_model("NeuMF", split_of(5220, 25182), dim, seed=0)
        assert round(model.num_parameters() / 1e6, 2) == millions


def test_neumf_begins_as_described():
    model = build_model("NeuMF", split_of(2000, 3000), 20, seed=0, num_layers=2)
    for table in (*model.gmf.values(), *model.mlp.values()):
        assert table.weight.std().item() == pytest.approx(0.01, rel=0.02)
    for layer, widths in ((model.hidden[0], (40, 20)), (model.hidden[1], (20, 10))):
        bound = math.sqrt(6 / sum(widths))  # Glorot and Bengio 2010, equation 16
        assert bound * 0.9 < layer.weight.abs().max().item() <= bound
        assert not layer.bias.any()
    bound = math.sqrt(6 / (2 * 30))  # He et al. 2015, with a slope of 1: sqrt(3 / 30)
    assert bound * 0.8 < model.output.weight.abs().max().item() <= bound
    assert not model.output.bias.any()


def test_models_and_settings_that_are_not_there_are_refused():
    with pytest.raises(UserError, match=r"--num_layers 4: .* 6 units end below one; use 3 or"):
        build_model("NeuMF", SPLIT, 6, seed=0, num_layers=4)
    with pytest.raises(UserError, match="--num_layers 2: BPR has no such setting; leave it out"):
        build_model("BPR", SPLIT, 6, seed=0, num_layers=2)
    with pytest.raises(UserError, match=r"--model 'neumf' is unknown; did you mean NeuMF\?"):
        build_model("neumf", SPLIT, 6, seed=0)
    with pytest.raises(UserError, match=r"--model 'xyz' is unknown; There are BPR; CML; "):
        build_model("xyz", SPLIT, 6, seed=0)


@pytest.mark.parametrize("lists", ["items", "users"])
@pytest.mark.parametrize("name", ["BPR", "CML", "NeuMF"])
def test_scores_of_lists_have_gradients_of_the_rows_that_are_listed_if_wanted(name, lists):
    found = []
    listed = torch.tensor([[3, 7, 3], [7, 9, 2]])
    one = torch.tensor([4, 8])
    for by_rows in (False, True):
        model = build_model(name, SPLIT, 6, seed=0).double()
        model.by_rows = by_rows
        scores = model.score(one, listed) if lists == "items" else model.score(listed, one)
        weights = torch.arange(6.0).view(2, 3).double()
        tables = [part for part in model.parameters() if part.shape[0] in (USERS, ITEMS)]
        found.append((scores, torch.autograd.grad((scores * weights).sum(), tables)))
    (scores, dense), (same, sparse) = found
    torch.testing.assert_close(same, scores)
    for mine, theirs in zip(sparse, dense, strict=True):
        torch.testing.assert_close(mine.to_dense(), theirs.to_dense())
        assert mine.is_sparse
        assert set(mine.coalesce().indices()[0].tolist()) in ({2, 3, 7, 9}, {4, 8})
