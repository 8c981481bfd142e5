"""Auto-encoders against dense formulas; their noise, who has nothing, and that runs resume."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import killed_in, run, split_of
from test_distillers import all_distillers

import main_no_KD
from Models import build_model
from Models.autoencoder import ANNEALING
from Models.distillers import PHR, RRD
from Models.teacher import TrainedTeacher, top_lists
from Utils.dataset import Items, Users
from Utils.errors import UserError
from Utils.evaluation import Evaluator
from Utils.optimizer import DenseAdam

USERS, ITEMS, DIM = 7, 12, 4
PAIRS = [(0, 1), (0, 3), (0, 4), (1, 1), (1, 2), (2, 4), (3, 3), (3, 4), (3, 10), (5, 1), (5, 9)]
X = torch.zeros(USERS, ITEMS, dtype=torch.float64)
X[tuple(torch.tensor(PAIRS).T)] = 1
BATCHES = {  # the last one of each is in no pair
    "MultVAE": Users(torch.tensor([3, 0, 5, 6])),
    "ItemVAE": Items(torch.tensor([4, 1, 10, 11])),
}


@pytest.fixture(params=BATCHES)
def model(request):
    """A small one of either side, in double precision, with weights of the usual size."""
    users, items = np.array(PAIRS, dtype=np.int64).T
    split = replace(split_of(USERS, ITEMS), train_users=users, train_items=items)
    model = build_model(request.param, split, DIM, seed=3).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(
            parameter, std=0.5, generator=torch.Generator().manual_seed(parameter.numel())
        )
    return model


def dense_rows(model) -> torch.Tensor:
    return X if type(model).__name__ == "MultVAE" else X.T


def slow(model, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of one dense row, and its KL term, component by component, without noise."""
    scaled = row / row.square().sum().sqrt() if row.any() else row
    first = torch.tanh(scaled @ model.input.weight + model.input_bias)
    both = model.code.weight @ first + model.code.bias
    mean, log_variance = both[:DIM], both[DIM:]
    last = torch.tanh(model.hidden.weight @ mean + model.hidden.bias)
    logits = model.output.weight[:, :-1] @ last + model.output.weight[:, -1]
    kl = sum((torch.exp(v) + m**2 - 1 - v) / 2 for m, v in zip(mean, log_variance, strict=True))
    return logits, kl


@pytest.mark.parametrize(("epoch", "beta"), [(0, 0), (ANNEALING // 2, 0.1), (3 * ANNEALING, 0.2)])
def test_losses_and_gradients_are_those_of_dense_rows(model, epoch, beta):
    model.eval()
    model.begin_epoch(epoch)
    (ids,) = batch = BATCHES[type(model).__name__]
    expected = 0.0
    for row in dense_rows(model)[ids]:
        logits, kl = slow(model, row)
        expected = expected - row @ logits.log_softmax(dim=0) + beta * kl
    found, parameters = model.loss(batch), list(model.parameters())
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(
        *(torch.autograd.grad(each, parameters) for each in (found, expected)), strict=True
    ):
        torch.testing.assert_close(mine.to_dense(), theirs)


def test_scores_are_the_logits_of_everybodys_row(model):
    expected = torch.stack([slow(model, row)[0] for row in dense_rows(model)])
    scores = model.eval().score_all(torch.arange(USERS))
    torch.testing.assert_close(scores, expected if len(expected) == USERS else expected.T)


def test_who_is_in_no_pair_is_no_trouble(model):
    model.begin_epoch(ANNEALING)
    (ids,) = BATCHES[type(model).__name__]
    loss = model.loss(type(BATCHES[type(model).__name__])(ids[-1:]))
    expected = 0.2 * slow(model, torch.zeros_like(dense_rows(model)[0]))[1]
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad.to_dense().isfinite().all() for p in model.parameters())


# --- noise ---------------------------------------------------------------------------------------


def test_the_noise_is_of_the_epoch_and_of_training_alone(model):
    batch = BATCHES[type(model).__name__]

    def losses(epoch: int) -> list[float]:
        model.begin_epoch(ANNEALING + epoch)  # where beta is the same
        return [model.loss(batch).item() for _ in range(3)]

    first = losses(0)
    assert len(set(first + losses(1))) == 6
    assert losses(0) == first
    model.eval()
    assert len(set(losses(0) + losses(1))) == 1


def test_noise_has_the_mean_and_the_variance_that_it_should(model):
    """With layers so small that they are linear: 4,000 draws of a row of three and of its code."""
    scale, count = 1e-3, 4000
    for layer in (model.code, model.hidden):
        torch.nn.init.zeros_(layer.bias)
        torch.nn.init.eye_(layer.weight)
    torch.nn.init.zeros_(model.input_bias)
    model.input.weight.data *= scale
    model.hidden.weight.data *= scale
    model.code.weight.data[DIM:].zero_()
    log_variance = torch.tensor([0.0, -1.0, 1.0, 2.0]).double()
    model.code.bias.data[DIM:] = log_variance
    (ids,) = BATCHES[type(model).__name__]
    ids = ids[:1].expand(count)
    members = dense_rows(model)[ids[0]].bool()
    parts = model.input.weight.detach()[members][:, :DIM] / members.sum().sqrt()
    means = model._encode(ids)[0].detach()
    assert_moments(means, parts.sum(dim=0), parts.square().sum(dim=0))  # p / (1 - p) = 1
    z = model._decode((torch.ones(count, DIM).double(), log_variance.expand(count, -1)))
    assert_moments(z.detach()[:, :DIM] / scale, torch.ones(DIM).double(), log_variance.exp())


def assert_moments(drawn: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> None:
    error = (variance / len(drawn)).sqrt()
    assert ((drawn.mean(dim=0) - mean).abs() < 4 * error).all()
    torch.testing.assert_close(drawn.var(dim=0), variance, rtol=0.15, atol=0)


@pytest.mark.parametrize("name", BATCHES)
def test_a_killed_run_goes_on_to_the_same_bytes(name, workdir, monkeypatch):
    args = {"model": name, "dim": 4, "lr": 0.01, "reg": 1e-4, "batch_size": 150, "max_epoch": 2}

    def kept() -> list[bytes]:
        paths = [next(workdir.rglob(name)) for name in ("metrics.csv", "best.pt")]
        return [path.read_bytes() for path in paths]

    run(main_no_KD, **args)
    whole = kept()
    with killed_in(1, monkeypatch):
        run(main_no_KD, **args, overwrite=True)
    run(main_no_KD, **args, resume=True)
    assert kept() == whole


# --- as teachers and as students -----------------------------------------------------------------


@pytest.mark.parametrize("name", BATCHES)
def test_a_frozen_teacher_encodes_once_for_all(
    name, split, teacher, student, monkeypatch, tmp_path
):
    model = build_model(name, split, 8, seed=0)
    found, original = [], type(model)._encode
    monkeypatch.setattr(
        type(model), "_encode", lambda self, ids: found.append(len(ids)) or original(self, ids)
    )
    path = Path(shutil.copy(teacher.path, tmp_path))  # its lists are not the teacher's
    frozen = TrainedTeacher(model, split, path)
    assert frozen.metrics
    scores = frozen.score_all(torch.arange(split.num_users))
    scores[split.train_users, split.train_items] = -torch.inf
    best = top_lists(model, split, "items", 5)
    torch.testing.assert_close(scores.gather(1, best.long()), scores.topk(5).values)
    assert frozen.top_users(5).shape == (split.num_items, 5)
    assert found == [len(model.counts)]
    assert len(all_distillers(student, frozen)) > 3  # its representations are matched, too


def test_a_student_encodes_the_batch_alone(split, teacher):
    model = build_model("MultVAE", split, 8, seed=0)
    distiller = RRD(model, teacher, K=5, L=5, T=3.0, pool=50)
    distiller.begin_epoch(0)
    batch = next(model.sampler(split, 100, 0, "cpu").epoch(0))
    sizes, original = [], model._encode
    model._encode = lambda ids: sizes.append(len(ids)) or original(ids)
    optimizer = DenseAdam(model.parameters(), lr=0.01, weight_decay=0.0)
    before = Evaluator(split, "cpu").ranks(model)
    sizes.clear()
    (model.loss(batch) + distiller.loss(batch)).backward()
    optimizer.step()
    assert sizes == [100, 100]
    after = Evaluator(split, "cpu").ranks(model)
    assert not torch.equal(before["test"], after["test"])  # the step is seen


@pytest.mark.parametrize("name", BATCHES)
def test_what_needs_other_batches_refuses_it_in_one_line(name, split, teacher):
    model = build_model(name, split, 8, seed=0)
    found = {"MultVAE": "users", "ItemVAE": "items"}[name]
    words = f"^--model {name}: its batches are {found}, and this method needs"
    with pytest.raises(UserError, match=f"{words} users and positives and negatives; use another"):
        PHR(model, teacher)
    if name == "ItemVAE":
        with pytest.raises(UserError, match=f"{words} users; use another base model"):
            RRD(model, teacher, K=5, L=5, T=3.0, pool=50)


def test_dropping_everything_is_refused(split):
    for name in BATCHES:
        with pytest.raises(UserError, match=r"^--dropout 1.0: leaves nothing; use a share below"):
            build_model(name, split, 8, seed=0, dropout=1.0)
