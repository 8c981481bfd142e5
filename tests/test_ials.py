"""iALS: each solve against dense normal equations, the objective against a loop."""

import numpy as np
import pytest
import torch
from conftest import run, split_of

import main_DE
import main_no_KD
from Models import build_model
from Models.ials import solve
from Utils.errors import UserError

ALPHA, RIDGE = 7.0, 0.5


def filled(split, dim):
    model = build_model("iALS", split, dim, seed=0, alpha=ALPHA, ridge=RIDGE)
    generator = torch.Generator().manual_seed(1)
    model.assign(*(torch.randn(len(each), dim, generator=generator) for each in model.factors()))
    return model


@pytest.mark.parametrize("dim", [2, 12])  # rows of the system, or of its dual
@pytest.mark.parametrize("kind", ["users", "items"])
def test_a_solve_is_that_of_the_normal_equations(monkeypatch, dim, kind):
    monkeypatch.setattr("Models.ials.BLOCK", 40)  # several blocks
    model = filled(split_of(30, 23), dim)
    users, items = model.of_users.new_tensor(np.arange(30).repeat(3)), model.of_users
    table, members, counts, rows = (model.item, items, model.counts[0], users)
    if kind == "items":
        table, members, counts, rows = (model.user, model.of_items, model.counts[1], items)
    found = solve(table, members, counts, ALPHA, RIDGE)
    q = table.detach().double().numpy()
    others = users if kind == "items" else items
    for row in range(len(counts)):
        r = np.zeros(len(q))
        r[others[rows == row]] = 1
        weights = np.diag(1 + ALPHA * r)
        left = q.T @ weights @ q + RIDGE * np.eye(dim)
        expected = np.linalg.solve(left, q.T @ weights @ r)
        np.testing.assert_allclose(found[row].numpy(), expected, rtol=1e-3, atol=1e-5)


def test_the_objective_is_that_of_all_pairs_and_falls():
    model = filled(split_of(30, 23), 4)
    p, q = (each.double() for each in model.factors())
    observed = {
        (u, i) for u, i in zip(np.arange(30).repeat(3), model.of_users.tolist(), strict=True)
    }
    expected = RIDGE * (p.square().sum() + q.square().sum()).item()
    for u in range(30):
        for i in range(23):
            r = float((u, i) in observed)
            expected += (1 + ALPHA * r) * (r - (p[u] @ q[i]).item()) ** 2
    assert model.loss(None).item() == pytest.approx(expected, rel=1e-5)
    losses = []
    for epoch in range(4):
        model.begin_epoch(epoch)
        losses.append(model.loss(None).item())
    assert losses == sorted(losses, reverse=True)
    assert losses[0] < expected


def test_weights_of_the_objective_act(split):
    tables = []
    for options in ({}, {"alpha": 5.0}, {"ridge": 7.0}):
        model = build_model("iALS", split, 8, seed=0, **options)
        model.begin_epoch(0)
        tables.append(model.item.clone())
    assert not torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])


def test_a_run_goes_on_with_the_same_bytes(workdir):
    small = {"model": "iALS", "dim": 8, "alpha": 20.0, "ridge": 5.0}
    run(main_no_KD, **small, max_epoch=6, name="whole")
    run(main_no_KD, **small, max_epoch=3, name="stopped")
    run(main_no_KD, **small, max_epoch=6, name="stopped", resume=True)
    whole, resumed = sorted(workdir.rglob("metrics.csv"))
    assert whole.read_bytes() == resumed.read_bytes()
    assert "train_loss" in whole.read_text()


def test_what_makes_no_sense_is_refused_in_a_line(workdir, teacher_path):
    with pytest.raises(UserError, match=r"--lr 0.1: iALS is solved for"):
        run(main_no_KD, model="iALS", lr=0.1)
    with pytest.raises(UserError, match=r"--model iALS: is solved for.*cannot learn"):
        run(main_DE, model="iALS", dim=8, teacher=str(teacher_path))
    with pytest.raises(UserError, match=r"--alpha 2.0: BPR has no such setting"):
        run(main_no_KD, alpha=2.0)
