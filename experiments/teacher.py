"""The teacher that a script's settings name, trained first if it is missing."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from experiments.settings import load_script, resolve
from Models.teacher import TrainedTeacher, read_teacher
from Utils.errors import UserError, warn
from Utils.run_folder import RunFolder, differences, in_words
from Utils.split import Split

SHARED = ("dataset", "split", "seed", "model", "selection", "data_dir", "device", "threads")


def load_teacher(args: Any, split: Split, device: torch.device) -> TrainedTeacher:
    """Return the teacher that a script's settings name; train it first if it is missing.

    ``args.teacher`` is a checkpoint or its folder, of any script's run: a student may be the next
    one's teacher. If it is empty, the teacher is the run of ``main_no_KD.py`` with
    ``args.teacher_dim`` on the same data set, split and seed. ``args.teacher_dim`` is its size
    afterwards.

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
    args.teacher_dim = teacher.model.dim
    return teacher


def own_teacher(args: Any, split: Split) -> Path:
    """Return the checkpoint of the teacher that belongs to a run; train it to its end if needed."""
    given = {name: getattr(args, name) for name in SHARED} | {"dim": args.teacher_dim}
    return trained_run("no_KD", given, split)


def trained_run(method: str, given: dict[str, Any], split: Split) -> Path:
    """Return the checkpoint of a script's run with the settings ``given``; train what is missing.

    Raises
    ------
    UserError
        If its folder holds a run of other settings, or if it cannot be trained.
    """
    script = load_script(method)
    wanted = resolve(script.Settings, given)[0]
    folder = RunFolder.of(wanted)
    flags = [f"--{name}={value}" for name, value in given.items()]
    command = ["python", f"main_{method}.py", *flags]
    if folder.config.exists():
        found = differences(folder.read_config()["settings"], wanted)
        if found:
            raise UserError(
                f"{folder.logs}: is no teacher of the usual settings, but has {in_words(found)}; "
                f"take it as it is with --teacher {folder.checkpoints}, or train the usual one "
                f"with {shlex.join([*command, '--overwrite'])}"
            )
    if folder.has_weights() and folder.summary.exists():
        return folder.best
    size = wanted.dim * (split.num_users + split.num_items)
    # Some 200 epochs; Adam streams every parameter through memory in a nanosecond a step.
    minutes = 200 * len(split.train_users) / wanted.batch_size * size * 1e-9 / 60
    print(
        f"no finished teacher in {folder.checkpoints}: training it first, in roughly "
        f"{minutes:.1f} minutes on a CPU\n{shlex.join([*command, '--resume'])}",
        flush=True,
    )
    if _run([sys.executable, script.__file__, *flags, "--resume"]):
        raise UserError("the teacher could not be trained, as said above; --teacher PATH names one")
    return folder.best


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
