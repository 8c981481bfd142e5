"""A run: its folder, epochs, optimiser step, early stopping, checkpoints, resume and progress.

logs/<data set>/<model>-d<dim>/<method>[-<name>]/<split>/         kept: config.json, metrics.csv,
                                                                  train.log, summary.json,
                                                                  ranks.npz,
                                                                  <name>-epoch<n>.npz if wanted
checkpoints/<the same>/                                           best.pt, last.pt
"""

import contextlib
import platform
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, fields
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from Utils.data_utils import LeaveOneOutSplit
from Utils.errors import UserError
from Utils.evaluation import CUTOFFS, METRICS, Evaluator
from Utils.files import (
    disk_errors,
    lock_folder,
    read_checkpoint,
    read_json,
    write_checkpoint,
    write_json,
    write_whole,
)
from Utils.optimizer import DenseAdam
from Utils.selection import Selection
from Utils.settings import RunSettings

FORMAT = "recdistill run 1"
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

    # --- start ---------------------------------------------------------------------------------

    def __enter__(self) -> "Run":
        with contextlib.ExitStack() as stack, disk_errors(self.logs):
            self.logs.mkdir(parents=True, exist_ok=True)
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_folder(self.checkpoints))
            if self.args.overwrite:
                _empty(self.logs)
                _empty(self.checkpoints)
            self.finished = is_finished(self.method, self.args, self.split)
            if not self.finished:
                self._start(stack)
            self.stack = stack.pop_all()
        return self

    def _start(self, stack: contextlib.ExitStack) -> None:
        """Resume or begin, and open what the loop writes to."""
        resumed = self._resume()
        for folder in (self.logs, self.checkpoints):
            for leftover in folder.glob(".*.tmp"):  # of a process that was killed
                leftover.unlink()
        if not resumed:
            self._write_config()
        mode = "a" if resumed else "w"
        self.log_file = stack.enter_context(open(self.logs / "train.log", mode))
        self.metrics_file = stack.enter_context(open(self.logs / "metrics.csv", "w"))
        for row in self.history:
            self._write_row(row)
        self._greet()
        handler = signal.signal(signal.SIGINT, self._on_interrupt)
        stack.callback(signal.signal, signal.SIGINT, handler)

    def _resume(self) -> bool:
        """Load the last checkpoint, if there is one and it is wanted."""
        path = self.checkpoints / "last.pt"
        if not path.exists():
            return False
        if not self.args.resume:
            raise UserError(
                f"{self.logs}: holds an unfinished run; --resume goes on, --overwrite starts again"
            )
        refuse_other_settings(self.logs, self.args)
        last = read_checkpoint(path, self.identity, self.device)
        self.modules.load_state_dict(last["modules"])
        self.optimizer.load_state_dict(last["optimizer"])
        self.history, self.seconds = last["history"], last["seconds"]
        for epoch, row in enumerate(self.history):
            self.selection.update(epoch, row)
        return True

    def _write_config(self) -> None:
        config = {
            "format": FORMAT,
            "script": self.script,
            "command": _command(self.script),
            "settings": asdict(self.args),
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

    def _greet(self) -> None:
        settings = " ".join(f"{key}={value}" for key, value in asdict(self.args).items())
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
            raise KeyboardInterrupt
        self.interrupted = True
        print("\nstopping after this epoch; Ctrl-C again stops at once", file=sys.stderr)

    # --- what is kept --------------------------------------------------------------------------

    def _save(self) -> None:
        """Write the state after the last whole epoch, and the best weights if they are new."""
        start = time.perf_counter()
        self._save_best()
        last = {
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
        best, self.best = self.best, None
        write_checkpoint(
            self.checkpoints / "best.pt",
            self.identity | {"epoch": best["epoch"], "finished": False, "weights": best["weights"]},
        )
        ranks = {part: ranks.numpy().astype(np.int16) for part, ranks in best["ranks"].items()}
        with write_whole(self.logs / "ranks.npz") as file:
            np.savez(file, **ranks, epoch=best["epoch"], split_sha256=self.split.sha256)

    def _finish(self) -> None:
        """Say in the best checkpoint that training came to its end."""
        path = self.checkpoints / "best.pt"
        best = read_checkpoint(path, self.identity, torch.device("cpu"))
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
        write_json(self.logs / "summary.json", summary)
        epochs = ", ".join(f"@{n} of epoch {epoch}" for n, epoch in selected.items())
        self._say(f"finished after {len(self.history)} epochs; best on validation: {epochs}")
        for part in ("valid", "test"):
            values = "  ".join(f"{name} {value:.4f}" for name, value in summary[part].items())
            self._say(f"{part:5s}  {values}")

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


def is_finished(method: str, args: Any, split: LeaveOneOutSplit) -> bool:
    """Return whether there is a finished run of these settings already; say so if there is."""
    logs = Path("logs") / run_folder(args, method, split.name)
    path = logs / "summary.json"
    if args.overwrite or not path.exists():
        return False
    refuse_other_settings(logs, args)
    summary = read_json(path)
    print(
        f"{logs} holds this run, finished: test H@5 {summary['test']['H@5']:.4f} at epoch "
        f"{summary['best_epoch']} of {summary['epochs']}. Nothing to do; --overwrite starts "
        f"again, --name NAME keeps both."
    )
    return True


def refuse_other_settings(logs: Path, args: Any) -> None:
    """Raise ``UserError`` if the folder was made with other hyperparameters than these."""
    ours = asdict(args)
    newer = {field.name: field.default for field in fields(args)}  # than the run, so not in it
    theirs = newer | read_json(logs / "config.json")["settings"]
    free = {field.name for field in fields(RunSettings)} | {"save_selection"}  # change no weight
    differing = [
        f"{key} {theirs.get(key)} (now {ours.get(key)})"
        for key in ours.keys() | theirs.keys()
        if key not in free and theirs.get(key) != ours.get(key)
    ]
    if differing:
        raise UserError(
            f"{logs}: holds a run with {', '.join(sorted(differing))}; "
            f"use --name NAME for a folder of its own, or --overwrite"
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
