"""Losses against slow loops, sampling against known frequencies, and what distillers may touch."""

import itertools
import math
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import chisquare
from torch import nn

from Models import build_model, distillers
from Models.distillers import DE, RRD, ItemSideRRD
from Models.distillers.rrd import RankingLists, relaxed_ranking_loss
from Models.recommender import Recommender
from Utils.dataset import PairSampler, distinct_by_weight
from Utils.errors import UserError
from Utils.files import sha256_of
from Utils.teacher import Teacher

BATCH = torch.tensor([[3, 5, 3, 9, 5, 3], [7, 8, 9, 7, 7, 1], [1, 7, 7, 30, 2, 7]])

# --- the relaxed ranking loss ----------------------------------------------------------------


def slow_loss(above: list[float], below: list[float]) -> float:
    """Equation 9, position by position, as it stands."""
    total = 0.0
    for k in range(len(above)):
        denominator = 0.0
        for i in range(k, len(above)):
            denominator += math.exp(above[i])
        for score in below:
            denominator += math.exp(score)
        total -= math.log(math.exp(above[k]) / denominator)
    return total


@pytest.mark.parametrize(("K", "L"), [(5, 4), (1, 4), (5, 1), (1, 1), (6, 0)])
def test_the_loss_is_that_of_a_slow_double_loop(K, L):
    generator = torch.Generator().manual_seed(K * 10 + L)
    scores = 3 * torch.randn(7, K + L, generator=generator, dtype=torch.float64)
    found = relaxed_ranking_loss(scores[:, :K], scores[:, K:])
    expected = [slow_loss(row[:K].tolist(), row[K:].tolist()) for row in scores]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(("K", "L"), [(5, 4), (1, 4), (5, 1), (1, 1), (6, 0)])
def test_the_losses_gradient_is_that_of_finite_differences(K, L):
    generator = torch.Generator().manual_seed(K * 10 + L)
    above = torch.randn(3, K, generator=generator, dtype=torch.float64, requires_grad=True)
    below = torch.randn(3, L, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(relaxed_ranking_loss, (above, below))


def test_equal_scores_give_the_number_of_orders():
    # The first of 5, then of 4, then of 3: each as likely as any other.
    found = relaxed_ranking_loss(torch.full((1, 3), 2.5), torch.full((1, 2), 2.5))
    assert found.item() == pytest.approx(math.log(5 * 4 * 3))


def test_the_loss_is_right_for_huge_scores():
    def loss_and_gradients(above, below):
        scores = [torch.tensor([row], requires_grad=True) for row in (above, below)]
        loss = relaxed_ranking_loss(*scores)
        return loss.item(), [g.tolist()[0] for g in torch.autograd.grad(loss.sum(), scores)]

    assert loss_and_gradients([1e4, 0.0], [-1e4]) == (0.0, [[0.0, 0.0], [0.0]])
    loss, (above, below) = loss_and_gradients([-1e4, 1e4], [1e4])
    assert loss == pytest.approx(2e4 + 2 * math.log(2), rel=1e-6)
    assert above == pytest.approx([-1.0, 0.0], abs=1e-3)  # half for each place, less one
    assert below == pytest.approx([1.0], abs=1e-3)
    loss, (above, below) = loss_and_gradients([-1e4, -1e4], [-1e4])
    assert loss == pytest.approx(math.log(6), abs=1e-2)


# --- the lists -------------------------------------------------------------------------------


def lists(K=2, L=3, T=2.0, pool=6, columns=20, rows=1, **changes) -> RankingLists:
    """Row r has the list 19, 18, ... and the training pairs (r, 0), (r, 1)."""
    top = torch.arange(columns - 1, columns - 1 - pool, -1).int().expand(rows, -1)
    seen = torch.cartesian_prod(torch.arange(rows), torch.arange(2)).T.numpy()
    other = {"interesting": "sampled", "below_drawn": False, "seed": 0, "kind": "items"}
    return RankingLists(top, tuple(seen), columns, K=K, L=L, T=T, **other | changes)


def test_interesting_ones_are_drawn_without_replacement_by_rank():
    """All pairs of 6, with the probability of both orders in which they can be drawn."""
    T, rows = 2.0, 30_000
    above, _ = lists(T=T, rows=rows).draw(0)
    places = 19 - above  # 0 is the best
    weights = [math.exp(-(k + 1) / T) for k in range(6)]
    total = sum(weights)
    expected, counts = [], []
    for a, b in itertools.combinations(range(6), 2):
        first = weights[a] / total * weights[b] / (total - weights[a])
        second = weights[b] / total * weights[a] / (total - weights[b])
        expected.append(rows * (first + second))
        counts.append(int(((places[:, 0] == a) & (places[:, 1] == b)).sum()))
    assert sum(counts) == rows  # each pair in the teacher's order, and nothing else
    assert chisquare(counts, expected).pvalue > 1e-3


def test_uninteresting_ones_are_uniform_without_replacement():
    rows = 30_000
    _, below = lists(rows=rows, L=3, pool=6, columns=20).draw(0)
    ordered = below.sort(dim=1).values
    assert (ordered.diff(dim=1) > 0).all()
    assert set(below.unique().tolist()) == set(range(2, 14))  # no training pair, not in the list
    sets = torch.unique(ordered, dim=0, return_counts=True)[1]
    assert len(sets) == math.comb(12, 3)
    assert chisquare(sets.numpy()).pvalue > 1e-3


def test_uninteresting_ones_of_the_paper_rank_below_those_drawn():
    above, below = lists(rows=5_000, below_drawn=True).draw(0)
    assert (below.max(dim=1).values < above[:, -1]).all()  # here a smaller id ranks lower
    assert (below >= 2).all()
    assert below.max() > 13  # some of the list itself
    lowest_first = above[:, -1] == 18  # the two best were drawn: 2 to 17 are left
    counts = torch.bincount(below[lowest_first].flatten(), minlength=18)[2:18]
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_the_teachers_first_can_be_taken_without_drawing():
    generated = lists(rows=3, K=4, interesting="top")
    for epoch in range(2):
        assert generated.draw(epoch)[0].tolist() == [[19, 18, 17, 16]] * 3


def test_lists_of_all_there_is():
    above, below = lists(K=6, L=12).draw(0)
    assert above.tolist() == [[19, 18, 17, 16, 15, 14]]
    assert sorted(below[0].tolist()) == list(range(2, 14))


def test_lists_depend_on_depend_on_seed_kind_and_epoch_alone():
    first = lists(rows=50)
    first.draw(3)
    again = torch.cat(first.draw(2), dim=1)
    assert torch.equal(again, torch.cat(lists(rows=50).draw(2), dim=1))
    for changes, epoch in (({}, 3), ({"seed": 1}, 2), ({"kind": "users"}, 2)):
        assert not torch.equal(again, torch.cat(lists(rows=50, **changes).draw(epoch), dim=1))


def test_lists_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"7 interesting items .* lists of 6; use a smaller --K "):
        lists(K=7)
    with pytest.raises(
        UserError, match=r"13 uninteresting items .* 2 in training and 6 in .* 20; use"
    ):
        lists(L=13)


# --- RRD and the item side on a real split ----------------------------------------------------


def training_pairs(split) -> set[tuple[int, int]]:
    return set(zip(split.train_users.tolist(), split.train_items.tolist(), strict=True))


def slow_order(teacher, user: int, items: list[int]) -> list[int]:
    scores = teacher.model.score_all(torch.tensor([user]))[0].tolist()
    return sorted(items, key=lambda item: -scores[item])


@pytest.mark.parametrize("variant", ["published_code", "paper"])
def test_rrd_is_the_loss_of_each_user_of_the_batch(student, teacher, split, variant):
    rrd = RRD(student, teacher, K=5, L=4, T=3.0, pool=50, variant=variant, seed=0)
    rrd.begin_epoch(0)
    pairs, expected = training_pairs(split), []
    for user in (3, 5, 9):
        items = rrd.items[user].tolist()
        assert len(set(items)) == 9
        assert not pairs & {(user, item) for item in items}
        assert items[:5] == slow_order(teacher, user, items[:5])
        everything = slow_order(
            teacher, user, [i for i in range(split.num_items) if (user, i) not in pairs]
        )
        places = [everything.index(item) for item in items]
        assert max(places[:5]) < 50
        assert min(places[5:]) >= (50 if variant == "published_code" else max(places[:5]) + 1)
        scores = student.score_all(torch.tensor([user]))[0].double()
        expected.append(slow_loss(scores[items[:5]].tolist(), scores[items[5:]].tolist()))
    total = sum(expected) / (1 if variant == "published_code" else 3)
    assert rrd.loss(BATCH).item() == pytest.approx(total, rel=1e-5)


def test_full_ranking_orders_the_uninteresting_items_too(student, teacher):
    relaxed, full = (
        RRD(student, teacher, K=5, L=4, T=3.0, ranking=ranking) for ranking in ("relaxed", "full")
    )
    for distiller in (relaxed, full):
        distiller.begin_epoch(0)
    expected = 0.0
    for user in (3, 5, 9):
        items = full.items[user].tolist()
        assert items[:5] == relaxed.items[user, :5].tolist()
        assert items[5:] == slow_order(teacher, user, relaxed.items[user, 5:].tolist())
        expected += slow_loss(student.score_all(torch.tensor([user]))[0, items].tolist(), [])
    assert full.loss(BATCH).item() == pytest.approx(expected, rel=1e-5)


def test_interesting_ranking_has_as_many_items_but_no_others(student, teacher):
    rrd = RRD(student, teacher, K=5, L=4, T=3.0, pool=50, ranking="interesting")
    rrd.begin_epoch(0)
    expected = 0.0
    for user in (3, 5, 9):
        items = rrd.items[user].tolist()
        assert len(items) == 9
        assert items == slow_order(teacher, user, items)
        assert set(items) <= set(teacher.top_items(50)[user].tolist())
        expected += slow_loss(student.score_all(torch.tensor([user]))[0, items].tolist(), [])
    assert rrd.loss(BATCH).item() == pytest.approx(expected, rel=1e-5)


def test_the_item_side_ranks_users_for_every_item_in_the_lists(student, teacher, split):
    rrd = RRD(student, teacher, K=3, L=2, T=3.0, pool=50)
    side = ItemSideRRD(rrd, student, teacher, K=4, L=3, T=3.0, pool=50)
    for distiller in (rrd, side):
        distiller.begin_epoch(0)
    items = sorted(set(rrd.items[[3, 5, 9]].flatten().tolist()))
    pairs, expected = training_pairs(split), 0.0
    everybody = teacher.model.score_all(torch.arange(split.num_users))
    for item in items:
        users = side.users[item].tolist()
        assert not pairs & {(user, item) for user in users}
        assert users[:4] == sorted(users[:4], key=lambda user: -everybody[user, item])
        assert not set(users[4:]) & set(teacher.top_users(50)[item].tolist())
        scores = student.score_all(torch.tensor(users))[:, item].tolist()
        expected += slow_loss(scores[:4], scores[4:])
    assert side.loss(BATCH).item() == pytest.approx(expected, rel=1e-5)


# --- DE ----------------------------------------------------------------------------------------


def experts(student, teacher, **changes) -> DE:
    settings = {"num_experts": 4, "tau_0": 1.0, "tau_P": 1e-10, "P": 1000, "seed": 0}
    return DE(student, teacher, **settings | changes)


def slow_distances(de: DE, student, teacher, kind: str, entities: list[int], weights) -> list:
    """Return the squared distance of each entity, expert by expert."""
    found = []
    for entity, weight in zip(entities, weights, strict=True):
        one = torch.tensor([entity])
        h_s, h_t = (m.representations(one, one)[kind][0] for m in (student, teacher))
        stack, rebuilt = de.experts[kind], torch.zeros_like(h_t)
        for m, share in enumerate(weight.tolist()):
            hidden = torch.relu(h_s @ stack.weight1[m] + stack.bias1[m])
            rebuilt = rebuilt + share * (hidden @ stack.weight2[m] + stack.bias2[m])
        found.append((h_t - rebuilt).square().sum().item())
    return found


@pytest.mark.parametrize("expert_selection", ["attention", "one_large", "one_small"])
@pytest.mark.parametrize("variant", ["published_code", "paper"])
def test_de_is_the_distance_of_each_user_and_item(student, teacher, variant, expert_selection):
    de = experts(student, teacher, expert_selection=expert_selection, variant=variant)
    de.begin_epoch(0)

    def distances(kind, row):
        entities = sorted(set(row))
        if expert_selection == "attention":
            one = torch.tensor(entities)
            weights = de.selectors[kind](teacher.representations(one, one)[kind])
        else:
            size = 4 if expert_selection == "one_large" else 1
            weights = torch.full((len(entities), size), 1 / size)
        return slow_distances(de, student, teacher, kind, entities, weights)

    users, positives, negatives = BATCH.tolist()
    if variant == "paper":
        parts = distances("user", users) + distances("item", positives + negatives)
        expected = sum(part**0.5 for part in parts)
    else:
        halves = distances("item", positives) + distances("item", negatives)
        expected = sum(distances("user", users)) + sum(halves) / 2
    assert de.loss(BATCH).item() == pytest.approx(expected, rel=1e-5)
    assert (de.experts["user"].weight1.shape[0] == 1) == (expert_selection == "one_small")


def test_de_draws_fresh_noise_for_every_entity_and_epoch(student, teacher, monkeypatch):
    drawn = []
    original = distillers.de.gumbel_softmax

    def spy(*arguments):
        drawn.append(original(*arguments))
        return drawn[-1]

    monkeypatch.setattr(distillers.de, "gumbel_softmax", spy)
    de = experts(student, teacher)
    values = []
    for epoch in (0, 0, 1):
        de.begin_epoch(epoch)
        values.append(de.loss(BATCH).item())
    assert values[0] == values[1] != values[2]
    users, items = drawn[0], drawn[1]
    assert users.shape == (3, 4)
    assert items.shape == (4 + 4, 4)  # 1, 7, 8, 9, then 1, 2, 7, 30
    assert not torch.equal(items[1], items[6])  # item 7 on either side
    de.begin_epoch(0)
    assert de.loss(BATCH).item() == values[0]
    assert de.loss(BATCH).item() != values[0]  # the next batch of the epoch


def test_the_temperature_of_an_epoch(student, teacher):
    for variant, clocks in (("published_code", [0, 0, 499, 999]), ("paper", [0, 1, 500, 1000])):
        de = experts(student, teacher, variant=variant)
        for epoch, clock in zip((0, 1, 500, 1000), clocks, strict=True):
            de.begin_epoch(epoch)
            assert de.tau == pytest.approx(10 ** (-clock / 100))


def test_the_preferred_expert_of_everybody(student, teacher, split):
    de = experts(student, teacher)
    found = de.most_probable_experts()
    assert found["user"].shape == (split.num_users,)
    assert found["item"].shape == (split.num_items,)
    one = torch.tensor([17])
    alpha = de.selectors["item"](teacher.representations(one, one)["item"])
    assert found["item"][17] == alpha.argmax()
    with pytest.raises(UserError, match=r"--save_selection: .* no experts of their own"):
        experts(student, teacher, expert_selection="one_large").most_probable_experts()


class Pairs(Recommender):
    """A model that encodes users and items jointly: ``w . (p * q)``."""

    def __init__(self, num_users: int, num_items: int, dim: int, seed: int) -> None:
        super().__init__(num_users, num_items, dim)
        generator = torch.Generator().manual_seed(seed)
        self.user = nn.Parameter(torch.randn(num_users, dim, generator=generator))
        self.item = nn.Parameter(torch.randn(num_items, dim, generator=generator))
        self.w = nn.Parameter(torch.ones(dim))

    def representations(self, users, items):
        return {"pair": self.user[users] * self.item[items]}

    def score(self, users, items):
        if users.dim() < items.dim():
            users = users.unsqueeze(1)
        elif items.dim() < users.dim():
            items = items.unsqueeze(1)
        return (self.user[users] * self.item[items]) @ self.w

    def score_all(self, users):
        return self.user[users] * self.w @ self.item.T

    def loss(self, users, positives, negatives):
        raise NotImplementedError


def test_distillers_know_a_model_by_scores_and_representations_alone(teacher, split):
    size = split.num_users, split.num_items
    other = type(teacher)(Pairs(*size, 6, seed=1), split, teacher.path)
    student = Pairs(*size, 3, seed=0)
    # The lists beside that checkpoint are of the other teacher, so they are made here.
    top = torch.cat([scores.topk(50).indices for scores in other._unseen_scores("users", 50)])
    other.top_users = lambda _: top.int()
    everything = other.model.score_all(torch.arange(split.num_users))
    everything[split.train_users, split.train_items] = -torch.inf
    assert torch.equal(everything.T.topk(50).values, everything.T.gather(1, top))
    other.top_items = lambda _: everything.topk(50).indices.int()
    de = experts(student, other, expert_selection="one_small")
    rrd = RRD(student, other, K=3, L=2, T=3.0, pool=50)
    item_side = ItemSideRRD(rrd, student, other, K=3, L=2, T=3.0, pool=50)
    assert list(de.experts) == ["pair"]
    assert de.experts["pair"].weight1.shape == (1, 3, 4)
    for distiller in (de, rrd, item_side):
        distiller.begin_epoch(0)
        distiller.loss(BATCH).backward()
        assert student.user.grad.abs().sum() > 0
        student.zero_grad()
    pairs = [(u, i) for row in BATCH[1:] for u, i in zip(BATCH[0], row, strict=True)]
    expected = 0.0
    for user, item in pairs:
        h_s, h_t = (m.representations(user.view(1), item.view(1))["pair"] for m in (student, other))
        expected += (h_t - de.experts["pair"](h_s, torch.ones(1, 1))).square().sum().item() / 2
    assert de.loss(BATCH).item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UserError, match="no experts of their own"):
        experts(student, other).most_probable_experts()


# --- what they share ---------------------------------------------------------------------------


def all_distillers(student, teacher) -> list[nn.Module]:
    rrd = RRD(student, teacher, K=3, L=2, T=3.0, pool=50)
    return [
        experts(student, teacher, expert_selection="attention"),
        rrd,
        ItemSideRRD(rrd, student, teacher, K=3, L=2, T=3.0, pool=50),
    ]


def test_repeats_that_weigh_nothing_change_neither_loss_nor_gradient(student, teacher, monkeypatch):
    """What is done where distinct values cannot be counted without waiting for the device."""
    for distiller in all_distillers(student, teacher):
        module = next(m for m in (distillers.de, distillers.rrd, distillers.ir)
                      if m.__name__ == type(distiller).__module__)  # fmt: skip
        if hasattr(distiller, "rrd"):
            distiller.rrd.begin_epoch(0)
        distiller.begin_epoch(0)
        found = []
        for replaced in (False, True):
            with monkeypatch.context() as patch:
                if replaced:
                    patch.setattr(module, "distinct", distinct_by_weight)
                loss = distiller.loss(BATCH)
            loss.backward()
            modules = (student, distiller)
            found.append((loss, [p.grad.to_dense() for m in modules for p in m.parameters()
                                 if p.grad is not None]))  # fmt: skip
            for m in modules:
                m.zero_grad()
        torch.testing.assert_close(found[0], found[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device at hand")
def test_cuda_gives_the_losses_of_the_cpu_and_never_waits(student, teacher, split):
    copy = build_model("BPR", split.num_users, split.num_items, 8, seed=0).cuda()
    copy.load_state_dict(student.state_dict())
    moved = Teacher(deepcopy(teacher.model).cuda(), split, teacher.path)
    for mine, theirs in zip(
        all_distillers(student, teacher), all_distillers(copy, moved), strict=True
    ):
        for distiller in (mine, theirs):
            if hasattr(distiller, "rrd"):
                distiller.rrd.begin_epoch(0)
            distiller.begin_epoch(0)
        theirs.load_state_dict(mine.state_dict())
        for name in {"items", "users"} & vars(mine).keys():  # the same lists
            setattr(theirs, name, getattr(mine, name).cuda())
        if hasattr(mine, "rrd"):
            theirs.rrd.items = mine.rrd.items.cuda()
        batch = BATCH.cuda()
        theirs.loss(batch)  # kernels are loaded
        torch.cuda.set_sync_debug_mode("error")
        loss = theirs.loss(batch)
        loss.backward()
        torch.cuda.set_sync_debug_mode("default")
        torch.testing.assert_close(loss.cpu(), mine.loss(BATCH), rtol=1e-4, atol=1e-4)


def test_the_teacher_is_never_trained(student, teacher, split):
    before = {name: value.clone() for name, value in teacher.model.state_dict().items()}
    digest = sha256_of(teacher.path)
    for distiller in all_distillers(student, teacher):
        assert not any(p is q for p in distiller.parameters() for q in teacher.model.parameters())
        distiller.train()
        if hasattr(distiller, "rrd"):
            distiller.rrd.begin_epoch(0)
        distiller.begin_epoch(0)
        optimizer = torch.optim.SGD([*student.parameters(), *distiller.parameters()], lr=0.01)
        for batch in itertools.islice(PairSampler(split, 256, 0, "cpu").epoch(0), 3):
            distiller.loss(batch).backward()
            optimizer.step()
    assert not teacher.model.training  # no dropout
    for parameter in teacher.model.parameters():
        assert not parameter.requires_grad
        assert parameter.grad is None
    for name, value in teacher.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert sha256_of(teacher.path) == digest


def test_a_distiller_does_not_own_the_student(student, teacher):
    mine = set(student.parameters())
    for distiller in all_distillers(student, teacher):
        assert not mine & set(distiller.parameters())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"K": 51}, "51 interesting items do not fit into the teacher's lists of 50"),
        ({"L": 1990}, "1990 uninteresting items do not fit"),
        ({"pool": 1998}, "lists of 1998 items are too long: synthetic has 1,998 items"),
    ],
)
def test_lists_that_cannot_be_are_refused(student, teacher, changes, words):
    with pytest.raises(UserError, match=words):
        RRD(student, teacher, **{"K": 3, "L": 2, "T": 3.0, "pool": 50} | changes)


def test_lists_of_users_that_cannot_be_are_refused(student, teacher):
    with pytest.raises(UserError, match=r"51 interesting users do not fit .* smaller --K_I"):
        ItemSideRRD(SimpleNamespace(), student, teacher, K=51, L=2, T=3.0, pool=50)
