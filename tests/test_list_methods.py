"""DCD, CL-DRD and MTD against slow loops; what their lists are of, and who cannot have them."""

import math

import numpy as np
import pytest
import torch
from conftest import run
from scipy.stats import chisquare
from test_distillers import BATCH, slow_loss

import main_DCD
import main_MTD
import main_URRD
from Models import build_model
from Models.distillers import CLDRD, ICD, UCD
from Models.distillers import dcd as dcd_module
from Models.distillers.cldrd import STAGES, stage_labels, weighted_pairs_loss
from Models.distillers.dcd import ranks_within
from Models.distillers.sampling import draw_by_weight
from Models.teacher import TrainedTeacher
from Utils.dataset import PairSampler, Users, UserSampler, distinct_by_weight
from Utils.errors import UserError

POOL, N, EPS = 50, 6, 0.1

# --- DCD -----------------------------------------------------------------------------------------


@pytest.fixture
def everything(student, teacher) -> dict[str, np.ndarray]:
    """All scores of student and teacher, in float64, without training pairs: (users, items)."""
    scores = {}
    for name, model in (("student", student), ("teacher", teacher.model)):
        users, items = (table.detach().double().numpy() for table in model.encode())
        scores[name] = users @ items.T
    split = teacher.split
    scores["teacher"][split.train_users, split.train_items] = -np.inf
    return scores


def scores_of(everything, side: type, entity: int) -> tuple[list[float], list[float]]:
    """The student's and the teacher's scores of a user's items, or of an item's users."""
    both = (everything[name] for name in ("student", "teacher"))
    return tuple((s[entity] if side is UCD else s[:, entity]).tolist() for s in both)


def slow_lists(everything, side: type, entity: int) -> tuple[list[int], list[int]]:
    """The teacher's list of an entity, and rank_S - rank_T of each in it."""
    student, teacher = scores_of(everything, side, entity)
    top = sorted(range(len(teacher)), key=lambda other: -teacher[other])[:POOL]
    by_student = sorted(top, key=lambda other: -student[other])
    return top, [by_student.index(other) - place for place, other in enumerate(top)]


def side_of(side: type, student, teacher, **changes) -> UCD | ICD:
    settings = {"n": N, "eps": EPS, "pool": POOL, "refresh": 3, "seed": 0}
    return side(student, teacher, **settings | changes)


def entities_of(side: type) -> list[int]:
    return [3, 5, 9] if side is UCD else [1, 7, 8, 9]


@pytest.mark.parametrize("side", [UCD, ICD])
def test_without_drawing_the_most_underestimated_go_above_the_most_overestimated(
    side, student, teacher, everything
):
    distiller = side_of(side, student, teacher, sampling="top")
    distiller.begin_epoch(0)
    expected = 0.0
    for entity in entities_of(side):
        top, lower = slow_lists(everything, side, entity)
        under = sorted(sorted(range(POOL), key=lambda r: (-lower[r], r))[:N])
        over = sorted(range(POOL), key=lambda r: (lower[r], r))[:N]
        assert all(lower[r] > 0 for r in under)
        scores = scores_of(everything, side, entity)[0]
        expected += slow_loss([scores[top[r]] for r in under], [scores[top[r]] for r in over])
    assert distiller.loss(BATCH).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("side", [UCD, ICD])
def test_both_are_drawn_by_how_far_the_ranks_are_apart(
    side, student, teacher, everything, monkeypatch
):
    drawn = []

    def spy(log_weights, count, generator):
        drawn.append((log_weights, draw_by_weight(log_weights, count, generator)))
        return drawn[-1][1]

    monkeypatch.setattr(dcd_module, "draw_by_weight", spy)
    distiller = side_of(side, student, teacher)
    distiller.begin_epoch(0)
    found = distiller.loss(BATCH).item()
    (too_low, unders), (too_high, overs) = drawn
    expected = 0.0
    for row, entity in enumerate(entities_of(side)):
        top, lower = slow_lists(everything, side, entity)
        for sign, weights in ((1, too_low), (-1, too_high)):
            slow = [max(math.tanh(max(EPS * sign * d, 0.0)), 1e-5) for d in lower]
            assert weights[row].exp().tolist() == pytest.approx(slow, rel=1e-4)
        under, over = unders[row].tolist(), overs[row].tolist()
        assert len(set(under)) == len(set(over)) == N
        assert under == sorted(under)  # as the teacher ranks them
        scores = scores_of(everything, side, entity)[0]
        expected += slow_loss([scores[top[r]] for r in under], [scores[top[r]] for r in over])
    assert found == pytest.approx(expected, rel=1e-5)
    distiller.loss(BATCH)
    assert not torch.equal(drawn[2][1], unders)  # anew for each batch
    distiller.begin_epoch(0)
    assert distiller.loss(BATCH).item() == pytest.approx(expected, rel=1e-5)


def test_draws_have_the_frequencies_of_their_weights():
    """All pairs of 4, with the probability of both orders in which they can be drawn."""
    weights, rows = [0.1, 1.0, 0.4, 0.02], 30_000
    generator = torch.Generator().manual_seed(0)
    log_weights = torch.tensor(weights).log().expand(rows, -1)
    places = draw_by_weight(log_weights, 2, generator)
    total, expected, counts = sum(weights), [], []
    for a in range(4):
        for b in range(a + 1, 4):
            chance = weights[a] * weights[b] / total
            chance *= 1 / (total - weights[a]) + 1 / (total - weights[b])
            expected.append(rows * chance)
            counts.append(int(((places[:, 0] == a) & (places[:, 1] == b)).sum()))
    assert sum(counts) == rows
    assert chisquare(counts, expected).pvalue > 1e-3


def test_where_fewer_than_n_have_a_weight_the_rest_fills_up_evenly(student, teacher):
    distiller = side_of(UCD, student, teacher, n=4)
    distiller.begin_epoch(0)
    off = torch.zeros(20_000, POOL, dtype=torch.int32)
    off[:, [7, 30]], off[:, 10:20] = 3, -2
    places = distiller._choose(off)
    counts = torch.bincount(places.flatten(), minlength=POOL)
    assert (counts[[7, 30]] > 0.99 * len(off)).all()
    others = [place for place in range(POOL) if place not in (7, 30)]
    assert chisquare(counts[others].numpy()).pvalue > 1e-3


@pytest.mark.parametrize("side", [UCD, ICD])
def test_ranks_are_taken_anew_after_some_epochs_and_survive_a_resume(side, student, teacher):
    distiller = side_of(side, student, teacher)
    distiller.begin_epoch(0)
    first = distiller.lower
    with torch.no_grad():
        student.user.weight.neg_()
    for epoch in (1, 2):
        distiller.begin_epoch(epoch)
        assert torch.equal(distiller.lower, first)
    resumed = side_of(side, student, teacher)
    resumed.load_state_dict(distiller.state_dict())
    for each in (distiller, resumed):
        each.begin_epoch(2)
    assert torch.equal(resumed.loss(BATCH), distiller.loss(BATCH))
    distiller.begin_epoch(3)
    assert not torch.equal(distiller.lower, first)


def test_ranks_are_by_score_and_equal_ones_by_place():
    scores = torch.randint(5, (3, 400), generator=torch.Generator().manual_seed(0)).float()
    for row, found in zip(scores.tolist(), ranks_within(scores).tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda place: (-row[place], place))
        assert [order[rank - 1] for rank in found] == list(range(len(row)))


def test_a_student_that_ranks_as_the_teacher_has_no_differences(teacher):
    distiller = side_of(UCD, teacher.model, teacher)
    distiller.lower += 1
    distiller.begin_epoch(0)
    assert not distiller.lower.any()


def test_a_step_lifts_the_underestimated_above_the_overestimated(student, teacher):
    for side, parameter in ((UCD, student.user.weight), (ICD, student.item.weight)):
        distiller = side_of(side, student, teacher, sampling="top", refresh=1000)
        distiller.begin_epoch(0)
        losses = []
        for _ in range(20):
            loss = distiller.loss(BATCH)
            (gradient,) = torch.autograd.grad(loss, parameter)
            losses.append(loss.item())
            with torch.no_grad():
                parameter -= 0.01 * gradient.to_dense()
        assert losses[-1] < 0.8 * losses[0]


def test_repeats_of_items_that_weigh_nothing_change_nothing(student, teacher, monkeypatch):
    distiller = side_of(ICD, student, teacher, sampling="top")
    distiller.begin_epoch(0)
    expected = distiller.loss(BATCH)
    monkeypatch.setattr("Models.distillers.distiller.distinct", distinct_by_weight)
    torch.testing.assert_close(distiller.loss(BATCH), expected)


def test_the_two_sides_draw_apart(student, teacher):
    sides = [side_of(side, student, teacher) for side in (UCD, ICD)]
    for side in sides:
        side.begin_epoch(0)
    off = torch.full((40, POOL), 5)
    first, second = (side._choose(off) for side in sides)
    assert not torch.equal(first, second)


def test_a_side_without_weight_has_no_lists(workdir, teacher_path, monkeypatch):
    given = {"dim": 8, "max_epoch": 1, "n": 6, "pool": 50, "teacher": str(teacher_path)}
    for side, lists in (("UCD", "top_items"), ("ICD", "top_users")):
        with monkeypatch.context() as patch:
            patch.setattr(TrainedTeacher, lists, lambda *_: pytest.fail("not needed"))
            run(main_DCD, **given, **{f"lmbda_{side}": 0.0}, name=side)
        (path,) = workdir.rglob(f"DCD-{side}/*/metrics.csv")
        columns = path.read_text().split("\n")[0].split(",")
        assert side not in columns
        assert {"UCD", "ICD"} - {side} <= set(columns)


def test_lists_that_are_too_short_are_refused(student, teacher):
    with pytest.raises(UserError, match="--n 51: so many do not fit into lists of 50; use a small"):
        side_of(UCD, student, teacher, n=51)


def test_a_student_that_trains_on_users_has_no_item_side(
    student, teacher, teacher_path, workdir, monkeypatch
):
    words = "--model BPR: it does not train on pairs, so .* item side; use --lmbda_ICD 0$"
    monkeypatch.setattr(type(student), "sampler", UserSampler)
    monkeypatch.setattr(type(student), "loss", lambda self, batch: self.user(batch.users).sum())
    with pytest.raises(UserError, match=words):
        side_of(ICD, student, teacher)
    with pytest.raises(UserError, match=words):
        run(main_DCD)
    assert not (workdir / "checkpoints").exists()  # and no teacher was trained for that
    given = {"dim": 8, "max_epoch": 1, "n": 6, "pool": 50, "teacher": str(teacher_path)}
    run(main_DCD, **given, lmbda_ICD=0.0)


# --- CL-DRD --------------------------------------------------------------------------------------


def slow_curriculum(scores: list[float], labels: list[float]) -> float:
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    rank = {place: 1 + order.index(place) for place in order}
    terms = [
        abs(1 / rank[a] - 1 / rank[b]) * math.log(1 + math.exp(-(scores[a] - scores[b])))
        for a in range(len(scores))
        for b in range(len(scores))
        if labels[a] > labels[b]
    ]
    return sum(terms) / len(terms)


SLOW_LABELS = [
    [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, *[-0.25] * 12, *[-0.5] * 13],
    [*(1 / r for r in range(1, 11)), *[-0.25] * 10, *[-0.5] * 10],
    [*(1 / r for r in range(1, 21)), *[-0.25] * 5, *[-0.5] * 5],
]


def test_the_labels_of_the_stages():
    for stage, labels in zip(STAGES, SLOW_LABELS, strict=True):
        assert stage_labels(*stage).tolist() == pytest.approx(labels)


def test_each_stage_is_the_loss_of_each_user_of_the_batch(student, teacher, everything):
    distiller = CLDRD(student, teacher, stage_epochs=2)
    found = []
    for epoch in range(8):
        distiller.begin_epoch(epoch)
        expected = 0.0
        for user in (3, 5, 9):
            mine, theirs = scores_of(everything, UCD, user)
            top = sorted(range(len(theirs)), key=lambda item: -theirs[item])[:30]
            labels = SLOW_LABELS[min(epoch // 2, 2)]
            expected += slow_curriculum([mine[item] for item in top], labels)
        found.append(distiller.loss(BATCH).item())
        assert found[-1] == pytest.approx(expected, rel=1e-5)
    assert len(set(found)) == 3
    assert torch.equal(distiller.loss(BATCH), distiller.loss(Users(BATCH.users)))


@pytest.mark.parametrize("stage", STAGES)
def test_the_curriculums_gradient_is_that_of_finite_differences(stage):
    """Through the margins alone: ranks do not change on so short a way."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 30, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = stage_labels(*stage)
    assert torch.autograd.gradcheck(lambda s: weighted_pairs_loss(s, labels), scores)


def test_the_curriculum_is_right_for_huge_and_for_equal_scores():
    labels = torch.tensor([1.0, 0.5, -0.25, -0.25])
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    scores = torch.tensor([[1e4, 0.0, -1e4, -1e4], [-1e4, 1e4, 1e4, 0.0], [1e4] * 4])
    scores.requires_grad_()
    found = weighted_pairs_loss(scores, labels)
    ranks = [4, 1, 2, 3]
    wrong = [(abs(1 / ranks[0] - 1 / ranks[b]), b) for b in (1, 2, 3)]
    second = sum(weight * (1e4 if b == 3 else 2e4) for weight, b in wrong)
    second += math.log(2) * abs(1 / 1 - 1 / 2)  # the second and the third are equal
    third = math.log(2) * sum(abs(1 / (1 + a) - 1 / (1 + b)) for a, b in pairs)
    assert found.tolist() == pytest.approx([0.0, second / 5, third / 5], rel=1e-6)
    (gradient,) = torch.autograd.grad(found.sum(), scores)
    assert gradient.isfinite().all()
    assert not gradient[0].any()


# --- MTD -----------------------------------------------------------------------------------------


class FirstStep(Exception):
    """Stands for the end of the first step."""


def test_the_loss_is_the_mean_over_teachers_of_the_loss_of_each(
    teacher, split, workdir, teacher_path, monkeypatch
):
    other = build_model("BPR", split, 5, seed=3)
    (workdir / "other").mkdir()
    path = workdir / "other" / "best.pt"
    path.write_bytes(b"another")
    members = [teacher, TrainedTeacher(other, split, path)]
    monkeypatch.setattr(type(teacher), "members", members, raising=False)
    monkeypatch.setattr(main_MTD, "load_teacher", lambda *_: teacher)
    built, original, seen = [], main_MTD.RRD, {}

    def build(student, *given, **chosen):
        built.append((student, original(student, *given, **chosen)))
        return built[-1][1]

    def step(self, loss, **parts):
        seen.update(parts, loss=loss)
        raise FirstStep

    build.require = original.require
    monkeypatch.setattr(main_MTD, "RRD", build)
    monkeypatch.setattr(main_MTD.Run, "step", step)
    with pytest.raises(FirstStep):
        run(main_MTD, dim=8, K=5, L=4, pool=50, batch_size=128, lmbda_MTD=0.3,
            teacher=str(teacher_path))  # fmt: skip

    student, users = built[0][0], next(PairSampler(split, 128, 0, "cpu").epoch(0)).users
    trained_on = set(zip(split.train_users.tolist(), split.train_items.tolist(), strict=True))
    expected = 0.0
    for member, (_, rrd) in zip(members, built, strict=True):
        for user in set(users.tolist()):
            theirs = member.score_all(torch.tensor([user]))[0].tolist()
            unseen = [i for i in range(split.num_items) if (user, i) not in trained_on]
            top = sorted(unseen, key=lambda item: -theirs[item])[:50]
            items = rrd.items[user].tolist()
            assert items[:5] == top[:5]
            assert set(items[5:]) <= set(unseen) - set(top)
            scores = student.score_all(torch.tensor([user]))[0].double()
            expected += slow_loss(scores[items[:5]].tolist(), scores[items[5:]].tolist()) / 2
    assert seen["MTD"].item() == pytest.approx(expected, rel=1e-5)
    assert seen["loss"].item() == pytest.approx((seen["base"] + 0.3 * seen["MTD"]).item())
    assert not torch.equal(built[0][1].items[:, 5:], built[1][1].items[:, 5:])


def test_of_one_teacher_it_is_rrd_without_sampling(workdir, teacher_path):
    given = {"dim": 8, "lr": 0.01, "max_epoch": 3, "K": 6, "L": 5, "teacher": str(teacher_path)}
    run(main_MTD, **given, lmbda_MTD=0.01)
    run(main_URRD, **given, lmbda_RRD=0.01, interesting="top")
    mine, rrd = (
        next(workdir.rglob(f"{method}/*/metrics.csv")).read_text() for method in ("MTD", "URRD")
    )
    assert mine == rrd.replace("RRD", "MTD")
