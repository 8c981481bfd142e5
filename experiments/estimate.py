"""What a run will take, roughly, before it begins."""

from typing import Any

from experiments.settings import load_script, resolve
from Utils.errors import warn
from Utils.files import LARGE
from Utils.optimizer import BYTES, BYTES_OF_ROWS, by_rows, machine_memory
from Utils.run_folder import SECONDS, RunFolder, read_summary
from Utils.split import Split

EPOCHS = 200  # that training takes, more or less, where it is not told to end earlier
PER_PARAMETER = 1e-9  # seconds for Adam to stream one through memory
# the same for one that is looked up, where rows alone are updated, and for a step besides
PER_LOOKED_UP, PER_STEP = 2e-8, 3e-3
PER_PAIR = 41  # bytes, as measured: 16 in the split, 25 in sorted keys and an epoch's order
LIBRARIES = 350_000_000  # bytes, of PyTorch above all
BEST = 4  # bytes for each parameter of the best epoch


def vectors(args: Any, split: Split) -> int:
    """Return the number of parameters in vectors of users and items."""
    return args.dim * (split.num_users + split.num_items)


def expected_time(args: Any, split: Split) -> str:
    """Return in words in how long a run ends: as it did before, or by its size; or nothing.

    It has ended before where ``logs/`` has it and ``checkpoints/`` has not, as after cloning.
    """
    summary = RunFolder.of(args).summary
    if summary.exists():
        found = read_summary(summary)
        return f", in roughly {sum(found[name] for name in SECONDS) / 60:.1f} minutes, as before"
    minutes = training_minutes(args, split)
    return "" if minutes is None else f", in roughly {minutes:.1f} minutes on a CPU"


def training_minutes(args: Any, split: Split) -> float | None:
    """Return the minutes that training of a base model alone takes on a CPU, if most go into Adam.

    Most steps move all vectors. Where more is done at each, as through a graph, it is not known.
    """
    if args.method != "no_KD" or args.model != "BPR":
        return None
    steps = min(EPOCHS, args.max_epoch) * len(split.train_users) / args.batch_size
    step = vectors(args, split) * PER_PARAMETER
    if by_rows(args):  # a user and two items for each pair
        step = PER_STEP + 3 * args.batch_size * args.dim * PER_LOOKED_UP
    return steps * step / 60


def beside(args: Any, split: Split) -> list[int]:
    """Return the bytes of candidates and of the teacher's lists, which stay in files if large."""
    candidates = 0 if split.candidates is None else split.candidates.nbytes
    length = getattr(args, "pool", getattr(args, "K", 0))
    return [candidates, 4 * length * split.num_users * hasattr(args, "teacher_dim")]


def memory(args: Any, split: Split) -> int:
    """Return the bytes that a run holds: vectors in training and the best ones, teacher, pairs."""
    each = (BYTES_OF_ROWS if by_rows(args) else BYTES) + BEST
    entities = split.num_users + split.num_items
    held = LIBRARIES + each * vectors(args, split) + PER_PAIR * len(split.train_users)
    held += 4 * entities * getattr(args, "teacher_dim", 0)
    return held + sum(size for size in beside(args, split) if size < LARGE)


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
    if large := sum(size for size in beside(args, split) if size >= LARGE):
        said += f" and {large / 1e9:.1f} GB in files"
    alone, added = args, ""
    if args.method != "no_KD":
        same = ("dataset", "model", "dim", "max_epoch", "optimizer")
        given = {name: getattr(args, name) for name in same if hasattr(args, name)}
        alone = resolve(load_script("no_KD").Settings, given)[0]
        added = f", to which {args.method} adds its own"
    minutes = training_minutes(alone, split)
    if minutes is None:
        return said
    return f"{said}; roughly {minutes:.1f} minutes of training on a CPU{added}"
