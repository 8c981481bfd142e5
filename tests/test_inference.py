"""Inference efficiency: the lists are those of all users at once, and the file says what it is."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_refused

from experiments import inference
from experiments.settings import SIZES
from Models import build_model
from Models.teacher import CHUNK, top_lists
from Utils.dataset import chunks_of_pairs
from Utils.errors import UserError


def test_sizes_are_those_of_the_paper():
    assert inference.sizes("BPR") == {0.1: 20, 0.5: 100, 1.0: 200}
    assert inference.sizes("NeuMF") == {0.1: 25, 0.5: 125, 1.0: 250}


@pytest.mark.parametrize("name", ["BPR", "NeuMF"])
def test_one_user_at_a_time_has_the_same_list(name, split):
    # in double precision, so that no two scores are equal but for rounding
    model = build_model(name, split, 8, seed=0).double()
    every = top_lists(model, split, "items", 20)
    seen = chunks_of_pairs(split.train_users, split.train_items, split.num_users, 1, "cpu")
    for user in (0, 1, 255, 256, 998, 999):
        found = inference.single_list(model, user, seen[user], 20)
        assert found == every[user].tolist()
        assert not np.isin(found, split.train_items[split.train_users == user]).any()


def test_times_are_medians_and_percentiles(monkeypatch, split):
    """Of clocks that tick as told: a pair of readings for each answer, then for all lists."""
    monkeypatch.setattr(inference, "NUM_SINGLE", 2)
    took = [*(0.001, 0.003), *(0.002, 0.006), *(0.001, 0.001), *(5, 1, 2)]
    readings = iter(np.cumsum([each for time in took for each in (1, time)]))
    monkeypatch.setattr(inference.time, "perf_counter", lambda: next(readings))
    found = inference.measure(build_model("BPR", split, 2, seed=0), split, 3)
    assert found["seconds_all_users"] == 2
    assert found["milliseconds_one_user"] == 2  # the means of each time are 2, 4 and 1
    assert found["milliseconds_p50"] == 1.5
    assert found["milliseconds_p99"] == pytest.approx(5.85)
    assert next(readings, None) is None


def test_a_measurement_is_printed_and_written(workdir, monkeypatch, split, capsys):
    monkeypatch.setitem(SIZES, "NeuMF", {"teacher_dim": 8, "dim": 2})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(inference, "NUM_SINGLE", 3)
    inference.main(inference.Settings(dataset="synthetic", model="NeuMF", repeats=1))
    content = json.loads((workdir / "logs/synthetic/inference/NeuMF.json").read_text())
    assert content["format"] == inference.FORMAT
    assert content["dataset"] == "synthetic"
    assert [(row["phi"], row["dim"]) for row in content["rows"]] == [(0.25, 2), (0.5, 4), (1.0, 8)]
    for row in content["rows"]:
        dim = row["dim"]
        tables = 2 * dim * (split.num_users + split.num_items)
        assert row["num_parameters"] == tables + 2 * dim * dim + dim + 2 * dim + 1
        assert row["bytes"] == 4 * row["num_parameters"]
        assert (row["model"], row["device"], row["threads"]) == ("NeuMF", "cpu", 1)
        assert (row["top_n"], row["users_per_batch"]) == (20, CHUNK)
        assert row["seconds_all_users"] > 0
        assert row["milliseconds_one_user"] > 0
    printed = capsys.readouterr().out
    table = [line for line in printed.splitlines() if line.startswith("| NeuMF")]
    assert len(table) == 3
    columns = [line.count("|") for line in printed.splitlines() if line.startswith("|")]
    assert set(columns) == {10}
    assert f"| {content['rows'][2]['num_parameters']:,} |" in table[2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset": "Fousquare"}, r"--dataset 'Fousquare' is unknown; did you mean Foursquare\?"),
        ({"model": "NeuFM"}, r"--model 'NeuFM' is unknown; did you mean NeuMF\?"),
        ({"repeats": 0}, "--repeats 0 is out of range; use 1 or more"),
        ({"threads": -1}, "--threads -1 is out of range; use 0 or more"),
    ],
)
def test_what_cannot_be_measured_is_refused(workdir, changes, words):
    with pytest.raises(UserError, match=words):
        inference.main(inference.Settings(**{"dataset": "synthetic"} | changes))


def test_a_mistake_on_the_command_line_is_one_line(workdir):
    command = [sys.executable, "-m", "experiments.inference", "--repeats", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert_refused(result, "inference.py: --repeats 0")
