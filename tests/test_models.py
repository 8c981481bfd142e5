"""Every base model keeps the contract, and BPR's loss is the paper's."""

import math

import pytest
import torch
from torch import Tensor

from Models import MODELS, build_model
from Utils.optimizer import DenseAdam

USERS, ITEMS = 12, 30


@pytest.fixture(params=MODELS)
def model(request):
    """A small model of every kind, in double precision."""
    return build_model(request.param, USERS, ITEMS, 6, seed=0).double()


def test_scores_agree_for_pairs_lists_and_all_items(model):
    users = torch.tensor([3, 0, 3])
    items = torch.tensor([[1, 2, 29], [0, 0, 5], [4, 3, 2]])
    everything = model.score_all(users)
    assert everything.shape == (3, ITEMS)
    torch.testing.assert_close(model.score(users, items), everything.gather(1, items))
    torch.testing.assert_close(model.score(users, items[:, 1]), everything.gather(1, items)[:, 1])
    lists = torch.tensor([[3, 0], [5, 5], [11, 3]])  # of users, for items 1, 2 and 29
    expected = model.score_all(torch.arange(USERS)).T[items[0]].gather(1, lists)
    torch.testing.assert_close(model.score(lists, items[0]), expected)
    factors = model.factors()
    if factors:
        torch.testing.assert_close(everything, (factors[0] @ factors[1].T)[users])


def test_representations_have_the_size_of_the_model(model):
    found = model.representations(torch.tensor([0, 5]), torch.tensor([7, 7]))
    assert set(found) in ({"user", "item"}, {"pair"})
    assert all(value.shape == (2, model.dim) for value in found.values())


def test_the_seed_decides_the_first_weights(model):
    name = type(model).__name__
    same, other = (build_model(name, USERS, ITEMS, 6, seed=seed).double() for seed in (0, 1))
    for key, value in model.state_dict().items():
        assert torch.equal(value, same.state_dict()[key])
        assert value.unique().numel() == 1 or not torch.equal(value, other.state_dict()[key])


def test_the_loss_is_a_sum_over_the_batch(model):
    users, positives, negatives = torch.tensor([[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    parts = [model.loss(users[[i]], positives[[i]], negatives[[i]]) for i in range(3)]
    torch.testing.assert_close(model.loss(users, positives, negatives), sum(parts))


def test_the_gradient_is_that_of_finite_differences(model):
    batch = torch.tensor([[0, 1, 0], [3, 4, 3], [6, 3, 8]])  # with repeats and shared items
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(5))
    model.loss(*batch).backward()
    for parameter in model.parameters():
        gradient = parameter.grad.to_dense()
        for place in range(0, parameter.numel(), 2):
            flat = parameter.data.view(-1)
            kept, step = flat[place].item(), 1e-6
            flat[place] = kept + step
            above = model.loss(*batch).item()
            flat[place] = kept - step
            below = model.loss(*batch).item()
            flat[place] = kept
            assert gradient.view(-1)[place].item() == pytest.approx(
                (above - below) / (2 * step), abs=1e-6
            )


def test_gradients_of_lists_are_those_of_pairs(model):
    users, items = torch.tensor([3, 0, 3]), torch.tensor([[1, 2, 29], [0, 0, 5], [4, 3, 2]])
    weights = torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).double()
    flat = (users.repeat_interleave(3), items.flatten())
    found = []
    for scores in (
        model.score(users, items),
        model.score(*flat).view(3, 3),
        model.score(flat[0].view(3, 3).T, torch.tensor([1, 2, 29])),
        model.score(flat[0].view(3, 3).T.flatten(), torch.tensor([1, 2, 29]).repeat_interleave(3)),
    ):
        (scores.view(3, 3) * weights).sum().backward()
        found.append([parameter.grad.to_dense() for parameter in model.parameters()])
        model.zero_grad()
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[2], found[3])


def test_the_loss_is_finite_for_large_scores(model):
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 1e2)
    parameter.data[::2] = -1e2
    for batch in (torch.tensor([[0], [1], [2]]), torch.tensor([[0], [2], [1]])):
        assert model.loss(*batch).isfinite()


def test_a_checkerboard_is_learned(model):
    """Even users took even items, odd users odd ones: the right ranking is known."""
    users, positives = torch.cartesian_prod(torch.arange(USERS), torch.arange(ITEMS)).T
    users, positives = (t[users % 2 == positives % 2] for t in (users, positives))
    optimizer = DenseAdam(model.parameters(), lr=0.05, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        shift = torch.randint(ITEMS // 2, users.shape, generator=generator)
        model.loss(users, positives, (positives + 1 + 2 * shift) % ITEMS).backward()
        optimizer.step()
    best = model.score_all(torch.arange(USERS)).topk(ITEMS // 2).indices
    assert torch.equal(best % 2, (torch.arange(USERS) % 2).unsqueeze(1).expand_as(best))


def test_bpr_is_the_negative_log_sigmoid_of_the_margin():
    model = build_model("BPR", USERS, ITEMS, 6, seed=0).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(7))
    batch = torch.tensor([[0, 1], [3, 4], [6, 3]])

    def slow(users: Tensor, positives: Tensor, negatives: Tensor) -> float:
        total = 0.0
        p, q = (table.tolist() for table in model.factors())
        for u, i, j in zip(users.tolist(), positives.tolist(), negatives.tolist(), strict=True):
            margin = sum(a * (b - c) for a, b, c in zip(p[u], q[i], q[j], strict=True))
            total -= math.log(1 / (1 + math.exp(-margin)))
        return total

    assert model.loss(*batch).item() == pytest.approx(slow(*batch))


def test_bpr_counts_its_parameters_as_the_paper_does():
    # DE-RRD, Table 3: 6.08 M and 0.608 M, with one user and one item more than there are.
    assert build_model("BPR", 5220, 25182, 200, seed=0).num_parameters() == 6_080_400
    assert build_model("BPR", 5220, 25182, 20, seed=0).num_parameters() == 608_040
