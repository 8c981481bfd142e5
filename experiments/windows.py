"""What a model of sequences goes by: a user's latest items, or who the user is.

    python -m experiments.windows checkpoints/Toys/Caser-d50/RD/time --dataset Toys

Prints the metrics of a finished run's weights again, each time with something taken away: the
validation items, which are known by the test, so that both parts are asked for after the same
items; who the user is, by giving all the mean vector, in models that have one for each; and all
items before.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from Models.sequential import SequentialModel
from Models.teacher import read_teacher
from Utils.errors import UserError, require_known
from Utils.evaluation import Evaluator
from Utils.settings import launch
from Utils.sources import IN_ORDER, load_split

METRICS = [f"{part}_{name}" for part in ("valid", "test") for name in ("N@10", "MAP")]


@dataclass
class Settings:
    """Which run."""

    # its checkpoint, best.pt or the folder with it
    checkpoint: Annotated[Path, tyro.conf.Positional]
    # data set that it was trained on, by time
    dataset: str = "Toys"
    # CPU threads
    threads: int = 1
    # folder of the data sets
    data_dir: Path = field(
        default_factory=lambda: Path(os.environ.get("RECDISTILL_DATA", "datasets"))
    )


def with_less(model: SequentialModel) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield what is taken away, the table that has it, and that table without it."""
    items, first, users = model.window_items, model.num_windows, model.num_users
    yield "nothing", items, items
    without = items.clone()
    without[first + users : first + 2 * users] = items[first : first + users]
    yield "validation items", items, without
    if hasattr(model, "user"):
        vectors = model.user.weight
        yield "who the user is", vectors, vectors.mean(dim=0).expand_as(vectors)
    yield "items", items, torch.full_like(items, model.num_items)


def main(args: Settings) -> None:
    """Print the table.

    Raises
    ------
    UserError
        If the data are in no order, or if there is no such model of sequences in the checkpoint.
    """
    torch.set_num_threads(args.threads)
    require_known("--dataset", args.dataset, IN_ORDER)
    split = load_split(args.dataset, "time", 0, str(args.data_dir))
    remedy = "give the folder of a run in checkpoints/, and its --dataset"
    teacher = read_teacher(args.checkpoint, split, torch.device("cpu"), remedy)
    model, evaluator = teacher.model, Evaluator(split, "cpu")
    if not isinstance(model, SequentialModel):
        raise UserError(f"{teacher.path}: {type(model).__name__} does not look at sequences")
    print(f"| without | {' | '.join(METRICS)} |\n|{' --- |' * (1 + len(METRICS))}")
    for name, table, without in with_less(model):
        kept = table.clone()
        table.copy_(without)
        values = evaluator.evaluate(model)[0]
        table.copy_(kept)
        print(f"| {name} | {' | '.join(f'{values[metric]:.4f}' for metric in METRICS)} |")


if __name__ == "__main__":
    launch(main, Settings, __doc__)
