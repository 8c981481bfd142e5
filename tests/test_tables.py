"""A file of one's own: any table of ids comes in as it is, or is refused in one line."""

import bz2
import csv
import dataclasses
import gzip
import json
import re
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import run
from hypothesis import given, settings
from hypothesis import strategies as st

import main_no_KD
import main_S2D
import main_URRD
from experiments import estimate, inference, tune
from experiments.script import launch
from Utils import tables
from Utils.errors import UserError
from Utils.files import sha256_of
from Utils.own_data import load_own, name_of
from Utils.sources import dataset_name, is_own, load_split
from Utils.tables import MISSING, Reading, read_file

HEADER = ("user", "item", "rating", "time")
FORMATS = {"csv": ",", "tsv": "\t", "inter": "\t", "parquet": ""}


def imported(path, **reading):
    """Read a file, of users with any number of items."""
    return read_file(path, "hash", Reading(**{"min_count": 1} | reading))


def pairs_of(found) -> list[tuple[str, str]]:
    """Return the pairs of original ids, in order."""
    users, items = found.user_ids[found.users], found.item_ids[found.items]
    return list(zip(users.tolist(), items.tolist(), strict=True))


def write(path, rows, header=HEADER[:2]):
    """Write rows of text in the format that the suffix says."""
    kind = path.suffix[1:]
    if kind == "parquet":
        columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
        pq.write_table(pa.table(columns, list(header)), path)
        return
    with open(path, "w", newline="", encoding="utf-8") as file:
        if kind == "inter":
            file.writelines("\t".join(row) + "\n" for row in [header, *rows])
        else:
            csv.writer(file, delimiter=FORMATS[kind]).writerows([header, *rows])


def expected(rows, min_count=1):
    """Return the same by a slow loop: (user, item) and, of what is kept, in order of users."""
    seen, by_user = set(), {}
    for user, item, *_ in rows:
        by_user.setdefault(user, [])
        if (user, item) not in seen:
            by_user[user].append(item)
        seen.add((user, item))
    kept = {user: items for user, items in by_user.items() if len(items) >= min_count}
    return [(user, item) for user, items in kept.items() for item in items]


# --- what comes in is what was there -------------------------------------------------------------

ids = st.text(
    st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1, max_size=8
).filter(lambda text: text not in MISSING)
plain = ids.filter(lambda text: text.isprintable() and text == text.strip())
numbers = st.integers(-(2**70), 2**70).map(str) | st.integers(0, 99).map("{:04}".format)
few = st.lists(ids | numbers, min_size=1, max_size=6)


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_ids_come_back_as_they_were(kind, data, tmp_path_factory):
    of = plain | numbers if kind == "inter" else ids | numbers
    pool = st.lists(of, min_size=1, max_size=6)
    users, items = data.draw(pool), data.draw(pool)
    row = st.tuples(st.sampled_from(users), st.sampled_from(items))
    rows = data.draw(st.lists(row, min_size=1, max_size=30))
    path = tmp_path_factory.mktemp("table") / f"t.{kind}"
    write(path, rows, ("user_id:token", "item_id:token") if kind == "inter" else HEADER[:2])
    found = imported(path).interactions
    assert pairs_of(found) == expected(rows)
    assert found.user_ids.tolist() == list(dict.fromkeys(user for user, _ in rows))
    assert found.item_ids.tolist() == list(dict.fromkeys(item for _, item in rows))
    assert found.users.dtype == found.items.dtype == np.int64


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_times_ratings_and_counts_decide_what_is_kept(data, tmp_path_factory):
    """In batches of any size, with rows that lack something, in any order of columns."""
    cell = st.sampled_from
    row = st.tuples(
        cell(["a", "b", "é", "", "nan"]), cell([*"01234567", "NULL"]),
        cell(["1", "2.5", "4", "", "NaN"]), cell(["3", "10", "7.5", "", "-1"]),
    )  # fmt: skip
    rows = data.draw(st.lists(row, min_size=1, max_size=40))
    order = data.draw(st.permutations(range(4)))
    path = tmp_path_factory.mktemp("table") / "t.csv"
    write(path, [[row[k] for k in order] for row in rows], [HEADER[k] for k in order])
    there = [row for row in rows if not set(row) & set(MISSING) and float(row[2]) >= 2.5]
    left = expected(sorted(there, key=lambda row: float(row[3])), min_count=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "BLOCK", data.draw(st.integers(100, 2000)))
        if not left:
            with pytest.raises(UserError, match="no user has 2 items"):
                imported(path, min_rating=2.5, min_count=2)
            return
        found = imported(path, min_rating=2.5, min_count=2)
    assert sorted(pairs_of(found.interactions)) == sorted(left)
    for user in "abé":  # each user's in the order of time
        mine = [item for each, item in pairs_of(found.interactions) if each == user]
        assert mine == [item for each, item in left if each == user]
    assert found.in_order


def test_what_is_dropped_is_counted_in_one_warning(tmp_path, capsys):
    path = tmp_path / "t.csv"
    path.write_text("user,item,rating\nu,a,5\nu,a,4\n,a,5\nu,,5\nu,b,\nu,b,1\n")
    said = imported(path, min_rating=2).said
    (line,) = capsys.readouterr().err.splitlines()
    for each in ("1 rows without a rating", "1 rows rated below 2", "1 rows without a user"):
        assert each in line
        assert each in said
    assert "1 rows without an item, 1 repeated pairs" in line
    assert "user from user, item from item, rating from rating; 1 users, 1 items" in said


@pytest.mark.parametrize("kind", ["int64", "uint64", "large_string", "string_view", "dictionary"])
def test_parquet_has_whole_numbers_or_categories(kind, tmp_path):
    numbers = [2**63 - 1, 7, 7, None]
    users = pa.array(numbers, "uint64" if kind == "uint64" else "int64")
    if kind == "dictionary":
        users = users.cast(pa.string()).dictionary_encode()
    elif "string" in kind:
        users = users.cast(pa.string()).cast(kind)
    path = tmp_path / "t.pq"
    pq.write_table(
        pa.table({"item": ["b", "a", "b", "a"], "extra": [1] * 4, "User ID": users}), path
    )
    assert pairs_of(imported(path).interactions) == [
        (str(2**63 - 1), "b"), ("7", "a"), ("7", "b"),
    ]  # fmt: skip


def test_a_folder_of_parts_is_one_table(tmp_path):
    (tmp_path / "t/deep").mkdir(parents=True)
    for name, item in (("t/part-1.parquet", "b"), ("t/deep/part-0.parquet", "a")):
        write(tmp_path / name, [("u", item)])
    (tmp_path / "t/_SUCCESS").touch()
    assert pairs_of(imported(tmp_path / "t").interactions) == [("u", "a"), ("u", "b")]
    pq.write_table(pa.table({"user": [1], "item": ["c"]}), tmp_path / "t/part-2.parquet")
    with pytest.raises(UserError, match=r"part-2.parquet: user is of int64, and of string in"):
        imported(tmp_path / "t")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: this folder has no Parquet file"):
        imported(tmp_path / "empty")


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".zst"])
@pytest.mark.parametrize(
    ("name", "text", "in_order"),
    [
        ("r.csv", "user,item\n07,x\n07,y\n", False),
        ("r.csv", "\ufeffuser;item\r\n07;x\r\n\r\n07;y\r\n", False),
        ("r.inter", "user_id:token\titem_id:token\ttimestamp:float\n07\ty\t2e9\n07\tx\t1\n", True),
        ("r.txt", "7 1 2\n", True),
        ("users.dat", "2 1 2\n", False),
    ],
)
def test_formats_and_compression(suffix, name, text, in_order, tmp_path):
    path = tmp_path / (name + suffix)
    with pa.output_stream(str(path), compression="detect") as file:
        file.write(text.encode())
    found = imported(path)
    items = ["1", "2"] if name[-3:] in ("txt", "dat") else ["x", "y"]
    user = {"r.txt": "7", "users.dat": "0"}.get(name, "07")
    assert pairs_of(found.interactions) == [(user, item) for item in items]
    assert found.in_order == in_order
    assert found.interactions.user_ids.dtype.kind == "U"
    assert name_of(path) == name.partition(".")[0]


def test_quotes_commas_and_lines_in_texts(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('title,user,item\n"a ""b"", c\nd",u,"i,1"\n"\n",u,"i""2"\n')
    assert pairs_of(imported(path).interactions) == [("u", "i,1"), ("u", 'i"2')]


@pytest.mark.parametrize(
    ("header", "flags", "words"),
    [
        ("userId,movieId,rating,timestamp", {}, "user from userId, item from movieId, time from t"),
        (
            "reviewerID,asin,overall,unixReviewTime",
            {"min_rating": 1.0},
            "rating from overall, time",
        ),
        ("rating,parent_asin,asin,USER-ID", {}, "user from USER-ID, item from parent_asin;"),
        ("a,b,user,item", {"user_column": "a", "item_column": "b"}, "user from a, item from b;"),
        ("user,item,order,time", {"time_column": "order"}, "time from order"),
    ],
)
def test_columns_are_found_by_their_names(header, flags, words, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(f"{header}\n1,2,3,4\n")
    assert words in imported(path, **flags).said


@pytest.mark.parametrize(
    "times",
    [
        ["2024-02-01", "2023-12-31", "2024-01-01"],
        ["2024-02-01T00:00:00Z", "2024-02-01T00:00:00+02:00", "2024-01-31 23:00:00Z"],
        ["2024-02-01 00:00:00.2", "2024-02-01 00:00:00.123456789", "2024-02-01 00:00:00.13"],
        ["1700000000.5", "3", "1700000000"],
        ["9007199254740993", "1", "9007199254740992"],
    ],
)
def test_times_are_numbers_or_dates(times, tmp_path):
    rows = [("u", item, time) for item, time in zip("cab", times, strict=True)]
    write(tmp_path / "t.csv", rows, ("user", "item", "date"))
    assert [item for _, item in pairs_of(imported(tmp_path / "t.csv").interactions)] == [*"abc"]


@pytest.mark.parametrize("kind", ["timestamp[ns, UTC]", "timestamp[s]", "date32[day]", "float64"])
def test_times_of_parquet(kind, tmp_path):
    days = pa.array([20000, 19000, 19500], pa.int32())
    kinds = {"timestamp[ns, UTC]": pa.timestamp("ns", "UTC"), "timestamp[s]": pa.timestamp("s")}
    times = days.cast(pa.float64() if kind == "float64" else pa.date32())
    table = pa.table(
        {"user": ["u"] * 3, "item": [*"cab"], "ts": times.cast(kinds.get(kind, times.type))}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    assert [item for _, item in pairs_of(imported(tmp_path / "t.parquet").interactions)] == [*"abc"]


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "flags", "words"),
    [
        ("", {}, r"t.csv: the file is empty"),
        ("\n\n", {}, r"t.csv: the file is empty"),
        ("user,item\n", {}, r"t.csv: has a header and no rows"),
        ("1,2,3\n1,3,4\n", {}, r"no header with a user and an item column, but 1, 2, 3; put a f"),
        ("user,thing\n1,2\n", {}, r"no item column of a usual name, but user, thing; .*--item_"),
        ("user,item\n1,2\n", {"user_column": "who"}, r"--user_column who: .*but user, item$"),
        ("user,item\n1,2\n", {"min_rating": 3.0}, r"no rating column of a usual name"),
        ("user,item,score\n1,2,3\n", {"rating_column": "score"}, r"--min_rating only; give both"),
        ("user,item,score,Score\n1,2,3,4\n", {"min_rating": 3.0}, r"which is the rating column"),
        ("userId,user_id,item\n1,2,3\n", {}, r"which is the user column, .* --user_column"),
        ("userId,user_id,item\n1,2,3\n", {"user_column": "item"}, r"one column is chosen twice"),
        ("user,item\n1,2\n1,2,3\n", {}, r"t.csv:3: expected 2 columns, got 3"),
        ('user,item\n\n1,"2\n3"\n1\n', {}, r"t.csv:5: expected 2 columns, got 1"),
        ('user,item\n1,"2\n1,3\n4,"5\n', {}, r"item has an id with a line's end .*a quote"),
        (b"user,item\n1,\xff\n", {}, r"t.csv:2: not UTF-8"),
        ("user,item\n1,2\n".encode("utf-16"), {}, r"t.csv:1: not UTF-8"),
        ("user,item\n1,a\0b\n", {}, r"item has an id with a line's end or a NUL in it"),
        (f"user,item\n1,{'x' * 257}\n", {}, r"ids of more than 256 characters; is it the right"),
        ("user,item,rating\n1,2,good\n", {"min_rating": 3.0}, r"rating has 'good', .* no number"),
        ("user,item,time\n1,2,3\n1,3,noon\n", {}, r"time has 'noon', .*--time_column order"),
        ("user,item,time\n1,2,2024-01-01\n1,3,1 May\n", {}, r"time has '1 May'"),
        ("user,item\n1,2\n1,3\n2,4\n", {"min_count": 3}, r"no user has 3 items, .*--min_count"),
        ("user,item\n,2\nNaN,3\n", {}, r"no user has 1 items"),
    ],
)  # fmt: skip
def test_a_text_that_is_no_table_is_refused(text, flags, words, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=words) as error:
        imported(path, **flags)
    assert "\n" not in str(error.value)


def test_a_ragged_row_far_down_has_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK", 1000)
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"user,item\n" + b"1,2\n" * 5000 + b"1,2,3\n" + b"1,2\n" * 9))
    with pytest.raises(UserError, match=r"t.csv.gz:5002: expected 2 columns, got 3"):
        imported(path)


def test_numbers_and_dates_do_not_mix(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK", 100)
    path = tmp_path / "t.csv"
    path.write_text("user,item,time\n" + "1,2,3\n" * 50 + "1,2,2024-01-01\n" * 50)
    with pytest.raises(UserError, match=r"time has (both numbers and dates|'2024-01-01')"):
        imported(path)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"user": [1.0, None], "item": [1, 2]}, r"user is of double, .* pandas' Int64 keeps"),
        ({"user": [True, False], "item": [1, 2]}, r"user is of bool, and an id is text or a whole"),
        ({"user": [1, 2], "item": [[1], [2]]}, r"item is of list<"),
        (
            {"user": [1, 2], "item": [1, 2], "time": [True, False]},
            r"time is of bool, .* --time_column, or",
        ),
        ({"user": [], "item": []}, r"no rows|is of null"),
    ],
)
def test_a_parquet_file_of_the_wrong_types_is_refused(columns, words, tmp_path):
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=words):
        imported(tmp_path / "t.parquet")


@pytest.mark.parametrize("name", ["t.parquet", "t.csv.gz", "t.csv.bz2", "t.csv.zst", "t.txt.gz"])
def test_a_file_that_is_no_such_thing_is_refused(name, tmp_path):
    (tmp_path / name).write_bytes(b"PAR1 no such file")
    with pytest.raises(UserError, match=rf"{name}: cannot be read \(.*\); mend the file"):
        imported(tmp_path / name)
    whole = (gzip if name.endswith("gz") else bz2).compress(b"user,item\n" + b"12,34\n" * 9999)
    (tmp_path / name).write_bytes(whole[:-20])
    with pytest.raises(UserError, match=name):
        imported(tmp_path / name)


def test_lines_without_columns_have_no_choices(tmp_path):
    (tmp_path / "t.txt").write_text("1 2 3\n")
    with pytest.raises(UserError, match=r"--time_column order: .*t.txt has no columns; leave it"):
        imported(tmp_path / "t.txt", time_column="order")
    (tmp_path / "t.txt").write_text("user item\n1 2\n")
    with pytest.raises(UserError, match=r"t.txt:1: 'user' is not a number; a line is 'user item"):
        imported(tmp_path / "t.txt")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text("user,item\n1,2\n")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match="needs the package pyarrow; pip install pyarrow"):
        imported(tmp_path / "t.csv")
    (tmp_path / "t.txt").write_text("1 2 3\n")
    assert len(imported(tmp_path / "t.txt").interactions.users) == 2


# --- what is kept of a file ----------------------------------------------------------------------


@pytest.fixture
def ratings(workdir):
    """A file of 60 users who have 25 of 700 items each, with ratings and times, in no order."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user:03}", f"{item:05}", rng.integers(1, 6), rng.integers(10**9))
        for user in range(60)
        for item in rng.choice(700, 25, replace=False)
    ]
    text = "".join(",".join(map(str, row)) + "\n" for row in rows)
    (workdir / "ratings.csv").write_text("userId,itemId,rating,timestamp\n" + text)
    return workdir / "ratings.csv"


def test_a_file_is_imported_once(ratings, monkeypatch):
    read = lambda **given: load_own(ratings, ratings.parent / "data", Reading(**given))  # noqa: E731
    first, folder = read()
    assert folder.parent == ratings.parent / "data/ratings"
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", *[".npy"] * 4]
    assert not list(folder.parent.glob(".*"))
    monkeypatch.setattr("Utils.own_data.read_file", lambda *_: 1 / 0)
    again, same = read(min_count=5)
    assert same == folder
    for name in ("users", "items", "user_ids", "item_ids"):
        mine, theirs = (getattr(each.interactions, name) for each in (again, first))
        assert np.array_equal(mine, theirs)
        assert isinstance(mine.base, np.memmap)
    assert (again.said, again.in_order) == (first.said, True)
    assert again.interactions.sha256 == sha256_of(ratings)
    with pytest.raises(ZeroDivisionError):  # another way of reading, or another content
        read(min_count=6)
    ratings.write_text(ratings.read_text() + "u001,00000,3,5\n")
    with pytest.raises(ZeroDivisionError):
        read()


def test_what_was_left_half_done_is_made_anew(ratings, monkeypatch):
    data = ratings.parent / "data"
    _, folder = load_own(ratings, data, Reading())
    folder.rename(folder.with_name(f".{folder.name}.tmp"))  # as a killed process leaves it
    (folder.with_name(f".{folder.name}.tmp") / "users.npy").write_bytes(b"half")
    load_own(ratings, data, Reading())
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    monkeypatch.setattr(np, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(UserError, match=r"cannot write .full.; make room"):
        load_own(ratings, data, Reading(min_count=2))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("name", ["users.npy", "items.npy", "user_ids.npy", "import.json"])
def test_a_damaged_import_is_refused(name, ratings):
    _, folder = load_own(ratings, ratings.parent, Reading())
    path, whole = folder / name, (folder / name).read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"x" + whole[1:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"{folder}/{name}: .*delete {folder} to have it made"):
            load_own(ratings, ratings.parent, Reading())


@pytest.mark.parametrize("name", ["users", "items", "user_ids"])
@pytest.mark.parametrize(
    "change",
    [
        lambda array: array[:-1],
        lambda array: array[:, None],
        lambda array: array.astype("S"),
        lambda array: array.astype("O"),
        lambda array: array.astype(np.int32) if array.dtype.kind == "i" else array[:1],
        lambda array: array.astype(float) if array.dtype.kind == "i" else array[:5],
        lambda array: array - 1 if array.dtype.kind == "i" else array[:, None],
    ],
)
def test_an_import_of_other_arrays_is_refused(name, change, ratings):
    """Whoever writes them with the right checksums: native code does not look."""
    _, folder = load_own(ratings, ratings.parent, Reading())
    path, about = folder / f"{name}.npy", json.loads((folder / "import.json").read_text())
    np.save(path, change(np.load(path)))
    about["sha256"][name] = sha256_of(path)
    (folder / "import.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=f"{folder}.*; delete"):
        load_own(ratings, ratings.parent, Reading())


@pytest.mark.parametrize("key", ["format", "source_sha256", "in_order", "said", "sha256"])
def test_an_import_of_another_file_or_format_is_refused(key, ratings):
    _, folder = load_own(ratings, ratings.parent, Reading())
    about = json.loads((folder / "import.json").read_text())
    for value in ("another", 3, None, {}):
        if isinstance(value, str) and key == "said":
            continue
        (folder / "import.json").write_text(json.dumps(about | {key: value}))
        with pytest.raises(UserError, match=f"{folder}.*; delete {folder} to have it made anew"):
            load_own(ratings, ratings.parent, Reading())


def test_paths_and_names():
    for path, name in {
        "ratings.csv": "ratings", "a/ratings.csv.gz": "ratings", "/x/a b(1).tsv": "a_b_1_",
        "folder/": "folder", "2024.01.inter": "2024.01", "é.txt.zst": "é",
    }.items():  # fmt: skip
        assert is_own(path)
        assert dataset_name(path) == name
    for name in ("CiteULike", "synthetic", "nonsense"):
        assert not is_own(name)
        assert dataset_name(name) == name


@pytest.mark.parametrize("split", ["seed", "share", "time"])
def test_splits_are_kept_beside_the_import(split, ratings, capsys):
    made = load_split("ratings.csv", split, 3, "data")
    (path,) = ratings.parent.glob("data/ratings/*/split_*.npz")
    assert path.name == ("split_time.npz" if split == "time" else f"split_{split}3.npz")
    assert made.dataset == "ratings"
    assert made.source_sha256 == sha256_of(ratings)
    assert load_split("ratings.csv", split, 3, "data").sha256 == made.sha256
    assert capsys.readouterr().out.count("60 users, ") == 2
    if split == "time":  # the last fifth of a user's 25 items
        rows = csv.DictReader(ratings.read_text().splitlines())
        times = {(row["userId"], row["itemId"]): int(row["timestamp"]) for row in rows}
        for user, item in zip(made.test.users, made.test.items, strict=True):
            mine = sorted(time for pair, time in times.items() if pair[0] == made.user_ids[user])
            assert times[made.user_ids[user], made.item_ids[item]] in mine[-5:]


def test_time_is_known_or_said(ratings):
    lines = ratings.read_text().splitlines()
    ratings.write_text("\n".join(line.rpartition(",")[0] for line in lines))
    with pytest.raises(
        UserError, match=r"--split time: ratings.csv has no column of times .*order"
    ):
        load_split("ratings.csv", "time", 0, "data")
    kept = load_split("ratings.csv", "time", 0, "data", reading=Reading(time_column="order"))
    assert kept.name == "time"
    with pytest.raises(UserError, match=r"--split published: nobody has published one of ratings"):
        load_split("ratings.csv", "published", 0, "data")


# --- scripts -------------------------------------------------------------------------------------

READING = {"min_rating": 2.0, "min_count": 4, "item_column": "itemId", "time_column": "timestamp"}


def config(folder, method):
    """Return what the only run of a method has written of itself."""
    (path,) = folder.glob(f"logs/ratings/*/{method}/*/config.json")
    return json.loads(path.read_text())


def test_a_missing_teacher_is_trained_on_the_same_data(ratings, monkeypatch, capsys):
    def train(command):
        """Run the command here, for an epoch."""
        given = dict(flag[2:].split("=") for flag in command[2:] if "=" in flag)
        names = ("dim", "seed", "threads", "eval_users", "min_count")
        kinds = dict.fromkeys(names, int) | {"min_rating": float}
        given = {name: kinds.get(name, str)(text) for name, text in given.items()}
        run(main_no_KD, **given, max_epoch=1)

    monkeypatch.setattr("experiments.teacher._run", train)
    given = {"dataset": "ratings.csv", "dim": 4, "teacher_dim": 6, "max_epoch": 1, "K": 5, "L": 5}
    run(main_URRD, **given, **READING)
    student, teacher = (config(ratings.parent, method) for method in ("URRD", "no_KD"))
    assert student["data"] == teacher["data"]
    for name, value in (READING | {"dataset": "ratings.csv"}).items():
        assert student["settings"][name] == teacher["settings"][name] == value
    (path,) = ratings.parent.glob("logs/ratings/BPR-d4/URRD/seed0/summary.json")
    assert json.loads(path.read_text())["dataset"] == "ratings"
    out = capsys.readouterr().out
    assert "no row for ratings in settings.csv, so the numbers are CiteULike's" in out
    assert re.search(
        r"d = 4: [\d,]+ parameters in vectors, roughly 0.4 GB; .* URRD adds its own", out
    )


def test_a_file_may_be_moved_but_not_changed(ratings, capsys):
    given = {"dim": 4, "max_epoch": 1}
    run(main_no_KD, dataset="ratings.csv", **given)
    (ratings.parent / "deep").mkdir()
    moved = ratings.rename(ratings.parent / "deep/ratings.csv")
    capsys.readouterr()
    run(main_no_KD, dataset=str(moved), **given)
    assert "holds this run, finished" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"holds a run on other data"):
        run(main_no_KD, dataset=str(moved), **given, min_rating=2.0)
    run(main_no_KD, dataset=str(moved), dim=4, max_epoch=2, resume=True)
    assert config(ratings.parent, "no_KD")["settings"]["max_epoch"] == 2


def test_the_search_and_the_times_of_lists_take_a_file(ratings, monkeypatch, tmp_path):
    monkeypatch.setattr(tune, "LOGS", tmp_path / "tuning-logs")
    monkeypatch.setattr(inference, "NUM_SINGLE", 3)
    fixed = ("max_epoch=1", "min_rating=2")
    tune.main(tune.Settings("no_KD", ("lr=0.01",), fixed, dataset="ratings.csv", dim=4, jobs=1))
    (log,) = (tmp_path / "tuning-logs").iterdir()
    assert log.name == "ratings-BPR-no_KD-d4.csv"
    assert "min_rating=2" in log.read_text()
    inference.main(inference.Settings(dataset="ratings.csv", repeats=1, min_rating=2.0))
    assert (tmp_path / "logs/ratings/inference/BPR.json").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dataset=nowhere.csv"], "--dataset nowhere.csv: no such file; correct the path"),
        (
            ["--dataset=Synthetic.csv"],
            "runs would land in logs/Synthetic, which is for the built-in",
        ),
        (
            ["--dataset=synthetic", "--min_count=5"],
            "--min_count 5: is for files of your own, and s",
        ),
        (["--dataset=synthetic", "--time_column=t"], "--time_column t: is for files of your own"),
        (
            ["--dataset=ratings.csv", "--user_column=who"],
            "--user_column who: ratings.csv has no suc",
        ),
        (["--dataset=ratings.csv", "--min_rating=nan"], "--min_rating nan is out of range"),
        (["--dataset=ratings.csv", "--min_count=26"], "no user has 26 items"),
        (["--dataset=few.csv"], "few: user u left only"),
        (["--dataset=few.csv", "--split=share"], "nobody is left with an item for validation"),
    ],
)
def test_what_cannot_be_is_one_line(flags, words, ratings, monkeypatch, capsys):
    (ratings.parent / "Synthetic.csv").touch()
    (ratings.parent / "few.csv").write_text("user,item\n" + "u,a\nu,b\nu,c\nu,d\nu,e\n")
    monkeypatch.setattr("sys.argv", ["main_no_KD.py", *flags])
    with pytest.raises(SystemExit) as ended:
        launch(main_no_KD.main, main_no_KD.Settings, "")
    assert ended.value.code == 2
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_a_run_that_is_too_large_is_warned_about(ratings, monkeypatch, capsys):
    split = load_split("ratings.csv", "seed", 0, "data")
    args = main_no_KD.Settings(dataset="ratings.csv", dim=100)
    vectors = 100 * (split.num_users + split.num_items)
    assert estimate.memory(args, split) > 16 * vectors + split.candidates.nbytes
    assert f"d = 100: {vectors:,} parameters" in estimate.estimate(args, split)
    rows = dataclasses.replace(args, optimizer="rows")
    assert estimate.memory(args, split) == estimate.memory(rows, split) + 4 * vectors
    sizes = {"num_users": 10**6, "num_items": 10**6, "candidates": None}
    large = SimpleNamespace(train_users=split.train_users, **sizes)
    dense, few = (estimate.training_minutes(each, large) for each in (args, rows))
    assert few < dense / 10  # the same steps do not grow with the catalogue
    once = dataclasses.replace(args, max_epoch=1)
    assert estimate.training_minutes(once, large) == pytest.approx(dense / estimate.EPOCHS)
    taught = main_S2D.Settings(dataset="ratings.csv", K=300)
    assert estimate.memory(taught, large) > 4 * 200 * 2 * 10**6
    assert " and 1.2 GB in files; " in estimate.estimate(taught, large)
    assert not capsys.readouterr().err
    monkeypatch.setattr(estimate, "machine_memory", lambda: 10**6)
    estimate.estimate(args, split)
    assert "this machine has 0.0; use a larger --min_count" in capsys.readouterr().err
    assert "minutes" not in estimate.estimate(dataclasses.replace(args, model="iALS"), split)
