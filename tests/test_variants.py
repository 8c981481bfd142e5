"""The search among variants of S2D: each acts, and the unchanged one is the script's run."""

import csv
import json
from types import SimpleNamespace

import pytest
import torch

import main_S2D
from experiments import variants
from Models.distillers import S2D
from Utils.errors import UserError

SMALL = {"dataset": "synthetic", "dim": 8, "max_epoch": 12, "lr": 0.05, "reg": 1e-5}
SMALL |= {"batch_size": 100, "K": 20, "tau": 4.0, "w": 0.3}


@pytest.fixture(scope="module")
def unchanged(teacher_path):
    return variants.try_variant("S2D", **SMALL, teacher=str(teacher_path))


def test_the_unchanged_one_is_the_scripts_run(unchanged, workdir, teacher_path):
    main_S2D.main(main_S2D.Settings(**SMALL, teacher=str(teacher_path)))
    found = json.loads(next(workdir.rglob("summary.json")).read_text())
    assert [found["valid"][f"H@{n}"] for n in (5, 10, 20)] == list(unchanged[1:4])
    assert (found["best_epoch"], found["epochs"]) == unchanged[4:6]


SLOW = ("S2D", "lr falls to a tenth")  # too slow to show in a few epochs: has its own test


@pytest.mark.parametrize("name", [name for name in variants.VARIANTS if name not in SLOW])
def test_a_variant_makes_a_difference(name, unchanged, teacher_path):
    found = variants.try_variant(name, **SMALL, teacher=str(teacher_path))
    assert found[1:4] != unchanged[1:4]


def test_all_items_outside_the_training_set_are_learned(student, teacher, split):
    distiller, users = S2D(student, teacher, 5, 4.0), torch.tensor([3, 500, 17])
    hard = distiller.losses(users)[0]
    state = SimpleNamespace(distiller=distiller, teacher=teacher, split=split)
    variants.all_items(2.0)(state)
    found = distiller.losses(users)
    expected = 0
    for user in users:
        unseen = torch.ones(split.num_items, dtype=torch.bool)
        unseen[split.train_items[split.train_users == user.item()]] = False
        shares = (teacher.model.score_all(user.view(1))[0, unseen] / 2).softmax(dim=0)
        expected -= shares @ student.score_all(user.view(1))[0].log_softmax(dim=0)[unseen]
    assert found[0] == hard
    torch.testing.assert_close(found[1], expected)


def test_the_learning_rate_falls_to_a_tenth():
    args = main_S2D.Settings(lr=0.02)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=args.lr)
    state = SimpleNamespace(args=args, optimizer=optimizer)
    variants.learning_rate_falls(state)
    rates = []
    for epoch in range(100):
        state.before(epoch)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    assert rates[0] == 0.02
    assert rates[40] == pytest.approx(0.011)
    assert rates[80] == rates[99] == pytest.approx(0.002)


def test_the_log_is_of_these_variants_and_the_best_stands_first():
    with open(variants.LOG) as file:
        rows = list(csv.DictReader(file))
    assert {row["variant"] for row in rows} <= variants.VARIANTS.keys()
    scores = [float(row["valid_H5"]) for row in rows]
    assert scores == sorted(scores, reverse=True)


def test_an_unknown_variant_is_refused(workdir):
    with pytest.raises(UserError, match="variant 'tau = 88' is unknown; did you mean tau = 8"):
        variants.main(variants.Settings(variants=("tau = 88",)))
