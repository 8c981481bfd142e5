"""Losses against slow loops, sampling against known frequencies, and what distillers may touch."""

import itertools
import math
import sys
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import chisquare

from Models import build_model, distillers
from Models.distillers import CD, CLDRD, DE, PHR, RD, RRD, UCD, HyperKDMA, ItemSideRRD
from Models.distillers.distiller import Distiller, RepresentationDistiller
from Models.distillers.rd import discrepancy_weights, position_weights
from Models.distillers.rrd import relaxed_ranking_loss
from Models.distillers.sampling import RankingLists
from Models.recommender import Recommender
from Models.teacher import TrainedTeacher, top_lists
from Utils.dataset import Pairs, PairSampler, Users, distinct_by_weight
from Utils.errors import UserError
from Utils.files import sha256_of
from Utils.seeding import Draws

BATCH = Pairs(*torch.tensor([[3, 5, 3, 9, 5, 3], [7, 8, 9, 7, 7, 1], [1, 7, 7, 30, 2, 7]]))

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


@pytest.mark.parametrize("spread", [79.0, 81.0])  # on either side of where log space begins
def test_the_loss_is_right_for_scores_far_apart(spread):
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(20, 9, generator=generator) * (spread - 1)
    scores[:, 2], scores[:, 7] = 0, spread
    scores.requires_grad_()
    loss = relaxed_ranking_loss(scores[:, :5], scores[:, 5:])
    exact = scores.detach().double().requires_grad_()
    expected = sum(exact[:, k:].logsumexp(dim=1) - exact[:, k] for k in range(5))
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    (found,), (gradient,) = (
        torch.autograd.grad(value.sum(), of) for value, of in ((loss, scores), (expected, exact))
    )
    torch.testing.assert_close(found.double(), gradient, rtol=1e-4, atol=1e-5)


# --- the lists -------------------------------------------------------------------------------


def lists(K=2, L=3, T=2.0, pool=6, columns=20, rows=1, **changes) -> RankingLists:
    """Row r has the list 19, 18, ... and the training pairs (r, 0), (r, 1)."""
    top = torch.arange(columns - 1, columns - 1 - pool, -1).int().expand(rows, -1)
    seen = torch.cartesian_prod(torch.arange(rows), torch.arange(2)).T.numpy()
    other = {"interesting": "sampled", "below_drawn": False, "draws": Draws(0), "kind": "items"}
    return RankingLists(top, tuple(seen), columns, K=K, L=L, T=T, **other | changes)


def test_interesting_ones_are_drawn_without_replacement_by_rank():
    """All pairs of 6, with the probability of both orders in which they can be drawn."""
    T, rows = 2.0, 30_000
    places = 19 - lists(T=T, rows=rows).draw(0)[:, :2]  # 0 is the best
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
    below = lists(rows=rows, K=2, L=3, pool=6, columns=20).draw(0)[:, 2:]
    ordered = below.sort(dim=1).values
    assert (ordered.diff(dim=1) > 0).all()
    assert set(below.unique().tolist()) == set(range(2, 14))  # no training pair, not in the list
    sets = torch.unique(ordered, dim=0, return_counts=True)[1]
    assert len(sets) == math.comb(12, 3)
    assert chisquare(sets.numpy()).pvalue > 1e-3


def test_uninteresting_ones_of_the_paper_rank_below_those_drawn():
    above, below = lists(rows=5_000, below_drawn=True).draw(0).split([2, 3], dim=1)
    assert (below.max(dim=1).values < above[:, -1]).all()  # here a smaller id ranks lower
    assert (below >= 2).all()
    assert below.max() > 13  # some of the list itself
    lowest_first = above[:, -1] == 18  # the two best were drawn: 2 to 17 are left
    counts = torch.bincount(below[lowest_first].flatten(), minlength=18)[2:18]
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_the_teachers_first_can_be_taken_without_drawing():
    generated = lists(rows=3, K=4, interesting="top")
    for epoch in range(2):
        assert generated.draw(epoch)[:, :4].tolist() == [[19, 18, 17, 16]] * 3


def test_lists_of_all_there_is():
    above, below = lists(K=6, L=12).draw(0).split([6, 12], dim=1)
    assert above.tolist() == [[19, 18, 17, 16, 15, 14]]
    assert sorted(below[0].tolist()) == list(range(2, 14))


def test_lists_depend_on_seed_kind_and_epoch_alone():
    first = lists(rows=50)
    first.draw(3)
    again = first.draw(2)
    assert torch.equal(again, lists(rows=50).draw(2))
    for changes, epoch in (({}, 3), ({"draws": Draws(1)}, 2), ({"kind": "users"}, 2)):
        assert not torch.equal(again, lists(rows=50, **changes).draw(epoch))


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

    users, positives, negatives = (column.tolist() for column in BATCH)
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


def neumf_pair(split, teacher) -> tuple[Recommender, TrainedTeacher]:
    """A student and a teacher that encode users and items jointly."""
    models = []
    for dim, seed in ((4, 0), (6, 1)):
        models.append(build_model("NeuMF", split, dim, seed=seed))
        for parameter in models[-1].parameters():
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(seed))
    return models[0], TrainedTeacher(models[1], split, teacher.path)


def test_pairs_have_one_set_of_experts(teacher, split):
    student, other = neumf_pair(split, teacher)
    de = experts(student, other, expert_selection="one_small")
    assert list(de.experts) == ["pair"]
    assert de.experts["pair"].weight1.shape == (1, 8, 10)
    pairs = [(u, i) for row in BATCH[1:] for u, i in zip(BATCH[0], row, strict=True)]
    expected = 0.0
    for user, item in pairs:
        h_s, h_t = (m.representations(user.view(1), item.view(1))["pair"] for m in (student, other))
        expected += (h_t - de.experts["pair"](h_s, torch.ones(1, 1))).square().sum().item() / 2
    assert de.loss(BATCH).item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UserError, match="no experts of their own"):
        experts(student, other).most_probable_experts()


def test_pairs_weigh_one_in_the_papers_variant(teacher, split):
    student, other = neumf_pair(split, teacher)
    de = experts(student, other, expert_selection="one_small", variant="paper")
    expected = 0.0
    for user, item in [(u, i) for row in BATCH[1:] for u, i in zip(BATCH[0], row, strict=True)]:
        h_s, h_t = (m.representations(user.view(1), item.view(1))["pair"] for m in (student, other))
        expected += (h_t - de.experts["pair"](h_s, torch.ones(1, 1))).norm().item()
    assert de.loss(BATCH).item() == pytest.approx(expected, rel=1e-5)


def test_users_and_items_of_a_joint_model_can_be_distilled_apart(teacher, split):
    student, other = neumf_pair(split, teacher)
    de = experts(student, other, layer="embeddings", expert_selection="one_small")
    assert de.experts["user"].weight1.shape == (1, 8, 10)
    apart = [SimpleNamespace(representations=m.embeddings) for m in (student, other)]
    users, items = (
        BATCH[0].unique().tolist(),
        [BATCH[1].unique().tolist(), BATCH[2].unique().tolist()],
    )
    expected = sum(slow_distances(de, *apart, "user", users, torch.ones(len(users), 1)))
    for half in items:
        expected += sum(slow_distances(de, *apart, "item", half, torch.ones(len(half), 1))) / 2
    assert de.loss(BATCH).item() == pytest.approx(expected, rel=1e-5)
    found = experts(student, other, layer="embeddings").most_probable_experts()
    assert found["item"].shape == (split.num_items,)


def test_layers_that_do_not_match_are_refused(student, teacher, split):
    pairs, other = neumf_pair(split, teacher)
    for mine, theirs, words in ((pairs, teacher, "each user and item, .* each pair;"),
                                (student, other, "each pair, .* each user and item;")):  # fmt: skip
        with pytest.raises(UserError, match=f"{words} use a teacher of the same base model, or --"):
            experts(mine, theirs)
        de = experts(mine, theirs, layer="embeddings")  # these match
        de.begin_epoch(0)
        assert de.loss(BATCH) > 0
        rrd = RRD(mine, theirs, K=3, L=2, T=3.0, pool=50)  # and scores always do
        rrd.begin_epoch(0)
        assert rrd.loss(BATCH) > 0


# --- RD ----------------------------------------------------------------------------------------


def test_position_weights_fall_exponentially_and_sum_to_one():
    # exp(-1/2), exp(-2/2), exp(-3/2) are 0.6065, 0.3679, 0.2231, in all 1.1975.
    expected = torch.tensor([0.5065, 0.3072, 0.1863])
    torch.testing.assert_close(position_weights(3, 2.0), expected, rtol=0, atol=1e-4)


def test_discrepancy_weights_by_hand():
    # Of the 4 sampled, 0, 2 and 4 score higher than the teacher's three: ranks 1, 51 and 101 of
    # 101, at places 1, 2 and 3: off by 0, 49 and 98. Equal scores are not higher.
    scores, sampled = torch.tensor([[5.0, 2.0, -1.0]]), torch.tensor([[2.0, 4.0, 0.0, 3.0]])
    found = discrepancy_weights(scores, sampled, num_items=101, mu=0.01)
    expected = torch.tensor([[0.0, math.tanh(0.49), math.tanh(0.98)]])
    torch.testing.assert_close(found, expected)
    # With 100 items: ranks 1, 1 + floor(49.5) and 100.
    found = discrepancy_weights(scores, sampled, num_items=100, mu=0.01)
    torch.testing.assert_close(found[0, 1:], torch.tensor([0.48, 0.97]).tanh())
    # Better than the teacher has it: no weight, not a negative one.
    found = discrepancy_weights(torch.tensor([[0.0, 9.0]]), sampled, num_items=100, mu=1.0)
    assert found[0, 1] == 0


def ranking_distillation(student, teacher, **changes) -> RD:
    settings = {"K": 4, "T": 2.0, "mu": 0.01, "num_samples": 7, "warm_up": 2, "seed": 0}
    return RD(student, teacher, **settings | changes)


@pytest.mark.parametrize(
    ("variant", "by"),
    [
        ("published_code", "hybrid"),
        ("paper", "hybrid"),
        ("published_code", "position"),
        ("published_code", "discrepancy"),
        ("published_code", "uniform"),
    ],
)
def test_rd_weighs_the_teachers_first_items(student, teacher, split, variant, by):
    rd = ranking_distillation(student, teacher, variant=variant, weights=by)
    position = position_weights(4, 2.0).tolist()
    position = position if by in ("hybrid", "position") else [0.25] * 4
    seen = training_pairs(split)
    for epoch in (0, 1, 2):
        rd.begin_epoch(epoch)
        expected = 0.0
        for user in {3, 5, 9}:
            everything = teacher.model.score_all(torch.tensor([user]))[0]
            unseen = [i for i in range(split.num_items) if (user, i) not in seen]
            top = sorted(unseen, key=lambda i: -everything[i].item())[:4]
            scores = student.score_all(torch.tensor([user]))[0].tolist()
            weights = position
            if epoch == 2 and by in ("hybrid", "discrepancy"):  # after the warm-up
                sampled = rd.samples[user].tolist()
                assert len(set(sampled)) == 7
                assert not {(user, i) for i in sampled} & seen
                weights = []
                for place, item in enumerate(top, start=1):
                    above = sum(scores[i] > scores[item] for i in sampled)
                    rank = 1 + (split.num_items - 1) * above // 7
                    weights.append(position[place - 1] * math.tanh(max(0.01 * (rank - place), 0.0)))
                if variant == "paper":
                    weights = [weight / sum(weights) for weight in weights]
            for weight, item in zip(weights, top, strict=True):
                expected -= weight * math.log(1 / (1 + math.exp(-scores[item])))
        assert rd.loss(BATCH).item() == pytest.approx(expected, rel=1e-4)


def test_rd_has_nothing_to_say_where_all_is_in_place(student, teacher):
    """Hybrid weights that are all 0 are not divided by their sum."""
    rd = ranking_distillation(student, teacher, warm_up=0, variant="paper")
    rd.begin_epoch(0)
    rd.score = lambda users, items: (
        (9.0 if items.shape[1] == 4 else 0.0) + torch.zeros(items.shape, requires_grad=True)
    )
    assert rd.loss(BATCH).item() == 0.0


# --- CD ----------------------------------------------------------------------------------------


def collaborative(student, teacher, **changes) -> CD:
    settings = {"K": 5, "T": 3.0, "T1": 2.0, "T2": -0.5, "pool": 50, "seed": 0}
    return CD(student, teacher, **settings | changes)


def test_cd_is_binary_cross_entropy_with_soft_targets(student, teacher):
    cd = collaborative(student, teacher)
    cd.begin_epoch(0)
    assert cd.items.shape == (1000, 5)
    expected = 0.0
    for user in {3, 5, 9}:
        items, one = cd.items[user], torch.tensor([user])
        t, s = (m.score_all(one)[0][items].tolist() for m in (teacher.model, student))
        for a, b in zip(t, s, strict=True):
            q, p = 1 / (1 + math.exp(-(a - 0.5) / 2)), 1 / (1 + math.exp(-b))
            expected -= q * math.log(p) + (1 - q) * math.log(1 - p)
    assert cd.loss(BATCH).item() == pytest.approx(expected, rel=1e-5)


def test_cd_is_at_its_least_where_the_student_says_what_the_teacher_says(student, teacher):
    cd = collaborative(student, teacher)
    cd.begin_epoch(0)
    targets = cd.targets[torch.tensor([3, 5, 9])]
    logits = targets.logit().requires_grad_()
    cd.score = lambda users, items: logits
    (gradient,) = torch.autograd.grad(cd.loss(BATCH), logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-6)


def counts_of_draws(cd: CD, user: int, items: list[int], epochs: int) -> list[int]:
    drawn = []
    for epoch in range(epochs):
        cd.begin_epoch(epoch)
        assert cd.items[user].unique().numel() == cd.K
        drawn += cd.items[user].tolist()
    assert set(drawn) <= set(items)
    return [drawn.count(item) for item in items]


@pytest.mark.parametrize("sampling", ["teacher", "student"])
def test_cd_draws_by_rank(student, teacher, split, sampling):
    """One item a user, so that the frequencies are those of the weights."""
    cd = collaborative(student, teacher, K=1, pool=8, sampling=sampling, refresh=1000)
    guide = teacher.model if sampling == "teacher" else student
    scores = guide.score_all(torch.tensor([3]))[0]
    scores[[i for u, i in training_pairs(split) if u == 3]] = -torch.inf
    top = scores.topk(8).indices.tolist()
    found = counts_of_draws(cd, 3, top, 1500)
    weights = torch.exp(-torch.arange(8) / 3.0).double()
    assert chisquare(found, 1500 * weights / weights.sum()).pvalue > 1e-3


def test_cd_draws_uniformly_over_what_was_not_seen(student, teacher, split):
    cd = collaborative(student, teacher, sampling="uniform", K=40)
    seen = {i for u, i in training_pairs(split) if u == 3}
    unseen = [i for i in range(split.num_items) if i not in seen]
    found = counts_of_draws(cd, 3, unseen, 300)
    by_block = [sum(found[start::10]) for start in range(10)]
    sizes = [len(unseen[start::10]) for start in range(10)]
    assert chisquare(by_block, [12000 * size / len(unseen) for size in sizes]).pvalue > 1e-3


def test_the_students_list_is_made_anew_and_survives_a_resume(student, teacher, split):
    cd = collaborative(student, teacher, sampling="student", refresh=3)
    first = cd.top.clone()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.neg_()
        student.user.weight.add_(0.1)
    for epoch in (0, 1, 2):
        cd.begin_epoch(epoch)
        assert torch.equal(cd.top, first)
    other = collaborative(student, teacher, sampling="student", refresh=3)
    assert not torch.equal(other.top, first)
    other.load_state_dict(cd.state_dict())
    assert torch.equal(other.top, first)
    cd.begin_epoch(3)
    assert torch.equal(cd.top, top_lists(student, split, "items", 50))
    assert "top" not in collaborative(student, teacher).state_dict()  # the teacher's never changes


# --- what they share ---------------------------------------------------------------------------


def all_distillers(student, teacher, name="") -> list[Distiller]:
    """Those of representations first."""
    rrd = RRD(student, teacher, K=3, L=2, T=3.0, pool=50, name=name)
    assistants = [
        PHR(student, teacher, enrichment="none", target_dim=size, name=f"{name} {size}")
        for size in (10, 12)
    ]
    return [
        experts(student, teacher, expert_selection="attention", name=name),
        PHR(student, teacher, name=name),
        HyperKDMA(student, teacher, assistants, name=name),
        rrd,
        ItemSideRRD(rrd, student, teacher, K=3, L=2, T=3.0, pool=50, name=name),
        ranking_distillation(student, teacher, warm_up=0, name=name),
        collaborative(student, teacher, name=name),
        UCD(student, teacher, n=3, eps=0.1, pool=50, refresh=3, sampling="top", name=name),
        CLDRD(student, teacher, stage_epochs=1, name=name),
    ]


def test_two_of_a_kind_draw_alike_unless_they_are_named(student, teacher):
    """Weights, noise and lists of a second one in the same run are others by its name alone."""

    def drawn(name: str) -> list[torch.Tensor]:
        found = []
        for distiller in all_distillers(student, teacher, name=name):
            if hasattr(distiller, "rrd"):
                distiller.rrd.begin_epoch(0)
            distiller.begin_epoch(0)
            kept = {"items", "users", "samples"} & vars(distiller).keys()
            kept -= {"items"} if isinstance(distiller, RD | CLDRD) else set()  # the teacher's
            found += [getattr(distiller, each).flatten() for each in sorted(kept)]
            found += [parameter.detach().flatten() for parameter in distiller.parameters()]
        noise = experts(student, teacher, name=name)
        noise.begin_epoch(3)
        return [*found, torch.rand(9, generator=noise.noise)]

    first, same, other = drawn(""), drawn(""), drawn("second")
    assert len(first) > 10
    for mine, again, theirs in zip(first, same, other, strict=True):
        assert torch.equal(mine, again)
        if mine.numel() and mine.unique().numel() > 1:
            assert not torch.equal(mine, theirs)


def test_a_representation_distiller_takes_any_target(student, teacher):
    """An assistant between teacher and student would ask for the distance to its own."""
    de = experts(student, teacher, expert_selection="one_small")
    assert isinstance(de, RepresentationDistiller)
    (users, items), weights = de.entities(BATCH)
    assert users.tolist() == [3, 5, 9]
    assert weights["user"].tolist() == [1.0, 1.0, 1.0]
    h_s = student.representations(users, items)
    target = de.experts["user"](h_s["user"], torch.ones(3, 1)).detach()
    assert de.distance("user", h_s["user"], target).abs().max() < 1e-8
    nearer = de.distance("user", h_s["user"], target + 1)
    torch.testing.assert_close(nearer, torch.full((3,), 16.0), rtol=1e-4, atol=0)


def test_users_are_all_that_lists_need(student, teacher):
    """So that methods on lists serve a base model that trains on users and not on pairs."""
    for distiller in all_distillers(student, teacher)[3:]:
        if hasattr(distiller, "rrd"):
            distiller.rrd.begin_epoch(0)
        distiller.begin_epoch(0)
        assert torch.equal(distiller.loss(BATCH), distiller.loss(Users(BATCH.users)))


def test_repeats_that_weigh_nothing_change_neither_loss_nor_gradient(student, teacher, monkeypatch):
    """What is done where distinct values cannot be counted without waiting for the device."""
    for distiller in all_distillers(student, teacher):
        kinds = type(distiller), RepresentationDistiller
        places = [sys.modules[kind.__module__] for kind in kinds]
        if hasattr(distiller, "rrd"):
            distiller.rrd.begin_epoch(0)
        distiller.begin_epoch(0)
        found = []
        for replaced in (False, True):
            with monkeypatch.context() as patch:
                for place in places if replaced else ():
                    patch.setattr(place, "distinct", distinct_by_weight, raising=False)
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
    copy = build_model("BPR", split, 8, seed=0).cuda()
    copy.load_state_dict(student.state_dict())
    moved = TrainedTeacher(deepcopy(teacher.model).cuda(), split, teacher.path)
    for mine, theirs in zip(
        all_distillers(student, teacher), all_distillers(copy, moved), strict=True
    ):
        for distiller in (mine, theirs):
            if hasattr(distiller, "rrd"):
                distiller.rrd.begin_epoch(0)
            distiller.begin_epoch(0)
        theirs.load_state_dict(mine.state_dict())
        for name in {"items", "users", "samples", "targets"} & vars(mine).keys():  # the same lists
            setattr(theirs, name, getattr(mine, name).cuda())
        if hasattr(mine, "rrd"):
            theirs.rrd.items = mine.rrd.items.cuda()
        batch = Pairs(*(column.cuda() for column in BATCH))
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


def test_items_that_cannot_be_drawn_are_refused(student, teacher):
    with pytest.raises(UserError, match=r"--num_samples 1990: so many items do not fit beside \d+"):
        ranking_distillation(student, teacher, num_samples=1990)
    with pytest.raises(UserError, match=r"lists of 1998 items are too long: .* or --K without"):
        ranking_distillation(student, teacher, K=1998)
    with pytest.raises(UserError, match="--K 1990: so many items do not fit beside"):
        collaborative(student, teacher, sampling="uniform", K=1990)
    with pytest.raises(UserError, match="51 items do not fit into lists of 50; use a smaller --K"):
        collaborative(student, teacher, K=51)
