"""A run: its folder, epochs, optimiser step, early stopping, checkpoints, resume and progress.

logs/<data set>/<model>-d<dim>/<method>[-<name>]/<split>/         kept: config.json, metrics.csv,
                                                                  train.log, summary.json,
                                                                  ranks.npz,
                                                                  <name>-epoch<n>.npz if wanted
checkpoints/<the same>/                                           best.pt, last.pt
checkpoints/<the same>/again/       what logs/ would have, while a finished run is trained again for
                                    weights that are not at hand: logs/ stays as it is
"""

import contextlib
import json
import os
import platform
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from copy import deepcopy
from dataclasses import asdict, fields
from math import isfinite
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from Utils.data_utils import LeaveOneOutSplit, warn
from Utils.errors import UserError
from Utils.evaluation import CUTOFFS, METRICS, Evaluator
from Utils.files import (
    disk_errors,
    lock_folder,
    read_checkpoint,
    read_json,
    remove_leftovers,
    require_like,
    write_checkpoint,
    write_json,
    write_whole,
)
from Utils.optimizer import DenseAdam
from Utils.selection import Selection
from Utils.settings import RunSettings

FORMAT = "recdistill run 1"
ROOT = Path(__file__).resolve().parents[1]
# what a summary has beside its metrics
TEXTS = ("dataset", "split", "selection", "model", "method", "name")
COUNTS = ("dim", "seed", "num_parameters", "best_epoch", "epochs")
SECONDS = ("train_seconds", "eval_seconds")
CHECKPOINT_SHARE = 0.05  # of the time may go into writing last.pt; a killed run repeats the rest


class Run:
    """Trains ``model``, together with the distillers' own networks, and keeps what comes out.

    Parameters
    ----------
    method : as in the script's name, ``main_<method>.py``.
    args : the script's settings.
    split : the data.
    model : the recommender that is trained, evaluated and kept.
    distillers : modules whose parameters are trained along and are not needed afterwards.
    teacher : the ``Teacher`` that the distillers ask, for the record.

    Examples
    --------
    >>> with Run("no_KD", args, split, model) as run:            # doctest: +SKIP
    ...     for epoch in run.epochs():
    ...         for batch in sampler.epoch(epoch):
    ...             run.step(model.loss(*batch))
    ...         run.evaluate()
    """

    def __init__(
        self,
        method: str,
        args: Any,
        split: LeaveOneOutSplit,
        model: nn.Module,
        *distillers: nn.Module,
        teacher: Any = None,
    ) -> None:
        self.args, self.split, self.model, self.teacher = args, split, model, teacher
        self.modules = nn.ModuleList([model, *distillers])
        self.method, self.script = method, f"main_{method}.py"
        folder = run_folder(args, method, split.name)
        self.logs, self.checkpoints = Path("logs") / folder, Path("checkpoints") / folder
        self.identity = {
            "format": FORMAT,
            "method": method,
            "dataset": split.dataset,
            "split": split.name,
            "split_sha256": split.sha256,
            "model": type(model).__name__,
            "dim": args.dim,
            "options": {option: getattr(model, option) for option in model.options},
            "teacher_sha256": teacher.sha256 if teacher else None,
        }
        self.optimizer = DenseAdam(self.modules.parameters(), args.lr, weight_decay=args.reg)
        self.device = next(model.parameters()).device
        self.evaluator = Evaluator(split, self.device)
        self.selection = Selection(args.selection, args.patience)
        self.history: list[dict[str, float]] = []  # a row of metrics.csv an epoch
        self.seconds = {"train": 0.0, "eval": 0.0}
        self.losses: Tensor | None = None  # (batches or more, parts), on the device
        self.part_names: list[str] = []
        self.num_batches = 0  # of this epoch so far
        self.best: dict[str, Any] | None = None  # best weights and ranks not yet on disk
        self.saved_at, self.saving_took = -float("inf"), 0.0
        self.finished = self.interrupted = False
        self.kept: Path | None = None  # the summary of the finished run that this one repeats

    # --- start ---------------------------------------------------------------------------------

    def __enter__(self) -> "Run":
        with contextlib.ExitStack() as stack:
            for folder in (self.logs, self.checkpoints):
                with disk_errors(folder):
                    folder.mkdir(parents=True, exist_ok=True)
            with disk_errors(self.checkpoints):
                stack.enter_context(lock_folder(self.checkpoints, wait=self.args.resume))
            if self.args.overwrite:
                for folder in (self.logs, self.checkpoints):
                    with disk_errors(folder):
                        _empty(folder)
            self.finished = is_finished(self.method, self.args, self.split)
            if not self.finished:
                with disk_errors(self.logs):
                    self._start(stack)
            self.stack = stack.pop_all()
        return self

    def _start(self, stack: contextlib.ExitStack) -> None:
        """Resume or begin, and open what the loop writes to."""
        summary = self.logs / "summary.json"
        if summary.exists() and not differences(read_config(self.logs)["settings"], self.args):
            self.kept, self.logs = summary, self.checkpoints / "again"
            self.logs.mkdir(exist_ok=True)
        resumed = self._resume()
        if summary.exists() and not self.kept:  # more epochs than before
            if not resumed:
                raise UserError(
                    f"{self.logs}: holds a shorter run, but {self.checkpoints} does not hold what "
                    f"is needed to go on; --overwrite starts again"
                )
            summary.unlink()
        for folder in (self.logs, self.checkpoints):
            remove_leftovers(folder)
        if not (resumed and self._has_config()):
            self._write_config()
        self.log_file = self._open(stack, "train.log", "a" if resumed else "w")
        self.metrics_file = self._open(stack, "metrics.csv", "w")
        for row in self.history:
            self._write_row(row)
        self._greet()
        handler = signal.signal(signal.SIGINT, self._on_interrupt)
        stack.callback(signal.signal, signal.SIGINT, handler)

    def _has_config(self) -> bool:
        if not (self.logs / "config.json").exists():
            return False
        return not differences(read_config(self.logs)["settings"], self.args)

    def _open(self, stack: contextlib.ExitStack, name: str, mode: str) -> IO[str]:
        file = open(self.logs / name, mode)

        def close() -> None:
            with contextlib.suppress(OSError):  # every line was flushed, or its error reported
                file.close()

        stack.callback(close)
        return file

    def _resume(self) -> bool:
        """Load the last checkpoint, if there is one and it is wanted."""
        path = self.checkpoints / "last.pt"
        if not path.exists():
            return False
        if not self.args.resume:
            raise UserError(
                f"{self.logs}: holds an unfinished run; --resume goes on, --overwrite starts again"
            )
        if not path.with_name("best.pt").exists():
            warn(f"{path}: the best weights are not beside it, so training starts again")
            return False
        last = read_checkpoint(path, self.identity, self.device)
        remedy = "--overwrite starts again"
        settings = last.get("settings")
        if not isinstance(settings, dict):
            raise UserError(f"{path}: does not say with which settings; {remedy}")
        refuse(self.logs, differences(settings, self.args, longer=True))
        require_like(path, "weights", last.get("modules"), self.modules.state_dict(), remedy)
        self.modules.load_state_dict(last["modules"])
        self.optimizer.load_moments(path, last.get("optimizer"), remedy)
        self.history, self.seconds = last.get("history"), last.get("seconds")
        if not _is_history(self.history, self.seconds):
            raise UserError(f"{path}: its epochs or times are no such; {remedy}")
        for epoch, row in enumerate(self.history):
            self.selection.update(epoch, row)
        return True

    def _write_config(self) -> None:
        config = {
            "format": FORMAT,
            "script": self.script,
            "command": _command(self.script),
            "settings": self._settings(),
            "data": {
                "source_sha256": self.split.source_sha256,
                "split_sha256": self.split.sha256,
                "num_users": self.split.num_users,
                "num_items": self.split.num_items,
                "num_train": len(self.split.train_users),
            },
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
            "teacher": self._describe_teacher() if self.teacher else None,
            "git_commit": _git_commit(),
            "device": self._describe_device(),
            "threads": torch.get_num_threads(),
        }
        write_json(self.logs / "config.json", config)

    def _settings(self) -> dict[str, Any]:
        """Return the settings; a teacher that was named has a size of its own."""
        settings = asdict(self.args)
        if self.teacher and "teacher_dim" in settings:
            settings["teacher_dim"] = self.teacher.model.dim
        return settings

    def _greet(self) -> None:
        settings = " ".join(f"{key}={value}" for key, value in self._settings().items())
        self._say(f"{self.script}: {settings}")
        self._say(self.split.describe())
        self._say(
            f"{self.identity['model']} d={self.args.dim}: {self.model.num_parameters():,} "
            f"parameters, on {self._describe_device()} (CPU threads: {torch.get_num_threads()}), "
            f"to {self.logs}"
        )
        if self.teacher:
            self._say(self.teacher.describe())
        if self.history:
            self._say(f"resumed after epoch {len(self.history) - 1}")

    def _describe_teacher(self) -> dict[str, Any]:
        return {
            "path": str(self.teacher.path),
            "sha256": self.teacher.sha256,
            "model": type(self.teacher.model).__name__,
            "dim": self.teacher.model.dim,
            "metrics": {name: round(value, 6) for name, value in self.teacher.metrics.items()},
        }

    def _describe_device(self) -> str:
        if self.device.type == "cuda":
            return f"cuda: {torch.cuda.get_device_name(self.device)}"
        return self.device.type

    # --- the loop ------------------------------------------------------------------------------

    def epochs(self) -> Iterator[int]:
        """Yield the epochs still to do, then write the summary; nothing if the run is finished."""
        if self.finished:
            return
        name = f"{self.args.model}-d{self.args.dim} {self.method} {self.split.name}"
        first = len(self.history)
        with tqdm(
            desc=name, initial=first, total=self.args.max_epoch, unit="epoch", disable=_is_plain()
        ) as self.bar:
            for epoch in range(first, self.args.max_epoch):
                if epoch > 0 and self.selection.stops(epoch - 1):
                    break
                self.num_batches = 0
                self.modules.train()
                self.started = time.perf_counter()
                yield epoch
                if self.interrupted:
                    self._save()
                    raise UserError(
                        f"interrupted; epochs up to {epoch} are kept, and this goes on: "
                        f"{_command(sys.argv[0], '--resume')}"
                    )
        self._save()
        self._finish()
        self._summarize()

    def step(self, loss: Tensor, **parts: Tensor) -> None:
        """Take one optimiser step on ``loss``; ``parts`` become columns of ``metrics.csv``."""
        loss.backward()
        self.optimizer.step()
        self.part_names = list(parts)
        values = torch.stack([loss, *parts.values()]).detach()
        # One buffer, not a tensor a batch: small blocks that stay between large ones that come and
        # go keep the heap from being used again, and memory grew by 280 MB in a Foursquare epoch.
        if self.losses is None:
            self.losses = values.new_empty(1024, len(values))
        elif self.num_batches == len(self.losses):
            self.losses = torch.cat([self.losses, torch.empty_like(self.losses)])
        self.losses[self.num_batches] = values
        self.num_batches += 1

    def evaluate(
        self, at: Collection[int] = (), **arrays: Callable[[], dict[str, np.ndarray]]
    ) -> None:
        """End the epoch: check its losses, rank the held-out items, keep and report the results.

        At the epochs ``at`` (-1: the last one), what the functions ``arrays`` return is kept as
        well, in ``<name>-epoch<n>.npz``.
        """
        epoch = len(self.history)
        losses = self._mean_losses(epoch)
        evaluating = time.perf_counter()
        metrics, ranks = self.evaluator.evaluate(self.model)
        done = time.perf_counter()
        took = {"train": evaluating - self.started, "eval": done - evaluating}
        for part, seconds in took.items():
            self.seconds[part] += seconds
        row = {"epoch": epoch} | losses | metrics
        self.history.append(row)
        self._require_logs()
        with disk_errors(self.logs):
            self._write_row(row)
        if self.selection.update(epoch, metrics):
            weights = {key: value.clone() for key, value in self.model.state_dict().items()}
            self.best = {"epoch": epoch, "weights": weights, "ranks": ranks}
        last = epoch + 1 == self.args.max_epoch or self.selection.stops(epoch)
        if epoch in at or (last and -1 in at):
            for name, values in arrays.items():
                with write_whole(self.logs / f"{name}-epoch{epoch}.npz") as file:
                    np.savez(file, **values())
        self._report(losses, metrics, took)
        if time.perf_counter() - self.saved_at > self.saving_took / CHECKPOINT_SHARE:
            self._save()

    def _mean_losses(self, epoch: int) -> dict[str, float]:
        """Return the epoch's losses, averaged over batches; raise if one is not finite."""
        names = ["train_loss", *self.part_names]
        if self.num_batches == 0:  # a method without training
            return {}
        losses = self.losses[: self.num_batches].double().cpu()  # the epoch's only synchronisation
        if not losses.isfinite().all():
            batch = int((~losses.isfinite()).any(dim=1).nonzero()[0])
            values = zip(names, losses[batch].tolist(), strict=True)
            bad = " and ".join(
                f"{name} is {value}" for name, value in values if not isfinite(value)
            )
            raise UserError(
                f"epoch {epoch}, batch {batch}: {bad}; try a smaller --lr (now {self.args.lr}) or "
                f"loss weight; the best checkpoint is kept"
            )
        return dict(zip(names, losses.mean(dim=0).tolist(), strict=True))

    def _report(
        self, losses: dict[str, float], metrics: dict[str, float], took: dict[str, float]
    ) -> None:
        shown = [f"{name} {value:.4f}" for name, value in losses.items()]
        shown += [f"{part} H@5 {metrics[f'{part}_H@5']:.4f}" for part in ("valid", "test")]
        self.bar.set_postfix_str(", ".join(shown[:-1]), refresh=False)
        self.bar.update()
        seconds = f"{took['train']:.3f} s + {took['eval']:.3f} s"
        self._say("  ".join([f"epoch {len(self.history) - 1:4d}", *shown, seconds]), _is_plain())

    def _require_logs(self) -> None:
        """Raise if what is open is no longer what its path names: half a folder is no run."""
        for file in (self.log_file, self.metrics_file):
            try:
                same = os.path.samestat(os.fstat(file.fileno()), os.stat(file.name))
            except OSError:
                same = False
            if not same:
                raise UserError(
                    f"{file.name}: was removed or replaced while the run wrote to it; --resume "
                    f"goes on and writes it anew"
                )

    def _say(self, text: str, show: bool = True) -> None:
        with disk_errors(self.logs):
            print(text, file=self.log_file, flush=True)
        if show:
            tqdm.write(text)
            sys.stdout.flush()

    def _write_row(self, row: dict[str, float]) -> None:
        if row["epoch"] == 0:
            print(",".join(row), file=self.metrics_file)
        print(
            ",".join(f"{value:.6g}" for value in row.values()), file=self.metrics_file, flush=True
        )

    def _on_interrupt(self, *_: object) -> None:
        if self.interrupted:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is ending
            raise KeyboardInterrupt
        self.interrupted = True
        print("\nstopping after this epoch; Ctrl-C again stops at once", file=sys.stderr)

    # --- what is kept --------------------------------------------------------------------------

    def _save(self) -> None:
        """Write the state after the last whole epoch, and the best weights if they are new."""
        start = time.perf_counter()
        self._save_best()
        last = {
            "settings": asdict(self.args),
            "modules": self.modules.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "seconds": self.seconds,
        }
        write_checkpoint(self.checkpoints / "last.pt", self.identity | last)
        self.saved_at = time.perf_counter()
        self.saving_took = self.saved_at - start

    def _save_best(self) -> None:
        if self.best is None:
            return
        self._require_logs()
        best, self.best = self.best, None
        write_checkpoint(
            self.checkpoints / "best.pt",
            self.identity | {"epoch": best["epoch"], "finished": False, "weights": best["weights"]},
        )
        self._write_ranks(best["epoch"], best["ranks"])

    def _write_ranks(self, epoch: int, ranks: dict[str, Tensor]) -> None:
        ranks = {part: values.numpy().astype(np.int32) for part, values in ranks.items()}
        with write_whole(self.logs / "ranks.npz") as file:
            np.savez(file, **ranks, epoch=epoch, split_sha256=self.split.sha256)

    def _finish(self) -> None:
        """Say in the best checkpoint that training came to its end."""
        path = self.checkpoints / "best.pt"
        remedy = "--overwrite starts again"
        best = read_checkpoint(path, self.identity, torch.device("cpu"), remedy)
        if not (self.logs / "ranks.npz").exists():  # logs/ was lost, and the run went on
            model = deepcopy(self.model)
            require_like(path, "weights", best.get("weights"), model.state_dict(), remedy)
            model.load_state_dict(best["weights"])
            self._write_ranks(self.selection.best_epoch, self.evaluator.ranks(model))
        write_checkpoint(path, best | {"finished": True})

    def _summarize(self) -> None:
        selected = {n: self.selection.epoch_for(n) for n in CUTOFFS}

        def chosen(part: str) -> dict[str, float]:
            rows = {name: self.history[selected[int(name.split("@")[1])]] for name in METRICS}
            return {name: round(row[f"{part}_{name}"], 6) for name, row in rows.items()}

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        summary = {
            "format": FORMAT,
            "script": self.script,
            "method": self.method,
            "name": self.args.name,
            "dataset": self.args.dataset,
            "split": self.split.name,
            "model": self.args.model,
            "dim": self.args.dim,
            "seed": self.args.seed,
            "selection": self.args.selection,
            "best_epoch": self.selection.best_epoch,
            "selected_epochs": selected,
            "epochs": len(self.history),
            "valid": chosen("valid"),
            "test": chosen("test"),
            "num_parameters": self.model.num_parameters(),
            "train_seconds": round(self.seconds["train"], 2),
            "eval_seconds": round(self.seconds["eval"], 2),
            "peak_rss_mb": round(peak / (1024**2 if sys.platform == "darwin" else 1024)),
            "device": self._describe_device(),
        }
        self._require_logs()
        write_json(self.logs / "summary.json", summary)
        epochs = ", ".join(f"@{n} of epoch {epoch}" for n, epoch in selected.items())
        self._say(f"finished after {len(self.history)} epochs; best on validation: {epochs}")
        for part in ("valid", "test"):
            values = "  ".join(f"{name} {value:.4f}" for name, value in summary[part].items())
            self._say(f"{part:5s}  {values}")
        if self.kept:
            self._compare(summary)

    def _compare(self, summary: dict[str, Any]) -> None:
        """Say whether training again gave what ``logs/`` has; what came out the same is dropped."""
        kept = read_json(self.kept)
        same = all(kept.get(k) == summary[k] for k in ("best_epoch", "epochs", "valid", "test"))
        if same:
            print(f"the same as in {self.kept.parent}, which stays as it is")
            shutil.rmtree(self.logs)
            return
        warn(
            f"{self.kept.parent}: trained again, this run came out otherwise (other versions or "
            f"another machine?); it stays as it is, and {self.logs} is of the weights at hand"
        )

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        with self.stack, contextlib.suppress(UserError):  # one error is enough: report the first
            if error_type is not None:
                self._save_best()


def run_folder(args: Any, method: str, split: str) -> Path:
    """Return a run's folder below ``logs/`` and ``checkpoints/``.

    A seed other than 0 on the published split gets a folder of its own, ``published-seed1``.
    """
    if split == "published" and args.seed != 0:
        split = f"published-seed{args.seed}"
    named = f"{method}-{args.name}" if args.name else method
    return Path(args.dataset) / f"{args.model}-d{args.dim}" / named / split


def epochs_of(text: str) -> list[int]:
    """Return the epochs that a setting lists, as in ``0,20,-1``."""
    try:
        epochs = [int(part) for part in text.split(",") if text]
    except ValueError:
        epochs = [-2]
    if min(epochs, default=0) < -1:
        raise UserError(f"{text!r} lists no epochs; write them like 0,20,-1, with -1 for the last")
    return epochs


# ---------------------------------------------------------------------------------------------
# When two runs are the same
# ---------------------------------------------------------------------------------------------


def is_finished(method: str, args: Any, split: LeaveOneOutSplit) -> bool:
    """Return whether there is nothing to do: this very run has finished; say so.

    With ``--resume``, there is if its weights are not at hand, or if more epochs are wanted.

    Raises
    ------
    UserError
        If a run of other settings, or on other data, has finished in the same folder.
    """
    folder = run_folder(args, method, split.name)
    logs, weights = Path("logs") / folder, Path("checkpoints") / folder / "best.pt"
    path = logs / "summary.json"
    if args.overwrite:
        return False
    if not path.exists():
        if (ROOT / path).exists() and not logs.exists():  # then this is another folder
            print(f"{ROOT / logs} holds a finished run; it is made again here, in {Path.cwd()}")
        return False
    config = read_config(logs)
    data = str(config["data"].get("split_sha256"))
    if data != split.sha256:
        raise UserError(
            f"{logs}: holds a run on other data (the split's sha256 is {data[:8]}..., now "
            f"{split.sha256[:8]}...); use --name NAME for a folder of its own, or --overwrite"
        )
    refuse(logs, differences(config["settings"], args, longer=args.resume))
    if args.resume and (differences(config["settings"], args) or not has_weights(weights)):
        return False
    summary = read_summary(path)
    lacking = "" if weights.exists() else "; --resume makes its weights again, which are not here"
    print(
        f"{logs} holds this run, finished: test H@5 {summary['test']['H@5']:.4f} at epoch "
        f"{summary['best_epoch']} of {summary['epochs']}. Nothing to do; --overwrite starts "
        f"again, --name NAME keeps both{lacking}."
    )
    return True


def has_weights(path: Path) -> bool:
    """Return whether a run's ``best.pt`` is there and final."""
    remedy = "delete it to have it made again"
    if not path.exists():
        return False
    return read_checkpoint(path, {}, torch.device("cpu"), remedy).get("finished") is True


def differences(theirs: dict[str, Any], args: Any, longer: bool = False) -> dict[str, tuple]:
    """Return the settings that make a run another one than ``args``: name -> (its value, ours).

    ``theirs`` are a run's settings, as it kept them. With ``longer``, more epochs are none.
    """
    ours = asdict(args)
    newer = {field.name: field.default for field in fields(args)}  # than the run, so not in it
    theirs = newer | theirs
    free = {field.name for field in fields(RunSettings)} | {"save_selection"}  # change no weight
    if ours.get("teacher"):
        free.add("teacher_dim")  # that of the checkpoint
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


def refuse_other_settings(logs: Path, args: Any) -> None:
    """Raise ``UserError`` if the folder was made with other hyperparameters than these."""
    refuse(logs, differences(read_config(logs)["settings"], args))


def read_config(logs: Path) -> dict[str, Any]:
    """Return what a run wrote of its settings and data when it began; checked."""
    config = read_json(logs / "config.json")
    if not all(isinstance(config.get(part), dict) for part in ("settings", "data")):
        raise UserError(f"{logs / 'config.json'}: lacks settings or data; --overwrite starts again")
    return config


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
        found |= {f"{part} {name}": metrics.get(name) for name in METRICS}
    kinds = dict.fromkeys(TEXTS, str) | dict.fromkeys(COUNTS, int)
    for name, value in found.items():
        fits = type(value) is kinds[name] if name in kinds else is_number(value)
        if not fits:
            raise UserError(f"{path}: its {name} is {json.dumps(value)[:40]}; {remedy}")
    return summary


def is_number(value: object) -> bool:
    """Return whether a value that was read is a finite number, and no boolean."""
    return type(value) in (int, float) and isfinite(value)


def _is_history(history: object, seconds: object) -> bool:
    """Return whether these are rows of ``metrics.csv`` and times, as ``last.pt`` keeps them."""
    wanted = {f"{part}_{name}" for part in ("valid", "test") for name in METRICS}
    return (
        isinstance(history, list)
        and isinstance(seconds, dict)
        and seconds.keys() == {"train", "eval"}
        and all(isinstance(row, dict) and wanted <= row.keys() for row in history)
        and [row.get("epoch") for row in history] == list(range(len(history)))
        and all(is_number(value) for row in (*history, seconds) for value in row.values())
    )


def _empty(folder: Path) -> None:
    """Delete the files in a run's folder."""
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()


def _command(script: str, *more: str) -> str:
    """Return the shell command for ``script`` with this process's flags and ``more``."""
    flags = [flag for flag in sys.argv[1:] if flag not in ("--overwrite", *more)]
    return shlex.join(["python", script, *flags, *more])


def _git_commit() -> str | None:
    """Return the project's commit, marked if the code has changed since; None without git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "--", ":/*.py"],
            capture_output=True,
            text=True,
        )
    except OSError:
        return None
    if commit.returncode:
        return None
    return commit.stdout.strip() + (" with changes" if changed.stdout else "")


def _is_plain() -> bool:
    """Return whether progress goes to a file or pipe, where a bar would be noise."""
    return not sys.stderr.isatty()
