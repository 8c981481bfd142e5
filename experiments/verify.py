"""Train the first epochs of runs that logs/ has again, and compare the bytes of their metrics.

    python -m experiments.verify                        # every method, three epochs each
    python -m experiments.verify --only no_KD CD        # these alone

Of each method, the run of seed 0 with the data set, the base model and the size that stand in its
script, and that of the usual teacher, who is trained first, some minutes, if the weights are not at
hand. Bytes are the same on machines of one kind; on others, expect the first digits to be.
"""

import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from experiments import ROOT
from experiments.settings import SIZES, load_script, resolve
from experiments.teacher import own_teacher
from Utils.errors import UserError, require_known
from Utils.run_folder import RunFolder
from Utils.settings import RunSettings, launch
from Utils.sources import split_of


@dataclass
class Settings:
    """What is compared."""

    # methods, as in main_<method>.py; all of them if there are none
    only: tuple[str, ...] = ()
    # epochs to train
    epochs: int = 3
    # folder of the data sets
    data_dir: str = field(default_factory=lambda: RunSettings().data_dir)


def first_difference(made: bytes, kept: bytes) -> str:
    """Say how the lines that were made compare with the first ones of those that are kept."""
    ours, theirs = made.splitlines(), kept.splitlines()
    for number, line in enumerate(ours):
        if line != (theirs[number] if number < len(theirs) else None):
            return f"line {number + 1} differs"
    return f"the same bytes, {len(ours) - 1} epochs"


def compare(args: Settings, method: str, dim: int, teacher: Path | None) -> str:
    """Train a run's first epochs in an empty folder, and say how they compare with logs/."""
    kind = load_script(method).Settings
    folder = RunFolder.of(resolve(kind, {"dim": dim})[0])
    if not (ROOT / folder.curves).exists():
        return "logs/ has no curves of it"
    command = [sys.executable, str(ROOT / f"main_{method}.py"), f"--dim={dim}", "--threads=1"]
    command.append(f"--data_dir={Path(args.data_dir).resolve()}")
    if hasattr(kind, "max_epoch"):
        command.append(f"--max_epoch={args.epochs}")
    if teacher:
        command.append(f"--teacher={teacher.resolve()}")
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
        if done.returncode:
            raise UserError((done.stderr.strip().splitlines() or [f"main_{method}.py failed"])[-1])
        made = (scratch / folder.curves).read_bytes()
    return first_difference(made, (ROOT / folder.curves).read_bytes())


def main(args: Settings) -> None:
    """Print a line for each run."""
    methods = sorted(path.stem.removeprefix("main_") for path in ROOT.glob("main_*.py"))
    for method in args.only:
        require_known("--only", method, methods)
    differing = 0
    for method in args.only or methods:
        kind = load_script(method).Settings
        usual, teacher = resolve(kind, {"data_dir": args.data_dir, "threads": 1})[0], None
        if hasattr(usual, "teacher"):
            split = split_of(usual)
            teacher = own_teacher(usual, split)
        for dim in [usual.dim] if teacher else SIZES[usual.model].values():
            said = compare(args, method, dim, teacher)
            differing += "differs" in said
            print(f"{usual.dataset} {usual.model}-d{dim} {method}: {said}", flush=True)
    if differing:
        raise UserError(f"{differing} runs came out otherwise than logs/ says")


if __name__ == "__main__":
    launch(main, Settings, __doc__)
