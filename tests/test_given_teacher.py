"""Teachers that were trained elsewhere: files against what they hold, masks, leaks, scripts."""

import gzip
import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from conftest import killed_in, run, split_of
from safetensors.numpy import save_file
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds

import main_CD
import main_DCD
import main_DE
import main_HetComp
import main_IRRRD
import main_RD
import main_S2D
import main_SVD
import main_TAKD
import main_UnKD
import main_URRD
from Models import build_model
from Models.distillers import CD, CLDRD, DE, ICD, PHR, RCEKD, RD, RRD, S2D, UCD, ItemSideRRD, UnKD
from Models.given_teacher import OUT, FactorTeacher, ListTeacher, read_given
from Utils.dataset import Pairs
from Utils.errors import UserError, need

CPU = torch.device("cpu")
SMALL = split_of(12, 40)  # users 0 to 11, items 0 to 39
RNG = np.random.default_rng(5)
USERS, ITEMS = (RNG.normal(size=(n, 3)).astype(np.float32) for n in (12, 40))
BIASES = {
    f"{kind}_biases": RNG.normal(size=n).astype(np.float32)
    for kind, n in (("user", 12), ("item", 40))
}
IDS = {"user": np.arange(12), "item": np.arange(40)}


def read(path, split=SMALL) -> FactorTeacher | ListTeacher:
    return read_given(Path(path), split, CPU)


def table(ids: np.ndarray, vectors: np.ndarray, column: str = "features") -> pa.Table:
    return pa.table({"id": pa.array(ids.tolist()), column: pa.array(list(vectors))})


def write_factors(kind: str, users=USERS, items=ITEMS, ids=IDS, **more) -> Path:
    """Write factors in one of the ways that are read, and return where."""
    named = {"user": users, "item": items}
    arrays = {f"{name}_factors": vectors for name, vectors in named.items()}
    arrays |= {f"{name}_ids": ids[name] for name in named} | more
    path = Path(kind)
    if kind.endswith("npz"):
        np.savez(path, **arrays, iterations=3, dtype="float32")
    elif kind.endswith("safetensors"):
        save_file(arrays, path)
    elif kind == "export":
        path.mkdir()
        for name in named:
            lines = "".join(f"{each}\n" for each in ids[name])
            (path / f"{name}s.txt").write_text(lines)
        save_file(
            {f"{name}_factors": each for name, each in named.items()}, path / "factors.safetensors"
        )
    elif kind == "spark":
        for name, vectors in named.items():
            folder = path / f"{name}Factors"
            folder.mkdir(parents=True)
            (folder / "_SUCCESS").touch()
            (folder / ".part-0.snappy.parquet.crc").write_bytes(b"crc")
            for n, part in enumerate(np.array_split(np.arange(len(vectors)), 3)):
                pa.parquet.write_table(
                    table(ids[name][part], vectors[part]), folder / f"part-{n}.snappy.parquet"
                )
    else:
        path.mkdir()
        for name, vectors in named.items():
            pa.parquet.write_table(
                table(ids[name], vectors, "vector"), path / f"{name}_factors.parquet"
            )
    return path


pytestmark = pytest.mark.usefixtures("workdir")


# --- factors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["a.npz", "a.safetensors", "export", "spark", "tables"])
def test_vectors_are_found_by_their_ids_in_any_order(kind):
    """As text; rows of others do no harm."""
    order = {name: RNG.permutation(len(each)) for name, each in IDS.items()}
    ids = {name: np.append(IDS[name][order[name]], [99]) for name in IDS}
    vectors = {"users": USERS[order["user"]], "items": ITEMS[order["item"]]}
    other = np.full((1, 3), 7, np.float32)
    teacher = read(
        write_factors(kind, ids=ids, **{n: np.vstack([v, other]) for n, v in vectors.items()})
    )
    assert torch.equal(teacher.encode()[0], torch.from_numpy(USERS))
    assert torch.equal(teacher.encode()[1], torch.from_numpy(ITEMS))
    assert teacher.covered("items", 3) is teacher.covered("users", 3) is None
    assert (
        "12 of 12 users and 40 of 40 items have vectors, 2 more are not in the d"
        in teacher.describe()
    )
    assert teacher.record().items() >= {"sha256": teacher.sha256, "dim": 3, "path": kind}.items()


def test_rows_are_the_ids_where_there_are_none():
    np.savez("rows.npz", user_factors=USERS[:5], item_factors=ITEMS)
    teacher = read("rows.npz")
    assert torch.equal(teacher.encode()[0][:5], torch.from_numpy(USERS[:5]))
    assert teacher.covered("items", 3).tolist() == [True] * 5 + [False] * 7


def test_text_and_numbers_are_the_same_id_and_leading_zeros_another():
    ids = {"user": np.array([f"{n}" for n in range(11)] + ["011"]), "item": IDS["item"]}
    teacher = read(write_factors("a.npz", ids=ids))
    assert teacher.covered("items", 3).tolist() == [True] * 11 + [False]


def test_scores_and_lists_with_biases_are_those_of_whole_matrices():
    arrays = {"user_embeddings": USERS, "item_embeddings": ITEMS, **BIASES}
    np.savez("lightfm.npz", **arrays)
    teacher = read("lightfm.npz")
    bias_u, bias_i = (torch.from_numpy(each) for each in BIASES.values())
    scores = torch.from_numpy(USERS @ ITEMS.T) + bias_u[:, None] + bias_i
    everyone, items = torch.arange(12), torch.arange(40)
    torch.testing.assert_close(teacher.score_all(everyone), scores)
    torch.testing.assert_close(
        teacher.score(everyone, everyone + 3), scores[everyone, everyone + 3]
    )
    torch.testing.assert_close(teacher.score(everyone, items.expand(12, -1)), scores)
    torch.testing.assert_close(teacher.score(everyone.expand(40, -1), items), scores.T)
    h = teacher.representations(everyone, items)
    torch.testing.assert_close(h["user"] @ h["item"].T, scores)
    scores[SMALL.train_users, SMALL.train_items] = -torch.inf
    assert torch.equal(teacher.top_items(7).long(), scores.topk(7).indices)
    assert torch.equal(teacher.top_users(5).long(), scores.T.topk(5).indices)


def test_a_single_bias_is_enough():
    np.savez("a.npz", user_factors=USERS, item_factors=ITEMS, item_biases=BIASES["item_biases"])
    expected = torch.from_numpy(USERS @ ITEMS.T + BIASES["item_biases"])
    torch.testing.assert_close(read("a.npz").score_all(torch.arange(12)), expected)


def test_who_has_no_vector_is_on_no_list_and_has_none():
    """Vectors of zeros are none: implicit has them for what it has never seen."""
    users, items = USERS.copy(), ITEMS - 5  # most scores are below 0, that of zeros
    users[4] = items[[1, 7]] = 0
    kept = {"user": IDS["user"][:-2], "item": IDS["item"][3:]}
    path = write_factors("a.npz", users[:-2], items[3:], kept)
    teacher = read(path)
    known_users = torch.tensor([n not in (4, 10, 11) for n in range(12)])
    known_items = torch.tensor([n not in (0, 1, 2, 7) for n in range(40)])
    assert torch.equal(teacher.covered("items", 0), known_users)
    assert torch.equal(teacher.covered("users", 0), known_items)
    assert not teacher.covered("items", 37).any()  # there are 36, some of them in training
    for user, top in enumerate(teacher.top_items(30)):
        if known_users[user]:
            assert known_items[top.long()].all()
    for item, top in enumerate(teacher.top_users(4)):
        if known_items[item]:
            assert known_users[top.long()].all()
    scores = teacher.score(torch.arange(12), torch.arange(40).expand(12, -1))
    assert (scores[:, ~known_items] == OUT).all()
    assert (teacher.score_all(torch.arange(12))[:, ~known_items] == -torch.inf).all()
    assert (teacher.encode()[1][~known_items] == 0).all()
    assert teacher.model.encode() is None
    assert "9 of 12 users and 36 of 40 items have vectors, 0 more" in teacher.describe()


def of_arrays(**changes):
    arrays = {"user_factors": USERS, "item_factors": ITEMS} | changes
    return lambda: np.savez("a.npz", **{k: v for k, v in arrays.items() if v is not None})


def parquet(**changes):
    def write():
        write_factors("tables")
        columns = {"id": [0, 1, 2], "vector": [[1.0, 2.0, 3.0]] * 3} | changes
        columns = {name: values for name, values in columns.items() if values is not None}
        pa.parquet.write_table(pa.table(columns), "tables/user_factors.parquet")

    return write


def broken():
    write_factors("spark")
    path = Path("spark/userFactors/part-1.snappy.parquet")
    path.write_bytes(path.read_bytes()[:-20])


BAD_FACTORS = {
    "none of its 12 users is in data: it has 'u0', 'u1', 'u2', and the data '0', '1', '2'": (
        of_arrays(user_ids=np.array([f"u{n}" for n in range(12)]))
    ),
    "users' vectors have 2 numbers and its items' 3": of_arrays(user_factors=USERS[:, :2]),
    "user_factors has values that are not finite": of_arrays(user_factors=USERS * np.nan),
    "item_factors has numbers that are not finite in 40 of 40 rows, the first is row 0": (
        of_arrays(item_factors=np.full((40, 3), 1e300))
    ),
    "holds no item_factors and no item_embeddings": of_arrays(item_factors=None),
    "user_factors is float32 of 12, no table of numbers": of_arrays(user_factors=USERS[:, 0]),
    "user_factors is <U1 of 1 x 1, no table": of_arrays(user_factors=np.array([["x"]])),
    "ids of users are 11, but 12 users have vectors": of_arrays(user_ids=np.arange(11)),
    "ids of users are no row of whole numbers or text": of_arrays(user_ids=np.arange(12.0)),
    "has user 3 twice": of_arrays(user_ids=np.minimum(np.arange(12), 3)),
    "item_biases are 12, but 40 items have vectors": of_arrays(item_biases=BIASES["user_biases"]),
    "vectors of 3 and of 2 numbers": parquet(vector=[[1.0] * 3, [1.0] * 3, [1.0] * 2]),
    "vectors of 3 and of None numbers": parquet(vector=[[1.0] * 3, None, [1.0] * 3]),
    "not finite in 1 of 3 rows, the first is row 1": parquet(vector=[[1.0], [np.nan], [2.0]]),
    "its vectors are double, not lists": parquet(vector=[1.0, 2.0, 3.0]),
    "has no column named features or vector or factors, but id": parquet(vector=None),
    "id is of double, and an id is text or a whole number": parquet(id=[0.0, 1.0, 2.0]),
    "part-1.snappy.parquet: cannot be read": broken,
    "holds no itemFactors and no item_factors": lambda: (
        write_factors("tables"), Path("tables/item_factors.parquet").unlink()
    ),
    "a.npz: no such file": lambda: None,
    "a.safetensors: cut short, damaged or no .safetensors file": (
        lambda: Path("a.safetensors").write_bytes(b"\xff" * 30)
    ),
}  # fmt: skip


@pytest.mark.parametrize("words", BAD_FACTORS)
def test_factors_that_are_none_are_refused_in_a_line(words):
    BAD_FACTORS[words]()
    path = next((p for p in ("spark", "tables", "a.safetensors") if Path(p).exists()), "a.npz")
    with pytest.raises(UserError) as error:
        read(path)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_package_is_named(monkeypatch):
    write_factors("spark")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"^spark.*needs the package pyarrow; pip install pyarrow$"):
        read("spark")
    assert need("json", "json", "this") is json


# --- lists ---------------------------------------------------------------------------------------


def made_lists(split, lengths=(0, 2, 9), seed=1):
    """Return rows, (user, item, rank, score), shuffled, with training items and strangers."""
    rng, rows = np.random.default_rng(seed), []
    for user in range(split.num_users):
        items = rng.permutation(split.num_items)[: lengths[user % len(lengths)]]
        scores = np.sort(rng.normal(size=len(items)).astype(np.float32))[::-1].tolist()
        own, items = int(split.user_ids[user]), split.item_ids[items].tolist()
        listed = enumerate(zip(items, scores, strict=True))
        rows += [(own, item, 10 * place, score) for place, (item, score) in listed]
    rows += [(10**6, 1, 1, 0.5), (0, 10**6, 1, 0.5)]
    return [rows[place] for place in rng.permutation(len(rows))]


def lists_by_loops(rows, split):
    """Return each user's items outside training, best first, and their scores."""
    trained = set(zip(split.train_users.tolist(), split.train_items.tolist(), strict=True))
    users = {each: number for number, each in enumerate(split.user_ids.tolist())}
    items = {each: number for number, each in enumerate(split.item_ids.tolist())}
    found = {user: [] for user in range(split.num_users)}
    for own, its, _, score in sorted(rows, key=lambda row: row[2]):
        user, item = users.get(own), items.get(its)
        if user is not None and item is not None and (user, item) not in trained:
            found[user].append((item, score))
    return found


def write_lists(name: str, rows, columns=("user", "item", "rank", "score")) -> Path:
    data = {c: [row[n] for row in rows] for n, c in enumerate(("user", "item", "rank", "score"))}
    chosen = pa.table({column: data[column.removesuffix("_id")] for column in columns})
    path = Path(name)
    if ".parquet" in name:
        pa.parquet.write_table(chosen, path)
        return path
    options = pa.csv.WriteOptions(delimiter="\t" if "tsv" in name else ",")
    pa.csv.write_csv(chosen, "plain", options)
    content = b"\xef\xbb\xbf" + Path("plain").read_bytes().replace(b"\n", b"\r\n")
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    return path


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.tsv", "a.csv.gz"])
@pytest.mark.parametrize("columns", [("item_id", "user_id", "rank"), ("user", "score", "item")])
def test_lists_are_those_that_were_written(name, columns):
    rows = made_lists(SMALL)
    teacher, expected = read(write_lists(name, rows, columns)), lists_by_loops(rows, SMALL)
    longest = max(map(len, expected.values()))
    top = teacher.top_items(longest)
    assert top.dtype == torch.int32
    for user, listed in expected.items():
        assert top[user, : len(listed)].tolist() == [item for item, _ in listed]
    for count in range(1, longest + 1):
        long_enough = [len(listed) >= count for listed in expected.values()]
        assert teacher.covered("items", count).tolist() == long_enough
    assert all(0 <= item < SMALL.num_items for item in top.flatten().tolist())
    left_out = len(rows) - sum(map(len, expected.values()))
    with_some = sum(map(bool, expected.values()))
    said = teacher.describe()
    assert f" {with_some} of 12 users and " in said
    assert f"left out are 2 rows of others and {left_out - 2} of training items" in said
    users = torch.arange(12)
    if "score" not in columns:
        with pytest.raises(UserError, match="this teacher has no scores, but ranks alone"):
            teacher.score(users, top)
        return
    scores = teacher.score(users, top)
    for user, listed in expected.items():
        assert scores[user, : len(listed)].tolist() == [score for _, score in listed]
        unlisted = next(i for i in range(40) if i not in [item for item, _ in listed])
        if listed:
            with pytest.raises(UserError, match="no scores of items outside its lists"):
                teacher.score(torch.tensor([user]), torch.tensor([unlisted]))


@pytest.mark.parametrize("name", ["split", "shares"])
def test_lists_are_measured_with_all_that_is_unlisted_below(name, request):
    split = request.getfixturevalue(name)
    rows = made_lists(split, lengths=(0, 200, 40))
    teacher, expected = read(write_lists("a.parquet", rows), split), lists_by_loops(rows, split)
    found = {}
    for user, item in zip(split.test.users.tolist(), split.test.items.tolist(), strict=True):
        place = np.full(split.num_items, split.num_items)
        for n, (other, _) in enumerate(expected[user]):
            place[other] = n
        if split.candidates is None:
            others = np.ones(split.num_items, dtype=bool)
            others[split.train_items[split.train_users == user]] = False
            others[split.valid.items[split.valid.users == user]] = False
            others[item] = False
        else:
            others = split.candidates[user]
        found.setdefault(user, []).append(1 + (place[others] <= place[item]).sum())
    if split.candidates is None:
        recall = np.mean([np.mean([rank <= 50 for rank in ranks]) for ranks in found.values()])
        assert teacher.metrics["test_R@50"] == pytest.approx(recall)
    else:
        hits = np.mean([rank <= 20 for ranks in found.values() for rank in ranks])
        assert teacher.metrics["test_H@20"] == pytest.approx(hits)


def text(content: str):
    return lambda: Path("a.csv").write_text(content)


BAD_LISTS = {
    "has no column named user or userid or uid, but 1, 2, 3": text("1,2,3\n1,3,2\n"),
    "has no column named item": text("user,rank\n1,3\n"),
    "has no column of ranks and none of scores": text("user,item\n1,3\n"),
    "a.csv:3: expected 3 columns, got 2": text("user,item,rank\n1,2,1\n1,3\n"),
    "'first'": text("user,item,rank\n1,2,first\n"),
    "rank is nan in row 2": text("user,item,rank\n1,2,3\n1,3,\n"),
    "score is inf in row 1": text("user,item,score\n1,2,inf\n"),
    "none of its 1 users is in data: it has 'anna'": text("user,item,rank\nanna,2,1\n"),
    "the list of user 1 has item 30 twice": text("user,item,rank\n1,30,1\n1,30,2\n"),
    "no list has an item of the data outside the training": text("user,item,rank\n0,0,1\n"),
    "a.csv:1: not UTF-8": lambda: Path("a.csv").write_bytes(b"user,\xff\n"),
    "a.csv: the file is empty": text(""),
    "score has 'high', which is no number": lambda: pa.parquet.write_table(
        pa.table({"user": [1], "item": [2], "score": ["high"]}), "a.parquet"
    ),
    "user is of list<element: int64>, and an id is": lambda: pa.parquet.write_table(
        pa.table({"user": [[1]], "item": [2], "score": [1.0]}), "a.parquet"
    ),
}  # fmt: skip


@pytest.mark.parametrize("words", BAD_LISTS)
def test_lists_that_are_none_are_refused_in_a_line(words):
    BAD_LISTS[words]()
    with pytest.raises(UserError) as error:
        read("a.parquet" if Path("a.parquet").exists() else "a.csv")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_lists_that_are_too_short_for_all_are_refused_with_what_would_do():
    rows = [row for row in made_lists(SMALL, lengths=(9,)) if row[0] != 3]
    lengths = sorted(len(listed) for listed in lists_by_loops(rows, SMALL).values() if listed)
    teacher = read(write_lists("a.parquet", rows))
    with pytest.raises(UserError) as error:
        teacher.covered("items", 30)
    usual = lengths[len(lengths) // 10]
    assert (
        f"the longest has {lengths[-1]}, and 9 of 10 have {usual} or more: use --K {usual} or"
        in str(error.value)
    )


# --- who is not covered learns from the data alone -----------------------------------------------


@pytest.fixture
def pupil():
    model = build_model("BPR", SMALL, 2, seed=0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    return model


BY_USER = {
    "RD": lambda s, t: RD(s, t, K=4, T=2.0, mu=0.1, num_samples=5, warm_up=0),
    "CD": lambda s, t: CD(s, t, K=3, T=2.0, T1=1.0, T2=0.0, pool=4),
    "CD uniform": lambda s, t: CD(s, t, K=3, T=2.0, T1=1.0, T2=0.0, sampling="uniform"),
    "RRD": lambda s, t: RRD(s, t, K=2, L=3, T=2.0, pool=4),
    "RRD paper": lambda s, t: RRD(s, t, K=2, L=3, T=2.0, pool=4, variant="paper"),
    "CLDRD": lambda s, t: CLDRD(s, t, stage_epochs=1),
    "RCEKD": lambda s, t: RCEKD(s, t, K=2, L=2, pool=4, T=3.0, beta=1.0, tau=1.0),
    "UnKD": lambda s, t: UnKD(s, t, num_groups=2, num_pairs=3, pool=4, T=2.0),
    "S2D": lambda s, t: S2D(s, t, K=4, tau=1.0),
    "UCD": lambda s, t: UCD(s, t, n=2, eps=0.1, pool=4, refresh=1),
}


def losses(make, pupil, teacher, batches) -> tuple[list[float], list[float]]:
    """Return the loss of each batch, and the sum of its absolute gradients."""
    distiller = make(pupil, teacher)
    found, slopes = [], []
    for batch in batches:
        distiller.begin_epoch(0)
        loss = distiller.loss(batch)
        gradients = torch.autograd.grad(loss, list(pupil.parameters()), allow_unused=True)
        found.append(loss.item())
        slopes.append(sum(float(g.to_dense().abs().sum()) for g in gradients if g is not None))
    return found, slopes


def batch_of(user: int) -> Pairs:
    return Pairs(*(torch.tensor([n]) for n in (user, 5, 6)))


@pytest.mark.parametrize("name", BY_USER)
def test_the_loss_of_who_has_no_vector_is_zero_and_that_of_others_as_before(name, pupil):
    whole = read(write_factors("a.npz"))
    kept = [n for n in range(12) if n not in (2, 9)]
    path = write_factors("b.npz", users=USERS[kept], ids=IDS | {"user": IDS["user"][kept]})
    batches = [batch_of(user) for user in range(12)]
    expected, slopes = losses(BY_USER[name], pupil, whole, batches)
    found, partial_slopes = losses(BY_USER[name], pupil, read(path), batches)
    for user in range(12):
        known = user in kept
        assert found[user] == (expected[user] if known else 0)
        assert partial_slopes[user] == (slopes[user] if known else 0)
        assert slopes[user] > 0
    everyone = Pairs(*(torch.arange(12) for _ in range(3)))
    if name not in ("RRD paper", "UCD"):  # a mean over users; what is drawn depends on who is there
        together = losses(BY_USER[name], pupil, read(path), [everyone])[0][0]
        assert together == pytest.approx(sum(found), rel=1e-5)


@pytest.mark.parametrize("name", ["RD", "CD", "RRD", "S2D", "UCD"])
def test_the_loss_of_whose_list_is_short_is_zero_and_that_of_others_as_before(name, pupil, capsys):
    rows = made_lists(SMALL, lengths=(12,))
    whole = read(write_lists("a.parquet", rows))
    short = [row for row in rows if row[0] not in (2, 9) or (row[0] == 9 and row[2] < 30)]
    partial = read(write_lists("b.parquet", short))
    batches = [batch_of(user) for user in range(12)]
    expected, _ = losses(BY_USER[name], pupil, whole, batches)
    capsys.readouterr()
    found, slopes = losses(BY_USER[name], pupil, partial, batches)
    assert "b.parquet: 10 of 12 users have a list of 4 items outside" in capsys.readouterr().err
    for user in range(12):
        assert found[user] == (0 if user in (2, 9) else expected[user])
        assert (slopes[user] > 0) == (user not in (2, 9))


@pytest.mark.parametrize("kind", [DE, PHR])
def test_representations_of_what_has_no_vector_are_not_learned(kind, pupil):
    given = (
        {"num_experts": 2, "tau_0": 1.0, "tau_P": 0.1, "P": 5}
        if kind is DE
        else {"enrichment": "none"}
    )
    given |= {"expert_selection": "attention"} if kind is DE else {}
    kept = {"user": np.delete(IDS["user"], 2), "item": np.delete(IDS["item"], [5, 8])}
    path = write_factors("a.npz", USERS[kept["user"]], ITEMS[kept["item"]], kept)
    whole, partial = read(write_factors("b.npz")), read(path)
    batch = Pairs(*map(torch.tensor, ([2, 3, 2], [5, 7, 9], [8, 5, 4])))
    values = []
    for teacher in (whole, partial):
        distiller = kind(pupil, teacher, **given)
        distiller.begin_epoch(0)
        (users, items), weights = distiller.entities(batch)
        h_s, h_t = distiller.student(users, items), distiller.teacher(users, items)
        each = {k: distiller.distance(k, h_s[k], h_t[k]).tolist() for k in weights}
        values.append((users, items, each, distiller.loss(batch).item()))
    users, items, each, _ = values[0]
    expected = sum(d for u, d in zip(users.tolist(), each["user"], strict=True) if u != 2)
    expected += sum(
        d / 2 for i, d in zip(items.tolist(), each["item"], strict=True) if i not in (5, 8)
    )
    assert values[1][3] == pytest.approx(expected, rel=1e-5)
    assert values[0][3] > expected


@pytest.mark.parametrize("side", ["IR", "ICD"])
def test_an_item_without_a_vector_has_no_list_of_users(side, pupil):
    kept = np.delete(IDS["item"], [5, 8])
    teacher = read(write_factors("a.npz", items=ITEMS[kept], ids=IDS | {"item": kept}))
    if side == "IR":
        rrd = RRD(pupil, teacher, K=1, L=1, T=1.0, pool=2)
        distiller = ItemSideRRD(rrd, pupil, teacher, K=1, L=2, T=1.0, pool=3)
        rrd.items = torch.arange(40).repeat(12, 1)[:, [5, 8]]
    else:
        distiller = ICD(pupil, teacher, n=1, eps=0.1, pool=3, refresh=1)
    for item, expected in ((5, False), (6, True)):
        if side == "IR":
            rrd.items = torch.tensor([[5, item]]).expand(12, -1)
        distiller.begin_epoch(0)
        batch = Pairs(*(torch.tensor([n]) for n in (0, item, 9)))
        assert (distiller.loss(batch).item() != 0) == expected


# --- has it seen the test? -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(split):
    """Return a function: the best approximation, d = 64, of training pairs and of other parts'."""

    @cache
    def fit(*names: str) -> tuple[np.ndarray, np.ndarray]:
        parts = [getattr(split, name) for name in names]
        users = np.concatenate([split.train_users, *(part.users for part in parts)])
        items = np.concatenate([split.train_items, *(part.items for part in parts)])
        shape = split.num_users, split.num_items
        seen = csr_matrix((np.ones(len(users)), (users, items)), shape=shape)
        left, values, right = svds(seen, k=64, random_state=0)
        return (left * values).astype(np.float32), right.T.astype(np.float32)

    return fit


def of_split(split) -> dict[str, np.ndarray]:
    return {"user": split.user_ids, "item": split.item_ids}


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((), []),
        (("valid",), []),
        (("test",), ["as if it had been trained on the test", "one of the same user's in train"]),
        (("valid", "test"), ["one of the same user's in training, as if it had been trained on"]),
    ],
)
def test_a_teacher_that_has_seen_the_test_is_warned_about(split, fitted, parts, words, capsys):
    read(write_factors("a.npz", *fitted(*parts), of_split(split)), split)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == len(words)
    for line, word in zip(sorted(said, key=lambda each: "same user" in each), words, strict=True):
        assert line.startswith("warning: a.npz: ")
        assert word in line


@pytest.mark.parametrize("parts", [(), ("test",)])
def test_lists_with_too_much_of_the_test_are_warned_about(split, fitted, parts, capsys):
    path = write_top(split, fitted(*parts), 10)
    read(path, split)
    assert ("as if it had been trained on the test" in capsys.readouterr().err) == bool(parts)


# --- scripts -------------------------------------------------------------------------------------


def write_top(split, factors, count: int, columns=("user", "item", "rank", "score")) -> Path:
    """Write lists of so many items, under the original ids."""
    scores = factors[0] @ factors[1].T
    scores[split.train_users, split.train_items] = -np.inf
    top = np.argsort(-scores, axis=1)[:, :count]
    rows = [
        (int(split.user_ids[u]), int(split.item_ids[i]), rank, float(scores[u, i]))
        for u, listed in enumerate(top)
        for rank, i in enumerate(listed)
    ]
    return write_lists("lists.parquet", rows, columns)


@pytest.fixture(scope="module")
def factors(fitted):
    return fitted()


QUICK = {"dim": 8, "max_epoch": 2, "lr": 0.01}
FROM_FACTORS = {
    "S2D": (main_S2D, {"K": 50}),
    "URRD": (main_URRD, {"pool": 100}),
    "RD": (main_RD, {}),
    "DE": (main_DE, {"num_experts": 3}),
}


@pytest.mark.parametrize("method", FROM_FACTORS)
def test_methods_learn_from_factors_that_know_not_all(split, factors, workdir, method, capsys):
    script, given = FROM_FACTORS[method]
    ids = {"user": split.user_ids[:-30], "item": split.item_ids[5:]}
    path = write_factors("als.npz", factors[0][:-30], factors[1][5:], ids)
    run(script, teacher=str(path), **QUICK | given)
    assert "970 of 1,000 users and 1,993 of 1,998 items have vectors" in capsys.readouterr().out
    config = json.loads(next((workdir / "logs").rglob("config.json")).read_text())
    assert config["teachers"][0]["sha256"]
    assert config["settings"]["teacher_dim"] == config["teachers"][0]["dim"] == 64
    summary = json.loads(next((workdir / "logs").rglob("summary.json")).read_text())
    assert summary["test"]["H@5"] > 0


def test_rrd_learns_from_lists(split, factors, workdir, capsys):
    path = write_top(split, factors, 60, columns=("user_id", "item_id", "rank"))
    run(main_URRD, teacher=str(path), **QUICK, pool=60)
    assert "teacher of given lists: 1,000 of 1,000 users" in capsys.readouterr().out
    assert list((workdir / "logs").rglob("summary.json"))


def test_s2d_learns_from_lists_with_scores(split, factors, workdir):
    path = write_top(split, factors, 60)
    run(main_S2D, teacher=str(path), **QUICK, K=50, start="random")
    assert list((workdir / "logs").rglob("summary.json"))


def test_a_run_goes_on_with_the_same_teacher_and_with_no_other(
    split, factors, workdir, monkeypatch
):
    path = write_factors("als.npz", *factors, of_split(split))
    given = QUICK | {"teacher": str(path), "K": 50, "max_epoch": 3}
    run(main_S2D, **given)
    curves = next((workdir / "logs").rglob("metrics.csv"))
    expected = curves.read_bytes()
    with killed_in(2, monkeypatch):
        run(main_S2D, **given, overwrite=True)
    first = path.read_bytes()
    write_factors("als.npz", factors[0] * 2, factors[1], of_split(split))
    with pytest.raises(UserError, match="its teacher_sha256 is"):
        run(main_S2D, **given, resume=True)
    path.write_bytes(first)
    run(main_S2D, **given, resume=True)
    assert curves.read_bytes() == expected


@pytest.mark.parametrize(
    ("script", "given", "words"),
    [
        (main_DE, {}, "has no representations"),
        (main_TAKD, {}, "has no representations"),
        (main_S2D, {"start": "random", "K": 9}, "has no scores, but ranks alone"),
        (main_S2D, {}, "has no scores of all items, which S2D needs with --start spectral alone"),
        (main_SVD, {}, "has no scores of all items"),
        (main_UnKD, {}, "has no scores of all items"),
        (main_CD, {"pool": 9, "K": 5}, "has no scores, but ranks alone"),
        (main_IRRRD, {"pool": 9, "K": 2, "L": 2}, "has no lists of users"),
        (main_DCD, {"pool": 9, "n": 2}, "has no lists of users"),
        (main_HetComp, {}, "has no states of earlier epochs"),
        (main_URRD, {}, "nobody has a list of 500 items outside the training set; the longest h"),
        (main_S2D, {"model": "BPR", "teachers": "lists.parquet,BPR"}, "this teacher has not all"),
    ],
)
def test_a_method_says_what_it_needs_that_lists_lack(split, factors, script, given, words):
    path = write_top(split, factors, 10, columns=("user", "item", "rank"))
    teacher = {} if "teachers" in given else {"teacher": str(path)}
    with pytest.raises(UserError) as error:
        run(script, dim=8, **teacher | given)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_factors_have_no_states(split, factors):
    path = write_factors("als.npz", *factors, of_split(split))
    with pytest.raises(UserError, match="this teacher has no states of earlier epochs"):
        run(main_HetComp, teacher=str(path), dim=8, max_epoch=1)


def test_factors_of_all_may_be_of_an_ensemble_and_others_may_not(
    split, factors, teacher_path, capsys
):
    path = write_factors("als.npz", *factors, of_split(split))
    run(main_S2D, teachers=f"{path},{teacher_path}", **QUICK, K=50)
    assert "GivenFactors d=64, BPR d=16 averaged" in capsys.readouterr().out
    ids = of_split(split) | {"user": split.user_ids[1:]}
    path = write_factors("some.npz", factors[0][1:], factors[1], ids)
    with pytest.raises(UserError, match=r"some\.npz: an ensemble averages scores of all users and"):
        run(main_S2D, teachers=f"{path},{teacher_path}", **QUICK, K=50, name="other")
