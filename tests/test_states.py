"""States along a training: which are kept, by whom they are found, and what a death changes."""

import pytest
import torch
from conftest import killed_in, run, settings

import main_no_KD
import main_URRD
from experiments.teacher import load_teacher
from Models.teacher import read_teacher
from Utils.errors import UserError
from Utils.run_folder import read_summary
from Utils.states import States, state_files

CPU = torch.device("cpu")
SMALL = {"dim": 8, "lr": 0.01, "max_epoch": 40, "keep_states": 4}


def epochs(folder):
    return [int(path.stem.removeprefix("state-epoch")) for path in state_files(folder)]


@pytest.mark.parametrize("last", [*range(1, 20), 99, 257])
def test_they_are_near_even_shares_of_the_way_to_the_best(tmp_path, last):
    states = States(tmp_path, 4)
    for epoch in range(last + 1):
        states.keep(epoch, lambda epoch=epoch: {"epoch": epoch})
        assert len(epochs(tmp_path)) <= 17
    best = last * 2 // 3
    states.finish(best)
    found = epochs(tmp_path)
    assert len(found) == min(3, best)
    assert all(epoch < best for epoch in found)
    step = 1 + last // 16
    for place, epoch in enumerate(found, 1):
        assert abs((best + 1) * place / 4 - 1 - epoch) <= step or best < 4
    for path in state_files(tmp_path):
        kept = torch.load(path, weights_only=True)
        assert kept["finished"] is True
        assert f"state-epoch{kept['epoch']}" == path.stem


def test_none_is_kept_unless_wanted(tmp_path):
    states = States(tmp_path, 0)
    states.keep(0, lambda: {})
    states.finish(0)
    assert not list(tmp_path.iterdir())


def test_a_teacher_has_them_and_a_death_changes_nothing(workdir, split, monkeypatch):
    run(main_no_KD, **SMALL, name="whole")
    with killed_in(21, monkeypatch):
        run(main_no_KD, **SMALL, name="killed")
    run(main_no_KD, **SMALL, name="killed", resume=True)
    whole, killed = (
        next(workdir.rglob(f"no_KD-{name}/seed0/best.pt")).parent for name in ("whole", "killed")
    )
    assert epochs(whole) == epochs(killed)
    for one, other in zip(state_files(whole), state_files(killed), strict=True):
        assert one.read_bytes() == other.read_bytes()

    teacher = read_teacher(whole, split, CPU, "remedy")
    assert len(teacher.states) == 4
    assert teacher.states[-1] is teacher
    values = [state.metrics["valid_H@5"] for state in teacher.states]
    assert max(values) == values[-1]
    lists = [state.top_items(10) for state in teacher.states]
    again = read_teacher(whole, split, CPU, "remedy")
    for state, top in zip(again.states, lists, strict=True):
        assert torch.equal(state.top_items(10), top)
    assert len({top.numpy().tobytes() for top in lists}) == 4
    best = read_summary(workdir / "logs/synthetic/BPR-d8/no_KD-whole/seed0/summary.json")
    assert epochs(whole)[-1] < best["best_epoch"]


def test_a_teacher_without_them_says_how_to_make_them(neumf_path, split):
    args = settings(main_URRD, teacher=str(neumf_path), dim=8)
    with pytest.raises(UserError, match=r"no states of earlier.*--keep_states 4 --overwrite"):
        _ = load_teacher(args, split, CPU).states
