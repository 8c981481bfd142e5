"""A folder that answers for a model without this project: factors, ids, an index."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from experiments.serving import Served, products
from Models.lists import best_lists
from Utils.errors import UserError, need
from Utils.files import disk_errors, write_whole

EXACT = 200_000  # items, up to which an index compares all of them: milliseconds for a user
RECALL = 0.99  # that an index of more items is to reach
FIRST = 100  # items of which recall is
MOST = 1000  # users over whom it is measured
CHUNK = 64  # users whose scores are held at a time
README = """\
# {dataset}: {model} of {dim} dimensions, {method}

`factors.safetensors` has a vector of {width} numbers for each of {users:,} users and {items:,}
items, in the order of `users.txt` and `items.txt`, which have an id a line. A score is an inner
product; items that a user has had are scored like all others. `pip install numpy safetensors`, and
in this folder:

```python
import numpy as np
from safetensors.numpy import load_file

p, q = map(load_file("factors.safetensors").get, ("user_factors", "item_factors"))
users, items = (open(x, encoding="utf-8").read().splitlines() for x in ("users.txt", "items.txt"))
print([items[i] for i in np.argsort(-q @ p[users.index({user!r})])[:10]])
```

{index}

| {names} |
|{rule}
| {values} |

Trained on {pairs:,} interactions ({split}); metrics are of the test.
"""
INDEX = """\
`items.faiss` is an inner-product index of the items ({kind}), with recall@{first} {recall:.4f}
against exact search. `pip install faiss-cpu`, and behind the lines above:

```python
import faiss

scores, places = faiss.read_index("items.faiss").search(p[:1], 100)
```"""


def export(folder: Path, served: Served) -> str:
    """Write the folder, which must not be there yet, or be empty; return what to say of it.

    ``factors.safetensors``: ``user_factors`` (U, d) and ``item_factors`` (I, d), float32, whose
    inner products are the scores; a bias is one of the d. ``users.txt``, ``items.txt``: original
    ids, one on a line. ``items.faiss``, if faiss-cpu is there. ``README.md``.

    Raises
    ------
    UserError
        If the model has no factors, if safetensors is missing, if an id has a line break, or if the
        folder cannot be written.
    """
    factors = served.factors()
    if factors is None:
        raise UserError(
            f"--export: scores of {type(served.model).__name__} are not inner products of factors "
            f"of users and items, so there are none to export"
        )
    tensors = need("safetensors.numpy", "safetensors", "--export")
    vectors = [np.ascontiguousarray(each.float().cpu().numpy()) for each in factors]
    texts = {
        f"{of}s.txt": _lines(of, getattr(served.split, f"{of}_ids")) for of in ("user", "item")
    }
    with _new_folder(folder) as made:
        files = {name: text.encode() for name, text in texts.items()}
        names = ("user_factors", "item_factors")
        files["factors.safetensors"] = tensors.save(dict(zip(names, vectors, strict=True)))
        try:
            index, kind, recall = _index(need("faiss", "faiss-cpu", "items.faiss"), *vectors)
            said = f"items.faiss: {kind}, recall@{FIRST} {recall:.4f}"
            files["items.faiss"] = index
            about = INDEX.format(kind=kind, recall=recall, first=FIRST)
        except UserError as error:
            about, said = "There is no index for nearest-neighbour search.", f"left out: {error}"
        files["README.md"] = _readme(served, vectors[0].shape[1], about).encode()
        for name, content in files.items():
            with write_whole(made / name) as file:
                file.write(content)
    size = sum(map(len, files.values())) / 1e6
    return f"{folder}: {', '.join(sorted(files))}, {size:.1f} MB; {said}"


def _lines(of: str, ids: np.ndarray) -> str:
    """Return ids, one on a line."""
    texts = ids.astype(str).tolist()
    for text in texts:
        if len(f"{text}.".splitlines()) > 1:
            raise UserError(f"--export: {of} {text!r} has a line break; give it another id")
    return "".join(f"{text}\n" for text in texts)


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to fill that takes the name ``folder`` once it is complete."""
    with disk_errors(folder):
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise UserError(f"--export {folder}: is there already; name a new folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=folder.parent) as temporary:
            made = Path(temporary, "export")
            made.mkdir()
            yield made
            os.replace(made, folder)


def _index(faiss: ModuleType, users: np.ndarray, items: np.ndarray) -> tuple[Any, str, float]:
    """Return an index as bytes, what it is, and its recall.

    Up to ``EXACT`` items it compares all. Beyond, it has lists of near items (IVF), ``4 sqrt(I)``
    of them, of which it visits as many as reach ``RECALL``: graphs (HNSW) are faster, but miss more
    where lengths of vectors differ, as those of popular items do.
    """
    faiss.omp_set_num_threads(torch.get_num_threads())
    asked = users[:: -(-len(users) // MOST)]
    exact = _exact(asked, items)

    def recall() -> float:
        found = index.search(asked, exact.shape[1])[1]
        hits = [len(np.intersect1d(*rows)) for rows in zip(found, exact, strict=True)]
        return sum(hits) / exact.size

    lists = int(4 * len(items) ** 0.5)
    flat = len(items) <= EXACT
    name = "Flat" if flat else f"IVF{lists},Flat"
    index = faiss.index_factory(items.shape[1], name, faiss.METRIC_INNER_PRODUCT)
    index.train(items)
    index.add(items)
    reached = recall()
    while not flat and reached < RECALL and index.nprobe < lists:
        index.nprobe = min(2 * index.nprobe, lists)
        reached = recall()
    kind = "all items compared" if flat else f"{index.nprobe} of {lists} lists visited"
    return faiss.serialize_index(index).tobytes(), kind, reached


def _exact(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Return the places of the best items of each user: ``(U, FIRST)``, or all."""
    score = products(torch.from_numpy(users), torch.from_numpy(items))
    nothing = np.empty(0, np.int64), np.empty(0, np.int64)
    lists = best_lists(score, torch.arange(len(users)), nothing, FIRST, CHUNK)
    return torch.cat([best for best, _ in lists]).numpy()


def _readme(served: Served, width: int, index: str) -> str:
    split, summary = served.split, served.summary
    metrics = {name: f"{value:.4f}" for name, value in summary["test"].items()}
    return README.format(
        dataset=summary["dataset"],
        model=summary["model"],
        dim=summary["dim"],
        method="-".join(filter(None, (summary["method"], summary["name"]))),
        width=width,
        users=split.num_users,
        items=split.num_items,
        user=str(split.user_ids[0]),
        index=index,
        names=" | ".join(metrics),
        rule=" --- |" * len(metrics),
        values=" | ".join(metrics.values()),
        pairs=len(split.train_users),
        split=split.name,
    )
