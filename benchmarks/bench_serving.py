"""How long the lists of all users take, until they are in a Parquet file, and how much memory.

    python -m benchmarks.bench_serving                              # CiteULike, 5,219 x 25,181
    python -m benchmarks.bench_serving --num_users 200000 --num_items 200000
    python -m benchmarks.bench_serving --num_users 200000 --num_items 200000 --by faiss

Prints a table and asserts nothing. Factors are random, as they do not change the time. Of
CiteULike, known items are left out. By chunks, as recommend.py does, or by an exact inner-product
index of FAISS, which makes and compares scores in one pass. Beside the wall time stands that of all
threads together, to which others on the machine add little.
"""

import os
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from experiments.serving import Queries, lists_of, products, write_lists
from Utils.errors import need
from Utils.settings import RunSettings, launch, use_device
from Utils.sources import load_split
from Utils.split import HeldOut

BLOCK = 1024  # users whom FAISS is asked for at a time


@dataclass
class Settings:
    """What is measured."""

    # generated users and items; 0: those of CiteULike
    num_users: int = 0
    num_items: int = 0
    # size of the factors
    dim: int = 20
    # items of a list
    top: int = 100
    # what finds the best items
    by: Literal["chunks", "faiss"] = "chunks"
    # CPU threads
    threads: int = 2
    # folder of the data sets
    data_dir: Path = Path(os.environ.get("RECDISTILL_DATA", "datasets"))


def by_faiss(users: Tensor, items: Tensor, args: Settings) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the best items of some users at a time, and their scores."""
    faiss = need("faiss", "faiss-cpu", "--by faiss")
    faiss.omp_set_num_threads(args.threads)
    index = faiss.IndexFlatIP(args.dim)
    index.add(items.numpy())
    for block in users.split(BLOCK):
        scores, found = index.search(block.numpy(), args.top)
        yield torch.from_numpy(found), torch.from_numpy(scores)


def main(args: Settings) -> None:
    """Print the table."""
    device = use_device(RunSettings(device="cpu", threads=args.threads))
    if args.num_users:
        ids = np.arange(args.num_users), np.arange(args.num_items)
        seen = HeldOut(np.zeros(args.num_users + 1, np.int64), np.empty(0, np.int64))
    else:
        split = load_split("CiteULike", "seed", 0, str(args.data_dir))
        ids, seen = (split.user_ids, split.item_ids), split.known
    generator = torch.Generator().manual_seed(0)
    users, items = (torch.randn(len(each), args.dim, generator=generator) for each in ids)
    begin = time.perf_counter(), time.process_time()
    if args.by == "faiss":
        lists = by_faiss(users, items, args)
    else:
        asked = Queries(ids[0], seen, products(users, items))
        lists = lists_of(asked, len(items), args.top, device)
    with tempfile.TemporaryDirectory() as folder:
        write_lists(Path(folder, "lists.parquet"), *ids, lists)
    seconds, cpu = time.perf_counter() - begin[0], time.process_time() - begin[1]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print("| users | items | d | lists of | by | threads | seconds | of CPU | peak memory, MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    sizes = f"{len(users):,} | {len(items):,} | {args.dim} | {args.top}"
    print(f"| {sizes} | {args.by} | {args.threads} | {seconds:.1f} | {cpu:.1f} | {memory} |")


if __name__ == "__main__":
    launch(main, Settings, __doc__)
