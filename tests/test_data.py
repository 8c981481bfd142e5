"""From the raw file to the split: right on real data, and clear about wrong data."""

import dataclasses
import hashlib
import http.server
import threading

import numpy as np
import pytest
import torch
from conftest import real_file
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from Models import build_model
from Utils import sources
from Utils.errors import UserError
from Utils.evaluation import Evaluator
from Utils.files import sha256_of
from Utils.interactions import Interactions, read_users_dat
from Utils.seeding import numpy_generator
from Utils.sources import SOURCES, download, load_split, split_name
from Utils.split import (
    NUM_CANDIDATES,
    HeldOut,
    Split,
    by_share,
    leave_one_out,
    read_published_split,
)
from Utils.synthetic import Size, make

# --- the raw file ------------------------------------------------------------------------------


def test_users_and_items_are_numbered_by_first_appearance(tmp_path):
    path = tmp_path / "users.dat"
    path.write_text("2 90 70\n1 5\n0\n3 70 8 1000000007\n")
    found = read_users_dat(path, min_count=2)
    assert found.users.tolist() == [0, 0, 1, 1, 1]
    assert found.items.tolist() == [0, 1, 1, 2, 3]
    assert found.user_ids.tolist() == [0, 3]  # lines of the file, from 0
    assert found.item_ids.tolist() == [90, 70, 8, 1000000007]
    assert found.sha256 == sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_repeated_items_are_dropped_and_counted(tmp_path, capsys):
    path = tmp_path / "users.dat"
    path.write_text("2 1 2\n4 7 7 8 7\n")
    found = read_users_dat(path, min_count=1)
    assert found.items.tolist() == [0, 1, 2, 3]
    assert f"warning: {path}:2: dropped 2 repeated items" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["the file is empty"]),
        ("2 1 2\n3 1 2\n", [":2: the count says 3 items but 2 follow"]),
        ("2 1 2\n2 1 x7\n", [":2: 'x7' is not a number"]),
        ("2 1 2\n2 1 0.5\n", [":2: '0.5' is not a number"]),
        ("2 1 2\n\n2 1 2\n", [":2: the line is empty"]),
        ("2 1 -2\n", [":1: item -2 is out of range"]),
        ("1 9223372036854775808\n", [":1: item 9223372036854775808 is out of range"]),
        ("-1\n", [":1: the count says -1 items but 0 follow"]),
        ("2 1 2\n1 1\n", ["no user has 3 items", "is this the whole file?"]),
    ],
)
def test_a_bad_file_is_refused_with_its_place(tmp_path, content, words):
    path = tmp_path / "users.dat"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        read_users_dat(path, min_count=3)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_binary_bytes_are_refused_in_one_line(tmp_path):
    path = tmp_path / "users.dat"
    path.write_bytes(b"\x89PNG\xff\x00 12\n")
    with pytest.raises(UserError, match="is not a number"):
        read_users_dat(path, min_count=1)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.dat: cannot read \(No such file"):
        read_users_dat(tmp_path / "none.dat", min_count=1)


def test_citeulike_has_the_known_counts():
    path = real_file("CiteULike", "users.dat")
    assert sha256_of(path) == SOURCES["CiteULike"].sha256
    found = read_users_dat(path, SOURCES["CiteULike"].min_count)
    assert (len(found.user_ids), len(found.item_ids)) == (5219, 25181)
    assert len(found.users) == 125580
    assert len(leave_one_out(found, seed=0).train_users) == 115142


def test_foursquare_has_the_known_counts():
    path = real_file("Foursquare", "users.dat")
    assert sha256_of(path) == SOURCES["Foursquare"].sha256
    found = read_users_dat(path, SOURCES["Foursquare"].min_count)
    assert len(found.user_ids) == 24934  # of 24,941, those with 10 items


def test_numbering_is_that_of_the_published_split():
    path = real_file("CiteULike", "published_split0.npz")
    ours = read_users_dat(real_file("CiteULike", "users.dat"), SOURCES["CiteULike"].min_count)
    theirs = read_published_split(path, "CiteULike")
    assert (theirs.num_users, theirs.num_items) == (5219, 25182)  # one item that nobody touched
    users = np.arange(theirs.num_users)
    pairs = np.concatenate(
        [
            np.stack([theirs.train_users, theirs.train_items], axis=1),
            np.stack([users, theirs.valid.items], axis=1),
            np.stack([users, theirs.test.items], axis=1),
        ]
    )
    expected = {*zip(ours.users.tolist(), ours.items.tolist(), strict=True)}
    assert {*map(tuple, pairs.tolist())} == expected
    _check_invariants(theirs, expected)


# --- the split ---------------------------------------------------------------------------------


def _interactions(pairs: list[tuple[int, int]], num_items: int) -> Interactions:
    """Return interactions whose items exist even where nobody touches them."""
    users, items = map(np.array, zip(*sorted(pairs), strict=True))
    return Interactions(users, items, np.unique(users), np.arange(num_items), "hash")


def _check_invariants(split: Split, pairs: set[tuple[int, int]]) -> None:
    """Training, validation and test partition the pairs; candidates are distinct and untouched."""
    parts = [
        *zip(split.train_users.tolist(), split.train_items.tolist(), strict=True),
        *enumerate(split.valid.items.tolist()),
        *enumerate(split.test.items.tolist()),
    ]
    assert len(parts) == len(set(parts))
    assert set(parts) == pairs
    assert split.candidates.shape == (split.num_users, NUM_CANDIDATES)
    assert split.candidates.min() >= 0
    assert split.candidates.max() < split.num_items
    touched = [set() for _ in range(split.num_users)]
    for user, item in pairs:
        touched[user].add(item)
    for user, row in enumerate(split.candidates.tolist()):
        assert len(set(row)) == NUM_CANDIDATES
        assert not touched[user] & set(row)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_every_split_keeps_the_protocol(data):
    num_items = data.draw(st.integers(510, 600), "items")
    users = data.draw(st.integers(1, 5), "users")
    pairs = set()
    for user in range(users):
        items = st.sets(st.integers(0, num_items - 1), min_size=3, max_size=num_items - 499)
        pairs |= {(user, item) for item in data.draw(items, f"user {user}")}
    seed = data.draw(st.integers(0, 1000), "seed")
    _check_invariants(leave_one_out(_interactions([*pairs], num_items), seed), pairs)


def test_the_seed_decides_the_split():
    pairs = [(user, 7 * user + k) for user in range(20) for k in range(10)]
    interactions = _interactions(pairs, 700)
    assert leave_one_out(interactions, 3).sha256 == leave_one_out(interactions, 3).sha256
    assert leave_one_out(interactions, 3).sha256 != leave_one_out(interactions, 4).sha256


def test_held_out_items_and_candidates_are_uniform():
    interactions = _interactions([(user, item) for user in range(400) for item in range(4)], 1000)
    made = [leave_one_out(interactions, seed) for seed in range(3)]
    for column in ("valid", "test"):
        drawn = np.concatenate([getattr(split, column).items for split in made])
        assert chisquare(np.bincount(drawn, minlength=4)).pvalue > 1e-4
    drawn = np.concatenate([split.candidates.ravel() for split in made])
    counts = np.bincount(drawn, minlength=1000)[4:]
    # Without replacement counts vary less than in independent draws: by the share left out.
    spread = ((counts - counts.mean()) ** 2).sum() / counts.mean() / (1 - NUM_CANDIDATES / 996)
    assert abs(spread - 995) < 5 * np.sqrt(2 * 995)


def test_a_split_is_what_a_loop_over_users_draws(monkeypatch):
    """The draws that stand behind the hashes in ``logs/``: of few and many items, by chunks."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr("Utils.split.USERS", 16)
    for num_users, num_items, most in ((5, 502, 4), (60, 700, 200), (90, 20_000, 9)):
        counts = rng.integers(3, most, num_users)
        items = [rng.choice(num_items, count, replace=False) for count in counts]
        users = np.repeat(np.arange(num_users), counts)
        of = np.arange(num_users), np.arange(num_items), "hash"
        split = leave_one_out(Interactions(users, np.concatenate(items), *of), 5)
        draws = numpy_generator(5, "leave-one-out")
        for user, mine in enumerate(items):
            test, valid = mine[draws.choice(len(mine), size=2, replace=False)]
            assert (split.test.items[user], split.valid.items[user]) == (test, valid)
            free = np.setdiff1d(np.arange(num_items), mine)
            drawn = free[draws.choice(len(free), size=499, replace=False, shuffle=False)]
            assert np.array_equal(split.candidates[user], np.sort(drawn))


@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_a_split_that_stays_in_its_file_is_the_same(tmp_path, monkeypatch):
    """Drawn into a file, read from one, checked in chunks, cut by users, damaged."""
    made = load_split("synthetic", "seed", 0, str(tmp_path / "held"))
    monkeypatch.setattr("Utils.files.LARGE", 4096)
    monkeypatch.setattr("Utils.files.AT_A_TIME", 10_000)
    monkeypatch.setattr("Utils.split.PAIRS", 500)
    mapped = load_split("synthetic", "seed", 0, str(tmp_path))
    for name in ("candidates", "train_users", "train_items"):
        assert isinstance(getattr(mapped, name), np.memmap)
        assert np.array_equal(getattr(mapped, name), getattr(made, name))
    assert mapped.sha256 == made.sha256
    (path,) = (tmp_path / "synthetic").iterdir()  # nothing else is left
    with np.load(path) as plain:  # still a plain .npz file
        assert np.array_equal(plain["candidates"], made.candidates)
    some = mapped.of_users(np.arange(200, 900))
    assert np.shares_memory(some.candidates, mapped.candidates)
    assert np.array_equal(some.candidates, made.candidates[200:900])
    assert np.array_equal(some.train_items, made.of_users(np.r_[200:900]).train_items)
    model = build_model("BPR", made, 4, seed=0)
    ranks = [Evaluator(split, "cpu").ranks(model) for split in (made, mapped)]
    assert all(torch.equal(ranks[0][part], ranks[1][part]) for part in ("valid", "test"))
    for place, change, words in (
        ((900, 7), made.test.items[900], "held-out items are among the candidates"),
        ((999, 498), 1998, "candidates has 0 to 1998, beyond 0 to 1,997"),
    ):
        changed = made.candidates.copy()
        changed[place] = change
        with pytest.raises(UserError, match=words):
            dataclasses.replace(mapped, candidates=changed)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()  # what is mapped is still of the old file
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"split_seed0\.npz: cut short, damaged"):
        load_split("synthetic", "seed", 0, str(tmp_path))


def test_too_few_items_are_refused():
    with pytest.raises(UserError, match="user 1 has 2 items and leave-one-out needs 3"):
        leave_one_out(_interactions([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)], 600), 0)
    with pytest.raises(UserError, match="left only 498 of 501 items untouched and 499"):
        leave_one_out(_interactions([(0, 0), (0, 1), (0, 2)], 501), 0)


def test_a_kept_split_is_read_back_whole(split, tmp_path):
    split.save(tmp_path / "split.npz")
    kept = Split.load(tmp_path / "split.npz")
    assert kept.sha256 == split.sha256
    assert (kept.dataset, kept.name, kept.source_sha256) == (
        split.dataset,
        split.name,
        split.source_sha256,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["split.npz"]


def test_the_hash_sees_every_array(split):
    unseen = np.setdiff1d(np.arange(split.num_items), split.candidates[0])
    mine = [*split.train_items[split.train_users == 0], *held_out_of(split, 0)]
    other = np.setdiff1d(unseen, mine)[0]
    for name in ("train_items", "candidates"):
        changed = getattr(split, name).copy()
        changed.flat[0] = other
        assert dataclasses.replace(split, **{name: changed}).sha256 != split.sha256
    for name in ("valid", "test"):
        changed = getattr(split, name).items.copy()
        changed[0] = other
        changed = dataclasses.replace(split, **{name: HeldOut.one_each(changed)})
        assert changed.sha256 != split.sha256


def held_out_of(split: Split, user: int) -> list[int]:
    """Return a user's held-out items of both parts."""
    return [item for part in (split.valid, split.test) for item in part.items[part.users == user]]


def test_the_hash_of_shares_sees_who_has_what(shares):
    moved = HeldOut(shares.valid.starts.copy(), shares.valid.items)
    place = int(np.flatnonzero(moved.counts[:-1])[0]) + 1
    moved.starts[place] -= 1  # the last item of that user is the next one's
    assert dataclasses.replace(shares, valid=moved).sha256 != shares.sha256


@pytest.mark.parametrize("keep", [0, 10, 1000, 0.5, 0.999])
def test_a_split_cut_short_is_refused(split, tmp_path, keep):
    path = tmp_path / "split.npz"
    split.save(path)
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(UserError, match=r"split\.npz: cut short"):
        Split.load(path)


def test_foreign_files_are_refused(split, tmp_path):
    path = tmp_path / "split.npz"
    np.savez(path, other=np.arange(3))
    with pytest.raises(UserError, match="holds no 'format"):
        Split.load(path)
    np.save(tmp_path / "array.npy", np.arange(3))
    with pytest.raises(UserError, match=r"no \.npz file"):
        Split.load(tmp_path / "array.npy")
    split.save(path)
    with np.load(path) as file:
        fields = dict(file)
    np.savez(path, **fields | {"format": "recdistill split 99"})
    with pytest.raises(UserError, match="not of the format"):
        Split.load(path)
    np.savez(path, **fields | {"item_ids": np.arange(10)})
    with pytest.raises(UserError, match="beyond 0 to 9"):
        Split.load(path)
    np.savez(path, train=np.zeros((1, 2)))
    with pytest.raises(UserError, match="holds no 'users"):
        read_published_split(path, "CiteULike")


def test_what_the_protocol_does_not_have_is_refused(split):
    valid, test = split.valid.items, split.test.items

    def other(**changes):
        arrays = {}
        for name, (place, value) in changes.items():
            of = getattr(split, name)
            arrays[name] = (of.items if name in ("valid", "test") else of).copy()
            arrays[name][place] = value
            if name in ("valid", "test"):
                arrays[name] = HeldOut.one_each(arrays[name])
        return dataclasses.replace(split, **arrays)

    seen = split.train_items[split.train_users == 3][0]
    for changes, words in (
        ({"candidates": ((3, 5), test[3])}, "held-out items are among the candidates"),
        ({"candidates": ((3, 5), valid[3])}, "held-out items are among the candidates"),
        ({"test": (3, valid[3])}, "a pair of user and item stands there twice"),
        ({"valid": (3, seen)}, "a pair of user and item stands there twice"),
        ({"candidates": ((3, 5), -1)}, "candidates has -1 to"),
        ({"train_users": (-1, split.num_users)}, "train_users has 0 to 1000, beyond 0 to 999"),
        ({"train_users": (0, 1)}, "training pairs are not user by user"),
    ):
        with pytest.raises(UserError, match=words):
            other(**changes)
    for change, words in (
        ({"candidates": split.candidates[:, :100]}, "not 1,000 x 499 integers"),
        ({"candidates": split.candidates.astype(float)}, "candidates is float64 of"),
        ({"valid": HeldOut.one_each(valid[:-1])}, "valid_starts is int64 of 1,000, not 1,001"),
        ({"valid": HeldOut(split.valid.starts + 1, valid)}, "valid_starts has 1 to 1001, beyond"),
        ({"valid": HeldOut(split.valid.starts[::-1].copy(), valid)}, "do not go from 0 to 1000"),
        ({"candidates": None, "valid": HeldOut(split.valid.starts * 0, valid)}, "do not go from 0"),
        ({"valid": HeldOut(np.r_[0, 0, 2:1001], valid)}, "not one held-out item a user"),
        ({"user_ids": split.user_ids.reshape(2, -1)}, "user_ids are no row of ids"),
    ):
        with pytest.raises(UserError, match=words):
            dataclasses.replace(split, **change)


# --- by shares -----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_shares_are_of_each_users_items(data):
    """Training and held-out parts are the pairs, but for what nobody trains on."""
    share = {part: data.draw(st.sampled_from([0.1, 0.2, 0.4]), part) for part in ("valid", "test")}
    pairs = {(0, item) for item in range(5)}  # so that somebody is measured
    for user in range(data.draw(st.integers(1, 6), "users")):
        items = data.draw(st.sets(st.integers(0, 40), min_size=1, max_size=30), f"user {user}")
        pairs |= {(user + 1, item) for item in items}
    seed = data.draw(st.integers(0, 1000), "seed")
    interactions = _interactions([*pairs], 41)
    try:
        split = by_share(interactions, seed, **share)
    except UserError:  # all that was held out, nobody trains on
        return
    trained = list(zip(split.train_users.tolist(), split.train_items.tolist(), strict=True))
    held_out = {
        name: list(zip(part.users.tolist(), part.items.tolist(), strict=True))
        for name, part in (("valid", split.valid), ("test", split.test))
    }
    parts = [*trained, *held_out["valid"], *held_out["test"]]
    assert len(parts) == len(set(parts))
    assert set(parts) <= pairs
    known = {item for _, item in trained}
    for user in range(split.num_users):
        count = sum(u == user for u, _ in pairs)
        drawn = {part: int(share[part] * count) for part in share}
        assert sum(u == user for u, _ in trained) == count - sum(drawn.values())
        mine = [sum(u == user for u, _ in held_out[name]) for name in held_out]
        assert all(kept <= drawn[name] for kept, name in zip(mine, held_out, strict=True))
        assert (mine[0] == 0) == (mine[1] == 0)
    assert {item for name in held_out for _, item in held_out[name]} <= known
    assert list(split.train_users) == sorted(split.train_users)


def test_shares_are_drawn_uniformly_by_the_seed():
    interactions = _interactions([(user, item) for user in range(400) for item in range(10)], 10)
    made = [by_share(interactions, seed) for seed in range(3)]
    assert by_share(interactions, 1).sha256 == made[1].sha256 != made[2].sha256
    for part in ("valid", "test"):
        drawn = np.concatenate([getattr(split, part).items for split in made])
        assert len(drawn) == 3 * 400 * 2
        assert chisquare(np.bincount(drawn, minlength=10)).pvalue > 1e-4


def test_unusual_shares_are_in_a_splits_name_and_impossible_ones_refused(tmp_path):
    assert split_name("share", 3, (None, 0.25)) == "share3-20-25"
    assert split_name("time", 2, (0.1, 0.2)) == "time-seed2"  # the usual ones
    made = load_split("synthetic", "share", 3, str(tmp_path), (0.05, 0.125))
    assert made.name == "share3-5-12.5"
    assert (tmp_path / "synthetic/split_share3-5-12.5.npz").exists()
    assert load_split("synthetic", "share", 3, str(tmp_path), (0.05, 0.125)).sha256 == made.sha256
    for shares in ((0.5, 0.5), (0.0, 0.2)):
        with pytest.raises(UserError, match="leave nothing for one of validation, test and"):
            load_split("synthetic", "share", 3, str(tmp_path), shares)
    with pytest.raises(UserError, match="--split seed: has no shares; leave --valid_share"):
        load_split("synthetic", "seed", 3, str(tmp_path), (None, 0.2))


def test_shares_of_lists_that_are_too_short_are_refused():
    with pytest.raises(UserError, match="nobody is left with an item for validation"):
        by_share(_interactions([(user, item) for user in range(9) for item in range(4)], 4), 0)


def test_a_kept_split_by_shares_is_read_back_whole(shares, tmp_path):
    shares.save(tmp_path / "split.npz")
    kept = Split.load(tmp_path / "split.npz")
    assert kept.sha256 == shares.sha256
    assert kept.candidates is None
    assert kept.protocol == shares.protocol
    assert np.array_equal(kept.item_ids, shares.item_ids)


@pytest.mark.parametrize("name", ["valid_items", "valid_starts", "train_items", "item_ids"])
def test_an_array_that_is_a_single_number_is_refused(shares, tmp_path, name):
    path = tmp_path / "split.npz"
    shares.save(path)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | {name: np.int64(3)})
    with pytest.raises(UserError, match=f"{name}|a row of ids"):
        Split.load(path)


def test_citeulike_by_shares_has_the_size_that_hetcomp_has():
    """78,958 pairs for training, as its description gives for another draw of the same rule."""
    path = real_file("CiteULike", "users.dat")
    split = by_share(read_users_dat(path, 5), 0, "CiteULike")
    assert len(split.train_users) == 78_958
    assert np.count_nonzero(split.test.counts) == pytest.approx(4719, abs=60)
    assert len(split.test.items) == pytest.approx(20_823, abs=150)


def test_the_ids_of_the_raw_file_are_kept(tmp_path):
    path = tmp_path / "users.dat"
    path.write_text("0\n5 70 80 90 100 110\n5 110 100 90 80 70\n5 70 80 90 100 110\n")
    split = by_share(read_users_dat(path, 5), 3, "data")
    assert split.user_ids.tolist() == [1, 2, 3]
    assert split.item_ids.tolist() == [70, 80, 90, 100, 110]
    assert split.train_items[split.train_users == 1].tolist() != sorted(
        split.train_items[split.train_users == 1]
    )  # in the file's order


# --- where data comes from -----------------------------------------------------------------------


def test_a_split_is_made_once_and_tied_to_its_source(workdir, monkeypatch):
    made = load_split("synthetic", "seed", 1, "data")
    path = workdir / "data/synthetic/split_seed1.npz"
    written = path.stat().st_mtime_ns
    assert load_split("synthetic", "seed", 1, "data").sha256 == made.sha256
    assert path.stat().st_mtime_ns == written
    for change in ({"source_sha256": "another"}, {"name": "seed2"}, {"dataset": "CiteULike"}):
        dataclasses.replace(made, **change).save(path)
        with pytest.raises(UserError, match="of another raw file or seed; delete it"):
            load_split("synthetic", "seed", 1, "data")


def test_a_data_folder_that_cannot_be_written_is_no_obstacle(workdir, capsys):
    (workdir / "data").write_text("a file where the folder should be")
    assert load_split("synthetic", "seed", 0, "data").num_users == 1000
    assert "warning: the split is not kept" in capsys.readouterr().err


def test_wrong_requests_are_refused(workdir):
    with pytest.raises(UserError, match=r"published_split0\.npz: no such file"):
        load_split("synthetic", "published", 0, "data")


CONTENT = b"5 1 2 3 4 5\n" * 1000


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``CONTENT``, or only half of it under the full length."""

    def do_GET(self):
        """Answer a request."""
        self.send_response(404 if self.path == "/none" else 200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if self.path == "/half" else CONTENT)

    def log_message(self, *_):
        """Keep the test's output clean."""


@pytest.fixture(scope="module")
def server():
    """The address of a server on this machine."""
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_download_is_checked_and_kept(server, tmp_path):
    path = tmp_path / "CiteULike" / "users.dat"
    download(f"{server}/users.dat", hashlib.sha256(CONTENT).hexdigest(), path)
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("page", "words"),
    [("half", "broke off"), ("users.dat", "is another file"), ("none", "no download .*404")],
)
def test_a_bad_download_leaves_nothing(server, tmp_path, page, words):
    path = tmp_path / "users.dat"
    with pytest.raises(UserError, match=words) as error:
        download(f"{server}/{page}", "0" * 64, path)
    assert f"put the file from {server}/{page} there" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_download_into_a_folder_that_cannot_be_made_is_one_line(server, tmp_path):
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"data/CiteULike/users\.dat: cannot write"):
        download(f"{server}/users.dat", "0" * 64, tmp_path / "data/CiteULike/users.dat")


def test_a_connection_that_breaks_is_not_taken_for_a_full_disk(server, tmp_path, monkeypatch):
    def broken(*_):
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr("http.client.HTTPResponse.read", broken)
    with pytest.raises(UserError, match="the download broke off; put the file from"):
        download(f"{server}/users.dat", "0" * 64, tmp_path / "users.dat")
    assert not list(tmp_path.iterdir())


def test_without_a_network_one_line_says_what_to_put_where(workdir, monkeypatch):
    source = SOURCES["CiteULike"]
    closed = sources.Source("http://127.0.0.1:1/users.dat", source.sha256, 5)
    monkeypatch.setitem(SOURCES, "CiteULike", closed)
    with pytest.raises(UserError, match=r"data/CiteULike/users\.dat: no such file.*put the file"):
        load_split("CiteULike", "seed", 0, "data")
    assert not list(workdir.iterdir())


def test_a_missing_file_is_downloaded_and_another_one_refused(server, workdir, monkeypatch):
    lines = "".join(f"5 {' '.join(str(5 * n + k) for k in range(5))}\n" for n in range(200))
    monkeypatch.setattr("test_data.CONTENT", lines.encode())
    digest = hashlib.sha256(lines.encode()).hexdigest()
    source = sources.Source(f"{server}/users.dat", digest, 5)
    monkeypatch.setitem(SOURCES, "CiteULike", source)
    assert load_split("CiteULike", "seed", 0, "data").num_users == 200
    (workdir / "data/CiteULike/users.dat").write_text(lines + "5 1 2 3 4 5\n")
    with pytest.raises(UserError, match=r"not the public file .* must not stand under its name"):
        load_split("CiteULike", "seed", 5, "data")


def test_the_built_in_data_is_always_the_same(split):
    assert (split.num_users, split.num_items, len(split.train_users)) == (1000, 1998, 27479)
    # Long-tailed, as real data is: a tenth of the items has more than a third of the interactions.
    counts = np.sort(np.bincount(split.train_items, minlength=split.num_items))[::-1]
    assert counts[:200].sum() > counts.sum() / 3


# --- of any size ---------------------------------------------------------------------------------


def test_data_of_any_size_have_groups_and_long_tails(tmp_path):
    size = Size.of("synthetic:3000x2e3x6.0e4")
    assert (size, size.name) == ((3000, 2000, 60_000), "synthetic-3e3x2e3x6e4")
    made = make(size, tmp_path)
    assert (len(made.user_ids), len(made.item_ids), len(made.users)) == size
    assert len(np.unique(made.users * 2000 + made.items)) == len(made.users)
    activity, popularity = np.bincount(made.users), np.bincount(made.items, minlength=2000)
    assert activity.min() == 5
    assert np.median(activity) < 15 < activity.mean() == 20 < activity.max() / 10
    assert np.sort(popularity)[-200:].sum() > len(made.users) / 4
    # two users of a popular item share more of their other items than any two users
    seen = np.zeros((3000, 2000), dtype=np.float32)
    seen[made.users, made.items] = 1
    expected = np.outer(popularity, popularity) / len(made.users) * np.mean(activity)
    together = seen.T @ seen
    np.fill_diagonal(together, 0)
    middle = np.argsort(popularity)[500:1500]
    assert (together[middle][:, middle] > 10 * expected[middle][:, middle]).mean() > 0.01


def test_data_of_any_size_are_the_same_however_much_is_held(tmp_path, monkeypatch):
    size = Size.of("synthetic:900x800x9000")
    monkeypatch.setattr("Utils.synthetic.TOGETHER", 1000)
    held = make(size, tmp_path)
    monkeypatch.setattr("Utils.files.LARGE", 100)
    mapped = make(size, tmp_path)
    assert np.array_equal(held.users, mapped.users)
    assert np.array_equal(held.items, mapped.items)
    digest = hashlib.sha256(held.items.tobytes()).hexdigest()
    assert digest == "f1017f9732d7c786f977c7a3b56ab39fae4782ed4caad5914a3f6d8e33a5f2c1"


def test_data_of_any_size_are_made_once_and_checked(workdir, capsys, monkeypatch):
    """Kept and split like a file of one's own, under a name for folders; however it is written."""
    split = load_split("synthetic:900x8e2x9000", "seed", 1, "data")
    assert (split.dataset, split.num_users, split.num_items) == ("synthetic-900x800x9e3", 900, 800)
    (folder,) = (workdir / "data/synthetic-900x800x9e3").iterdir()
    assert "is made, in data/synthetic-900x800x9e3" in capsys.readouterr().out
    monkeypatch.setattr("Utils.own_data.make", lambda *_: 1 / 0)
    again = load_split("synthetic:9e2x800x9e3", "seed", 1, "data")
    assert again.sha256 == split.sha256
    items = np.load(folder / "items.npy")
    np.save(folder / "items.npy", items[::-1])
    with pytest.raises(UserError, match=r"items\.npy: damaged, its sha256 differs; delete"):
        load_split("synthetic:900x800x9000", "seed", 1, "data")


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ("", "write synthetic:USERSxITEMSxPAIRS, as in synthetic:1e6x1e6x2e7"),
        ("1e6x1e6", "write synthetic:"),
        ("axbxc", "write synthetic:"),
        ("-5x600x100", "write synthetic:"),
        ("infx600x100", "write synthetic:"),
        ("0x600x100", "whole, above 0 and below 2,147,483,648"),
        ("1.5x600x100", "whole, above 0"),
        ("1e3x3e9x1e5", "whole, above 0"),
        ("100x600x499", "a user has 5 items or more; name more pairs"),
        ("100x2000x100001", "more than half of all pairs there are"),
        ("100x600x11000", "leaves users fewer than 499 untouched items; name more items"),
        ("1e9x1e9x1e12", "GB are to be written here, and .* free; make room"),
    ],
)
def test_a_size_that_cannot_be_is_refused_in_one_line(workdir, size, words):
    with pytest.raises(UserError, match=words) as error:
        load_split(f"synthetic:{size}", "seed", 0, "data")
    assert "\n" not in str(error.value)
    assert not list(workdir.iterdir())
