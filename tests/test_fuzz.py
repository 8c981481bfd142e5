"""Whatever is read from disk: a mutated file is refused in one line, or reads as what it says.

Bytes are flipped, cut, repeated and inserted; arrays, checkpoints, JSON and CSV are also written
anew, whole and with right checksums, with one value, shape or type that is wrong. What is accepted
is then used, so that native code would meet an id or a shape that nobody has checked.
"""

import contextlib
import csv
import io
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from conftest import run as run_script
from conftest import settings as settings_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import main_no_KD
import main_RD
from experiments import printed, tune, user_space
from experiments import settings as table
from experiments.evidence import Place
from experiments.papers import derrd_users
from experiments.plan import STUDENT
from experiments.results import (
    read_course,
    read_curves,
    read_published_curves,
    read_ranks,
    read_runs,
    read_timings,
)
from Models import build_model
from Models.distillers import RRD
from Models.teacher import read_teacher
from Utils.dataset import Pairs, PairSampler
from Utils.errors import UserError
from Utils.evaluation import Evaluator
from Utils.interactions import read_users_dat
from Utils.run import Run
from Utils.run_folder import RunFolder, is_finished
from Utils.sources import load_interactions
from Utils.split import Split, by_share, leave_one_out, read_published_split

CPU = torch.device("cpu")
ARGS = {"dim": 3, "lr": 0.01, "reg": 0.001, "batch_size": 8192}
EXAMPLES = 30  # of each kind of file
ODD = [-1, 0, 1, 2**31 - 1, -(2**31), 10**12, 0.5, float("nan"), float("inf"), "x", "", None, True]


# --- the files -----------------------------------------------------------------------------------


@dataclass
class Kind:
    """A file that the project reads: where it lies, and what reads and uses it."""

    path: Path
    use: Callable[[Path], Any]

    def __post_init__(self) -> None:
        self.expected = self.use(self.path)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> dict[str, Kind]:
    """Every kind of file, made once in a folder of its own, which stays the current one."""
    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("Models.teacher.warn", lambda _: None)
        patch.setattr("Utils.run.warn", lambda _: None)
        yield _kinds(folder)


def _kinds(folder: Path) -> dict[str, Kind]:
    split = leave_one_out(load_interactions("synthetic", "unused"), 0, "synthetic")
    split.save(folder / "loo.npz")
    by_share(load_interactions("synthetic", "unused"), 0, "synthetic").save(folder / "share.npz")
    np.savez(
        folder / "published.npz",
        train=np.stack([split.train_users, split.train_items], axis=1),
        users=np.arange(split.num_users),
        valid=split.valid.items,
        test=split.test.items,
        candidates=split.candidates,
        shape=np.array([split.num_users, split.num_items]),
    )
    (folder / "users.dat").write_text(
        "".join(f"4 {n} {n + 1} {n + 2} {2 * n + 40}\n" for n in range(30))
    )
    with contextlib.redirect_stdout(io.StringIO()):
        run_script(main_no_KD, **ARGS, max_epoch=2)
    name = "synthetic/BPR-d3/no_KD/seed0"
    logs, checkpoints = folder / "logs" / name, folder / "checkpoints" / name
    teacher = read_teacher(checkpoints, split, CPU, "")
    teacher.top_items(20)

    def use_split(found: Split) -> str:
        model = build_model("BPR", found, 2, seed=0)
        Evaluator(found, "cpu").ranks(model)
        next(PairSampler(found, 4096, 0, "cpu").epoch(0))
        return found.sha256

    def use_teacher(path: Path) -> list[float]:
        found = read_teacher(path, split, CPU, "take another")
        return found.score(torch.arange(50), torch.arange(50)).tolist()

    def use_lists(_: Path) -> list[int]:
        student = build_model("BPR", split, 2, seed=0)
        distiller = RRD(student, teacher, K=5, L=5, T=3.0, pool=20)
        distiller.begin_epoch(0)
        users = torch.arange(100)
        distiller.loss(Pairs(users, users, users)).backward()
        return teacher.top_items(20).sum(dim=1).tolist()

    def resume(path: Path) -> list[float]:
        args = settings_of(main_no_KD, **ARGS, max_epoch=3, resume=True)
        model = build_model("BPR", split, 3, seed=0)
        run = Run(args, split, model)
        run._resume()
        users = torch.arange(100)
        model.loss(Pairs(users, users, users + 1)).backward()
        run.optimizer.step()
        return model.user.weight[:10].flatten().tolist()

    def finished(_: Path) -> bool:
        with contextlib.redirect_stdout(io.StringIO()):
            return is_finished(settings_of(main_no_KD, **ARGS, max_epoch=2), split)

    root = Path(table.__file__).parent
    for original in (
        *(table.TABLE, printed.FOLDER / "derrd_table5.csv", printed.FOLDER / "derrd_flags.csv"),
        *(root / "tuning/CiteULike-BPR-RD-d20.csv", ROOT / "logs/CiteULike/inference/BPR.json"),
    ):
        (folder / original.name).write_bytes(original.read_bytes())
    (folder / "curves.csv").write_text("method,epoch,train_loss\nA,0,3.5\nB,0,7\nA,1,2.5\n")

    def tuned(path: Path) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(table, "TABLE", path)
            return table.resolve(main_RD.Settings, {"dataset": "synthetic"})[1]

    def printed_values(path: Path) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(printed, "FOLDER", path.parent)
            read = {"derrd_flags": printed.flags}.get(path.stem, printed.table)
            read.cache_clear()
            try:
                return len(read(path.stem.removesuffix("_flags")))
            finally:
                read.cache_clear()  # of what others would take for the paper's

    users = np.arange(split.num_users) % 7
    np.savez(logs / "selection-epoch0.npz", user=users.astype(np.int16), item=users)
    np.savez(logs / "user_space.npz", groups=users.astype(np.int8), coordinates=np.zeros((1000, 2)))
    evidence = SimpleNamespace(runs=lambda _: {0: {"folder": RunFolder.at(logs)}})
    place = ("CiteULike", "BPR", 0)

    def specialised(_: Path) -> float:
        groups = user_space.user_groups(evidence, *place)
        experts = derrd_users.user_experts(evidence, Place("CiteULike", "BPR", STUDENT), 0)
        return derrd_users.mutual_information(groups, experts[0])

    return {
        "users.dat": Kind(folder / "users.dat", lambda p: len(read_users_dat(p, 3).items)),
        "loo.npz": Kind(folder / "loo.npz", lambda p: use_split(Split.load(p))),
        "share.npz": Kind(folder / "share.npz", lambda p: use_split(Split.load(p))),
        "published.npz": Kind(
            folder / "published.npz", lambda p: use_split(read_published_split(p, "synthetic"))
        ),
        "best.pt": Kind(checkpoints / "best.pt", use_teacher),
        "last.pt": Kind(checkpoints / "last.pt", resume),
        "top_items.npz": Kind(checkpoints / "top_items.npz", use_lists),
        "config.json": Kind(logs / "config.json", finished),
        "summary.json": Kind(logs / "summary.json", finished),
        "summary.json of results": Kind(
            logs / "summary.json", lambda _: read_runs(folder / "logs")[0]["test"]
        ),
        "metrics.csv": Kind(logs / "metrics.csv", lambda p: len(read_curves(p))),
        "train.log": Kind(
            logs / "train.log", lambda p: read_course(RunFolder.at(p.parent))[1].tolist()
        ),
        "ranks.npz": Kind(logs / "ranks.npz", lambda p: [each.tolist() for each in read_ranks(p)]),
        "selection-epoch0.npz": Kind(logs / "selection-epoch0.npz", specialised),
        "user_space.npz": Kind(logs / "user_space.npz", specialised),
        "BPR.json of inference": Kind(folder / "BPR.json", lambda p: len(read_timings(p))),
        "settings.csv": Kind(folder / "settings.csv", tuned),
        "a search": Kind(folder / "CiteULike-BPR-RD-d20.csv", lambda p: len(tune.read_trials(p))),
        "table5.csv": Kind(folder / "derrd_table5.csv", printed_values),
        "flags.csv": Kind(folder / "derrd_flags.csv", printed_values),
        "curves.csv": Kind(
            folder / "curves.csv", lambda p: read_published_curves(p, "A")["epoch"].tolist()
        ),
    }


# --- the mutations -------------------------------------------------------------------------------


def mutated_bytes(draw: Callable, content: bytes) -> bytes:
    """Return ``content`` with some bytes flipped, cut off, taken out, repeated or put in."""
    start = draw(st.integers(0, len(content) - 1))
    stop = min(len(content), start + draw(st.integers(1, 200)))
    part = content[start:stop]
    changed = {
        "flip": bytes([part[0] ^ (1 << draw(st.integers(0, 7)))]) + part[1:],
        "drop": b"",
        "zero": bytes(len(part)),
        "repeat": part * 2,
        "insert": draw(st.binary(max_size=20)) + part,
        "cut": None,
    }[draw(st.sampled_from(["flip", "drop", "zero", "repeat", "insert", "cut"]))]
    return content[:start] if changed is None else content[:start] + changed + content[stop:]


def mutated_array(draw: Callable, array: np.ndarray) -> np.ndarray:
    """Return an array with a wrong value, length, type or number of dimensions."""
    how, kind = draw(st.sampled_from(["value", "row", "type", "flat", "scalar"])), array.dtype.kind
    if how == "value" and array.size and kind in "iu":
        array = array.astype(np.int64)
        place = draw(st.integers(0, array.size - 1))
        array.flat[place] = draw(st.sampled_from([-1, 2**31 - 1, 10**6, -(2**40)]))
    elif how == "row" and array.ndim:
        array = array[:-1] if draw(st.booleans()) else np.concatenate([array, array[-1:]])
    elif how == "type" and kind in "iu":
        array = array.astype(draw(st.sampled_from(["U9", np.float64, np.int8, np.uint64])))
    elif how == "flat":
        array = array.reshape(1, -1)
    else:
        array = np.array(draw(st.sampled_from([-1, 7, 0.5, np.nan])))
    return array


def mutated_tree(draw: Callable, tree: Any) -> Any:
    """Return nested dictionaries, lists, tensors and values with one part changed or gone."""
    if isinstance(tree, dict | list) and tree:
        keys = list(tree) if isinstance(tree, dict) else range(len(tree))
        key = draw(st.sampled_from(keys))
        copy = tree.copy()
        if draw(st.integers(0, 9)) == 0:
            del copy[key]
        else:
            copy[key] = mutated_tree(draw, tree[key])
        return copy
    if isinstance(tree, torch.Tensor) and draw(st.booleans()):
        how = draw(st.sampled_from(["row", "nan", "type", "column"]))
        if how == "nan" and tree.is_floating_point():
            return tree * torch.nan
        if how == "row" and tree.dim():
            return tree[:-1].clone()
        if how == "column" and tree.dim() > 1:
            return tree[:, :-1].clone()
        return tree.to(torch.float16)
    return draw(st.sampled_from(ODD))


def written_anew(draw: Callable, path: Path, content: bytes) -> bytes:
    """Return a whole file, with right checksums, that says another thing in one place."""
    if path.suffix == ".npz":
        with np.load(io.BytesIO(content)) as file:
            arrays = dict(file)
        name = draw(st.sampled_from(sorted(arrays)))
        arrays[name] = mutated_array(draw, arrays[name])
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()
    if path.suffix == ".pt":
        buffer = io.BytesIO()
        torch.save(mutated_tree(draw, torch.load(io.BytesIO(content), weights_only=True)), buffer)
        return buffer.getvalue()
    if path.suffix == ".json":
        return json.dumps(mutated_tree(draw, json.loads(content))).encode()
    separator = " " if path.suffix == ".dat" else ","
    rows = list(csv.reader(io.StringIO(content.decode()), delimiter=separator))
    row = rows[draw(st.integers(0, len(rows) - 1))]
    place = draw(st.integers(0, len(row) - 1))
    if draw(st.integers(0, 4)) == 0:
        del row[place]
    else:
        row[place] = str(draw(st.sampled_from(ODD)))
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


# --- the property --------------------------------------------------------------------------------

NAMES = [
    *("users.dat", "loo.npz", "share.npz", "published.npz", "best.pt", "last.pt", "top_items.npz"),
    *("config.json", "summary.json", "summary.json of results", "metrics.csv", "train.log"),
    *(
        "ranks.npz",
        "selection-epoch0.npz",
        "user_space.npz",
        "BPR.json of inference",
        "settings.csv",
    ),
    *("a search", "table5.csv", "flags.csv", "curves.csv"),
]


def attempt(kind: Kind) -> tuple[Any, str]:
    """Return what comes of reading and using a file, and what is said where it is refused."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy, on casts
            return kind.use(kind.path), ""
    except UserError as error:
        return None, str(error)


@pytest.mark.parametrize("name", NAMES)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    print_blob=True,  # the seed of a failure
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_a_mutated_file_is_refused_in_a_line_or_reads_as_what_it_says(kinds, name, data):
    kind = kinds[name]
    content = kind.path.read_bytes()
    anew = data.draw(st.booleans())
    change = written_anew(data.draw, kind.path, content) if anew else None
    try:
        kind.path.write_bytes(mutated_bytes(data.draw, content) if change is None else change)
        found, said = attempt(kind)
        assert "\n" not in said
        assert len(said) < 600
        if not said and not anew and kind.path.suffix in (".npz", ".pt"):  # what checksums guard
            assert found == kind.expected
    finally:
        kind.path.write_bytes(content)
