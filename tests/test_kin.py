"""RCE-KD and UnKD: losses against slow loops, draws against known frequencies, their refusals."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from Models.distillers import RCEKD, UnKD, rcekd
from Models.distillers.sampling import draw_by_weight
from Models.distillers.unkd import draw_two, group_lists, popularity_groups
from Models.low_rank import spectral_start
from Utils.dataset import Pairs, Users
from Utils.errors import UserError

USERS = (3, 5, 9)
BATCH = Pairs(*torch.tensor([[3, 5, 3, 9, 5, 3], [7, 8, 9, 7, 7, 1], [1, 7, 7, 30, 2, 7]]))
K, L, POOL, TAU, BETA = 6, 8, 30, 2.0, 3.0


def rce(student, teacher, **changes) -> RCEKD:
    usual = {"K": K, "L": L, "pool": POOL, "T": 3.0, "beta": BETA, "tau": TAU}
    return RCEKD(student, teacher, **usual | changes)


def unkd(student, teacher, **changes) -> UnKD:
    usual = {"num_groups": 3, "num_pairs": 8, "pool": 40, "T": 5.0}
    return UnKD(student, teacher, **usual | changes)


@pytest.fixture
def similar(student, teacher):
    """A student whose lists have much of the teacher's, and not all."""
    spectral_start(student, teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
            parameter += 0.3 * parameter.std() * noise
    return student


def slow_list(model, split, user: int, among=None) -> list[int]:
    """Return a user's items outside the training set, best first."""
    scores = model.score_all(torch.tensor([user]))[0].tolist()
    seen = set(split.train_items[split.train_users == user].tolist())
    items = range(split.num_items) if among is None else among
    return sorted((i for i in items if i not in seen), key=lambda item: -scores[item])


def assert_is(distiller, student, expected) -> None:
    """Check the loss of both kinds of batches, and its gradients."""
    found = distiller.loss(BATCH)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert distiller.loss(Users(torch.tensor([9, 3, 5]))).item() == pytest.approx(found.item())
    of_found, of_expected = (
        torch.autograd.grad(loss, student.encode()) for loss in (found, expected)
    )
    for mine, slow in zip(of_found, of_expected, strict=True):
        torch.testing.assert_close(mine.to_dense(), slow, rtol=1e-4, atol=1e-5)


# --- RCE-KD --------------------------------------------------------------------------------------


def slow_cross_entropy(t: dict, s: dict, items: list[int]):
    """Of the softmaxes over these items, one at a time."""
    of_t = sum(math.exp(t[i] / TAU) for i in items)
    of_s = torch.stack([s[i] / TAU for i in items]).exp().sum()
    return -sum(math.exp(t[i] / TAU) / of_t * (s[i] / TAU - of_s.log()) for i in items)


def slow_rce(distiller, student, teacher, split) -> tuple[torch.Tensor, dict[str, int]]:
    """Return the loss in float64, with the items drawn, and how many items were in which sets."""
    p, q = (factor.double() for factor in student.encode())
    total, sizes = 0, dict.fromkeys(("Q and E", "Q and P, not E", "Q alone", "E alone"), 0)
    for user in USERS:
        mine = slow_list(student, split, user)[:POOL]
        P, Q = mine[:K], slow_list(teacher.model, split, user)[:K]
        E = distiller.items[user, K : K + L].tolist()
        assert len(set(E)) == L
        assert set(E) <= set(mine)
        t = dict(enumerate(teacher.model.score_all(torch.tensor([user]))[0].double().tolist()))
        s = {item: p[user] @ q[item] for item in {*P, *Q, *E}}
        gamma = math.exp(-BETA * len(set(Q) & set(E)) / K)
        second = E + [item for item in Q if item not in E and item not in P]
        total = total + (1 - gamma) * slow_cross_entropy(t, s, P)
        total = total + gamma * slow_cross_entropy(t, s, second)
        sizes["Q and E"] += len(set(Q) & set(E))
        sizes["Q and P, not E"] += len((set(Q) & set(P)) - set(E))
        sizes["Q alone"] += len(set(Q) - set(E) - set(P))
        sizes["E alone"] += len(set(E) - set(Q) - set(P))
    return total, sizes


def test_rce_is_that_of_a_slow_loop(similar, teacher, split):
    distiller = rce(similar, teacher, T=30.0)
    distiller.begin_epoch(0)
    expected, sizes = slow_rce(distiller, similar, teacher, split)
    assert min(sizes.values()) > 0  # each kind of item is there
    assert_is(distiller, similar, expected)


def test_rce_of_lists_that_have_nothing_in_common(student, teacher, split):
    distiller = rce(student, teacher)
    distiller.begin_epoch(0)
    expected, sizes = slow_rce(distiller, student, teacher, split)
    assert sizes["Q and E"] == 0  # and gamma is 1
    assert_is(distiller, student, expected)


def test_rce_is_right_for_huge_scores(similar, teacher):
    with torch.no_grad():
        for parameter in (*similar.parameters(), *teacher.model.parameters()):
            parameter *= 60  # the order stays
    distiller = rce(similar, teacher)
    distiller.begin_epoch(0)
    users = torch.tensor(USERS)
    scores = similar.score(users, distiller.items[users])
    assert scores.abs().max() > 1e4
    s, t = scores.detach().double() / TAU, teacher.score(users, distiller.items[users]).double()
    real = torch.ones_like(s, dtype=torch.bool)
    real[:, K:] = ~distiller.left_out[users]
    assert not real.all()
    expected = torch.zeros(len(USERS), dtype=torch.float64)
    gamma = distiller.targets[users, K:].sum(dim=1)
    for weight, columns in ((1 - gamma, slice(K)), (gamma, slice(K, None))):
        for row, kept in enumerate(real[:, columns]):
            a, b = ((x[row, columns] / y)[kept] for x, y in ((t, TAU), (s, 1)))
            expected[row] += weight[row] * (a.softmax(0) * (b.logsumexp(0) - b)).sum()
    found = distiller.loss(Users(users))
    assert found.item() == pytest.approx(expected.sum().item(), rel=1e-4)
    for gradient in torch.autograd.grad(found, similar.encode()):
        assert gradient.to_dense().isfinite().all()


@pytest.mark.parametrize("size", [K, 70])  # more of the teacher's items than count
def test_a_place_weighs_by_the_teachers_items_there_and_below(
    size, similar, teacher, split, monkeypatch
):
    seen = []

    def draw(log_weights, *others):
        seen.append(log_weights)
        return draw_by_weight(log_weights, *others)

    monkeypatch.setattr(rcekd, "draw_by_weight", draw)
    rce(similar, teacher, K=size, pool=150).begin_epoch(0)
    found, most = torch.cat(seen), 0
    for user in USERS:
        mine = slow_list(similar, split, user)[:150]
        theirs = slow_list(teacher.model, split, user)[:size]
        for place in range(150):
            below = sum(item in theirs for item in mine[place:])
            most = max(most, below)
            assert found[user, place].item() == pytest.approx((1 + min(50, below)) / 3.0)
    assert most > (50 if size > 50 else 1)


def test_places_are_drawn_without_replacement_by_their_weights():
    """All pairs of 5, with the probability of both orders in which they can be drawn."""
    weights, rows = [3.0, 0.5, 1.0, 6.0, 2.0], 30_000
    table = torch.tensor(weights).log().expand(rows, -1)
    drawn = draw_by_weight(table, 2, torch.Generator().manual_seed(0))
    total, expected, counts = sum(weights), [], []
    for a, b in itertools.combinations(range(5), 2):
        x, y = weights[a], weights[b]
        expected.append(rows * x * y / total * (1 / (total - x) + 1 / (total - y)))
        counts.append(int(((drawn[:, 0] == a) & (drawn[:, 1] == b)).sum()))
    assert sum(counts) == rows
    assert chisquare(counts, expected).pvalue > 1e-3


def test_the_students_lists_are_those_of_the_epochs_begin(similar, teacher, split):
    distiller = rce(similar, teacher)
    items = []
    for epoch in (0, 0, 1):
        distiller.begin_epoch(epoch)
        items.append(distiller.items)
    assert torch.equal(items[0], items[1])
    assert torch.equal(items[0][:, :K], items[2][:, :K])
    assert not torch.equal(items[0], items[2])
    with torch.no_grad():
        similar.item.weight.neg_()
    assert torch.equal(distiller.items, items[2])
    distiller.begin_epoch(1)
    for user in USERS:
        assert distiller.items[user, :K].tolist() == slow_list(similar, split, user)[:K]


def test_lists_too_short_or_too_long_are_refused_at_once(student, teacher, split):
    for changes, flag in (({"K": 31}, "K"), ({"L": 31}, "L")):
        with pytest.raises(UserError, match=rf"^31 items do not fit into .* of 30; .* --{flag} or"):
            rce(student, teacher, **changes)
    with pytest.raises(UserError, match=r"^lists of 1998 items are too long"):
        rce(student, teacher, pool=split.num_items)


# --- UnKD ----------------------------------------------------------------------------------------


def slow_groups(popularity: list[int], num_groups: int) -> list[list[int]]:
    """Item by item, the least popular first."""
    groups, total = [[] for _ in range(num_groups)], 0
    for item in sorted(range(len(popularity)), key=lambda item: (popularity[item], item)):
        groups[total * num_groups // sum(popularity)].append(item)
        total += popularity[item]
    return groups


@pytest.mark.parametrize("num_groups", [1, 2, 3, 7])
def test_groups_have_equal_popularity(num_groups, split):
    popularity = np.bincount(split.train_items, minlength=split.num_items)
    found = popularity_groups(popularity, num_groups)
    assert [group.tolist() for group in found] == slow_groups(popularity.tolist(), num_groups)
    totals = np.array([popularity[group].sum() for group in found])
    assert np.abs(totals - popularity.sum() / num_groups).max() < popularity.max()


def test_an_item_across_a_border_is_in_the_less_popular_group():
    found = popularity_groups(np.array([6, 1, 0, 2, 1]), 2)  # 0 + 1 + 1 + 2 is less than half
    assert [group.tolist() for group in found] == [[2, 1, 4, 3, 0], []]
    found = popularity_groups(np.array([4, 1, 0, 2, 1]), 2)
    assert [group.tolist() for group in found] == [[2, 1, 4, 3], [0]]


@pytest.mark.parametrize("pool", [7, 1000])  # the second is larger than the popular groups
def test_lists_are_the_teachers_best_of_each_group(pool, teacher, split):
    popularity = np.bincount(split.train_items, minlength=split.num_items).tolist()
    top, counts = group_lists(teacher, 3, pool)
    short = 0
    for user, (number, group) in itertools.product(USERS, enumerate(slow_groups(popularity, 3))):
        expected = slow_list(teacher.model, split, user, among=group)[:pool]
        assert counts[user, number] == len(expected)
        assert top[user, number, : len(expected)].tolist() == expected
        short += len(expected) < top.shape[2]
    assert (short > 0) == (pool == 1000)


@pytest.mark.parametrize("T", [2.0, 1e4])
@pytest.mark.parametrize("count", [2, 5])
def test_two_places_are_drawn_one_after_the_other_by_rank(count, T):
    rows = 40_000
    found = draw_two(torch.full((rows,), count), T, torch.Generator().manual_seed(count))
    weights = [math.exp(-(k + 1) / T) for k in range(count)]
    total, expected, counts = sum(weights), [], []
    for a, b in itertools.permutations(range(count), 2):
        expected.append(rows * weights[a] / total * weights[b] / (total - weights[a]))
        counts.append(int(((found[:, 0] == a) & (found[:, 1] == b)).sum()))
    assert sum(counts) == rows  # different ones, and of the list
    assert chisquare(counts, expected).pvalue > 1e-3


@pytest.mark.parametrize("T", [1e-3, 20.0, 1e9])
def test_places_are_different_and_of_the_list_whatever_its_length(T):
    counts = torch.tensor([2, 3, 50, 1000, 25_000]).repeat(20_000, 1)
    found = draw_two(counts, T, torch.Generator().manual_seed(0))
    assert (found[..., 0] != found[..., 1]).all()
    assert (found >= 0).all()
    assert (found < counts.unsqueeze(2)).all()
    if T == 1e-3:  # nothing but the first two
        assert (found == torch.tensor([0, 1])).all()


def test_unkd_is_that_of_a_slow_loop(student, teacher, split):
    distiller = unkd(student, teacher)
    distiller.begin_epoch(0)
    popularity = np.bincount(split.train_items, minlength=split.num_items).tolist()
    groups = slow_groups(popularity, 3)
    p, q = (factor.double() for factor in student.encode())
    expected, drawn = 0, set()
    for user in USERS:
        lists = [slow_list(teacher.model, split, user, among=group)[:40] for group in groups]
        better, worse = distiller.items[user].view(2, 8).tolist()
        for number, (a, b) in enumerate(zip(better, worse, strict=True)):
            of_group = lists[number % 3]  # 3, 3 and 2 pairs
            assert of_group.index(a) < of_group.index(b)
            margin = p[user] @ q[a] - p[user] @ q[b]
            expected = expected - torch.log(1 / (1 + torch.exp(-margin))) / 8
            drawn.add((a, b))
    assert len(drawn) > 12
    assert_is(distiller, student, expected)


def test_unkd_is_right_for_huge_scores(student, teacher):
    with torch.no_grad():
        for parameter in student.parameters():
            parameter *= 60
    distiller = unkd(student, teacher)
    distiller.begin_epoch(0)
    users = torch.tensor(USERS)
    better, worse = student.score(users, distiller.items[users]).double().chunk(2, dim=1)
    margins = better - worse
    assert margins.min() < -1e4
    expected = -margins.clamp_max(0).sum() / 8  # which is exact but for margins near 0
    found = distiller.loss(Users(users))
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    for gradient in torch.autograd.grad(found, student.encode()):
        assert gradient.to_dense().isfinite().all()


def test_pairs_are_drawn_anew_each_epoch(student, teacher):
    distiller = unkd(student, teacher)
    items = []
    for epoch in (0, 1, 0):
        distiller.begin_epoch(epoch)
        items.append(distiller.items)
    assert torch.equal(items[0], items[2])
    assert (items[0] != items[1]).float().mean() > 0.5


def test_groups_that_cannot_be_compared_are_refused(student, teacher):
    with pytest.raises(UserError, match=r"^--num_pairs 2: each of --num_groups 3 takes at least o"):
        unkd(student, teacher, num_pairs=2)
    for changes in ({"pool": 1}, {"num_groups": 1000, "num_pairs": 1000}):
        with pytest.raises(UserError, match=r"somebody has fewer than 2 items of a group to com"):
            unkd(student, teacher, **changes)
    unkd(student, teacher, num_pairs=3)
