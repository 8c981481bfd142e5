"""What every script shares around its own settings: flags, devices, errors in one line."""

import contextlib
import ctypes
import os
import platform
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import tyro

from Utils import processes
from Utils.errors import UserError


@dataclass
class RunSettings:
    """Where and how a script runs. What is learned is set in the script's own block."""

    # Numbers are above 0, weights lmbda_* and those named here at least 0, some of any sign, and
    # shares from 0 to 1.
    from_zero: ClassVar[tuple[str, ...]] = ("reg", "seed", "threads")
    any_sign: ClassVar[tuple[str, ...]] = ()
    shares: ClassVar[tuple[str, ...]] = ()
    # Settings of a script that change what is kept of a run, and nothing that is learned.
    of_record: ClassVar[tuple[str, ...]] = ()

    # folder of the data sets; the environment variable RECDISTILL_DATA replaces this default
    data_dir: str = field(default_factory=lambda: os.environ.get("RECDISTILL_DATA", "datasets"))
    # auto takes CUDA where there is one
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # CPU threads; 0 leaves the choice to PyTorch, and of several processes gives each its share
    threads: int = 0
    # tells apart runs that differ in settings only: the folder becomes <method>-<name>
    name: str = ""
    # go on with an unfinished run
    resume: bool = False
    # delete what an earlier run left in the same folder and start again
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Refuse what no run can use."""
        for field_ in fields(self):
            name, value = field_.name, getattr(self, field_.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            is_share = name in self.shares
            from_zero = name in self.from_zero or name.startswith("lmbda") or is_share
            in_range = value > 0 or (value == 0 and from_zero) or name in self.any_sign
            in_range &= isinstance(value, float) or value < 2**31 or name == "seed"
            if not (isfinite(value) and in_range) or (is_share and value > 1):
                wanted = "0 or more" if from_zero else "a number above 0"
                wanted += ", below 2,147,483,648" * isinstance(value, int)
                wanted = "a share, from 0 to 1" if is_share else wanted
                wanted = "a finite number" if name in self.any_sign else wanted
                raise UserError(f"--{name} {value} is out of range; use {wanted}")
        if self.resume and self.overwrite:
            raise UserError("--resume goes on and --overwrite starts again; use one of them")
        if not re.fullmatch(r"[\w.-]*", self.name):
            raise UserError(
                f"--name {self.name!r} becomes part of a path; use letters, digits, _ . -"
            )

    @property
    def method(self) -> str:
        """What the run is of, as in the script's name: ``main_<method>.py``."""
        return method_of(type(self))

    def irrelevant(self) -> set[str]:
        """Return the settings that change nothing of what is learned."""
        return {field_.name for field_ in fields(RunSettings)} | set(self.of_record)


def method_of(settings: type) -> str:
    """Return the method whose settings these are, as in its script's name."""
    return Path(sys.modules[settings.__module__].__file__ or "").stem.removeprefix("main_")


def launch(main: Callable[[Any], None], settings: type, description: str) -> None:
    """Parse the command line, call ``main``, and turn errors into a line and exit status 2.

    On several processes, see ``Utils.processes``, if the settings say ``on_several``.
    """
    if callable(signal.getsignal(signal.SIGINT)):  # it is not ignored
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with processes.joined(getattr(settings, "on_several", False)):
            main(
                tyro.cli(
                    settings,
                    description=f"{description}\n{settings.__doc__}",
                    config=(tyro.conf.FlagCreatePairsOff,),
                    use_underscores=True,
                )
            )
            sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        text = processes.last_words(error)
        if text is None:
            raise
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is ending already
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        stopped = isinstance(error, KeyboardInterrupt | BrokenPipeError)
        if stopped and hasattr(settings, "resume"):
            text += "; --resume goes on from the last checkpoint" * bool(text)
        if text:
            print(f"{Path(sys.argv[0]).name}: {text}", file=sys.stderr)
        sys.exit(2)


def use_device(settings: RunSettings) -> torch.device:
    """Return the wanted device and set the number of threads; CUDA is made deterministic."""
    cores = os.cpu_count() or 1
    if settings.threads > max(cores, 8):
        raise UserError(
            f"--threads {settings.threads}: this machine has {cores} cores; use {cores} or fewer"
        )
    share = cores // processes.on_this_machine() if processes.count() > 1 else 0
    if settings.threads or share:
        torch.set_num_threads(settings.threads or share)
    _keep_freed_memory()
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch sees no CUDA device; use --device cpu")
    if settings.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    return torch.device("cuda")


def _keep_freed_memory() -> None:
    """Have glibc, where that is the C library, keep what is freed for the next tensor.

    It would return tensors of megabytes to the system at every step and have them cleared anew,
    page by page: so it does with all that is larger than the last of these, or than the largest
    that was freed before any of them was set.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt and platform.libc_ver()[0] == "glibc":
        mallopt(-1, 2**30)  # M_TRIM_THRESHOLD: so many bytes may stay
        mallopt(-2, 2**28)  # M_TOP_PAD: and the heap grows in such steps
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: the most there may be; a table of factors is smaller
