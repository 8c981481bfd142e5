"""Mini-batches, the optimiser and the selection of an epoch."""

import csv

import pytest
import torch
from conftest import real_file
from scipy.stats import chisquare
from torch import nn

from Utils.dataset import ItemSampler, PairSampler, UserSampler
from Utils.errors import UserError
from Utils.interactions import Interactions
from Utils.optimizer import DenseAdam, RowAdam, make_up
from Utils.seeding import torch_generator
from Utils.selection import Selection
from Utils.split import FULL_RANKING, LEAVE_ONE_OUT, leave_one_out

# --- batches -----------------------------------------------------------------------------------


def test_an_epoch_has_every_pair_once_and_no_training_item_as_negative(split):
    batches = list(PairSampler(split, 1024, 0, "cpu").epoch(0))
    assert [len(users) for users, _, _ in batches[:-1]] == [1024] * (len(batches) - 1)
    users, positives, negatives = (torch.cat(column) for column in zip(*batches, strict=True))
    pairs = set(zip(split.train_users.tolist(), split.train_items.tolist(), strict=True))
    assert len(users) == len(pairs)
    assert set(zip(users.tolist(), positives.tolist(), strict=True)) == pairs
    assert not pairs & set(zip(users.tolist(), negatives.tolist(), strict=True))


def test_batches_depend_on_seed_and_epoch_alone(split):
    def first(seed: int, epoch: int) -> torch.Tensor:
        return torch.stack(next(PairSampler(split, 256, seed, "cpu").epoch(epoch)))

    sampler = PairSampler(split, 256, 0, "cpu")
    list(sampler.epoch(3))
    assert torch.equal(torch.stack(next(sampler.epoch(2))), first(0, 2))
    assert not torch.equal(first(0, 2), first(0, 3))
    assert not torch.equal(first(0, 2), first(1, 2))


def test_batches_are_what_they_always_were(split, monkeypatch):
    """Put in order at once, a few at a time, or looked up in parts: the same draws."""
    expected = _all_at_once(split, 3, 1)
    for together, looked_up in ((64, 1 << 20), (2, 1000)):
        monkeypatch.setattr("Utils.dataset.TOGETHER", together)
        monkeypatch.setattr("Utils.dataset.LOOKED_UP", looked_up)
        columns = zip(*PairSampler(split, 1000, 3, "cpu").epoch(1), strict=True)
        for column, whole in zip(columns, expected, strict=True):
            assert torch.equal(torch.cat(column), whole)


def _all_at_once(split, seed: int, epoch: int) -> list[torch.Tensor]:
    """Return an epoch's columns as runs have them, drawn in the plainest way."""
    pairs = split.train_users * split.num_items + split.train_items
    keys = torch.from_numpy(pairs).sort().values
    users, generator = keys // split.num_items, torch_generator(seed, "batches", epoch)
    order, negatives = torch.randperm(len(keys), generator=generator), torch.empty_like(keys)
    todo = torch.arange(len(keys))
    while len(todo):
        drawn = torch.randint(split.num_items, todo.shape, generator=generator)
        negatives[todo] = drawn
        todo = todo[torch.isin(users[todo] * split.num_items + drawn, keys)]
    return [column[order] for column in (users, keys % split.num_items, negatives)]


def test_negatives_are_uniform_over_what_the_user_did_not_train_on():
    # Six users with 60 of 600 items each, and many epochs: 540 negatives are possible for each.
    users, items = torch.cartesian_prod(torch.arange(6), torch.arange(0, 600, 10)).T.numpy()
    data = Interactions(users, items, torch.arange(6).numpy(), torch.arange(600).numpy(), "hash")
    split = leave_one_out(data, 0)
    sampler = PairSampler(split, 4096, 0, "cpu")
    counts = torch.zeros(6, 600)
    for epoch in range(300):
        for users, _, negatives in sampler.epoch(epoch):
            counts.index_put_((users, negatives), torch.ones(len(users)), accumulate=True)
    trained = torch.zeros(6, 600, dtype=torch.bool)
    trained[split.train_users, split.train_items] = True
    assert counts[trained].sum() == 0
    for user in range(6):  # held-out items are drawn as often as any other
        assert chisquare(counts[user][~trained[user]].numpy()).pvalue > 1e-4


def test_a_user_of_nearly_everything_still_gets_negatives():
    users, items = [0] * 3 + [1] * 600, [600, 601, 602, *range(600)]
    arrays = [torch.tensor(values).numpy() for values in (users, items)]
    split = leave_one_out(
        Interactions(*arrays, torch.arange(2).numpy(), torch.arange(1200).numpy(), "hash"), 0
    )
    # user 1 now lacks 3 items and its held-out ones
    object.__setattr__(split, "item_ids", split.item_ids[:603])
    for batch_users, _, negatives in PairSampler(split, 64, 0, "cpu").epoch(0):
        held_out = [600, 601, 602, split.valid.items[1], split.test.items[1]]
        assert all(int(n) in held_out for n in negatives[batch_users == 1])
    object.__setattr__(split, "item_ids", split.item_ids[:598])
    with pytest.raises(UserError, match="a user has all items"):
        PairSampler(split, 64, 0, "cpu")


@pytest.mark.parametrize(("kind", "sampler"), [("users", UserSampler), ("items", ItemSampler)])
def test_everyone_comes_once_an_epoch_in_an_order_of_the_seed_and_epoch(kind, sampler, split):
    def order(seed, epoch):
        batches = list(sampler(split, 300, seed, "cpu").epoch(epoch))
        assert {type(batch)._fields for batch in batches} == {(kind,)}
        assert {len(batch[0]) for batch in batches[:-1]} == {300}
        return torch.cat([getattr(batch, kind) for batch in batches]).tolist()

    found = order(0, 2)
    assert sorted(found) == list(range(getattr(split, f"num_{kind}")))
    assert found == order(0, 2)
    assert found not in (order(0, 3), order(1, 2), sorted(found))


# --- the optimiser -----------------------------------------------------------------------------


def test_the_update_is_adams_with_weight_decay_on_every_row():
    """Against torch's plain Adam on dense gradients, with repeated, shared and untouched rows."""
    start = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    ours, theirs = (nn.Embedding.from_pretrained(start.clone(), False) for _ in range(2))
    ours.sparse = True
    layers = [nn.Linear(4, 1, bias=False) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    setting = {"lr": 0.1, "weight_decay": 0.05}
    dense = torch.optim.Adam([*theirs.parameters(), *layers[1].parameters()], **setting)
    sparse = DenseAdam([*ours.parameters(), *layers[0].parameters()], **setting)
    for step in range(30):
        rows = torch.tensor([[1, 1, 3], [3, 5, step % 4]])
        for table, layer, optimizer in ((ours, layers[0], sparse), (theirs, layers[1], dense)):
            optimizer.zero_grad()
            layer(table(rows[0]) * table(rows[1])).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(layers[0].weight, layers[1].weight)
    assert not torch.equal(ours.weight[8], start[8])  # never in a batch, and decayed all the same


@pytest.mark.parametrize(("lr", "decay"), [(1e-3, 1e-3), (1e-2, 1e-5), (1e-3, 0.0)])
@pytest.mark.parametrize("before", [200, 20_000])
def test_what_was_missed_is_nearly_what_adam_does_step_by_step(lr, decay, before):
    """Against Adam's own steps in float64, for gaps from 1 to 1,000, after steps with gradients."""
    generator = torch.Generator().manual_seed(0)
    weight = 0.3 * torch.randn(300, 1, generator=generator)
    scale, share = (10 ** (-torch.rand(2, 300, 1, generator=generator) * 2 - 0.5)).unbind()
    mean, square = torch.zeros(2, 300, 1, dtype=torch.float64).unbind()
    for step in range(200):  # of which the last one has a gradient
        given = torch.randn(300, 1, generator=generator) * scale * (step == 199)
        given += (torch.rand(300, 1, generator=generator) < share) * scale / 3
        mean = 0.9 * mean + 0.1 * (given + decay * weight)
        square = 0.999 * square + 0.001 * (given + decay * weight).square()
    start = weight, mean.float(), square.float()
    slow = [part.double() for part in start]
    for missed in range(1, 1001):
        w, m, v = slow
        m, v = 0.9 * m + 0.1 * decay * w, 0.999 * v + 0.001 * (decay * w).square()
        mhat, vhat = m / (1 - 0.9 ** (before + missed)), v / (1 - 0.999 ** (before + missed))
        slow = [w - lr * mhat / (vhat.sqrt() + 1e-8), m, v]
        if missed not in (1, 10, 100, 1000):
            continue
        found = [part.clone() for part in start]
        make_up(
            *found, *torch.tensor([before, missed]).double().expand(300, 2).split(1, 1), lr, decay
        )
        way = (slow[0] - weight).abs()
        assert (found[0] - slow[0]).abs().sum() < 0.05 * way.sum()
        for mine, theirs in zip(found[1:], slow[1:], strict=True):
            assert (mine - theirs).abs().sum() < 0.06 * theirs.abs().sum() + 1e-30


def _tables(kind, start):
    table = nn.Embedding.from_pretrained(start.clone(), freeze=False, sparse=True)
    modules = nn.ModuleList([table, nn.Linear(4, 1)])
    modules[1].load_state_dict({"weight": torch.ones(1, 4), "bias": torch.zeros(1)})
    setting = {"lr": 0.01, "weight_decay": 0.01}
    return modules, RowAdam(modules, **setting) if kind else DenseAdam(
        modules.parameters(), **setting
    )


def test_rows_that_a_step_does_not_look_at_are_left_and_made_up_for():
    """Row 0 is in every batch, twice in some; 1 and 2 in a few, 7 in none."""
    start = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    (dense, by_all), (few, by_rows) = _tables(False, start), _tables(True, start)
    for step in range(200):
        ids = torch.tensor([0, step % 2, 1 + step // 50, 3 + step % 4])
        for modules, optimizer in ((dense, by_all), (few, by_rows)):
            before = modules[0].weight.detach().clone()
            (modules[1](modules[0](ids)) - 1).square().sum().backward()
            optimizer.step()
            if optimizer is by_rows:
                left = [row for row in range(8) if row not in ids]
                assert torch.equal(modules[0].weight[left], before[left])
                assert not torch.equal(modules[0].weight[ids], before[ids])
    seen = few[0](torch.tensor([1, 5])).detach()  # a look-up makes up for what was missed
    by_rows.catch_up()
    assert torch.equal(few[0].weight[[1, 5]], seen)
    torch.testing.assert_close(few[1].weight, dense[1].weight, rtol=0.03, atol=0)
    torch.testing.assert_close(few[0].weight[0], dense[0].weight[0], rtol=0.01, atol=0)
    off, way = ((few[0].weight - other).detach().abs() for other in (dense[0].weight, start))
    assert off[:7].sum() < 0.05 * way[:7].sum()
    assert (few[0].weight[7].abs() < 0.5 * start[7].abs()).all()  # decayed, though never in a batch
    once = few[0].weight.detach().clone()
    by_rows.catch_up()
    few[0](torch.arange(8))
    assert torch.equal(few[0].weight, once)  # there is nothing left to make up for


def test_a_table_that_is_read_whole_is_refused():
    modules, optimizer = _tables(True, torch.ones(8, 4))
    modules[0].weight.sum().backward()
    with pytest.raises(UserError, match=r"^--optimizer rows: here, a step learns from all rows of"):
        optimizer.step()


# --- which epoch is reported -------------------------------------------------------------------


def _rows(**columns: list[float]) -> list[dict[str, float]]:
    return [
        {f"valid_{name.replace('_', '@')}": value for name, value in zip(columns, row, strict=True)}
        for row in zip(*columns.values(), strict=True)
    ]


def _follow(selection: Selection, rows: list[dict[str, float]]) -> int:
    """Feed epochs until the rule stops; return the last epoch."""
    for epoch, row in enumerate(rows):
        selection.update(epoch, row)
        if selection.stops:
            return epoch
    return len(rows) - 1


def test_the_papers_rule_takes_the_first_best_epoch_of_h5():
    rows = _rows(H_5=[0.1, 0.3, 0.2, 0.3, 0.2, 0.9], H_10=[0.1, 0.2, 0.3, 0.4, 0.5, 0.9])
    selection = Selection("paper", LEAVE_ONE_OUT, patience=3)
    assert _follow(selection, rows) == 4  # three epochs after the best, which a tie does not renew
    assert [selection.epoch_for(n) for n in (5, 10, 20)] == [1, 1, 1]


def test_the_published_rule_has_an_epoch_for_each_cutoff():
    rows = _rows(H_5=[0.3, 0.2, 0.2, 0.2], H_10=[0.1, 0.2, 0.1, 0.1], H_20=[0.1, 0.1, 0.1, 0.1])
    selection = Selection("published_code", LEAVE_ONE_OUT, patience=2)
    assert _follow(selection, rows) == 3  # two epochs after H@10 improved
    assert [selection.epoch_for(n) for n in (5, 10, 20)] == [0, 1, 0]


def test_the_rules_patience_is_the_papers_and_the_codes():
    rules = [Selection(rule, LEAVE_ONE_OUT) for rule in ("paper", "published_code")]
    assert [rule.patience for rule in rules] == [30, 20]


def test_in_full_ranking_patience_is_in_evaluations_and_another_metric_decides():
    selection = Selection("paper", FULL_RANKING)
    recalls = [0.1, 0.3, *[0.2] * 5]
    kept = []
    for number, recall in enumerate(recalls):
        assert not selection.stops
        kept.append(selection.update(10 * number, {"valid_R@10": 1 - recall, "valid_R@50": recall}))
    assert selection.stops  # five evaluations after the best, which is of epoch 10
    assert kept == [True, True] + [False] * 5
    assert [selection.epoch_for(n) for n in (10, 50)] == [10, 10]
    with pytest.raises(
        UserError, match=r"--selection 'published_code' is unknown; There are paper"
    ):
        Selection("published_code", FULL_RANKING)


@pytest.mark.parametrize("method", ["Student", "DE", "URRD", "IR_RRD"])
def test_the_published_rule_explains_the_published_logs(method):
    """From their curves, the rule finds their epochs, stops where they stopped, reports as they."""
    with open(real_file("derrd_published_curves.csv")) as file:
        rows = [
            {key: float(value) for key, value in row.items() if key != "method"}
            for row in csv.DictReader(file)
            if row["method"].replace("-", "_") == method
        ]
    with open(real_file("derrd_logs.csv")) as file:
        theirs = next(
            row
            for row in csv.DictReader(file)
            if row["split"] == "test" and row["log"].lower() == f"{method.lower()}.log"
        )
    selection = Selection("published_code", LEAVE_ONE_OUT)
    assert _follow(selection, rows) == int(theirs["last_epoch"])
    for n in (5, 10, 20):
        epoch = selection.epoch_for(n)
        assert epoch == int(theirs[f"epoch_selected_K{n}"])
        assert rows[epoch][f"test_H@{n}"] == float(theirs[f"H@{n}"])
