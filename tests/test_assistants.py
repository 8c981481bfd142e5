"""PHR, DGKD and HyperKDMA against loops over entities; chains of assistants."""

import csv
import shutil
from collections import Counter
from functools import partial

import conftest
import numpy as np
import pytest
import torch
from conftest import TINY, TINY_NAME, killed_in, split_of
from scipy.stats import chisquare
from test_distillers import BATCH, neumf_pair

import experiments.settings
import experiments.teacher
import main_DE
import main_DETA
import main_DGKD
import main_TAKD
from experiments.script import start
from experiments.settings import COLUMNS, load_script
from experiments.teacher import assistant_sizes
from Models.distillers import DE, DGKD, PHR, HyperKDMA
from Models.distillers.distiller import Distiller
from Models.distillers.phr import enriched
from Utils.errors import UserError
from Utils.files import sha256_of

run = partial(conftest.run, dataset=TINY)
KIND = {"user": 0, "item": 1}
WEIGHTED = [("user", 0, 1.0), ("item", 1, 0.5), ("item", 2, 0.5)]  # kind, column of a batch, weight


def entities():
    """Yield kind, id and weight of what the loss of a batch is summed over."""
    for kind, column, weight in WEIGHTED:
        for one in BATCH[column].unique():
            yield kind, one.view(1), weight


def vector(model, kind: str, one: torch.Tensor) -> torch.Tensor:
    return model.representations(one, one)[kind]


# --- PHR -----------------------------------------------------------------------------------------


def slow_enriched(teacher, split, kind: str, one: int) -> torch.Tensor:
    """Equation 9 for one user or item."""
    own, other = (split.train_users, split.train_items)[:: 1 if kind == "user" else -1]
    near = [int(b) for a, b in zip(own, other, strict=True) if a == one]
    tables = teacher.model.encode()
    mean = sum(tables[1 - KIND[kind]][n] for n in near) / len(near)
    return (tables[KIND[kind]][one] + mean) / 2


@pytest.mark.parametrize("enrichment", ["none", "neighbours"])
def test_phr_is_the_distance_of_each_user_and_item(student, teacher, split, enrichment):
    phr = PHR(student, teacher, enrichment=enrichment)
    expected = 0.0
    for kind, one, weight in entities():
        h_t = vector(teacher, kind, one)
        context = h_t
        if enrichment == "neighbours" and (own := one.item()) in own_ids(split, kind):
            context = slow_enriched(teacher, split, kind, own)[None]
        mapped = phr.mapping(context, vector(student, kind, one))
        expected += weight * (h_t - mapped).square().sum().item()
    assert phr.loss(BATCH).item() == pytest.approx(expected, rel=1e-5)


def own_ids(split, kind: str) -> set[int]:
    return set((split.train_users, split.train_items)[KIND[kind]].tolist())


def test_who_has_no_neighbours_stands_for_itself():
    split = split_of(4, 30)  # items 26 to 29 are in no pair
    tables = {"user": torch.randn(4, 5), "item": torch.randn(30, 5)}
    found = enriched(tables, split)
    alone = sorted(set(range(30)) - own_ids(split, "item"))
    assert len(alone) > 3
    torch.testing.assert_close(found["item"][alone], tables["item"][alone])
    near = torch.from_numpy(split.train_items[split.train_users == 2])
    expected = (tables["user"][2] + tables["item"][near].mean(dim=0)) / 2
    torch.testing.assert_close(found["user"][2], expected)


def test_of_neumf_what_enters_the_product_is_matched(teacher, split):
    student, other = neumf_pair(split, teacher)
    phr = PHR(student, other, layer="gmf")
    users, items = BATCH.users.unique(), BATCH.positives.unique()
    for model in (student, other.model):
        found = model.gmf_embeddings(users, items)
        assert torch.equal(found["user"], model.gmf["user"](users))
        assert torch.equal(found["item"], model.gmf["item"](items))
    assert (phr.d_s, phr.d_t) == (4, 6)
    phr.loss(BATCH).backward()
    assert student.gmf["item"].weight.grad is not None
    assert student.mlp["item"].weight.grad is None
    with pytest.raises(UserError, match="--enrichment neighbours: a pair of user and item has no"):
        PHR(student, other)
    assert PHR(student, other, enrichment="none").loss(BATCH) > 0


# --- HyperKDMA -----------------------------------------------------------------------------------

SIZES = (10, 13)


def hyperkdma(student, teacher, kd: str = "PHR", **changes) -> HyperKDMA:
    """Two assistants; those of DE without noise, so that there is one right answer."""
    if kd == "PHR":
        settings = {"enrichment": "none"}
    else:
        settings = {"num_experts": 3, "tau_0": 1.0, "tau_P": 1e-10, "P": 1000}
        settings["expert_selection"] = "attention"
    assistants = [
        {"PHR": PHR, "DE": DE}[kd](student, teacher, target_dim=size, name=f"d={size}", **settings)
        for size in SIZES
    ]
    distiller = HyperKDMA(student, teacher, assistants, **changes)
    distiller.begin_epoch(0)
    return distiller


def slow_rebuilt(assistant, kind: str, context: torch.Tensor, h_s: torch.Tensor) -> torch.Tensor:
    """What an assistant's distance compares with the target."""
    if isinstance(assistant, PHR):
        return assistant.mapping(context, h_s)
    stack, alpha = assistant.experts[kind], assistant.selectors[kind](context)
    hidden = [torch.relu(h_s @ w + b) for w, b in zip(stack.weight1, stack.bias1, strict=True)]
    outputs = [h @ w + b for h, w, b in zip(hidden, stack.weight2, stack.bias2, strict=True)]
    return sum(alpha[:, m : m + 1] * output for m, output in enumerate(outputs))


@pytest.mark.parametrize("changes", [{}, {"projection": "shared"}, {"gate": "none"}])
@pytest.mark.parametrize("kd", ["DE", "PHR"])
def test_hyperkdma_is_the_gated_distance_to_each_assistant(student, teacher, kd, changes):
    distiller = hyperkdma(student, teacher, kd, **changes)
    expected = 0.0
    for kind, one, weight in entities():
        h_t, h_s = vector(teacher, kind, one), vector(student, kind, one)
        gates = torch.tensor([0.5, 0.5])
        if "gate" not in changes:
            gates = (h_t @ distiller.gate.weight + distiller.gate.bias).softmax(dim=1)[0]
        for i, (assistant, target) in enumerate(
            zip(distiller.assistants, distiller.projections(h_t), strict=True)
        ):
            assert target.shape == (1, SIZES[i])
            rest = target - slow_rebuilt(assistant, kind, target, h_s)
            expected += weight * gates[i].item() * rest.square().sum().item()
    assert distiller.loss(BATCH).item() == pytest.approx(expected, rel=1e-5)
    assert (len(distiller.projections.weight) == 0) == ("projection" in changes)


def test_the_gates_of_everybody_sum_to_one(student, teacher, split):
    found = hyperkdma(student, teacher).all_gates()
    assert found["user"].shape == (split.num_users, 2)
    assert found["item"].shape == (split.num_items, 2)
    for gates in found.values():
        np.testing.assert_allclose(gates.sum(axis=1, dtype=np.float32), 1, atol=1e-3)
    one = torch.tensor([17])
    h_t = vector(teacher, "item", one)
    gate = hyperkdma(student, teacher).gate(h_t)[0].detach()
    np.testing.assert_allclose(found["item"][17], gate, atol=1e-3)
    assert found["user"].std(axis=0).min() > 0  # personal
    assert set(hyperkdma(student, teacher, gate="none").all_gates()["user"].ravel()) == {0.5}


def test_pairs_have_no_gates_to_keep(teacher, split):
    distiller = hyperkdma(*neumf_pair(split, teacher))
    assert distiller.loss(BATCH) > 0
    with pytest.raises(UserError, match="--save_gates: users and items have no gates of their own"):
        distiller.all_gates()


def gradients(distiller, student) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Return loss, and its gradients for the student and for the hypernetwork."""
    for module in (distiller, student):
        module.zero_grad()
    loss = distiller.loss(BATCH)
    loss.backward()
    return loss.item(), student.user.weight.grad.to_dense(), distiller.projections.weight.grad


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("kd", ["DE", "PHR"])
def test_every_assistant_moves_student_and_hypernetwork(student, teacher, kd, which):
    distiller = hyperkdma(student, teacher, kd)
    before = gradients(distiller, student)
    columns = slice(0, SIZES[0]) if which == 0 else slice(SIZES[0], None)
    assert before[2][:, columns].abs().max() > 0
    with torch.no_grad():
        for parameter in distiller.assistants[which].parameters():
            parameter.mul_(1.5)
    after = gradients(distiller, student)
    assert after[0] != before[0]
    assert not torch.equal(after[1], before[1])
    assert not torch.equal(after[2][:, columns], before[2][:, columns])
    other = slice(SIZES[0], None) if which == 0 else slice(0, SIZES[0])
    torch.testing.assert_close(after[2][:, other], before[2][:, other])


@pytest.mark.parametrize("kd", ["DE", "PHR"])
def test_targets_held_fixed_teach_the_student_alike_and_the_hypernetwork_less(student, teacher, kd):
    found = [
        gradients(hyperkdma(student, teacher, kd, detach_targets=detached), student)
        for detached in (False, True)
    ]
    assert found[0][0] == found[1][0]
    torch.testing.assert_close(found[0][1], found[1][1])
    assert not torch.allclose(found[0][2], found[1][2])
    assert found[1][2].abs().max() > 0  # by what the distances depend on


def test_assistants_that_may_come_to_meet_the_student_do(student, teacher):
    """The published behaviour: with nothing but this loss, targets shrink towards nothing."""
    sizes = {}
    for detached in (False, True):
        distiller = hyperkdma(student, teacher, detach_targets=detached)
        everyone = teacher.model.encode()[0]
        before = torch.cat(distiller.projections(everyone), dim=1).norm()
        optimizer = torch.optim.Adam(distiller.projections.parameters(), lr=0.01)
        for _ in range(50):
            optimizer.zero_grad()
            distiller.loss(BATCH).backward()
            optimizer.step()
        sizes[detached] = torch.cat(distiller.projections(everyone), dim=1).norm() / before
    assert sizes[False] < 0.8 * sizes[True]


# --- DGKD ----------------------------------------------------------------------------------------


class Guide(Distiller):
    """Says its number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = torch.tensor(float(number))

    def loss(self, batch):
        return self.number


@pytest.mark.parametrize("num_dropped", [0, 1, 2])
def test_dgkd_leaves_out_as_many_guides_as_it_is_told(num_dropped):
    dgkd = DGKD([Guide(1), Guide(2), Guide(4)], num_dropped=num_dropped, seed=0)
    dgkd.begin_epoch(0)
    sums = [int(dgkd.loss(BATCH)) for _ in range(3000)]
    counts = Counter(sums)
    assert all(value.bit_count() == 3 - num_dropped for value in counts)
    if num_dropped:
        assert len(counts) == 3
        assert chisquare(list(counts.values())).pvalue > 1e-3
    dgkd.begin_epoch(0)
    assert [int(dgkd.loss(BATCH)) for _ in range(20)] == sums[:20]
    dgkd.begin_epoch(1)
    assert ([int(dgkd.loss(BATCH)) for _ in range(20)] == sums[:20]) == (num_dropped == 0)


def test_one_guide_must_stay():
    with pytest.raises(UserError, match=r"--num_dropped 2: there are 2 guides, .* use 1 or less"):
        DGKD([Guide(1), Guide(2)], num_dropped=2)
    for given in ({"num_TAs": 1}, {"TA_dims": "60"}):  # before any is trained
        with pytest.raises(UserError, match="--num_dropped 2: there are 2 guides"):
            main_DGKD.Settings(num_dropped=2, **given)
    assert main_DGKD.Settings(num_dropped=2, TA_dims="40,60").num_dropped == 2


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "d_s", "d_t", "sizes"),
    [
        (8, 20, 200, [40, 60, 80, 100, 120, 140, 160, 180]),
        (8, 25, 250, [50, 75, 100, 125, 150, 175, 200, 225]),
        (2, 20, 200, [80, 140]),
        (1, 20, 200, [110]),
        (2, 20, 23, [21, 22]),
    ],
)
def test_sizes_are_at_even_distances(count, d_s, d_t, sizes):
    assert assistant_sizes(count, "", d_s, d_t) == sizes


@pytest.mark.parametrize(
    ("count", "chosen", "words"),
    [
        (8, "300", "--TA_dims 300: an assistant of size 300 is not between the student's 20 and"),
        (8, "40,20", "an assistant of size 20 is not between"),
        (8, "40,200", "of size 200 is not between the student's 20 and the teacher's 200"),
        (8, "40,40", "--TA_dims 40,40: two assistants of one size; use fewer, or others"),
        (8, "40;60", "--TA_dims 40;60: these are no sizes; write them like 80,140"),
        (180, "", "--num_TAs 180: "),
    ],
)
def test_sizes_that_cannot_be_are_refused(count, chosen, words):
    with pytest.raises(UserError, match=words):
        assistant_sizes(count, chosen, 20, 200)
    with pytest.raises(UserError, match="--num_TAs 2: an assistant of size 167 is not between"):
        assistant_sizes(2, "", 200, 100)
    assert assistant_sizes(1, "60,40", 20, 200) == [40, 60]


# --- chains --------------------------------------------------------------------------------------

SMALL = "lr=0.01 num_experts=2 tau_0=0.5"
ROWS = [  # each link has its own number of epochs, by which a test tells where it is
    ("DE", 14, f"{SMALL} max_epoch=2"),
    ("TAKD", 12, f"{SMALL} max_epoch=3"),
    ("DGKD", 12, f"{SMALL} max_epoch=3"),
    ("PHR", 14, "lr=0.01 max_epoch=2"),
]
GIVEN = {"dim": 8, "lr": 0.01, "num_experts": 2, "tau_0": 0.5, "max_epoch": 4, "TA_dims": "12,14"}


@pytest.fixture
def links(workdir, monkeypatch) -> list[str]:
    """Short settings for assistants, which are trained in this process; returns who was started."""
    table = workdir / "settings.csv"
    with open(table, "w", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((TINY_NAME, "BPR", name, dim, row, "test") for name, dim, row in ROWS)
    monkeypatch.setattr(experiments.settings, "TABLE", table)
    started = []

    def in_process(command: list[str]) -> int:
        name = command[1].rsplit("main_", 1)[1].removesuffix(".py")
        script = load_script(name)
        words = dict(word[2:].split("=", 1) for word in command[2:] if "=" in word)
        values = experiments.settings.parse(" ".join(f"{k}={v}" for k, v in words.items() if v),
                                            script.Settings)  # fmt: skip
        started.append(f"{name} {values['dim']}")
        start(script.main, script.Settings, {**words, **values, "resume": "--resume" in command})
        return 0

    monkeypatch.setattr(experiments.teacher, "_run", in_process)
    return started


def best(folder: str, workdir) -> bytes:
    return (workdir / "checkpoints" / TINY_NAME / folder / "seed0/best.pt").read_bytes()


def test_a_chain_is_made_once(links, workdir, tiny_path):
    run(main_TAKD, **GIVEN, teacher=str(tiny_path))
    assert links == ["DE 14", "TAKD 12"]
    of = {
        name: (workdir / f"logs/{TINY_NAME}/{name}/seed0/config.json").read_text()
        for name in ("BPR-d14/DE", "BPR-d12/TAKD-DE-via-14", "BPR-d8/TAKD")
    }
    assert sha256_of(tiny_path) in of["BPR-d14/DE"]
    above = f"checkpoints/{TINY_NAME}/BPR-d14/DE/seed0/best.pt"
    assert sha256_of(workdir / above) in of["BPR-d12/TAKD-DE-via-14"]
    below = f"checkpoints/{TINY_NAME}/BPR-d12/TAKD-DE-via-14/seed0/best.pt"
    assert sha256_of(workdir / below) in of["BPR-d8/TAKD"]
    run(main_TAKD, **GIVEN | {"dim": 9}, teacher=str(tiny_path))
    assert links == ["DE 14", "TAKD 12"]
    run(main_DGKD, **GIVEN, teacher=str(tiny_path))
    assert links == ["DE 14", "TAKD 12", "DGKD 12"]  # whose largest assistant is the same
    config = (workdir / f"logs/{TINY_NAME}/BPR-d8/DGKD/seed0/config.json").read_text()
    assert config.count('"sha256"') == 3
    run(main_TAKD, **GIVEN | {"kd": "PHR", "TA_dims": "14"}, name="PHR", teacher=str(tiny_path))
    assert links[3:] == ["PHR 14"]


@pytest.mark.parametrize("script", [main_TAKD, main_DGKD])
def test_a_chain_that_was_killed_in_any_link_goes_on(
    script, links, workdir, tiny_path, monkeypatch
):
    name = script.__name__.removeprefix("main_")
    folders = ["BPR-d14/DE", f"BPR-d12/{name}-DE-via-14", f"BPR-d8/{name}"]
    run(script, **GIVEN, teacher=str(tiny_path))
    whole = [best(folder, workdir) for folder in folders]
    for link, folder in enumerate(folders):
        shutil.rmtree(workdir / "checkpoints")
        shutil.rmtree(workdir / "logs")
        with killed_in(1 + link, monkeypatch):  # the first to have such an epoch dies in it
            run(script, **GIVEN, teacher=str(tiny_path))
        assert (workdir / "checkpoints" / TINY_NAME / folder / "seed0/last.pt").exists()
        assert not (workdir / "logs" / TINY_NAME / folder / "seed0/summary.json").exists()
        run(script, **GIVEN, teacher=str(tiny_path), resume=True)
        assert [best(folder, workdir) for folder in folders] == whole


def test_an_assistant_of_other_settings_or_another_split_is_refused(links, workdir, tiny_path):
    run(main_DE, teacher=str(tiny_path), dim=14, lmbda_DE=0.5, max_epoch=1)
    words = r"d14/DE/seed0: is no assistant of the usual settings, but has .*lmbda_DE"
    with pytest.raises(UserError, match=rf"{words}.*; train the usual one with .* --overwrite$"):
        run(main_TAKD, **GIVEN, teacher=str(tiny_path))
    shutil.rmtree(workdir / "logs")
    shutil.rmtree(workdir / "checkpoints")
    run(main_TAKD, **GIVEN, teacher=str(tiny_path))
    other = conftest.trained_teacher(workdir / "logs", seed=1, max_epoch=1, reg=0.0, dataset=TINY)
    shutil.copy(other, workdir / f"checkpoints/{TINY_NAME}/BPR-d12/TAKD-DE-via-14/seed0/best.pt")
    with pytest.raises(UserError, match=r"via-14/seed0/best.pt: .*its split is seed1, not seed0; "):
        run(main_TAKD, **GIVEN, teacher=str(tiny_path), overwrite=True)


@pytest.mark.parametrize("script", [main_TAKD, main_DGKD, main_DETA])
def test_no_assistants_are_refused(script):
    with pytest.raises(UserError, match="--num_TAs 0 is out of range; use a number above 0"):
        script.Settings(num_TAs=0)
