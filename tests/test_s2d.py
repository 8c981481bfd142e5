"""S2D: its losses against slow loops, its sampled softmax, its start."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from conftest import run, settings
from scipy.stats import chisquare

import main_DERRD
import main_S2D
import main_SVD
import main_URRD
from experiments.teacher import load_teacher
from Models import MODELS, build_model, softmax
from Models.bpr import BPR
from Models.distillers import S2D, s2d
from Models.distillers.sampling import draw_different
from Models.low_rank import leading_factors, low_rank_factors, spectral_start
from Models.recommender import Recommender
from Utils.dataset import Users
from Utils.errors import UserError

USERS = torch.tensor([3, 500, 17, 999])
BATCH = Users(USERS)
K, TAU = 6, 2.0


def slow_losses(student, teacher, split) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both losses, user by user and item by item, in float64."""
    p, q = (factor.double() for factor in student.encode())
    hard = soft = 0
    for user in USERS.tolist():
        log_z = torch.stack([p[user] @ item for item in q]).exp().sum().log()
        seen = split.train_items[split.train_users == user]
        for item in seen:
            hard = hard - (p[user] @ q[item] - log_z) / len(seen)
        scores = teacher.model.score_all(torch.tensor([user]))[0].double()
        unseen = [item for item in scores.argsort(descending=True).tolist() if item not in seen]
        weights = [math.exp(scores[item] / TAU) for item in unseen[:K]]
        for item, weight in zip(unseen, weights, strict=False):
            soft = soft - weight / sum(weights) * (p[user] @ q[item] - log_z)
    return hard, soft


@pytest.mark.parametrize("block", [300, 2048])  # of 1,998 items
@pytest.mark.parametrize("part", [0, 1])
def test_losses_and_gradients_are_those_of_a_slow_loop(
    part, block, student, teacher, split, monkeypatch
):
    monkeypatch.setattr(softmax, "BLOCK", block)
    found = S2D(student, teacher, K=K, tau=TAU).losses(BATCH)[part]
    expected = slow_losses(student, teacher, split)[part]
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    of_found, of_expected = (
        torch.autograd.grad(loss, student.encode()) for loss in (found, expected)
    )
    for mine, slow in zip(of_found, of_expected, strict=True):
        torch.testing.assert_close(mine.to_dense(), slow, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_samples", [0, 50])
def test_a_user_without_training_items_has_no_hard_loss(num_samples, student, teacher, split):
    last = split.num_users - 1
    kept = split.train_users != last
    columns = {"train_users": split.train_users[kept], "train_items": split.train_items[kept]}
    teacher.split = dataclasses.replace(split, **columns)
    distiller = S2D(student, teacher, K=K, tau=TAU, num_samples=num_samples)
    distiller.begin_epoch(0)
    hard, soft = distiller.losses(Users(torch.tensor([last])))
    assert hard == 0
    assert soft > 0
    gradients = torch.autograd.grad(hard + soft, student.encode())
    assert all(gradient.to_dense().isfinite().all() for gradient in gradients)
    expected = [
        S2D(student, teacher, K=K, tau=TAU).losses(Users(torch.tensor([u])))[0].item()
        for u in (3, last)
    ]
    both = S2D(student, teacher, K=K, tau=TAU).losses(Users(torch.tensor([3, last])))[0]
    assert both.item() == pytest.approx(sum(expected))


# --- the sampled softmax -------------------------------------------------------------------------


def test_a_sample_of_everything_is_the_whole_catalogue(student, teacher, split):
    losses = [
        S2D(student, teacher, K=K, tau=TAU, num_samples=size)
        for size in (0, split.num_items, 10**6)
    ]
    for distiller in losses:
        distiller.begin_epoch(0)
    whole, *sampled = (sum(distiller.losses(BATCH)) for distiller in losses)
    expected = torch.autograd.grad(whole, student.encode(), retain_graph=True)
    for found in sampled:
        torch.testing.assert_close(found, whole, rtol=1e-5, atol=0)
        gradients = torch.autograd.grad(found, student.encode())
        for mine, full in zip(gradients, expected, strict=True):
            torch.testing.assert_close(mine.to_dense(), full.to_dense(), rtol=1e-4, atol=1e-5)


def test_the_sampled_normaliser_is_right_in_expectation(student, teacher):
    """Over 2,000 draws of 100 items; what is known is never counted."""
    distiller = S2D(student, teacher, K=K, tau=TAU, num_samples=100)
    distiller.begin_epoch(0)
    p, q = (factor.detach() / 2 for factor in student.encode())
    known = distiller.top[USERS]
    draws = [distiller._others(p[USERS], q, known, distiller._draw()) for _ in range(2000)]
    estimates = torch.stack([scores.exp().sum(dim=1) for scores in draws]).double()
    exponentials = (p[USERS] @ q.T).double().exp().scatter(1, known.long(), 0)
    error = estimates.std(dim=0) / math.sqrt(len(estimates))
    assert ((estimates.mean(dim=0) - exponentials.sum(dim=1)).abs() < 4 * error).all()
    assert (error < 0.02 * exponentials.sum(dim=1)).all()


def test_a_sampled_step_looks_at_what_is_known_and_drawn_alone(
    student, teacher, split, monkeypatch
):
    """With and without targets that are held, which are the same."""
    found = []
    for held in (s2d.HELD, 0):
        monkeypatch.setattr(s2d, "HELD", held)
        distiller = S2D(student, teacher, K=K, tau=TAU, num_samples=20)
        distiller.begin_epoch(0)
        found.append(sum(distiller.losses(BATCH)))
    assert found[0] == found[1]
    users, items = torch.autograd.grad(found[0], student.encode())
    assert set(users.coalesce().indices()[0].tolist()) == set(USERS.tolist())
    mine, _ = distiller.learned.of(USERS)
    known = set(distiller.top[USERS].flatten().tolist()) | set(mine.flatten().tolist())
    looked_at = set(items.coalesce().indices()[0].tolist())
    assert known <= looked_at
    assert len(looked_at) <= len(known) + 20


def test_sets_of_different_numbers_are_equally_likely():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([draw_different(7, 3, generator) for _ in range(7000)])
    sets = torch.bincount((1 << drawn).sum(dim=1))
    assert (sets > 0).sum() == 35
    assert chisquare(sets[sets > 0].numpy()).pvalue > 1e-4
    assert sorted(draw_different(5, 9, generator).tolist()) == [0, 1, 2, 3, 4]


def test_a_sample_of_known_items_alone_is_no_trouble(student, teacher, split):
    distiller = S2D(student, teacher, K=split.num_items - 200, tau=TAU, num_samples=1)
    distiller.begin_epoch(0)
    for _ in range(20):
        loss = sum(distiller.losses(BATCH))
        assert loss.isfinite()
        assert all(
            g.to_dense().isfinite().all() for g in torch.autograd.grad(loss, student.encode())
        )


# --- the start -----------------------------------------------------------------------------------


def test_the_start_is_the_truncated_svd_of_the_teachers_scores(student, teacher):
    spectral_start(student, teacher)
    p, q = (factor.numpy() for factor in teacher.model.encode())
    left, values, right = np.linalg.svd(p.astype(float) @ q.T.astype(float))
    expected = left[:, :8] * values[:8] @ right[:8]
    mine = student.score_all(torch.arange(student.num_users)).detach().numpy()
    np.testing.assert_allclose(mine, expected, rtol=0, atol=1e-4 * values[0])


def test_the_leading_factors_of_scores_are_nearly_their_best_ones(teacher):
    scores = teacher.model.score_all(torch.arange(teacher.model.num_users)).double()
    values = np.linalg.svd(scores.numpy(), compute_uv=False)
    p, q = low_rank_factors(*leading_factors(teacher, 12), 8)
    least = np.sqrt(np.square(values[8:]).sum())
    assert (scores - p @ q.T).norm().item() < 1.01 * least


def test_a_start_that_is_impossible_is_refused(teacher, neumf_path, split):
    with pytest.raises(UserError, match=r"^--dim 17: the scores are of rank 16 \(teacher BPR d=16"):
        spectral_start(build_model("BPR", split, 17, 0), teacher)
    common = {"teacher": str(neumf_path), "dim": 8, "start": "spectral"}
    with pytest.raises(UserError, match=r"^--model NeuMF: its scores are not inner products"):
        run(main_URRD, model="NeuMF", **common)


class Weighted(BPR):
    """Inner products of vectors that are computed: what is written into them is lost."""

    assign = Recommender.assign

    def factors(self):
        """Return the tables, with the first dimension doubled."""
        weights = torch.ones(self.dim).index_fill(0, torch.tensor(0), 2.0)
        return self.user.weight * weights, self.item.weight


@pytest.mark.parametrize("script", [main_SVD, main_URRD, main_DERRD])
def test_factors_that_are_computed_are_no_start_and_no_teacher_is_trained_first(
    workdir, monkeypatch, script
):
    monkeypatch.setitem(MODELS, "Weighted", Weighted)
    names = {field.name for field in dataclasses.fields(script.Settings)}
    flags = {"model": "Weighted", "dim": 8, "teacher_dim": 16}
    flags |= {"lr": 0.01, "reg": 0.0, "batch_size": 1024, "K": 5, "L": 5, "T": 1.0}
    flags |= {"lmbda_DE": 1.0, "lmbda_RRD": 1.0, "num_experts": 2, "start": "spectral"}
    with pytest.raises(UserError, match=r"^--model Weighted: its factors are not kept, but comp"):
        run(script, **{k: v for k, v in flags.items() if k in names})
    assert not (workdir / "checkpoints").exists()


# --- runs ----------------------------------------------------------------------------------------


def taught(path, **changes) -> None:
    """Run the script on the built-in data, for a short time."""
    usual = {"dim": 8, "max_epoch": 8, "lr": 0.01, "reg": 0.001}
    usual |= {"batch_size": 100, "K": 20, "tau": 2.0, "w": 0.3, "teacher": str(path)}
    run(main_S2D, **usual | changes)


def summary(workdir, folder: str) -> dict:
    return json.loads(next(workdir.glob(f"logs/synthetic/*/{folder}/*/summary.json")).read_text())


def test_the_data_alone_need_no_teacher(workdir, teacher_path, neumf_path):
    """With w = 1 and a random start, it makes no difference who the teacher is."""
    for name, path in (("one", teacher_path), ("other", neumf_path)):
        taught(path, name=name, w=1.0, start="random", max_epoch=2)
    one, other = (summary(workdir, f"S2D-{name}") for name in ("one", "other"))
    assert one["test"] == other["test"]


def test_the_teacher_may_be_of_another_base_model(workdir, neumf_path, split):
    taught(neumf_path, model="NeuMF")
    assert summary(workdir, "S2D")["model"] == "NeuMF"
    (path,) = workdir.glob("checkpoints/synthetic/NeuMF-d8/S2D/seed0/best.pt")
    args = settings(main_S2D, dim=8, teacher=str(path))
    student = load_teacher(args, split, torch.device("cpu")).model
    assert student.encode()[0].shape == (split.num_users, 8)


def test_a_share_above_1_is_refused():
    with pytest.raises(UserError, match=r"^--w 1.5 is out of range; use a share, from 0 to 1"):
        settings(main_S2D, w=1.5)
