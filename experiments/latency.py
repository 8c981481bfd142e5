"""What a run's model and its teachers weigh, take and reach, side by side."""

from collections.abc import Iterator
from typing import Any

import torch

from experiments.inference import NUM_SINGLE, measure, name_of
from experiments.results import markdown_table
from experiments.serving import Served
from experiments.tables import number
from experiments.teacher import teacher_at
from Models.ensemble import Ensemble
from Models.recommender import Recommender
from Models.teacher import CHUNK, TrainedTeacher
from Utils.errors import UserError, warn
from Utils.files import write_json
from Utils.run_folder import is_number

FORMAT = "recdistill latency 1"
REPEATS = 3
HEAD = ("", "model", "d", "parameters", "MB", "all users, s", "one user, p50, ms", "p99, ms")
HEAD += ("test {}",)


def report(served: Served, count: int) -> str:
    """Measure, write ``latency.json`` into the run's logs, and return the table.

    Lists are of ``count`` items, exact, without those of training.
    """
    metric = served.split.protocol.selecting
    models = [("this run", served.model, served.summary), *teachers(served)]
    rows = [
        {"role": role, "model": type(model).__name__, "dim": model.dim, "test": run["test"][metric]}
        | measure(model, served.split, REPEATS, count)
        for role, model, run in models
    ]
    about = {"format": FORMAT, "torch": torch.__version__, "device": name_of(served.device)}
    about |= {"threads": torch.get_num_threads(), "num_users": served.split.num_users}
    about |= {"num_items": served.split.num_items, "top_n": count, "users_per_batch": CHUNK}
    about |= {"users_one_by_one": NUM_SINGLE, "repeats": REPEATS}
    write_json(served.folder.latency, about | {"rows": rows})
    return markdown_table([[name.format(metric) for name in HEAD], *map(_line, rows)])


def _line(row: dict[str, Any]) -> list[str]:
    line = [row["role"], row["model"], str(row["dim"]), f"{row['num_parameters']:,}"]
    times = (f"{row[name]:.2f}" for name in ("milliseconds_p50", "milliseconds_p99"))
    line += [f"{row['bytes'] / 1e6:.1f}", f"{row['seconds_all_users']:.2f}", *times]
    return [*line, "" if row["test"] is None else number(row["test"])]


def teachers(served: Served) -> Iterator[tuple[str, Recommender, dict[str, Any]]]:
    """Yield those that a run has recorded, and their ``test`` metrics, None if it has none.

    Of one that is not at hand, a warning says why.
    """
    records = served.config.get("teachers", [served.config.get("teacher")])
    for record in filter(None, records if isinstance(records, list) else [records]):
        try:
            yield "teacher", _read(record, served), {"test": _reached(record, served)}
        except UserError as error:
            warn(f"a teacher is not measured: {error}")


def _reached(record: dict[str, Any], served: Served) -> dict[str, float | None]:
    """Return the test metrics that a run has recorded of its teacher."""
    kept = record.get("metrics")
    found = {
        name: kept.get(f"test_{name}") if isinstance(kept, dict) else None
        for name in served.split.protocol.metrics
    }
    return {name: value if is_number(value) else None for name, value in found.items()}


def _read(record: object, served: Served) -> Recommender:
    """Return the model that ``Teacher.record`` is of; other weights would take the same time."""
    split, record = served.split, record if isinstance(record, dict) else {}
    if isinstance(record.get("members"), list) and record["members"]:
        members = [_read(member, served) for member in record["members"]]
        return Ensemble(split, members, [1.0] * len(members), record.get("combine")).eval()
    if not isinstance(record.get("path"), str):
        raise UserError(f"{served.folder.config}: names no checkpoint of it")
    path = served.folder.root / record["path"]
    teacher = teacher_at(path, split, served.device, "train it again")
    if not isinstance(teacher, TrainedTeacher):
        raise UserError(f"{path}: lists, and no model that makes them")
    return teacher.model
