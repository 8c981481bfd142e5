"""A run: its epochs, optimiser step, evaluation, checkpoints, early stopping, resume, progress."""

import contextlib
import os
import platform
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from Utils import processes
from Utils.commit import git_commit
from Utils.errors import UserError, warn
from Utils.evaluation import Evaluator, metrics_of
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
from Utils.optimizer import RowAdam, new_optimizer
from Utils.processes import Parts, agreed, gathered, is_first, whole_of
from Utils.run_folder import (
    RUN_FORMAT,
    RunFolder,
    differences,
    is_finished,
    is_number,
    refuse,
)
from Utils.selection import Selection
from Utils.split import Split, has_all_users
from Utils.states import States

CHECKPOINT_SHARE = 0.05  # of the time may go into writing last.pt; a killed run repeats the rest


class Run:
    """Trains ``model``, together with the distillers' own networks, and keeps what comes out.

    Parameters
    ----------
    args : the script's settings, with ``lr`` and ``reg`` if anything is trained.
    split : the data, whose protocol says when and how the model is evaluated; of several processes,
        this one's share.
    model : the recommender that is trained, evaluated and kept.
    distillers : modules whose parameters are trained along and are not needed afterwards. Of two
        that are alike, each needs a name of its own, or they would draw the same.
    teachers : those whom the distillers ask, for the record.

    Examples
    --------
    >>> with Run(args, split, model) as run:                     # doctest: +SKIP
    ...     for epoch in run.epochs():
    ...         for batch in sampler.epoch(epoch):
    ...             run.step(model.loss(batch))
    """

    def __init__(
        self,
        args: Any,
        split: Split,
        model: nn.Module,
        *distillers: nn.Module,
        teachers: Sequence[Any] = (),
    ) -> None:
        self.args, self.split, self.model, self.teachers = args, split, model, teachers
        self.modules = nn.ModuleList([model, *distillers])
        _require_different(distillers)
        self.script, self.folder = f"main_{args.method}.py", RunFolder.of(args)
        self.identity = {
            "format": RUN_FORMAT,
            "method": args.method,
            "dataset": split.dataset,
            "split": split.name,
            "split_sha256": split.sha256,
            "model": type(model).__name__,
            "dim": args.dim,
            "options": {option: getattr(model, option) for option in model.options},
            "teacher_sha256": "+".join(teacher.sha256 for teacher in teachers) or None,
        }
        settings = vars(args)
        self.optimizer = None  # where nothing is trained by gradients
        if "lr" in settings and any(each.requires_grad for each in self.modules.parameters()):
            self.optimizer = new_optimizer(args.optimizer, self.modules, args.lr, args.reg)
        self.parts = Parts(self.modules, split, getattr(self.optimizer, "bounds", None))
        self.device = next(model.parameters()).device
        self.evaluator = Evaluator(split, self.device)
        self.selection = Selection(args.selection, split.protocol, settings.get("patience"))
        self.history: list[dict[str, float]] = []  # a row of metrics.csv an epoch
        self.seconds = {"train": 0.0, "eval": 0.0}
        self.losses: Tensor | None = None  # (batches or more, parts), on the device
        self.part_names: list[str] = []
        self.num_batches = 0  # of this epoch so far
        self.best: dict[str, Any] | None = None  # best weights and ranks not yet on disk
        self.saved_at, self.saving_took = -float("inf"), 0.0
        self.finished = self.interrupted = False
        self.repeated: RunFolder | None = None  # the finished run that this one repeats
        self.states = States(self.folder.checkpoints, settings.get("keep_states", 0))
        self.keeps: list[tuple[Collection[int], str, Callable[[], dict[str, np.ndarray]]]] = []

    # --- start ---------------------------------------------------------------------------------

    def __enter__(self) -> "Run":
        with contextlib.ExitStack() as stack:
            with processes.first_alone():
                if is_first():
                    self._take_folders(stack)
            self.finished = agreed(lambda: is_finished(self.args, self.split))
            if not self.finished:
                with disk_errors(self.folder.logs):
                    self._start(stack)
            self.stack = stack.pop_all()
        return self

    def _take_folders(self, stack: contextlib.ExitStack) -> None:
        """Make the run's folders, hold them for this process, and empty them if that is wanted."""
        folders = self.folder.logs, self.folder.checkpoints
        for folder in folders:
            with disk_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
        with disk_errors(self.folder.checkpoints):
            stack.enter_context(lock_folder(self.folder.checkpoints, wait=self.args.resume))
        if self.args.overwrite:
            for folder in folders:
                with disk_errors(folder):
                    _empty(folder)

    def _start(self, stack: contextlib.ExitStack) -> None:
        """Resume or begin, and open what the loop writes to."""
        if is_first() and self.folder.summary.exists() and self.folder.is_of(self.args):
            self.repeated, self.folder = self.folder, self.folder.again
            self.folder.logs.mkdir(exist_ok=True)
        resumed = self._resume()
        self.parts.equal()
        if is_first():
            self._prepare_folders(resumed)
        self.log_file = self._open(stack, self.folder.log, "a" if resumed else "w")
        self.metrics_file = self._open(stack, self.folder.curves, "w")
        for row in self.history:
            self._write_row(row)
        self._greet()
        handler = signal.signal(signal.SIGINT, self._on_interrupt)
        stack.callback(signal.signal, signal.SIGINT, handler)

    def _prepare_folders(self, resumed: bool) -> None:
        """Leave in the run's folders what is of this run alone, and what it is of."""
        if self.folder.summary.exists() and not self.repeated:  # more epochs than before
            if not resumed:
                raise UserError(
                    f"{self.folder.logs}: holds a shorter run, but {self.folder.checkpoints} does "
                    f"not hold what is needed to go on; --overwrite starts again"
                )
            self.folder.summary.unlink()
        for folder in (self.folder.logs, self.folder.checkpoints):
            remove_leftovers(folder)
        if not (resumed and self.folder.is_of(self.args)):
            self._write_config()

    def _open(self, stack: contextlib.ExitStack, path: Path, mode: str) -> IO[str]:
        file = open(path if is_first() else os.devnull, mode)

        def close() -> None:
            with contextlib.suppress(OSError):  # every line was flushed, or its error reported
                file.close()

        stack.callback(close)
        return file

    def _resume(self) -> bool:
        """Load the last checkpoint, if there is one and it is wanted."""
        path, remedy = self.folder.last, "--overwrite starts again"
        last = self.parts.mine(path, self._read_last() if is_first() else None, self.device)
        if last is None:
            return False
        require_like(path, "weights", last.get("modules"), self.modules.state_dict(), remedy)
        self.modules.load_state_dict(last["modules"])
        if self.optimizer:
            self.optimizer.load_moments(path, last.get("optimizer"), remedy)
        self.history, self.seconds = last.get("history"), last.get("seconds")
        if not _is_history(self.history, self.seconds, self.split):
            raise UserError(f"{path}: its epochs or times are no such; {remedy}")
        for row in self.history[:: self.split.protocol.every]:
            self.selection.update(row["epoch"], row)
        return True

    def _read_last(self) -> dict[str, Any] | None:
        """Return the last checkpoint, if there is one of this run; of all users."""
        path = self.folder.last
        if not path.exists():
            return None
        if not self.args.resume:
            raise UserError(
                f"{self.folder.logs}: holds an unfinished run; --resume goes on, --overwrite "
                f"starts again"
            )
        if not self.folder.best.exists():
            warn(f"{path}: the best weights are not beside it, so training starts again")
            return None
        device = self.device if processes.count() == 1 else torch.device("cpu")
        last = read_checkpoint(path, self.identity, device)
        settings = last.get("settings")
        if not isinstance(settings, dict):
            raise UserError(f"{path}: does not say with which settings; --overwrite starts again")
        refuse(self.folder.logs, differences(settings, self.args, longer=True))
        return last

    def _write_config(self) -> None:
        config = {
            "format": RUN_FORMAT,
            "script": self.script,
            "command": processes.command(self.script, *_flags()),
            "settings": asdict(self.args),
            "data": {
                "source_sha256": self.split.source_sha256,
                "split_sha256": self.split.sha256,
                "num_users": whole_of(self.split).num_users,
                "num_items": self.split.num_items,
                "num_train": len(whole_of(self.split).train_users),
            },
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
            "teachers": [teacher.record() for teacher in self.teachers],
            "git_commit": git_commit(),
            "device": self._describe_device(),
            "threads": torch.get_num_threads(),
            "processes": processes.count(),
        }
        write_json(self.folder.config, config)

    def _greet(self) -> None:
        settings = " ".join(f"{key}={value}" for key, value in asdict(self.args).items())
        self._say(f"{self.script}: {settings}")
        self._say(self.split.describe())
        several = f"{processes.count()} x " * (processes.count() > 1)
        self._say(
            f"{self.identity['model']} d={self.args.dim}: {self._num_parameters():,} "
            f"parameters, on {several}{self._describe_device()} (CPU threads: "
            f"{torch.get_num_threads()}), to {self.folder.logs}"
        )
        for teacher in self.teachers:
            self._say(teacher.describe())
        if self.history:
            self._say(f"resumed after epoch {len(self.history) - 1}")

    def _num_parameters(self) -> int:
        """Return those of the model, of all users."""
        return self.model.num_parameters() + self.parts.elsewhere

    def _describe_device(self) -> str:
        if self.device.type == "cuda":
            return f"cuda: {torch.cuda.get_device_name(self.device)}"
        return self.device.type

    # --- the loop ------------------------------------------------------------------------------

    def epochs(self, most: int | None = None) -> Iterator[int]:
        """Yield the epochs still to do, begin and end each, then write the summary.

        ``most``: how many there are at most; None: as many as the settings say. Nothing is yielded
        if the run is finished.
        """
        if self.finished:
            return
        self.most = self.args.max_epoch if most is None else most
        name = f"{self.args.model}-d{self.args.dim} {self.args.method} {self.split.name}"
        first = len(self.history)
        with tqdm(
            desc=name, initial=first, total=self.most, unit="epoch", disable=_is_plain()
        ) as self.bar:
            for epoch in range(first, self.most):
                if self.selection.stops:
                    break
                self._begin_epoch(epoch)
                yield epoch
                self._end_epoch(epoch)
        self._save()
        self._finish()
        if is_first():
            self._summarize()

    def _begin_epoch(self, epoch: int) -> None:
        self.num_batches = 0
        self.modules.train()
        self.started = time.perf_counter()
        for module in self.modules:
            module.begin_epoch(epoch)

    def step(self, loss: Tensor, **parts: Tensor) -> None:
        """Take one optimiser step on ``loss``; ``parts`` become columns of ``metrics.csv``.

        Where nothing is trained by gradients, the loss is kept and that is all.
        """
        if self.optimizer:
            loss.backward()
            self.parts.sum_gradients()
            self.optimizer.step()
            self.model.after_step()
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

    def keep(self, epochs: Collection[int], **arrays: Callable[[], dict[str, np.ndarray]]) -> None:
        """At the end of these epochs (-1: the last one), keep what the functions return, too.

        In ``<name>-epoch<n>.npz``. They are called once now, so that what cannot be had is refused
        at once and not after hours.
        """
        if epochs and not self.finished:
            for name, values in arrays.items():
                values()
                self.keeps.append((epochs, name, values))

    def _end_epoch(self, epoch: int) -> None:
        """Check the losses, rank the held-out items if it is time, keep and report the results."""
        losses = self._mean_losses(epoch)
        if isinstance(self.optimizer, RowAdam):
            self.optimizer.catch_up()
            self.model.after_step()
        evaluating = time.perf_counter()
        found, ranks = {}, {}
        if epoch % self.split.protocol.every == 0:
            found, ranks = self._evaluate()
        done = time.perf_counter()
        took = {"train": evaluating - self.started, "eval": done - evaluating}
        for part, seconds in took.items():
            self.seconds[part] += seconds
        self.history.append({"epoch": epoch} | losses | found)
        self._require_logs()
        with disk_errors(self.folder.logs):
            self._write_row(self.history[-1])
        if found and self.selection.update(epoch, found):
            weights = {key: value.clone() for key, value in self.model.state_dict().items()}
            self.best = {"epoch": epoch, "weights": weights, "ranks": ranks}
        self.states.keep(epoch, lambda: self._weights(epoch, self.model.state_dict()))
        self._keep_arrays(epoch)
        self._report(losses, found, took)
        since = time.perf_counter() - self.saved_at
        if agreed(lambda: since > self.saving_took / CHECKPOINT_SHARE):
            self._save()
        if processes.total(torch.tensor(int(self.interrupted))):
            self._save()
            processes.agreed(lambda: None)  # process 0 has written it
            raise UserError(
                f"interrupted; epochs up to {epoch} are kept, and this goes on: "
                f"{processes.resuming(sys.argv[0])}"
            )

    def _evaluate(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Return the metrics, on all processes, and on process 0 the ranks; each ranks its own."""
        if processes.count() == 1:
            return self.evaluator.evaluate(self.model)
        ranks, whole = self.evaluator.ranks(self.model), whole_of(self.split)
        for part, mine in ranks.items():
            bounds = getattr(whole, part).starts[self.split.bounds].tolist()
            ranks[part] = gathered(mine, bounds)
        return agreed(lambda: metrics_of(ranks, whole)), ranks

    def _keep_arrays(self, epoch: int) -> None:
        last = epoch + 1 == self.most or self.selection.stops
        for epochs, name, values in self.keeps:
            if epoch in epochs or (last and -1 in epochs):
                with write_whole(self.folder.kept(name, epoch)) as file:
                    np.savez(file, **values())

    def _mean_losses(self, epoch: int) -> dict[str, float]:
        """Return the epoch's losses, averaged over batches; raise if one is not finite."""
        names = ["train_loss", *self.part_names]
        if self.num_batches == 0:  # a method without training
            return {}
        losses = self.losses[: self.num_batches].double().cpu()  # the epoch's only synchronisation
        processes.total(losses)
        if not losses.isfinite().all():
            batch = int((~losses.isfinite()).any(dim=1).nonzero()[0])
            values = zip(names, losses[batch].tolist(), strict=True)
            bad = " and ".join(
                f"{name} is {value}" for name, value in values if not isfinite(value)
            )
            with contextlib.suppress(UserError):  # here, where all processes are
                self._save_best()
            raise UserError(
                f"epoch {epoch}, batch {batch}: {bad}; try a smaller --lr (now {self.args.lr}) or "
                f"loss weight; the best checkpoint is kept"
            )
        return dict(zip(names, losses.mean(dim=0).tolist(), strict=True))

    def _report(
        self, losses: dict[str, float], metrics: dict[str, float], took: dict[str, float]
    ) -> None:
        shown = [f"{name} {value:.4f}" for name, value in losses.items()]
        name = self.split.protocol.selecting
        parts = ("valid", "test") if metrics else ()
        scores = [f"{part} {name} {metrics[f'{part}_{name}']:.4f}" for part in parts]
        self.bar.set_postfix_str(", ".join([*shown, *scores[:1]]), refresh=False)
        self.bar.update()
        seconds = f"{took['train']:.3f} s + {took['eval']:.3f} s"
        self._say(
            "  ".join([f"epoch {len(self.history) - 1:4d}", *shown, *scores, seconds]), _is_plain()
        )

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
        with disk_errors(self.folder.logs):
            print(text, file=self.log_file, flush=True)
        if show:
            tqdm.write(text)
            sys.stdout.flush()

    def _write_row(self, row: dict[str, float]) -> None:
        if row["epoch"] == 0:
            print(",".join(row), file=self.metrics_file)
        values = [f"{row[name]:.6g}" if name in row else "" for name in self.history[0]]
        print(",".join(values), file=self.metrics_file, flush=True)

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
        moments = self.optimizer.state_dict() if self.optimizer else None
        last = {
            "settings": asdict(self.args),
            "modules": self.parts.whole(self.modules.state_dict()),
            "optimizer": self.parts.whole(moments),
            "history": self.history,
            "seconds": self.seconds,
        }
        if is_first():
            write_checkpoint(self.folder.last, self.identity | last)
        self.saved_at = time.perf_counter()
        self.saving_took = self.saved_at - start

    def _save_best(self) -> None:
        if self.best is None:
            return
        self._require_logs()
        best, self.best = self.best, None
        weights = self._weights(best["epoch"], self.parts.whole(best["weights"]))
        if is_first():
            write_checkpoint(self.folder.best, weights)
            self._write_ranks(best["epoch"], best["ranks"])

    def _weights(self, epoch: int, weights: dict[str, Tensor]) -> dict[str, Any]:
        return self.identity | {"epoch": epoch, "finished": False, "weights": weights}

    def _write_ranks(self, epoch: int, ranks: dict[str, Tensor]) -> None:
        arrays = {part: values.numpy() for part, values in ranks.items()}
        if not has_all_users(self.split.name):  # else, there is one a user
            whole = whole_of(self.split)
            counts = {part: getattr(whole, part).counts for part in ranks}
            # small numbers are a fourth of what places in the row are, packed
            arrays |= {f"{part}_counts": each.astype(np.int32) for part, each in counts.items()}
        with write_whole(self.folder.ranks) as file:
            # ranks weigh more in logs/ than all else
            np.savez_compressed(file, **arrays, epoch=epoch, split_sha256=self.split.sha256)

    def _finish(self) -> None:
        """Say in the best checkpoint that training came to its end."""
        path, best = self.folder.best, None
        remedy = "--overwrite starts again"
        if is_first():
            best = read_checkpoint(path, self.identity, torch.device("cpu"), remedy)
        if agreed(lambda: not self.folder.ranks.exists()):  # logs/ was lost, and the run went on
            weights = self.parts.mine(path, best and best.get("weights"), self.device)
            require_like(path, "weights", weights, self.model.state_dict(), remedy)
            self.model.load_state_dict(weights)
            ranks = self._evaluate()[1]
            if is_first():
                self._write_ranks(self.selection.best_epoch, ranks)
        if is_first():
            write_checkpoint(path, best | {"finished": True})
            self.states.finish(self.selection.best_epoch)

    def _summarize(self) -> None:
        protocol = self.split.protocol
        selected = {n: self.selection.epoch_for(n) for n in protocol.cutoffs}

        def chosen(part: str) -> dict[str, float]:
            of = {name: int(name.partition("@")[2] or 0) for name in protocol.metrics}
            rows = {name: self.history[self.selection.epoch_for(n)] for name, n in of.items()}
            return {name: round(row[f"{part}_{name}"], 6) for name, row in rows.items()}

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        summary = {
            "format": RUN_FORMAT,
            "script": self.script,
            "method": self.args.method,
            "name": self.args.name,
            "dataset": self.split.dataset,
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
            "num_parameters": self._num_parameters(),
            "train_seconds": round(self.seconds["train"], 2),
            "eval_seconds": round(self.seconds["eval"], 2),
            "peak_rss_mb": round(peak / (1024**2 if sys.platform == "darwin" else 1024)),
            "device": self._describe_device(),
        }
        self._require_logs()
        write_json(self.folder.summary, summary)
        epochs = ", ".join(f"@{n} of epoch {epoch}" for n, epoch in selected.items())
        self._say(f"finished after {len(self.history)} epochs; best on validation: {epochs}")
        for part in ("valid", "test"):
            values = "  ".join(f"{name} {value:.4f}" for name, value in summary[part].items())
            self._say(f"{part:5s}  {values}")
        if self.repeated:
            self._compare(summary, self.repeated)

    def _compare(self, summary: dict[str, Any], earlier: RunFolder) -> None:
        """Say whether training again gave what ``logs/`` has; what came out the same is dropped."""
        kept = read_json(earlier.summary)
        same = all(kept.get(k) == summary[k] for k in ("best_epoch", "epochs", "valid", "test"))
        if same:
            print(f"the same as in {earlier.logs}, which stays as it is")
            shutil.rmtree(self.folder.logs)
            return
        warn(
            f"{earlier.logs}: trained again, this run came out otherwise (other versions or "
            f"another machine?); it stays as it is, and {self.folder.logs} is of the weights at "
            f"hand"
        )

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        with self.stack, contextlib.suppress(UserError):  # one error is enough: report the first
            if error_type is not None and processes.count() == 1:  # else, others may be gone
                self._save_best()


def _require_different(distillers: Sequence[nn.Module]) -> None:
    """Raise ``ValueError`` if two distillers are alike, down to the name, and would draw alike."""
    kinds = [(type(each).__name__, getattr(each, "name", "")) for each in distillers]
    for kind, name in kinds:
        if kinds.count((kind, name)) > 1:
            raise ValueError(f"two {kind} distillers with the name {name!r}: name each, name=...")


def _is_history(history: object, seconds: object, split: Split) -> bool:
    """Return whether these are rows of ``metrics.csv`` and times, as ``last.pt`` keeps them."""
    protocol = split.protocol
    wanted = {f"{part}_{name}" for part in ("valid", "test") for name in protocol.metrics}
    return (
        isinstance(history, list)
        and isinstance(seconds, dict)
        and seconds.keys() == {"train", "eval"}
        and all(isinstance(row, dict) for row in history)
        and all(wanted <= row.keys() for row in history[:: protocol.every])
        and [row.get("epoch") for row in history] == list(range(len(history)))
        and all(is_number(value) for row in (*history, seconds) for value in row.values())
    )


def _empty(folder: Path) -> None:
    """Delete the files in a run's folder."""
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()


def _flags() -> list[str]:
    """Return this process's flags, without that which does nothing but delete."""
    return [flag for flag in sys.argv[1:] if flag != "--overwrite"]


def _is_plain() -> bool:
    """Return whether progress goes to a file or pipe, where a bar would be noise."""
    return not sys.stderr.isatty()
