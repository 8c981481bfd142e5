"""What a run will take, roughly, before it begins."""

from typing import Any

from experiments.settings import load_script, resolve
from Models import MODELS
from Utils.errors import warn
from Utils.optimizer import BYTES, machine_memory
from Utils.split import Split

EPOCHS = 200  # that training takes, more or less
PER_PARAMETER = 1e-9  # seconds for Adam to stream one through memory
PER_PAIR = 100  # bytes, as measured: in the split, in sorted keys, in the batches of an epoch
LIBRARIES = 350_000_000  # bytes, of PyTorch above all


def vectors(args: Any, split: Split) -> int:
    """Return the number of parameters in vectors of users and items."""
    return args.dim * (split.num_users + split.num_items)


def training_minutes(args: Any, split: Split) -> float:
    """Return the minutes that a base model's training takes on a CPU: every step moves it all."""
    steps = EPOCHS * len(split.train_users) / args.batch_size
    return steps * vectors(args, split) * PER_PARAMETER / 60


def memory(args: Any, split: Split) -> int:
    """Return the bytes that a run takes: vectors in training, pairs, candidates."""
    candidates = 0 if split.candidates is None else split.candidates.nbytes
    return LIBRARIES + BYTES * vectors(args, split) + PER_PAIR * len(split.train_users) + candidates


def estimate(args: Any, split: Split) -> str:
    """Return a line about a run's size, memory and time; warn if this machine is too small."""
    needed = memory(args, split)
    if needed > machine_memory():
        warn(
            f"this run takes roughly {needed / 1e9:.1f} GB of memory, and this machine has "
            f"{machine_memory() / 1e9:.1f}; use a larger --min_count or a smaller --dim"
        )
    said = f"d = {args.dim}: {vectors(args, split):,} parameters in vectors, "
    said += f"roughly {needed / 1e9:.1f} GB"
    if MODELS[args.model].unused:  # it is solved for
        return said
    alone, added = args, ""
    if args.method != "no_KD":
        given = {"dataset": args.dataset, "model": args.model, "dim": args.dim}
        alone = resolve(load_script("no_KD").Settings, given)[0]
        added = f", to which {args.method} adds its own"
    minutes = training_minutes(alone, split)
    return f"{said}; roughly {minutes:.1f} minutes of training on a CPU{added}"
