"""Where a script's settings are from: the command line, ``settings.csv``, its own block.

And what a wrong table is answered with: its line, what is wrong there, what to do.
"""

import shutil
from dataclasses import asdict, dataclass, fields, make_dataclass
from typing import get_type_hints

import pytest
from conftest import ROOT, SCRIPT_NAMES, assert_refused, run_script

import main_CD
import main_DE
import main_no_KD
import main_RD
import main_S2D
import main_SVD
import main_URRD
from experiments import settings
from experiments.script import given_on
from experiments.settings import find_row, load_script, parse, read_table, resolve
from Models import MODELS
from Utils.errors import UserError
from Utils.sources import DATASETS

HEAD = "dataset,model,method,dim,settings,source\n"
STUDENT = "CiteULike,BPR,no_KD,20,lr=0.001 reg=0.001 batch_size=1024,us\n"
RRD = "synthetic,BPR,URRD,20,{},us\n"
BLOCKS = [load_script(name[5:-3]).Settings for name in SCRIPT_NAMES]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return what writes a table of our own, into the current folder."""
    monkeypatch.setattr(settings, "TABLE", tmp_path / "settings.csv")
    monkeypatch.chdir(tmp_path)
    return settings.TABLE.write_bytes


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("", r":1: the columns are ; they must be dataset,model,method,dim,settings,source$"),
        ("dataset,model\n", r":1: the columns are dataset,model; they must be dataset,"),
        (HEAD.replace("dim", "d"), r":1: the columns are dataset,model,method,d,settings,source; "),
        (STUDENT, r":1: the columns are CiteULike,BPR,"),
        (HEAD + STUDENT + "a,b,c,20,lr=1\n", r":3: 5 columns, not 6; put a text with commas into "),
        (HEAD + STUDENT[:-1] + ", too\n", r":2: 7 columns, not 6; put a text with commas into qu"),
        (HEAD + "\n" + STUDENT.replace("20", "20.0"), r":3: dim=20\.0: not a whole number above 0"),
        (HEAD + STUDENT.replace("20", "-20"), r":2: dim=-20: not a whole number above 0; write it"),
        (HEAD + STUDENT.replace(",20,", ",0,"), r":2: dim=0: not a whole number above 0; write it"),
        (HEAD + STUDENT.replace("us", '"us') + STUDENT, r":2: broken quotes \(unexpected end of d"),
        (HEAD + STUDENT.replace("us", '"u"s') + STUDENT, r":2: broken quotes \('.' expected afte"),
    ],
)
def test_a_broken_table_is_refused_with_its_line(write, lines, words):
    write(lines.encode())
    with pytest.raises(UserError, match=rf"^settings\.csv{words}"):
        read_table()


def test_a_table_in_another_encoding_is_refused_and_a_byte_order_mark_is_not(write):
    write((HEAD + STUDENT + STUDENT.replace("us", "Müller")).encode("latin-1"))
    with pytest.raises(UserError, match=r"^settings\.csv:3: not UTF-8; save the file in this"):
        read_table()
    write((HEAD + STUDENT).replace("\n", "\r\n").encode("utf-8-sig"))
    (row,) = read_table()
    assert (row.dataset, row.dim, row.source, row.line) == ("CiteULike", 20, "us", 2)


def test_a_table_that_is_missing_is_said_to_be(write):
    with pytest.raises(UserError, match=r"settings\.csv: cannot read \(No such file"):
        read_table()


def test_a_written_table_is_read_back(write):
    write((HEAD + STUDENT.replace("us", '"us, and Müller"')).encode())
    rows = read_table()
    settings.write_table(rows)
    assert read_table() == rows
    assert settings.TABLE.read_text("utf-8").startswith(HEAD)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr=abc", r"lr=abc: not a number; write one, like 0\.001"),
        ("reg=True", r"reg=True: not a number; "),
        ("K=10.0", r"K=10\.0: not a whole number; write one, like 10"),
        ("L=", r"L=: not a whole number; "),
        ("interesting=nonsense", r"interesting 'nonsense' is unknown; There are sampled; top"),
        ("lambda_RRD=1", r"setting 'lambda_RRD' is unknown; did you mean lmbda_RRD\?"),
        ("resume=1", r"resume '1' is unknown; There are False; True"),
        ("lr", r"lr: write each setting once, like lr=0\.001"),
        ("lr=1 lr=2", r"lr=2: write each setting once"),
        ("lr=-1", r"--lr -1\.0 is out of range; use a number above 0"),
        ("K=0", r"--K 0 is out of range; use a number above 0"),
        ("T=nan", r"--T nan is out of range"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_line_when_it_is_used(write, text, words):
    write((HEAD + STUDENT + RRD.format(text)).encode())
    assert resolve(main_no_KD.Settings, {"dataset": "synthetic"})[0].lr == 0.001  # of no row
    assert resolve(main_URRD.Settings, {})[0].lr == 0.001  # of the block
    with pytest.raises(UserError, match=rf"^settings\.csv:3: {words}"):
        resolve(main_URRD.Settings, {"dataset": "synthetic"})


def test_values_have_the_types_of_their_settings():
    text = "T=10 K=10 lr=1e-3 interesting=top teacher=7 resume=False num_layers=2"
    found = parse(text, main_URRD.Settings)
    assert found == {
        **{"T": 10.0, "K": 10, "lr": 0.001, "interesting": "top"},
        **{"teacher": "7", "resume": False, "num_layers": 2},
    }
    assert [type(value) for value in found.values()] == [float, int, float, str, str, bool, int]
    assert parse("T2=-4", main_CD.Settings) == {"T2": -4.0}


@pytest.mark.parametrize("kind", BLOCKS, ids=SCRIPT_NAMES)
def test_every_setting_of_every_script_has_a_type_that_can_be_read(kind):
    """Its default, written as text, is read back."""
    for setting, value in vars(kind()).items():
        if value not in (None, ""):
            assert parse(f"{setting}={value}", kind) == {setting: value}


def test_a_row_knows_its_line():
    lines = (ROOT / "experiments/settings.csv").read_text().splitlines()
    block = {"dataset": "CiteULike", "model": "BPR", "dim": 20}
    row = find_row(block, "synthetic", "BPR", "S2D", 20)
    assert lines[row.line - 1].startswith("synthetic,BPR,S2D,20,")


# --- the block -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BLOCKS, ids=SCRIPT_NAMES)
def test_a_block_holds_numbers_and_texts(kind):
    """Who opens a script to edit lambda sees lambda; None leaves something to others."""
    for field in fields(kind):
        options = [option for model in MODELS.values() for option in model.options]
        free = ("patience", "valid_share", "test_share", "min_count", "min_rating", *options)
        if field.name in free:
            assert field.default is None
        elif field.name != "data_dir":  # of the environment
            assert type(field.default) is type(getattr(kind(), field.name))
            assert isinstance(field.default, int | float | str), field.name


@pytest.mark.parametrize("kind", BLOCKS, ids=SCRIPT_NAMES)
def test_what_is_edited_in_the_block_acts(kind):
    """For what the block is of: every number that stands there, whatever the table says."""
    hints = get_type_hints(kind)
    numbers = [n for n in kind.__annotations__ if hints[n] in (int, float) and n != "dim"]
    changed = {name: hints[name](getattr(kind, name) / 2 or 1) for name in numbers}
    own = [(name, hints[name], value) for name, value in changed.items()]
    edited = make_dataclass("Settings", own, bases=(kind,))
    edited.__module__ = kind.__module__
    for given in ({}, {"seed": 3, "max_epoch": 5}, {"split": "share"}, {"teacher_dim": 50}):
        given = {name: value for name, value in given.items() if name in hints}
        args = asdict(resolve(edited, given)[0])
        assert args == asdict(kind()) | changed | given
        assert all(args[name] != getattr(kind, name) for name in numbers)


def test_a_new_default_is_of_the_data_set_and_model_that_stand_in_the_block(write):
    """Rows act elsewhere, and what a row leaves open is the block's again."""
    write(
        (HEAD + RRD.format("lr=0.5 K=7") + RRD.replace("BPR", "NeuMF").format("lr=0.25")).encode()
    )

    @dataclass
    class Settings(main_URRD.Settings):
        lr: float = 0.125
        T: float = 3.0

    Settings.__module__ = "main_URRD"
    found = {}
    for data in ("CiteULike", "synthetic"):
        for model in ("BPR", "NeuMF"):
            args, _ = resolve(Settings, {"dataset": data, "model": model})
            found[data, model] = (args.lr, args.K, args.T)
    assert found == {
        ("CiteULike", "BPR"): (0.125, 40, 3.0),
        ("synthetic", "BPR"): (0.5, 7, 3.0),
        ("CiteULike", "NeuMF"): (0.125, 40, 3.0),  # no row, and the line says so
        ("synthetic", "NeuMF"): (0.25, 40, 3.0),
    }


# --- which of the three --------------------------------------------------------------------------


def test_what_is_given_comes_before_the_row_and_the_row_before_the_block(write):
    write((HEAD + RRD.format("lr=0.5 K=7 T=2.5")).encode())
    args, said = resolve(main_URRD.Settings, {"dataset": "synthetic", "K": 9, "L": 8})
    assert (args.K, args.L) == (9, 8)  # given
    assert (args.lr, args.T) == (0.5, 2.5)  # of the row
    assert (args.reg, args.batch_size, args.dim) == (0.001, 1024, 20)  # of the block
    assert said == (
        "given: dataset=synthetic K=9 L=8; "
        "tuned (settings.csv:2, for synthetic BPR URRD d=20; us): lr=0.5 T=2.5; "
        "all else as in main_URRD.py"
    )


def test_a_default_that_is_given_beats_the_row(write):
    write((HEAD + RRD.format("lr=0.5 K=7")).encode())
    default = main_URRD.Settings().K
    args, said = resolve(main_URRD.Settings, {"dataset": "synthetic", "K": default})
    assert (args.K, args.lr) == (default, 0.5)
    assert f"given: dataset=synthetic K={default}; tuned (" in said
    assert said.split("us): ")[1] == "lr=0.5; all else as in main_URRD.py"
    args, said = resolve(main_URRD.Settings, {"dataset": "synthetic", "K": 9, "lr": 0.1})
    assert (args.K, args.lr) == (9, 0.1)
    assert "tuned" not in said  # nothing is left of the row


@pytest.mark.parametrize("flag", ["--K=40", "--K 40"])
def test_a_command_line_names_what_is_given_though_it_be_the_default(flag):
    args = main_URRD.Settings(dataset="synthetic")
    words = ["--dataset", "synthetic", *flag.split(), "--tau-0=1", "positional"]
    assert given_on(args, words) == {"dataset": "synthetic", "K": 40}
    assert given_on(main_DE.Settings(), ["--tau-0", "1", "--lmbda_DE=0.01"]) == {
        "tau_0": 1.0,
        "lmbda_DE": 0.01,
    }
    assert given_on(args, ["--resume"]) == {"resume": False}  # the value is what was parsed


def test_where_and_how_a_script_runs_is_not_said():
    _, said = resolve(main_no_KD.Settings, {"device": "cpu", "threads": 1, "resume": True})
    assert said == "all else as in main_no_KD.py"
    _, said = resolve(main_no_KD.Settings, {"threads": 1, "seed": 2})
    assert said == "given: seed=2; all else as in main_no_KD.py"


def test_the_row_is_that_of_the_data_set_and_the_nearest_size(write):
    row = "{},BPR,no_KD,{},lr={} reg=0.0 batch_size=1024,us\n"
    lines = ("CiteULike", 200, 2.0), ("Foursquare", 100, 3.0), ("Foursquare", 20, 4.0)
    write((HEAD + "".join(row.format(*line) for line in lines)).encode())
    for dataset, dim, lr in (
        ("CiteULike", 20, 0.001),  # the block's
        ("CiteULike", 200, 2.0),
        ("CiteULike", 150, 0.001),  # the block's data set and model: rows of their very size alone
        ("Foursquare", 20, 4.0),
        ("Foursquare", 44, 4.0),
        ("Foursquare", 45, 3.0),  # 100 / 45 < 45 / 20
        ("Foursquare", 500, 3.0),
        ("synthetic", 200, 2.0),  # has none of its own, so the block's data set stands in
    ):
        args, _ = resolve(main_no_KD.Settings, {"dataset": dataset, "dim": dim})
        assert (dataset, dim, args.lr) == (dataset, dim, lr)


def test_a_model_of_sequences_has_the_settings_of_sequences_and_a_split_by_time(write):
    write((HEAD + "Toys,Caser,no_KD,50,lr=2.0,us\nCiteULike,BPR,no_KD,50,lr=3.0,us\n").encode())
    args, said = resolve(main_no_KD.Settings, {"dataset": "synthetic", "model": "Caser"})
    assert (args.lr, args.split, args.dim) == (2.0, "time", 50)
    assert "for Toys Caser no_KD d=50; us): lr=2.0" in said
    args, _ = resolve(main_no_KD.Settings, {"model": "Caser", "split": "share"})
    assert args.split == "share"  # and not another one than was asked for
    args, _ = resolve(main_no_KD.Settings, {"dataset": "Toys", "model": "BPR", "dim": 50})
    assert (args.lr, args.split) == (3.0, "time")


def test_a_model_has_its_usual_sizes(write):
    write(HEAD.encode())
    args, said = resolve(main_URRD.Settings, {"model": "NeuMF"})
    assert (args.dim, args.teacher_dim) == (25, 250)
    assert "no row for NeuMF in settings.csv, so the numbers are BPR's; all else as in" in said
    args, _ = resolve(main_URRD.Settings, {"model": "NeuMF", "dim": 20, "teacher_dim": 200})
    assert (args.dim, args.teacher_dim) == (20, 200)
    args, _ = resolve(main_no_KD.Settings, {"model": "NeuMF"})
    assert args.dim == 25
    args, said = resolve(main_SVD.Settings, {"model": "NeuMF"})
    assert (args.dim, args.teacher_dim) == (25, 250)
    assert said == "given: model=NeuMF; all else as in main_SVD.py"  # there are no numbers


@pytest.mark.parametrize("kind", BLOCKS, ids=SCRIPT_NAMES)
def test_an_unknown_data_set_or_model_is_answered_with_the_nearest(kind):
    for flag, name, nearest, known in (
        ("dataset", "citeulike", "CiteULike", DATASETS),
        ("dataset", "Foursqare", "Foursquare", DATASETS),
        ("model", "NeuFM", "NeuMF", MODELS),
        ("model", "bpr", "BPR", MODELS),
    ):
        with pytest.raises(UserError) as error:
            resolve(kind, {flag: name})
        assert str(error.value) == (
            f"--{flag} '{name}' is unknown; did you mean {nearest}? "
            f"There are {'; '.join(sorted(known))}"
        )


@pytest.mark.parametrize("kind", BLOCKS, ids=SCRIPT_NAMES)
def test_what_is_given_out_of_range_is_so_before_a_row_is_looked_for(kind):
    for dim in (0, -1):
        with pytest.raises(UserError, match=rf"^--dim {dim} is out of range; use a number above 0"):
            resolve(kind, {"dataset": "synthetic", "dim": dim})


def test_the_one_without_training_has_no_training_settings():
    own = {field.name for field in fields(main_SVD.Settings)}
    trained = {field.name for field in fields(main_RD.Settings)}
    assert trained - own >= {"lr", "reg", "batch_size", "max_epoch", "patience", "num_layers"}
    assert {field.name for field in fields(main_S2D.Settings)} >= {"max_epoch", "patience"}
    with pytest.raises(TypeError, match="max_epoch"):
        resolve(main_SVD.Settings, {"max_epoch": 3})


def test_a_script_ends_in_one_line(tmp_path):
    """With a wrong table: in a copy of what the script needs."""
    for folder in ("Models", "Utils"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments", ignore=lambda *_: ["tuning"])
    shutil.copy(ROOT / "main_no_KD.py", tmp_path)
    row = STUDENT.replace("CiteULike", "synthetic").replace("0.001", "abc", 1)
    (tmp_path / "experiments/settings.csv").write_text(HEAD + row)
    result = run_script(str(tmp_path / "main_no_KD.py"), "--dataset=synthetic", cwd=tmp_path)
    assert_refused(result, "main_no_KD.py: experiments/settings.csv:2: lr=abc: not a number; ")
