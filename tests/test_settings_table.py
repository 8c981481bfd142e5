"""What a wrong ``settings.csv`` is answered with: its line, what is wrong there, what to do."""

import pytest
from conftest import ROOT, SCRIPT_NAMES, assert_refused, run_script

import main_CD
import main_no_KD
import main_URRD
from experiments import settings
from experiments.plan import load_script
from experiments.settings import find_row, parse, read_table, with_defaults
from Utils.errors import UserError

HEAD = "dataset,model,method,dim,settings,source\n"
STUDENT = "CiteULike,BPR,no_KD,20,lr=0.001 reg=0.001 batch_size=1024,us\n"
RRD = "CiteULike,BPR,URRD,20,{},us\n"


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
    assert with_defaults("no_KD", main_no_KD.Settings()).lr == 0.001  # of another row
    with pytest.raises(UserError, match=rf"^settings\.csv:3: {words}"):
        with_defaults("URRD", main_URRD.Settings())


def test_values_have_the_types_of_their_settings():
    text = "T=10 K=10 lr=1e-3 interesting=top teacher=7 resume=False num_layers=2"
    found = parse(text, main_URRD.Settings)
    assert found == {
        **{"T": 10.0, "K": 10, "lr": 0.001, "interesting": "top"},
        **{"teacher": "7", "resume": False, "num_layers": 2},
    }
    assert [type(value) for value in found.values()] == [float, int, float, str, str, bool, int]
    assert parse("T2=-4", main_CD.Settings) == {"T2": -4.0}


def test_every_setting_of_every_script_has_a_type_that_can_be_read():
    """Its default, written as text, is read back."""
    for name in SCRIPT_NAMES:
        kind = load_script(name[5:-3]).Settings
        for setting, value in vars(kind()).items():
            if value not in (None, ""):
                assert parse(f"{setting}={value}", kind) == {setting: value}


def test_a_row_knows_its_line():
    lines = (ROOT / "experiments/settings.csv").read_text().splitlines()
    row = find_row("CiteULike", "BPR", "S2D", 20)
    assert lines[row.line - 1].startswith("CiteULike,BPR,S2D,20,")


def test_a_script_ends_in_one_line(tmp_path):
    """With a wrong table: in a copy of what the script needs."""
    for folder in ("Models", "Utils", "experiments"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "experiments").unlink()
    (tmp_path / "experiments").mkdir()
    for name in ("experiments/__init__.py", "experiments/settings.py", "main_no_KD.py"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "experiments/settings.csv").write_text(HEAD + STUDENT.replace("0.001", "abc", 1))
    result = run_script(str(tmp_path / "main_no_KD.py"), "--dataset=synthetic", cwd=tmp_path)
    assert_refused(result, "main_no_KD.py: experiments/settings.csv:2: lr=abc: not a number; ")
