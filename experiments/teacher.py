"""The teacher that a script's settings name, trained first if it is missing."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import main_no_KD
from experiments.settings import resolve
from Models.teacher import Teacher, read_teacher
from Utils.data_utils import LeaveOneOutSplit, warn
from Utils.errors import UserError
from Utils.run import differences, has_weights, in_words, read_config, run_folder

SHARED = ("dataset", "split", "seed", "model", "selection", "data_dir", "device", "threads")


def load_teacher(args: Any, split: LeaveOneOutSplit, device: torch.device) -> Teacher:
    """Return the teacher that a script's settings name; train it first if it is missing.

    ``args.teacher`` is a checkpoint or its folder. If it is empty, the teacher is the run of
    ``main_no_KD.py`` with ``args.teacher_dim`` on the same data set, split and seed.

    Raises
    ------
    UserError
        If the file is missing, broken, or of another data set or split, or if what was trained in
        the teacher's place has other settings.
    """
    path, remedy = Path(args.teacher), "name another --teacher, or none to have one trained"
    if not args.teacher:
        path, remedy = own_teacher(args, split), "delete it to have it trained anew"
    teacher = read_teacher(path, split, device, remedy)
    if teacher.model.dim < args.dim:
        warn(
            f"{teacher.path}: the teacher (d={teacher.model.dim}) is smaller than the student "
            f"(d={args.dim})"
        )
    return teacher


def own_teacher(args: Any, split: LeaveOneOutSplit) -> Path:
    """Return the checkpoint of the teacher that belongs to a run; train it to its end if needed."""
    given = {name: getattr(args, name) for name in SHARED}
    wanted = resolve("no_KD", main_no_KD.Settings(**given, dim=args.teacher_dim))[0]
    folder = run_folder(wanted, "no_KD", split.name)
    logs, path = Path("logs") / folder, Path("checkpoints") / folder / "best.pt"
    flags = [f"--{name}={value}" for name, value in (given | {"dim": args.teacher_dim}).items()]
    command = ["python", "main_no_KD.py", *flags]
    if (logs / "config.json").exists():
        found = differences(read_config(logs)["settings"], wanted)
        if found:
            raise UserError(
                f"{logs}: is no teacher of the usual settings, but has {in_words(found)}; take "
                f"it as it is with --teacher {path.parent}, or train the usual one with "
                f"{shlex.join([*command, '--overwrite'])}"
            )
    if has_weights(path) and (logs / "summary.json").exists():
        return path
    size = args.teacher_dim * (split.num_users + split.num_items)
    # Some 200 epochs; Adam streams every parameter through memory in a nanosecond a step.
    minutes = 200 * len(split.train_users) / wanted.batch_size * size * 1e-9 / 60
    print(
        f"no finished teacher in {path.parent}: training it first, in roughly {minutes:.1f} "
        f"minutes on a CPU\n{shlex.join([*command, '--resume'])}",
        flush=True,
    )
    if _run([sys.executable, main_no_KD.__file__, *flags, "--resume"]):
        raise UserError("the teacher could not be trained, as said above; --teacher PATH names one")
    return path


def _run(command: list[str]) -> int:
    """Run a command to its end, which Ctrl-C reaches, too, and return its exit status."""
    interrupted = 0
    with subprocess.Popen(command) as process:
        while True:
            try:
                status = process.wait()
                break
            except KeyboardInterrupt:
                interrupted += 1
                if interrupted > 2:
                    process.terminate()
    if interrupted:
        raise KeyboardInterrupt
    return status
