"""What ``logs/`` says: summaries, curves, and the results table.

python -m experiments.results                        # the table of all finished runs
python -m experiments.results --dataset synthetic    # of one data set
"""

import csv
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import zip_longest
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np

from Utils.errors import UserError
from Utils.files import read_json, read_npz, require_ids
from Utils.run_folder import SECONDS, RunFolder, is_count, is_number, read_summary
from Utils.settings import launch
from Utils.split import has_all_users, protocol_of

# the numbers of a row of inference times
TIMED = ("phi", "dim", "threads", "num_parameters", "bytes", "top_n", "users_per_batch")
TIMED += ("seconds_all_users", "milliseconds_one_user")
# what a run's log says at the end of each epoch: its number, seconds of training and of evaluation
TIMES = re.compile(r"^epoch +(\d{1,9}) .* (\d{1,9}\.\d+) s \+ (\d{1,9}\.\d+) s$", re.M)


def read_runs(logs: Path) -> list[dict[str, Any]]:
    """Return the summaries of all finished runs below ``logs``, each with its ``folder``.

    Raises
    ------
    UserError
        If one is cut short, or lacks what is used.
    """
    return [
        read_summary(path) | {"folder": RunFolder.at(path.parent)}
        for path in sorted(logs.rglob("summary.json"))
    ]


def find_runs(path: Path) -> list[RunFolder]:
    """Return the run whose folder this is, or all runs in folders below it, finished or not.

    A run's folder in ``checkpoints/`` is as good as that in ``logs/``.

    Raises
    ------
    UserError
        If there is none.
    """
    logs = Path(os.path.abspath(path))
    root, found, place = f"{logs}/".rpartition("/checkpoints/")
    if found and "/logs/" not in f"/{place}":
        logs = Path(root, "logs", place)
    like = "name a run's folder, such as logs/CiteULike/BPR-d20/no_KD/seed0, or one above it"
    if not logs.is_dir():
        raise UserError(f"{logs}: no such folder; {like}")
    folders = sorted(config.parent for config in logs.rglob("config.json"))
    if not folders or len(folders[0].parts) < 6:
        raise UserError(f"{logs}: holds no run; {like}")
    return [RunFolder.at(folder) for folder in folders]


def names_apart(folders: list[RunFolder]) -> list[str]:
    """Return those parts of runs' paths that tell them apart; of one run, its method."""
    paths = [folder.logs.parts[:0:-1] for folder in folders]
    columns = list(zip_longest(*paths, fillvalue=""))  # from the split on
    apart = [column for column in columns if len(set(column)) > 1] or columns[1:2]
    return ["/".join(filter(None, parts)) for parts in zip(*reversed(apart), strict=True)]


def read_run(folder: RunFolder) -> dict[str, Any]:
    """Return a run's summary with its ``folder`` and whether it has ``finished``.

    One that has not says what it has so far: ``dim``, ``epochs``, and of the best of them, if there
    are some, ``best_epoch`` and ``test``, which are None and nan before, as are the times.

    Raises
    ------
    UserError
        If a file is cut short, or lacks what is used.
    """
    if folder.summary.exists():
        return read_summary(folder.summary) | {"folder": folder, "finished": True}
    dim, protocol = folder.read_config()["settings"].get("dim"), protocol_of(folder.logs.name)
    if not is_count(dim):
        raise _broken(folder.config, f"its dim is {dim}")
    run = {"folder": folder, "finished": False, "dim": dim, "num_parameters": None}
    if not (folder.curves.exists() and folder.curves.stat().st_size):
        test = dict.fromkeys(protocol.metrics, nan)
        times = dict.fromkeys(SECONDS, nan)
        return run | {"epochs": 0, "best_epoch": None, "test": test} | times
    curves, seconds = read_course(folder)
    best = int(np.nanargmax(curves[f"valid_{protocol.selecting}"]))
    test = {name: float(curves[f"test_{name}"][best]) for name in protocol.metrics}
    times = dict(zip(SECONDS, seconds.sum(axis=0).tolist(), strict=True))
    return run | {"epochs": len(seconds), "best_epoch": best, "test": test} | times


def count_of(run: dict[str, Any], what: str) -> int | None:
    """Return the number of users or items, ``num_users``, in a run's data; None if it is silent."""
    return run["folder"].read_config()["data"].get(what)


def kept(run: dict[str, Any], name: str) -> dict[int, Path]:
    """Return the files ``<name>-epoch<n>.npz`` that a run has kept, by epoch."""
    files = run["folder"].logs.glob(f"{name}-epoch*.npz")
    return dict(sorted((int(path.stem.removeprefix(f"{name}-epoch")), path) for path in files))


def _broken(place: object, fault: object) -> UserError:
    return UserError(f"{place}: {fault}; delete its folder, or run it again with --overwrite")


def read_curves(path: Path) -> dict[str, np.ndarray]:
    """Return the columns of a run's ``metrics.csv``: each ``(epochs,)`` float64.

    Where an epoch was not evaluated, its metrics are nan.

    Raises
    ------
    UserError
        If it has no header, no epoch, or a line that is not one number for each column.
    """
    try:
        names, *rows = [line.split(",") for line in path.read_text("utf-8").splitlines()] or [[]]
    except (OSError, ValueError) as error:
        raise _broken(path, error) from error
    if names[:1] != ["epoch"]:
        raise _broken(f"{path}:1", "no header that begins with epoch")
    if not rows:
        raise _broken(f"{path}:2", "no epoch")
    values = np.empty((len(rows), len(names)))
    for line, row in enumerate(rows, 2):
        try:
            values[line - 2] = _row(row, names)
        except ValueError as error:
            raise _broken(f"{path}:{line}", str(error)[:100]) from error
    return dict(zip(names, values.T, strict=True))


def read_course(folder: RunFolder) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return a run's curves, and the seconds of training and of evaluation in each epoch.

    (epochs, 2), from ``train.log``, where an epoch counts once that a killed run has repeated.

    Raises
    ------
    UserError
        If a file is broken, an epoch has no time, or metrics of the run's protocol are missing.
    """
    curves = read_curves(folder.curves)
    for name in protocol_of(folder.logs.name).metrics:
        for column in (f"valid_{name}", f"test_{name}"):
            if np.isnan(curves.get(column, nan)).all():
                raise _broken(f"{folder.curves}:1", f"no {column}")
    try:
        lines = TIMES.findall(folder.log.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _broken(folder.log, error) from error
    seconds = {int(epoch): (float(train), float(evaluation)) for epoch, train, evaluation in lines}
    missing = next((epoch for epoch in curves["epoch"] if epoch not in seconds), None)
    if missing is not None:
        raise _broken(folder.log, f"no time of epoch {missing:g}")
    return curves, np.array([seconds[epoch] for epoch in curves["epoch"]])


def _row(texts: list[str], names: list[str]) -> list[float]:
    """Return a line's numbers, nan for metrics that are empty; ``ValueError`` if it is no line."""
    if len(texts) != len(names):
        raise ValueError(f"{len(texts)} columns, not {len(names)}")
    return [
        nan if not text and name.startswith(("valid_", "test_")) else finite(text)
        for name, text in zip(names, texts, strict=True)
    ]


def finite(text: str) -> float:
    """Return a text as a finite number; raises ``ValueError`` if it is none."""
    number = float(text)
    if not isfinite(number):
        raise ValueError("a number that is not finite")
    return number


def read_rows(
    path: Path,
    kinds: dict[str, Callable[[str], Any]],
    others: Callable[[str], Any] | None = None,
) -> list[dict[str, Any]]:
    """Return the lines of a CSV file that is under version control, each as a dictionary.

    ``kinds`` are the columns that are wanted, and what makes values of their texts; ``others``
    does for all other columns, which are left out without it.

    Raises
    ------
    UserError
        With ``file:line``, if a column is missing, or a line is not what they say.
    """
    remedy = "restore the file"
    try:
        head, *lines = csv.reader(path.read_text("utf-8").splitlines(), strict=True)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: {error}; {remedy}") from error
    for name in kinds.keys() - set(head):
        raise UserError(f"{path}:1: no column {name}; {remedy}")
    if not lines:
        raise UserError(f"{path}:2: no line; {remedy}")
    if others:
        kinds = dict.fromkeys(head, others) | kinds
    rows = []
    for number, line in enumerate(lines, 2):
        try:
            cells = dict(zip(head, line, strict=True))
            rows.append({name: kind(cells[name]) for name, kind in kinds.items()})
        except ValueError as error:
            raise UserError(f"{path}:{number}: {str(error)[:100]}; {remedy}") from error
    return rows


def read_published_curves(path: Path, method: str) -> dict[str, np.ndarray]:
    """Return one method's columns of a file of published learning curves, with ``method`` first."""
    rows = read_rows(path, {"method": str, "epoch": finite}, others=finite)
    chosen = [row for row in rows if row.pop("method") == method]
    return {name: np.array([row[name] for row in chosen]) for name in rows[0]}


def read_timings(path: Path) -> list[dict[str, Any]]:
    """Return the rows that ``experiments.inference`` has written; checked."""
    remedy = "python -m experiments.inference measures again"
    rows = read_json(path, remedy).get("rows")
    for row in rows if isinstance(rows, list) and rows else [None]:
        row = row if isinstance(row, dict) else {}
        if type(row.get("device")) is not str or not all(is_number(row.get(n)) for n in TIMED):
            raise UserError(f"{path}: a row lacks device, size or time; {remedy}")
    return rows


def read_ranks(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the ranks of the test items from a run's ``ranks.npz``, and where each user's begin.

    (n,) int64, from 1, and (num_users + 1,): those of user u are between ``starts[u]`` and
    ``starts[u + 1]``. Where there is one for each user, the file has no counts.

    Raises
    ------
    UserError
        If they are missing, not integers in a row, or below 1: a rank that its type could not hold
        has come back negative, and would count as a hit; or if their counts do not say whose they
        are.
    """
    ranks = read_npz(path, ["test"])["test"]
    if ranks.ndim != 1 or not np.issubdtype(ranks.dtype, np.integer):
        raise UserError(f"{path}: holds {ranks.dtype} of shape {ranks.shape}, not a row of ranks")
    if np.any(ranks < 1):
        raise UserError(f"{path}: its ranks are out of range, the least is {ranks.min()}")
    starts = np.arange(len(ranks) + 1)
    if not has_all_users(path.parent.name):
        counts = read_npz(path, ["test_counts"])["test_counts"]
        require_ids(path, "test_counts", counts, (None,), len(ranks) + 1)
        starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        if starts[-1] != len(ranks):
            raise UserError(f"{path}: its test_counts are {starts[-1]} in all, not {len(ranks)}")
    return ranks.astype(np.int64), starts


def results_table(runs: list[dict[str, Any]]) -> str:
    """Return test metrics as Markdown, a table for each protocol.

    Means and standard deviations (n - 1) over our own splits. Of one data set, split and size, the
    best method stands first. Times are those of training and evaluation together, without the
    teacher's.
    """
    by_protocol = defaultdict(list)
    for run in runs:
        by_protocol[tuple(protocol_of(run["split"]).metrics)].append(run)
    return "\n\n".join(
        _results_table(members, list(metrics)) for metrics, members in by_protocol.items()
    )


def _results_table(runs: list[dict[str, Any]], metrics: list[str]) -> str:
    groups = defaultdict(list)
    for run in runs:
        whole, _, users = run["split"].partition("-users")
        kind = {"seed": "own", "share": "shares"}.get(whole.rstrip("0123456789"), whole)
        kind += f", {users} users" * bool(users)
        method = f"{run['method']}-{run['name']}" if run["name"] else run["method"]
        key = (run["dataset"], kind, run["selection"], run["model"], -run["dim"], method)
        groups[key].append(run)
    rows = []
    for (*setting, method), members in groups.items():
        scores = np.array([[run["test"][metric] for metric in metrics] for run in members])
        rows.append((setting, -scores[:, 0].mean(), method, members, scores))
    names = ["data set", "split", "selection", "model", "d", "parameters", "method", "runs"]
    table = [[*names, "time, s", *metrics]]
    for (*setting, dim), _, method, members, scores in sorted(rows, key=lambda row: row[:3]):
        parameters = f"{members[0]['num_parameters'] / 1e6:.3f} M"
        seconds = np.mean([run["train_seconds"] + run["eval_seconds"] for run in members])
        row = [*setting, str(-dim), parameters, method, str(len(members)), f"{seconds:.0f}"]
        row += [mean_of(values) for values in scores.T]
        table.append(row)
    return markdown_table(table)


def mean_of(values: Iterable[float]) -> str:
    """Return a mean with its standard deviation (n - 1), if there is one, as a text."""
    values = list(values)
    if not values:
        return "not run"
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"


def memory(num_parameters: int) -> str:
    """Return what so many parameters weigh in float32."""
    large = num_parameters >= 250_000
    return f"{num_parameters * 4e-6:.1f} MB" if large else f"{num_parameters * 4e-3:.0f} KB"


def markdown_table(table: list[list[str]]) -> str:
    """Return lines of texts, the first of them the head, as a Markdown table."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [table[0], ["-" * width for width in widths], *table[1:]]
    return "\n".join("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in lines)


@dataclass
class Settings:
    """Which runs to show."""

    # folder of the logs
    logs: Path = Path("logs")
    # data set, or all of them
    dataset: str | None = None


def main(args: Settings) -> None:
    """Print the table."""
    runs = [run for run in read_runs(args.logs) if args.dataset in (None, run["dataset"])]
    if not runs:
        raise UserError(f"{args.logs}: no finished run of {args.dataset or 'any data set'}")
    print(results_table(runs))


if __name__ == "__main__":
    launch(main, Settings, __doc__)
