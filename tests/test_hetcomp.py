"""HetComp against a slow transcription: discrepancy, both losses, who rises when, lists."""

import math
from functools import cache, partial

import conftest
import numpy as np
import pytest
import torch
from conftest import TINY, killed_in, split_of

import main_HetComp
import main_no_KD
from Models import build_model
from Models.distillers import HetComp, hetcomp
from Models.distillers.hetcomp import discrepancy, list_loss
from Models.teacher import Teacher, top_lists
from Utils.dataset import Users
from Utils.errors import UserError

SPLIT = split_of(12, 90)
K, T, P = 55, 10.0, 10
USERS = torch.tensor([3, 0, 11, 3])
SMALL = {"dim": 8, "lr": 0.01, "batch_size": 200, "K": 60, "p": 3, "max_epoch": 12}
CPU = torch.device("cpu")
run = partial(conftest.run, dataset=TINY)


class Fake(Teacher):
    """A model that is asked, with states that are others."""

    def __init__(self, *seeds: int) -> None:
        self.split, self.device, self.sha256 = SPLIT, CPU, "hash"
        self.model = random_model(seeds[-1])
        self.earlier = [Fake(seed) for seed in seeds[:-1]]
        self.score = self.model.score

    def top_items(self, count):
        return top_lists(self.model, SPLIT, "items", count)

    @property
    def states(self):
        return [*self.earlier, self]


class Both(Fake):
    """Two teachers as one."""

    def __init__(self, *members: Teacher) -> None:
        super().__init__(7)
        self._members = list(members)

    @property
    def members(self):
        return self._members


def random_model(seed: int, std: float = 1.0):
    model = build_model("BPR", SPLIT, 6, seed=0)
    for parameter in model.parameters():
        generator = torch.Generator().manual_seed(seed)
        torch.nn.init.normal_(parameter, std=std, generator=generator)
    return model


@pytest.fixture
def student():
    return random_model(99)


@pytest.fixture
def teacher():
    return Both(Fake(1, 2, 3), Fake(4, 5, 6))


def distiller(student, teacher, **changes):
    return HetComp(student, teacher, **{"K": K, "T": T, "p": P, "threshold": 1.05, **changes})


def slow_discrepancy(best, permutation) -> float:
    dcg = ideal = 0.0
    for t, item in enumerate(best[:50]):
        gain = (2 ** math.exp(-t / 10) - 1) / math.log2(t + 2)
        ideal += gain
        dcg += gain * (item in permutation[:50])
    return 1 - dcg / ideal


def test_the_discrepancy_is_one_less_the_share_of_gain():
    draws = np.random.default_rng(0)
    best, lists = (np.stack([draws.permutation(120)[:50] for _ in range(9)]) for _ in range(2))
    lists[0] = best[0][::-1]
    found = discrepancy(torch.from_numpy(best), torch.from_numpy(lists))
    expected = [slow_discrepancy(a, b) for a, b in zip(best.tolist(), lists.tolist(), strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert found[0].item() == pytest.approx(0, abs=1e-6)


def slow_lists(teacher, state):
    """Each user's first K by the summed importance of places, and the importances."""
    found = []
    for u in range(SPLIT.num_users):
        total = {}
        for x, member in enumerate(teacher.members):
            items = member.states[state[u][x]].top_items(K)[u].tolist()
            for r, item in enumerate(items, 1):
                total[item] = total.get(item, 0) + math.exp(-r / T)
        found.append(sorted(total.values(), reverse=True)[:K])
        found[-1] = (found[-1], total)
    return found


def test_lists_are_those_of_the_summed_importance(student, teacher, monkeypatch):
    monkeypatch.setattr(hetcomp, "CHUNK", 5)
    method = distiller(student, teacher)
    state = np.random.default_rng(1).integers(0, 3, (SPLIT.num_users, 2))
    method.state.copy_(torch.from_numpy(state))
    method.begin_epoch(1)
    for items, (best, total) in zip(method.top.tolist(), slow_lists(teacher, state), strict=True):
        assert len(set(items)) == K
        assert [total[item] for item in items] == pytest.approx(best, rel=1e-5)


def background(scores, known):
    return sum(math.exp(s) for j, s in enumerate(scores) if j not in known)


def slow_list(scores, items, z):
    total = 0.0
    for k, item in enumerate(items):
        total -= scores[item] - math.log(sum(math.exp(scores[i]) for i in items[k:]) + z)
    return total


def slow_loss(method, student, teacher, ranks: bool) -> float:
    total = 0.0
    every = student.score_all(torch.arange(SPLIT.num_users)).double().tolist()
    teachers = teacher.model.score_all(torch.arange(SPLIT.num_users)).tolist()
    for u in set(USERS.tolist()):
        scores, seen = every[u], SPLIT.train_items[SPLIT.train_users == u].tolist()
        observed = sorted(seen, key=lambda i: -teachers[u][i])[:10]
        top = method.top[u].tolist()
        if not ranks:
            z = background(scores, {*seen, *top})
            for item in observed + top:
                total -= math.log(math.exp(scores[item]) / (math.exp(scores[item]) + z))
            continue
        fifty, ten = top[:50], top[:10]
        z50, z10 = (background(scores, {*seen, *part}) for part in (fifty, ten))
        total += slow_list(scores, observed, z50)
        total += (slow_list(scores, fifty, z50) + slow_list(scores, ten, z10)) / 2
    return total


@pytest.mark.parametrize("stages", ["overall", "rank"])
def test_losses_and_gradients_are_those_of_slow_loops(stages, student, teacher):
    method = distiller(student, teacher, stages=stages)
    method.begin_epoch(0)
    loss = method.loss(Users(USERS))
    expected = slow_loss(method, student, teacher, stages == "rank")
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    for table, rows in ((student.user.weight, (3, 0, 5)), (student.item.weight, (7, 50, 89))):
        gradient = table.grad.to_dense()
        for row in rows:
            kept = table.detach()[row, 2].item()
            values = []
            for step in (1e-2, -1e-2):
                table.detach()[row, 2] = kept + step
                values.append(slow_loss(method, student, teacher, stages == "rank"))
            table.detach()[row, 2] = kept
            slope = (values[0] - values[1]) / 2e-2
            assert gradient[row, 2].item() == pytest.approx(slope, rel=2e-3, abs=2e-3)


@pytest.mark.parametrize("stages", ["overall", "rank"])
def test_scores_far_apart_are_no_harm(stages, teacher):
    student = random_model(99, std=70.0)
    method = distiller(student, teacher, stages=stages)
    method.begin_epoch(0)
    loss = method.loss(Users(USERS))
    loss.backward()
    assert loss.isfinite()
    assert student.item.weight.grad.to_dense().isfinite().all()


def test_a_list_with_fewer_items_is_that_of_these():
    scores = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    real = torch.tensor([[True, True, False, False], [False] * 4])
    log_z = torch.tensor([[0.3], [0.1]])
    found = list_loss(scores, real, log_z)
    expected = slow_list(scores[0].tolist(), [0, 1], math.exp(0.3))
    assert found.tolist() == pytest.approx([expected, 0.0])
    found.sum().backward()
    assert (scores.grad[~real] == 0).all()
    assert scores.grad.isfinite().all()


def test_users_rise_when_they_are_near_enough_or_drift_away(student, teacher):
    """Eight constructions, with a student that changes, against a transcription in loops."""
    method = distiller(student, teacher)
    users, teachers = SPLIT.num_users, 2
    state = [[0] * teachers for _ in range(users)]
    anchor = [[0.0] * teachers for _ in range(users)]
    lists = [[each.top_items(50).tolist() for each in m.states] for m in teacher.members]
    seen = set()
    for step in range(9):
        epoch = P * step
        target = teacher.members[step % 2].states[min(step // 3, 2)].model
        with torch.no_grad():
            student.item.weight.lerp_(target.item.weight, 0.3)
            student.user.weight.lerp_(target.user.weight, 0.3)
        method.begin_epoch(epoch)
        best = top_lists(student, SPLIT, "items", 50).tolist()
        for u in range(users if epoch else 0):
            for x in range(teachers):
                far = slow_discrepancy(best[u], lists[x][min(state[u][x] + 1, 2)][u])
                if epoch == P:
                    anchor[u][x] = far
                    continue
                ratio = anchor[u][x] / far
                if ratio > 1.05 * 0.995 ** (epoch // P) or ratio < 1:
                    seen.add(ratio < 1)
                    state[u][x] = min(state[u][x] + 1, 2)
                    anchor[u][x] = slow_discrepancy(best[u], lists[x][min(state[u][x] + 1, 2)][u])
                else:
                    seen.add("stays")
        assert method.state.tolist() == state
        means = [round(sum(row[x] for row in state) / users, 2) for x in range(teachers)]
        assert method.ranks == (epoch >= 3 * P and means == [2.0, 2.0])
    assert seen == {True, False, "stays"}


@pytest.mark.parametrize(
    ("construction", "expected"), [("scheduled", [0, 1, 2, 2]), ("final", [2, 2, 2, 2])]
)
def test_other_constructions_ask_nobody(construction, expected, student, teacher):
    method = distiller(student, teacher, construction=construction)
    found, ranks = [], []
    for epoch in range(0, 4 * P, P):
        method.begin_epoch(epoch)
        found += method.state.unique().tolist()
        ranks.append(method.ranks)
    assert found == expected
    assert ranks == [False, False, False, True]


def test_what_it_cannot_learn_from_is_refused(student, teacher):
    with pytest.raises(UserError, match="the teachers have 3, 2 states"):
        distiller(student, Both(Fake(1, 2, 3), Fake(4, 5)))
    with pytest.raises(UserError, match=r"--K 40: HetComp compares the first 50"):
        distiller(student, teacher, K=40)


@pytest.fixture(scope="session")
def trajectories(tmp_path_factory):
    """Two teachers with states on shares of the tiny data."""
    folder = tmp_path_factory.mktemp("trajectories")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for model in ("BPR", "LightGCN"):
            given = {"model": model, "split": "share", "dim": 8, "lr": 0.01, "reg": 0.001}
            run(main_no_KD, **given, max_epoch=21, keep_states=3)
    return ",".join(str(path.parent) for path in sorted(folder.rglob("best.pt")))


def hetcomp_run(trajectories, **changes):
    given = {**SMALL, "split": "share", "teachers": trajectories, **changes}
    run(main_HetComp, **given)


def test_a_run_dies_and_goes_on_with_the_same_bytes(workdir, trajectories, monkeypatch):
    hetcomp_run(trajectories, name="whole")
    with killed_in(7, monkeypatch):
        hetcomp_run(trajectories, name="killed", batch_size=100)
    with killed_in(7, monkeypatch):
        hetcomp_run(trajectories, name="killed", batch_size=100, overwrite=True)
    hetcomp_run(trajectories, name="killed", batch_size=100, resume=True)
    hetcomp_run(trajectories, name="again", batch_size=100)
    files = {path.parent.parent.name: path for path in workdir.rglob("metrics.csv")}
    killed, again = (files[f"HetComp-{name}"].read_bytes() for name in ("killed", "again"))
    assert killed == again
    assert files["HetComp-whole"].read_bytes() != again


OTHER = {
    "K": 70, "T": 3.0, "p": 4, "threshold": 1.5, "construction": "scheduled", "stages": "rank",
    "lmbda_overall": 0.1, "base_loss": True, "reg": 0.1, "lr": 0.02, "combine": "ranks",
    "teacher_weights": "1,9",
}  # fmt: skip


@pytest.fixture(scope="module")
def curves(trajectories, tmp_path_factory):
    """The curves of a run with some settings, each run once."""

    @cache
    def curves(**changes) -> str:
        folder = tmp_path_factory.mktemp("acts")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            hetcomp_run(trajectories, **{"reg": 0.001, "max_epoch": 11, **changes})
        return next(folder.rglob("logs/**/metrics.csv")).read_text()

    return curves


@pytest.mark.parametrize("name", [*OTHER, "lmbda_rank"])
def test_every_setting_acts(name, curves):
    given = {"stages": "rank"} if name == "lmbda_rank" else {}
    assert curves(**given) != curves(**given, **{name: OTHER.get(name, 0.1)})


def test_a_teacher_without_states_is_refused(workdir, tiny_path):
    with pytest.raises(UserError, match="no states of earlier epochs"):
        run(main_HetComp, teacher=str(tiny_path), dim=8)
