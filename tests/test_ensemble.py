"""Ensembles of teachers: scores against dense arithmetic, lists, and what scripts make of them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import run, settings, split_of

import main_DE
import main_no_KD
import main_S2D
import main_TAKD
import main_URRD
from experiments.teacher import load_teacher
from Models import build_model
from Models.ensemble import Ensemble
from Models.teacher import top_lists
from Utils.errors import UserError
from Utils.evaluation import Evaluator

SPLIT = split_of(40, 30)
WEIGHTS = [2.0, 1.0, 1.0]
CPU = torch.device("cpu")


def members(*names):
    models = [build_model(name, SPLIT, 4, seed=place) for place, name in enumerate(names)]
    for model in models:
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(3))
    return [model.eval().requires_grad_(False).double() for model in models]


def dense(models, combine):
    """The combined scores of everybody, from whole matrices."""
    total = np.zeros((SPLIT.num_users, SPLIT.num_items))
    for model, weight in zip(models, WEIGHTS, strict=False):
        scores = model.score_all(torch.arange(SPLIT.num_users)).numpy()
        for u, row in enumerate(scores):
            if combine == "scores":
                value = (row - row.mean()) / row.std(ddof=1)
            else:
                value = -np.log([1 + (row > each).sum() for each in row])
            total[u] += weight / sum(WEIGHTS[: len(models)]) * value
    return torch.from_numpy(total)


@pytest.mark.parametrize("combine", ["scores", "ranks"])
@pytest.mark.parametrize("names", [("BPR", "LightGCN"), ("BPR", "NeuMF", "iALS")])
def test_scores_are_those_of_dense_arithmetic(monkeypatch, combine, names):
    monkeypatch.setattr("Models.ensemble.CHUNK", 7)
    models = members(*names)
    ensemble = Ensemble(SPLIT, models, WEIGHTS[: len(models)], combine)
    expected = dense(models, combine)
    users, items = torch.tensor([3, 0, 39, 3]), torch.tensor([[1, 2], [0, 0], [29, 5], [4, 1]])
    lists = torch.tensor([[3, 0], [0, 0], [39, 5], [4, 1]])
    torch.testing.assert_close(ensemble.score_all(users), expected[users])
    torch.testing.assert_close(ensemble.score(users, items), expected[users].gather(1, items))
    torch.testing.assert_close(ensemble.score(users, items[:, 0]), expected[users, items[:, 0]])
    of_users = expected.T[items[:, 0]].gather(1, lists)
    torch.testing.assert_close(ensemble.score(lists, items[:, 0]), of_users)
    factors = ensemble.encode()
    assert (factors is None) == (combine == "ranks" or "NeuMF" in names)
    if factors:
        torch.testing.assert_close(factors[0] @ factors[1].T, expected)
    for kind, scores in (("items", expected), ("users", expected.T.clone())):
        rows, columns = torch.from_numpy(SPLIT.train_users), torch.from_numpy(SPLIT.train_items)
        pairs = (rows, columns) if kind == "items" else (columns, rows)
        scores = scores.clone()
        scores[pairs] = -torch.inf
        found = top_lists(ensemble, SPLIT, kind, 5).long()
        best = scores.topk(5).values
        torch.testing.assert_close(scores.gather(1, found), best)


def test_equal_scores_of_a_user_do_no_harm():
    model = members("BPR")[0]
    model.user.weight[3] = 0
    scores = Ensemble(SPLIT, [model], [1.0], "scores").score_all(torch.tensor([3]))
    assert (scores == 0).all()


@pytest.fixture
def pair(workdir, teacher_path):
    """A teacher of BPR and one of iALS, as ``--teachers`` takes them."""
    run(main_no_KD, model="iALS", dim=16, alpha=20.0, ridge=20.0, max_epoch=6, name="member")
    (other,) = workdir.rglob("no_KD-member/seed0/best.pt")
    return f"{teacher_path},{other}"


def ensemble(pair, split, **given):
    return load_teacher(settings(main_URRD, teachers=pair, dim=8, **given), split, CPU)


def test_it_is_measured_said_and_kept(pair, split, workdir):
    found = ensemble(pair, split, teacher_weights="1,3")
    said = found.describe()
    assert "scores of BPR d=16, iALS d=16 x 3 averaged" in said
    value = Evaluator(split, CPU).evaluate(found.model)[0]["test_H@5"]
    assert f"test H@5 {value:.4f}" in said
    assert value > 0.2
    top = found.top_items(20)
    kept = workdir.rglob("ensembles/*/seed0/top_items.npz")
    assert len(list(kept)) == 1
    torch.testing.assert_close(ensemble(pair, split, teacher_weights="1,3").top_items(20), top)
    assert not torch.equal(ensemble(pair, split).top_items(20), top)
    assert not torch.equal(ensemble(pair, split, combine="ranks").top_items(20), top)
    assert [len(member.members) for member in found.members] == [1, 1]


def test_students_learn_from_it(pair, workdir):
    for script, more in ((main_URRD, {}), (main_S2D, {"K": 30})):
        run(script, teachers=pair, dim=8, max_epoch=2, **more)
    configs = [json.loads(path.read_text()) for path in workdir.glob("logs/*/*-d8/*/*/config.json")]
    assert len(configs) == 2
    for config in configs:
        (teacher,) = config["teachers"]
        assert [member["model"] for member in teacher["members"]] == ["BPR", "iALS"]
        assert teacher["metrics"]["test_H@5"] > 0.2


def test_what_cannot_be_is_refused_in_a_line(pair, split, teacher_path):
    wanted = {
        "name each once": {"teachers": f"{teacher_path},{teacher_path}"},
        "a number above 0 for each of the 2": {"teachers": pair, "teacher_weights": "1,0"},
        "of the 2 teachers": {"teachers": pair, "teacher_weights": "1,2,3"},
        "use one of them": {"teachers": pair, "teacher": str(teacher_path)},
        "did you mean BPR": {"teachers": "BRP,iALS"},
        "elsewhere/BPR: no such file; name another of --teachers": {"teachers": "elsewhere/BPR"},
    }
    for text, given in wanted.items():
        with pytest.raises(UserError, match=text):
            load_teacher(settings(main_URRD, dim=8, **given), split, CPU)
    with pytest.raises(UserError, match="lists and scores, but no representations"):
        run(main_DE, teachers=pair, dim=8)
    with pytest.raises(UserError, match="which assistants learn"):
        run(main_TAKD, teachers=pair, dim=8)


def test_another_splits_member_is_refused(pair, split):
    other = replace(split, name="seed1", test=split.valid, valid=split.test)
    with pytest.raises(UserError, match="split"):
        ensemble(pair, other)
