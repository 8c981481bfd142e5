"""Compare runs with the first one: a table, and their learning curves as a picture.

    python compare.py logs/CiteULike/BPR-d200/no_KD/seed0 logs/CiteULike/BPR-d20/*/seed0
    python compare.py logs/synthetic --metrics N@10,H@10 --output synthetic.png

A run is named by its folder, in logs/ or checkpoints/, or by one above it, whose runs are all
taken. Metrics are of the test at the best epoch of validation; memory is that of float32, and
minutes are of training and evaluation. Where two runs are of one split, and their ranks were kept,
users are compared in pairs: hits by McNemar's exact test, all other metrics by a t-test, which is
what the intervals are by, too. Such a p-value knows the chance of the users alone, not that of
training, and is not corrected for how many there are.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.evidence import Evidence, footnotes, interval, minutes, user_test
from experiments.figures import quality_curves, save
from experiments.results import (
    find_runs,
    markdown_table,
    memory,
    names_apart,
    read_course,
    read_run,
)
from experiments.tables import in_minutes, number, p_value
from Utils.errors import UserError, require_known
from Utils.settings import launch
from Utils.split import Protocol, protocol_of


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings:
    """What is compared, and how."""

    # folders of runs, or folders above them
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    # as in N@10,H@5, the main one first; empty: the metric that selects, and two at 10
    metrics: str = ""
    # the picture
    output: Path = Path("compare.png")


# ---------------------------------------------------------------------------------------------


def chosen(metrics: str, protocol: Protocol) -> list[str]:
    """Return the metrics that have a column, the main one first."""
    usual = [protocol.selecting, *(f"{letter}@10" for letter in protocol.letters[:2])]
    names = metrics.split(",") if metrics else usual
    for name in names:
        require_known("--metrics", name, protocol.metrics)
    return list(dict.fromkeys(names))


def table(runs: dict[str, dict[str, Any]], metrics: list[str]) -> str:
    """Return a row a run and, below, why some have no test."""
    main, evidence, reasons = metrics[0], Evidence(), {}
    first, (test, p_of) = next(iter(runs.values())), user_test(main)
    head = ["", "d", "parameters", "memory", *metrics, "best epoch", "minutes"]
    lines = [[*head, "of the first", "difference", "95 % interval", f"p, {test}"]]
    for (label, run), took in zip(runs.items(), minutes(runs.values()), strict=True):
        size, best, whole = run["num_parameters"], run["best_epoch"], first["test"][main]
        line = [label, str(run["dim"]), *([f"{size:,}", memory(size)] if size else ["", ""])]
        line += [number(run["test"][metric]) for metric in metrics]
        line += ["" if best is None else str(best), in_minutes(took)]
        line += [number(run["test"][main] / whole, ".1%") if whole else "", "", "", ""]
        if run is not first:
            line[-3] = number(run["test"][main] - whole, "+.4f")
            gains, reasons[label] = evidence.user_gains(run, first, main)
            if gains is not None:
                line[-2:] = "{:+.4f} to {:+.4f}".format(*interval(gains)), p_value(p_of(gains))
        lines.append(line)
    return markdown_table(lines) + footnotes(reasons.items())


def main(args: Settings) -> None:
    """Print the table and draw the curves."""
    if args.output.suffix != ".png":
        raise UserError(f"--output {args.output}: the picture is a PNG; let its name end in .png")
    folders = list(dict.fromkeys(run for path in args.runs for run in find_runs(path)))
    kinds = {(run.logs.parts[-4], protocol_of(run.logs.name).selecting) for run in folders}
    if len(kinds) != 1:
        found = "; ".join(f"{dataset} by {metric}" for dataset, metric in sorted(kinds))
        raise UserError(f"name runs of one data set and one kind of split, not {found or 'none'}")
    metrics = chosen(args.metrics, protocol_of(folders[0].logs.name))
    runs, curves = {}, {}
    for label, run in zip(names_apart(folders), map(read_run, folders), strict=True):
        runs[label if run["finished"] else f"{label} (unfinished)"] = run
    print(f"The last columns: {metrics[0]} against that of {next(iter(runs))}, over users.\n")
    print(f"{table(runs, metrics)}\n", flush=True)
    for label, run in runs.items():
        if run["epochs"] and run["folder"].curves.exists() and run["folder"].log.exists():
            columns, seconds = read_course(run["folder"])
            times = seconds.sum(axis=1).cumsum() / 60
            curves[label] = columns["epoch"], times, columns[f"valid_{metrics[0]}"]
    if lacking := ", ".join(label for label in runs if label not in curves):
        print(f"No learning curves of {lacking}: no metrics.csv or train.log is there.")
    if curves:
        save(quality_curves(curves, metrics[0]), args.output)
        print(f"{args.output} has the learning curves.")


if __name__ == "__main__":
    launch(main, Settings, __doc__)
