"""A teacher's space of users: two principal components to draw, and groups of similar users.

    python -m experiments.user_space             # BPR's teacher on CiteULike
    python -m experiments.user_space --seed 3    # another split

Reads the weights of a finished teacher and writes two files beside its logs. user_space.npz:
coordinates (num_users, 2) float32, groups (num_users,) int8, and teacher_sha256. Users are their
embeddings, as the groups of the DE-RRD paper are (section 5.3, footnote 4): k-means with k = 20.
activity.npz: in how many pairs of training each user (num_users,) and each item (num_items,) is.
"""

import os
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.evidence import Evidence, Place
from experiments.paper import Afterwards
from experiments.plan import TEACHER
from experiments.results import count_of
from experiments.settings import SIZES, load_script, resolve
from Models import MODELS
from Models.teacher import TrainedTeacher, read_teacher
from Utils.errors import require_known
from Utils.files import read_checkpoint, read_npz, require_ids, write_whole
from Utils.run_folder import RunFolder
from Utils.seeding import numpy_generator
from Utils.settings import launch
from Utils.sources import DATASETS, load_split

SPACE = Afterwards("experiments.user_space", "user_space.npz", True, minutes=0.1)
ACTIVITY = Afterwards("experiments.user_space", "activity.npz", True, minutes=0.1)
NUM_GROUPS = 20  # DE-RRD paper, footnote 4
STEPS = 100  # of k-means; groups of some thousand users no longer change before


@dataclass
class Settings:
    """Whose users."""

    # data set; synthetic is built in
    dataset: str = "CiteULike"
    # base model: BPR or NeuMF
    model: str = "BPR"
    # of the teacher's run and its split, and of the first centres of the groups
    seed: int = 0
    # size of the teacher's representations; None: the paper's
    dim: int | None = None
    # folder of the data sets
    data_dir: Path = field(
        default_factory=lambda: Path(os.environ.get("RECDISTILL_DATA", "datasets"))
    )


def user_space(embeddings: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first two principal components ``(U, 2)`` float32 and ``k`` groups ``(U,)`` int8.

    ``embeddings``: ``(U, d)``. A component's largest weight, in absolute value, is positive.
    Groups are k-means' from first centres that k-means++ draws with ``seed``.
    """
    from scipy.cluster.vq import kmeans2  # takes long to import, which readers can do without

    centred = (embeddings - embeddings.mean(axis=0)).astype(np.float64)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]  # (2, d)
    largest = np.abs(axes).argmax(axis=1)
    axes *= np.sign(axes[[0, 1], largest])[:, None]
    rng = numpy_generator(seed, "user groups")
    groups = kmeans2(centred, k, iter=STEPS, minit="++", rng=rng)[1]
    return (centred @ axes.T).astype(np.float32), groups.astype(np.int8)


def finished_teacher(args: Settings) -> tuple[TrainedTeacher, RunFolder]:
    """Return the teacher that the settings name, and its folder.

    Raises
    ------
    UserError
        If it is not in ``checkpoints/``, not finished, or of another split.
    """
    split = load_split(args.dataset, "seed", args.seed, str(args.data_dir))
    given = {"dataset": args.dataset, "model": args.model, "seed": args.seed, "dim": args.dim}
    folder = RunFolder.of(resolve(load_script("no_KD").Settings, given)[0])
    flags = [f"--{name}={value}" for name, value in vars(args).items()]
    command = ["python", "main_no_KD.py", *flags, "--overwrite"]
    remedy = f"train this teacher: {shlex.join(command)}"
    cpu = torch.device("cpu")
    read_checkpoint(folder.best, {"split_sha256": split.sha256, "finished": True}, cpu, remedy)
    return read_teacher(folder.best, split, cpu, remedy), folder


def main(args: Settings) -> None:
    """Write the teacher's space of users."""
    require_known("--dataset", args.dataset, DATASETS)
    require_known("--model", args.model, MODELS if args.dim else SIZES)
    args = replace(args, dim=args.dim or SIZES[args.model]["teacher_dim"])
    teacher, folder = finished_teacher(args)
    users, no_items = torch.arange(teacher.split.num_users), torch.arange(0)
    embeddings = teacher.embeddings(users, no_items)["user"].numpy()
    coordinates, groups = user_space(embeddings, NUM_GROUPS, args.seed)
    path = folder.logs / "user_space.npz"
    with write_whole(path) as file:
        np.savez(file, coordinates=coordinates, groups=groups, teacher_sha256=teacher.sha256)
    split = teacher.split
    counts = {
        "user": np.bincount(split.train_users, minlength=split.num_users),
        "item": np.bincount(split.train_items, minlength=split.num_items),
    }
    with write_whole(folder.logs / "activity.npz") as file:
        np.savez_compressed(file, **{kind: each.astype(np.int32) for kind, each in counts.items()})
    sizes = np.bincount(groups, minlength=NUM_GROUPS)
    print(f"{path}: {len(groups):,} users in {NUM_GROUPS} groups of {sizes.min()} to {sizes.max()}")


def user_groups(evidence: Evidence, dataset: str, model: str, seed: int) -> np.ndarray | None:
    """Return each user's group in the teacher's space, ``(U,)``; None if they are not computed."""
    run, path = _beside_teacher(evidence, dataset, model, seed, SPACE.file)
    if path is None:
        return None
    groups = read_npz(path, ["groups"])["groups"]
    require_ids(path, "groups", groups, (count_of(run, "num_users"),), 128)
    return groups


def activity(
    evidence: Evidence, dataset: str, model: str, seed: int
) -> dict[str, np.ndarray] | None:
    """Return in how many pairs each ``user`` (U,) and ``item`` (I,) is; None if not computed."""
    run, path = _beside_teacher(evidence, dataset, model, seed, ACTIVITY.file)
    if path is None:
        return None
    counts = read_npz(path, ["user", "item"])
    for kind, each in counts.items():
        require_ids(path, kind, each, (count_of(run, f"num_{kind}s"),), 2**31)
    return counts


def _beside_teacher(
    evidence: Evidence, dataset: str, model: str, seed: int, name: str
) -> tuple[dict[str, Any], Path | None]:
    """Return the teacher's run and a file beside its logs; None if there is no such file."""
    run = evidence.runs(Place(dataset, model, TEACHER)).get(seed, {})
    path = run["folder"].logs / name if run else None
    return run, path if path and path.exists() else None


if __name__ == "__main__":
    launch(main, Settings, __doc__)
