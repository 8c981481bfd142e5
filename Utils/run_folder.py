"""Where a run's files lie, what they say, and when two runs are the same.

logs/<data set>/<model>-d<dim>/<method>[-<name>]/<split>/         kept: config.json, metrics.csv,
                                                                  train.log, summary.json,
                                                                  ranks.npz, and if wanted
                                                                  <name>-epoch<n>.npz, latency.json
checkpoints/<the same>/                                           best.pt, last.pt
checkpoints/<the same>/again/       what logs/ would have, while a finished run is trained again for
                                    weights that are not at hand: logs/ stays as it is
"""

import json
import os
from dataclasses import asdict, dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from Utils.errors import UserError
from Utils.files import read_checkpoint, read_json
from Utils.sources import dataset_name, split_name
from Utils.split import Split, protocol_of

RUN_FORMAT = "recdistill run 1"
ROOT = Path(__file__).resolve().parents[1]
# what a summary has beside its metrics
TEXTS = ("dataset", "split", "selection", "model", "method", "name")
COUNTS = ("dim", "seed", "num_parameters", "best_epoch", "epochs")
SECONDS = ("train_seconds", "eval_seconds")


def _file(folder: str, name: str, meaning: str) -> property:
    """Return a property: the path of a file in one of the two folders."""
    return property(lambda run: getattr(run, folder) / name, doc=meaning)


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run: a folder of what is kept, and one of its weights."""

    logs: Path
    checkpoints: Path

    @classmethod
    def of(cls, args: Any) -> "RunFolder":
        """Return the folder of the run that a script's settings describe."""
        named = f"{args.method}-{args.name}" if args.name else args.method
        model = f"{args.model}-d{args.dim}"
        split = split_name(args.split, args.seed, args.held_out, args.eval_users)
        path = Path(dataset_name(args.dataset), model, named, split)
        return cls("logs" / path, "checkpoints" / path)

    @classmethod
    def at(cls, logs: Path) -> "RunFolder":
        """Return the folder of the run whose logs lie there, below a folder ``logs/``."""
        place = Path(*logs.parts[-4:])  # data set, model, method, split
        return cls(logs, logs.parents[4] / "checkpoints" / place)

    @classmethod
    def named(cls, path: Path) -> "RunFolder":
        """Return the folder of the run whose logs, or checkpoints, or a file of either, these are.

        Raises
        ------
        UserError
            If there is no such run.
        """
        place = Path(os.path.abspath(path.parent if path.is_file() else path))
        top, names = place.parents[3:4], place.parts[-4:]
        if top and top[0].name in ("logs", "checkpoints"):
            run = cls.at(Path(top[0].parent, "logs", *names))
            if run.config.exists():
                return run
        raise UserError(
            f"{path}: no such run; name its folder, such as logs/CiteULike/BPR-d20/S2D/seed0"
        )

    @property
    def root(self) -> Path:
        """The folder where ``logs/`` and ``checkpoints/`` are, to which paths of a run refer."""
        return self.logs.parents[4]

    @property
    def again(self) -> "RunFolder":
        """The same run, trained again while its logs stay as they are."""
        return RunFolder(self.checkpoints / "again", self.checkpoints)

    config = _file("logs", "config.json", "Every setting, versions, hashes of the data.")
    curves = _file("logs", "metrics.csv", "A row an epoch: losses and metrics.")
    log = _file("logs", "train.log", "What was printed.")
    summary = _file("logs", "summary.json", "The selected epoch's metrics; of a finished run.")
    latency = _file("logs", "latency.json", "Sizes and times of its lists; see recommend.py.")
    ranks = _file("logs", "ranks.npz", "The rank of each held-out item at the selected epoch.")
    best = _file("checkpoints", "best.pt", "The weights of the selected epoch.")
    last = _file("checkpoints", "last.pt", "Everything that ``--resume`` needs.")

    def kept(self, name: str, epoch: int) -> Path:
        """Return the path of arrays that a method keeps of an epoch."""
        return self.logs / f"{name}-epoch{epoch}.npz"

    def has_weights(self) -> bool:
        """Return whether the weights are there and final."""
        remedy = "delete it to have it made again"
        if not self.best.exists():
            return False
        kept = read_checkpoint(self.best, {}, torch.device("cpu"), remedy)
        return kept.get("finished") is True

    def read_config(self) -> dict[str, Any]:
        """Return what a run wrote of its settings and data when it began; checked."""
        config = read_json(self.config)
        if not all(isinstance(config.get(part), dict) for part in ("settings", "data")):
            raise UserError(f"{self.config}: lacks settings or data; --overwrite starts again")
        return config

    def refuse_other(self, args: Any, longer: bool = False) -> None:
        """Raise ``UserError`` if the folder was made with other hyperparameters than these.

        With ``longer``, more epochs than it was made with are no others.
        """
        refuse(self.logs, differences(self.read_config()["settings"], args, longer))

    def is_of(self, args: Any) -> bool:
        """Return whether the folder was begun with these hyperparameters."""
        return self.config.exists() and not differences(self.read_config()["settings"], args)


def is_finished(args: Any, split: Split) -> bool:
    """Return whether there is nothing to do: this very run has finished; say so.

    With ``--resume``, there is if its weights are not at hand, or if more epochs are wanted.

    Raises
    ------
    UserError
        If a run of other settings, or on other data, has finished in the same folder.
    """
    folder = RunFolder.of(args)
    if args.overwrite:
        return False
    if not folder.summary.exists():
        # then this is another folder than the project's
        if (ROOT / folder.summary).exists() and not folder.logs.exists():
            print(f"{ROOT / folder.logs} holds a finished run; it is made again here, {Path.cwd()}")
        return False
    data = str(folder.read_config()["data"].get("split_sha256"))
    if data != split.sha256:
        raise UserError(
            f"{folder.logs}: holds a run on other data (the split's sha256 is {data[:8]}..., now "
            f"{split.sha256[:8]}...); use --name NAME for a folder of its own, or --overwrite"
        )
    folder.refuse_other(args, longer=args.resume)
    if args.resume and not (folder.is_of(args) and folder.has_weights()):
        return False
    summary = read_summary(folder.summary)
    selecting = split.protocol.selecting
    lacking = (
        "" if folder.best.exists() else "; --resume makes its weights again, which are not here"
    )
    print(
        f"{folder.logs} holds this run, finished: test {selecting} "
        f"{summary['test'][selecting]:.4f} at epoch {summary['best_epoch']} of "
        f"{summary['epochs']}. Nothing to do; --overwrite starts again, --name NAME keeps "
        f"both{lacking}."
    )
    return True


def differences(theirs: dict[str, Any], args: Any, longer: bool = False) -> dict[str, tuple]:
    """Return the settings that make a run another one than ``args``: name -> (its value, ours).

    ``theirs`` are a run's settings, as it kept them. With ``longer``, more epochs are none.
    """
    ours = asdict(args)
    newer = {field.name: field.default for field in fields(args)}  # than the run, so not in it
    theirs = newer | theirs
    free = args.irrelevant()
    if longer and _is_longer(theirs.get("max_epoch"), ours.get("max_epoch")):
        free.add("max_epoch")
    return {
        name: (theirs.get(name), ours.get(name))
        for name in sorted(ours.keys() | theirs.keys())
        if name not in free and theirs.get(name) != ours.get(name)
    }


def _is_longer(theirs: object, ours: object) -> bool:
    return isinstance(theirs, int) and isinstance(ours, int) and ours > theirs


def in_words(found: dict[str, tuple]) -> str:
    """Return what ``differences`` has found, both values of each."""
    return ", ".join(f"{name} {theirs} (now {ours})" for name, (theirs, ours) in found.items())


def refuse(logs: Path, found: dict[str, tuple]) -> None:
    """Raise ``UserError`` with both values of what ``differences`` has found, unless it is none."""
    if not found:
        return
    more = found.keys() == {"max_epoch"} and _is_longer(*found["max_epoch"])
    raise UserError(
        f"{logs}: holds a run with {in_words(found)}; "
        f"{'--resume goes on with it, or ' if more else ''}"
        f"use --name NAME for a folder of its own, or --overwrite"
    )


def read_summary(path: Path) -> dict[str, Any]:
    """Return a finished run's ``summary.json``.

    Raises
    ------
    UserError
        If it is missing or broken, or lacks what others use of it.
    """
    remedy = "delete its folder, or run it again with --overwrite"
    summary = read_json(path, remedy)
    found = {name: summary.get(name) for name in (*TEXTS, *COUNTS, *SECONDS)}
    for part in ("valid", "test"):
        metrics = summary.get(part)
        metrics = metrics if isinstance(metrics, dict) else {}
        names = protocol_of(str(summary.get("split"))).metrics
        found |= {f"{part} {name}": metrics.get(name) for name in names}
    kinds = dict.fromkeys(TEXTS, str) | dict.fromkeys(COUNTS, int)
    for name, value in found.items():
        fits = type(value) is kinds[name] if name in kinds else is_number(value)
        if not fits:
            raise UserError(f"{path}: its {name} is {json.dumps(value)[:40]}; {remedy}")
    return summary


def is_number(value: object) -> bool:
    """Return whether a value that was read is a finite number, and no boolean."""
    return type(value) in (int, float) and isfinite(value)


def is_count(value: object) -> bool:
    """Return whether a value that was read is a whole number above 0, and no boolean."""
    return type(value) is int and value > 0


def epochs_of(text: str) -> list[int]:
    """Return the epochs that a setting lists, as in ``0,20,-1``."""
    try:
        epochs = [int(part) for part in text.split(",") if text]
    except ValueError:
        epochs = [-2]
    if min(epochs, default=0) < -1:
        raise UserError(f"{text!r} lists no epochs; write them like 0,20,-1, with -1 for the last")
    return epochs
