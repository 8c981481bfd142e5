"""A teacher's space of users: components, groups, and the file that keeps them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run

import main_no_KD
from experiments import user_space as script
from experiments.user_space import Settings, user_space
from Utils.errors import UserError
from Utils.files import sha256_of
from Utils.sources import load_interactions
from Utils.split import leave_one_out


@pytest.fixture
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """500 points of 8 dimensions in 5 far clusters of 100, and the cluster of each."""
    rng = np.random.default_rng(0)
    cluster = rng.permutation(np.repeat(np.arange(5), 100))
    centres = 20 * np.eye(8)[:5] + 3
    return (centres[cluster] + rng.normal(size=(500, 8))).astype(np.float32), cluster


def test_far_clusters_are_the_groups(blobs):
    points, cluster = blobs
    coordinates, groups = user_space(points, 5, seed=0)
    assert (coordinates.dtype, groups.dtype) == (np.float32, np.int8)
    assert (coordinates.shape, groups.shape) == ((500, 2), (500,))
    pairs = set(zip(cluster.tolist(), groups.tolist(), strict=True))
    assert len(pairs) == len({group for _, group in pairs}) == 5


def test_components_are_eigenvectors_of_the_covariance():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(300, 6)) * [1, 5, 2, 0.5, 3, 1] @ rng.normal(size=(6, 6)) + 4
    coordinates, _ = user_space(points, 3, seed=0)
    variances, vectors = np.linalg.eigh(np.cov(points.T))
    for component, vector, variance in zip(
        coordinates.T, vectors.T[::-1], variances[::-1], strict=False
    ):
        expected = (points - points.mean(axis=0)) @ vector
        sign = np.sign(vector[np.abs(vector).argmax()])  # the largest weight is positive
        assert component == pytest.approx(sign * expected, abs=1e-4)
        assert component.var(ddof=1) == pytest.approx(variance, rel=1e-4)


def test_the_seed_alone_decides(blobs):
    points = np.random.default_rng(2).normal(size=(400, 8))  # without clusters of its own
    first, again, other = (user_space(points, 20, seed) for seed in (0, 0, 1))
    for one, same in zip(first, again, strict=True):
        assert np.array_equal(one, same)
    assert np.array_equal(first[0], other[0])
    assert not np.array_equal(first[1], other[1])


# --- the script ----------------------------------------------------------------------------------

ARGS = Settings(dataset="synthetic", dim=16, seed=1)
FOLDER = Path("synthetic/BPR-d16/no_KD/seed1")


def train(**changes) -> None:
    """Train the teacher of ``ARGS``, or a part of it."""
    values = {"dim": 16, "seed": 1, "lr": 0.01, "reg": 0.001, "max_epoch": 2}
    run(main_no_KD, **values | changes)


@pytest.mark.parametrize("model", ["BPR", "NeuMF"])
def test_a_teachers_space_is_written_beside_its_logs(model, workdir, capsys):
    train(model=model)
    script.main(replace(ARGS, model=model))
    folder = Path(f"synthetic/{model}-d16/no_KD/seed1")
    kept = np.load("logs" / folder / "user_space.npz")
    weights = Path("checkpoints") / folder / "best.pt"
    assert kept["teacher_sha256"] == sha256_of(weights)
    tables = torch.load(weights, weights_only=True)["weights"]
    names = {"BPR": ["user.weight"], "NeuMF": ["gmf.user.weight", "mlp.user.weight"]}[model]
    embeddings = torch.cat([tables[name] for name in names], dim=1).numpy()
    coordinates, groups = user_space(embeddings, 20, seed=1)
    assert np.array_equal(kept["coordinates"], coordinates)
    assert np.array_equal(kept["groups"], groups)
    assert set(groups) <= set(range(20))
    counts = np.load("logs" / folder / "activity.npz")
    data = leave_one_out(load_interactions("synthetic", "unused"), 1, "synthetic")
    for kind, of in (("user", data.train_users), ("item", data.train_items)):
        assert counts[kind].tolist() == [np.sum(of == each) for each in range(len(counts[kind]))]
    assert (len(counts["user"]), len(counts["item"])) == (data.num_users, data.num_items)
    assert "1,000 users in 20 groups" in capsys.readouterr().out


def test_a_missing_teacher_is_named_with_its_command(workdir):
    with pytest.raises(UserError) as caught:
        script.main(ARGS)
    (line,) = str(caught.value).splitlines()
    path = f"checkpoints/{FOLDER}/best.pt"
    command = "python main_no_KD.py --dataset=synthetic --model=BPR --seed=1 --dim=16"
    assert line.startswith(f"{path}: no such file; train this teacher: {command}")
    assert not Path("checkpoints").exists()
    assert not Path("logs").exists()


def test_the_teacher_of_the_paper_is_the_default(workdir):
    for model, dim in (("BPR", 200), ("NeuMF", 250)):
        with pytest.raises(UserError, match=f"{model}-d{dim}/no_KD/seed0/best.pt: no such file"):
            script.main(Settings(dataset="synthetic", model=model))


def test_an_unfinished_or_foreign_teacher_is_refused(workdir):
    train()
    path = Path("checkpoints") / FOLDER / "best.pt"
    content = torch.load(path, weights_only=True)
    for name, value in (("finished", False), ("split_sha256", "another")):
        torch.save(content | {name: value}, path)
        with pytest.raises(UserError, match=f"its {name} is {value}, .*train this teacher"):
            script.main(ARGS)
    assert not Path("logs", FOLDER, "user_space.npz").exists()


def test_an_unknown_model_or_data_set_is_refused(workdir):
    with pytest.raises(UserError, match=r"--dataset 'synthetics' is unknown; did you mean synthe"):
        script.main(replace(ARGS, dataset="synthetics"))
    with pytest.raises(UserError, match=r"--model 'BRP' is unknown; did you mean BPR\?"):
        script.main(replace(ARGS, model="BRP"))
