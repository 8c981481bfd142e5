"""A first look: a teacher, a student, and the student taught by two methods, on the built-in data.

    python -m experiments.demo                           # offline, about two minutes

The scripts run one after the other as anybody would start them, with the tuned settings. What
is said at the end is computed from the runs.
"""

import shlex
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from experiments import ROOT
from experiments.results import markdown_table, memory
from experiments.settings import load_script, resolve
from Utils.errors import UserError
from Utils.run_folder import RunFolder, read_summary
from Utils.settings import launch

RUNS = {  # what -> method, d, flags
    "teacher": ("no_KD", 200, []),
    "student": ("no_KD", 20, []),
    "student + DE-RRD": ("DERRD", 20, ["--P", "100"]),  # the selection falls in time
    "student + S2D": ("S2D", 20, []),
}
FLAGS = ["--dataset", "synthetic", "--threads", "1", "--overwrite"]
BLOCKS = ["", *"▏▎▍▌▋▊▉"]  # eighths
WIDTH = 48  # of the longest bar
AFTERWARDS = """\
H@5 is the share of users whose held-out item is among the first 5 of 500.
One split and one seed make a demonstration; results are in README.md.

Where things lie:
  logs/synthetic/BPR-d*/*/seed0/           settings, learning curves, metrics
  checkpoints/synthetic/BPR-d*/*/seed0/    weights: best.pt

What next, after `source .venv/bin/activate`:
  python main_URRD.py --dataset synthetic  another method, with the same teacher
  python main_S2D.py --seed 5              real data: downloads CiteULike, and
                                           trains a teacher first, some minutes
  make test                                formatter, linter and tests
"""


def train(method: str, dim: int, flags: list[str]) -> dict[str, Any]:
    """Run a script, print its command line and return its summary; its progress is on a terminal.

    Raises
    ------
    UserError
        If it failed; its last lines are printed.
    """
    script, *flags = f"main_{method}.py", "--dim", str(dim), *flags, *FLAGS
    print(shlex.join(["python", script, *flags]), flush=True)
    done = subprocess.run(
        [sys.executable, ROOT / script, *flags],
        stdout=subprocess.PIPE,
        stderr=None if sys.stderr.isatty() else subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        print(*done.stdout.splitlines()[-5:], sep="\n", file=sys.stderr)
        raise UserError(f"{script} failed, as said above")
    run = resolve(load_script(method).Settings, {"dataset": "synthetic", "dim": dim})[0]
    return read_summary(RunFolder.of(run).summary)


def table(runs: dict[str, dict[str, Any]]) -> str:
    """Return what each run is, needs and reaches, as Markdown; memory is that of float32."""
    lines = [["", "d", "parameters", "memory", "test H@5", "of teacher", "time"]]
    best = runs["teacher"]["test"]["H@5"]
    for label, run in runs.items():
        parameters, score = run["num_parameters"], run["test"]["H@5"]
        line = [label, str(run["dim"]), f"{parameters:,}", memory(parameters)]
        line += [f"{score:.4f}", f"{score / best:.0%}" if best else "-"]
        lines.append([*line, f"{run['train_seconds'] + run['eval_seconds']:.0f} s"])
    return markdown_table(lines)


def bars(scores: dict[str, float]) -> str:
    """Return scores as a bar chart: lines of text, at most 80 columns wide."""
    longest, labels = max(scores.values()) or 1, max(map(len, scores))
    lines = []
    for label, score in scores.items():
        whole, eighths = divmod(round(8 * WIDTH * score / longest), 8)
        lines.append(f"{label:{labels}}  {'█' * whole + BLOCKS[eighths]:{WIDTH}}  {score:.4f}")
    return "\n".join(lines)


def gains(scores: dict[str, float]) -> str:
    """Say how much of the way from student to teacher each method goes."""
    scores = dict(scores)
    teacher, student = scores.pop("teacher"), scores.pop("student")
    gap = teacher - student
    if gap <= 0:
        return f"The teacher is not above the student ({gap:+.4f}): there is nothing to gain."
    said = [f"The teacher's H@5 is {gap:.4f} above the student's."]
    for label, score in scores.items():
        method = label.removeprefix("student + ")
        closes = f"{method} closes {(score - student) / gap:.0%} of this gap."
        below = f"{method} is below the student, by {student - score:.4f}."
        said.append(below if score < student else closes)
    return "\n".join(said)


@dataclass
class Settings:
    """There are none."""


def main(args: Settings) -> None:
    """Train all four, and print what came out."""
    runs = {label: train(*run) for label, run in RUNS.items()}
    scores = {label: run["test"]["H@5"] for label, run in runs.items()}
    sys.stdout.reconfigure(errors="replace")  # bars of ? where there are no blocks
    print(f"\n{table(runs)}\n\ntest H@5\n{bars(scores)}\n\n{gains(scores)}\n{AFTERWARDS}", end="")


if __name__ == "__main__":
    launch(main, Settings, __doc__)
