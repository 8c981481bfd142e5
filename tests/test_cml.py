"""CML: distances by a slow loop, the unit ball, and what of it is trained."""

import pytest
import torch
from conftest import run, split_of
from torch import Tensor

import main_no_KD
from Models import build_model
from Utils.dataset import Pairs

BATCH = Pairs(*torch.tensor([[0, 1, 0, 5], [3, 4, 3, 8], [6, 3, 8, 1]]))


@pytest.fixture
def model():
    """A small model in double precision, with points on both sides of the sphere."""
    model = build_model("CML", split_of(12, 30), 6, seed=0, margin=0.7).double()
    for table in (model.user, model.item):
        torch.nn.init.normal_(
            table.weight, std=0.45, generator=torch.Generator().manual_seed(len(table.weight))
        )
    return model


def distance(model, user: int, item: int) -> Tensor:
    """``|p_u - q_i|^2``, component by component."""
    p, q = model.user.weight[user], model.item.weight[item]
    return sum((a - b) ** 2 for a, b in zip(p, q, strict=True))


def test_scores_losses_and_gradients_are_those_of_a_slow_loop(model):
    scores = model.score_all(torch.arange(12))
    for user, item in ((0, 0), (3, 29), (11, 4)):
        torch.testing.assert_close(scores[user, item], -distance(model, user, item))
    expected, active = 0.0, 0
    for user, positive, negative in zip(*(ids.tolist() for ids in BATCH), strict=True):
        hinge = 0.7 + distance(model, user, positive) - distance(model, user, negative)
        active += hinge.item() > 0
        expected = expected + max(hinge, torch.zeros(()).double())
    assert 0 < active < 4  # both sides of the hinge
    found = model.loss(BATCH)
    torch.testing.assert_close(found, expected)
    tables = [model.user.weight, model.item.weight]
    for mine, slow in zip(
        *(torch.autograd.grad(x, tables) for x in (found, expected)), strict=True
    ):
        assert mine.is_sparse
        torch.testing.assert_close(mine.to_dense(), slow)


def test_points_outside_the_ball_come_back_and_others_stay(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.encode()
    model.after_step()
    outside = 0
    for name, value in model.state_dict().items():
        for old, new in zip(before[name], value, strict=True):
            if old.norm() <= 1:
                assert torch.equal(old, new)
            else:
                outside += 1
                torch.testing.assert_close(new, old / old.norm(), rtol=1e-6, atol=0)
    assert 0 < outside < 42
    squares = -model.encode()[1][:, -1]  # and the factors are those of the new points
    torch.testing.assert_close(squares, model.item.weight.square().sum(dim=1))


def test_a_run_keeps_all_points_in_the_ball(workdir):
    run(main_no_KD, model="CML", dim=8, lr=0.3, reg=0.0, batch_size=1024, max_epoch=1)
    (path,) = workdir.rglob("last.pt")
    weights = torch.load(path, weights_only=True)["modules"]
    norms = torch.cat([weights[f"0.{kind}.weight"].norm(dim=1) for kind in ("user", "item")])
    assert norms.max() <= 1 + 1e-6
    assert (norms > 0.99).any()  # where some would have left it


def test_representations_are_the_points(model):
    users, items = torch.tensor([3, 0]), torch.tensor([7])
    for layer in (model.representations, model.embeddings, model.gmf_embeddings):
        found = layer(users, items)
        assert torch.equal(found["user"], model.user.weight[users])
        assert torch.equal(found["item"], model.item.weight[items])
