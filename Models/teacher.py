"""What a trained teacher gives: frozen representations, scores, and who it ranks on top."""

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from Models import MODELS, build_model
from Models.lists import best_lists
from Models.recommender import Recommender
from Utils.dataset import Asked
from Utils.errors import UserError, warn
from Utils.evaluation import Evaluator
from Utils.files import (
    read_checkpoint,
    read_npz,
    require_ids,
    require_like,
    room_for,
    sha256_of,
    write_npz,
    write_whole,
)
from Utils.run_folder import RUN_FORMAT, is_count, is_number
from Utils.split import Split
from Utils.states import state_files

CHUNK = 256  # users or items whose scores are held at a time
HELD = 2**26  # scores that are; of large catalogues, it is fewer users


class Teacher:
    """What a method may ask a teacher; one that lacks something says so in one line.

    Lists, scores and representations are capabilities. A teacher that is a trained model
    (``TrainedTeacher``) has them all, one that is given as lists or as factors has some.

    Attributes
    ----------
    split : the data that it knows.
    sha256 : of what it is made from, for the record.
    device : where its answers are.
    metrics : of validation and test, measured when they are asked for: ``valid_H@5``, ...
    """

    split: Split
    sha256: str
    device: torch.device
    metrics: dict[str, float]

    @property
    def asked(self) -> Split | Asked:
        """Who it has lists and scores for, and what they have had: the users of the split."""
        return self.split

    def _lacks(self, what: str) -> UserError:
        return UserError(
            f"{self.describe()}: this teacher has no {what}; use one that has, or another method"
        )

    def describe(self) -> str:
        """Return one line: what the teacher is and how good it is."""
        return type(self).__name__

    def _measured(self) -> str:
        metric = self.split.protocol.selecting
        return "  ".join(
            f"{part} {metric} {self.metrics[f'{part}_{metric}']:.4f}" for part in ("valid", "test")
        )

    def record(self) -> dict[str, Any]:
        """Return what a run keeps of it."""
        return {"sha256": self.sha256}

    def covered(self, kind: str, count: int) -> Tensor | None:
        """Return who has a list of ``count`` of its own; None: everybody.

        ``kind`` is what the lists are of: ``(num_users,)`` bool for items, ``(num_items,)`` for
        users. What ``top_items`` and ``top_users`` return for the others is no list, and learned
        from by nobody.
        """
        return None

    def top_items(self, count: int) -> Tensor:
        """Return each user's best items outside the training set, ``(num_users, count)`` int32."""
        raise self._lacks("lists of items")

    def top_users(self, count: int) -> Tensor:
        """Return each item's best users who did not train on it, ``(num_items, count)`` int32."""
        raise self._lacks("lists of users")

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return logits, as ``Recommender`` does."""
        raise self._lacks("scores")

    def encode(self) -> tuple[Tensor, Tensor] | None:
        """Return its factors, as ``Recommender`` does, if its scores are their inner products."""
        return None

    def score_all(self, users: Tensor) -> Tensor:
        """Return the scores of all items: ``(B,) -> (B, num_items)``."""
        raise self._lacks("scores of all items")

    def representations(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Return the last hidden layer, as ``Recommender`` does."""
        raise self._lacks("representations")

    def embeddings(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Return the first layer, as ``Recommender`` does."""
        raise self._lacks("embeddings")

    def gmf_embeddings(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Return what enters the product of user and item, as ``Recommender`` does."""
        raise self._lacks("embeddings of a product")

    @property
    def members(self) -> list["Teacher"]:
        """The teachers that it is made of: itself, unless it is an ensemble."""
        return [self]

    @property
    def states(self) -> Sequence["Teacher"]:
        """The same teacher at earlier epochs, first to last, itself at the end."""
        raise self._lacks("states of earlier epochs")


class TrainedTeacher(Teacher):
    """A trained recommender that is asked and never trained.

    Parameters
    ----------
    model : a ``Recommender``; it is put into evaluation mode and its parameters are frozen.
    split : the data that it was trained on.
    path : the checkpoint with its weights; lists are kept beside it.
    """

    def __init__(self, model: Recommender, split: Split, path: Path) -> None:
        self.model = model.eval().requires_grad_(False)
        self.split, self.path, self.sha256 = split, path, sha256_of(path)
        self.device = next(model.parameters()).device

    @cached_property
    def asked(self) -> Split | Asked:
        """Who its model is asked for."""
        return self.model.asked(self.split)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Validation and test metrics, measured now: ``valid_H@5``, ..., ``test_M@20``."""
        return Evaluator(self.split, self.device).evaluate(self.model)[0]

    def describe(self) -> str:
        """Return one line: what the teacher is and how good it is."""
        name, size = type(self.model).__name__, self.model.num_parameters()
        return (
            f"teacher {name} d={self.model.dim}: {size:,} parameters, {self._measured()}, "
            f"{self.path}"
        )

    def record(self) -> dict[str, Any]:
        """Return what a run keeps of it."""
        return {
            "path": str(self.path),
            "sha256": self.sha256,
            "model": type(self.model).__name__,
            "dim": self.model.dim,
            "metrics": {name: round(value, 6) for name, value in self.metrics.items()},
        }

    @torch.no_grad()
    def representations(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Return the last hidden layer, as ``Recommender`` does."""
        return self.model.representations(users, items)

    @torch.no_grad()
    def embeddings(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Return the first layer, as ``Recommender`` does."""
        return self.model.embeddings(users, items)

    @torch.no_grad()
    def gmf_embeddings(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Return what enters the product of user and item, as ``Recommender`` does."""
        return self.model.gmf_embeddings(users, items)

    @torch.no_grad()
    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return logits, as ``Recommender`` does."""
        return self.model.score(users, items)

    @torch.no_grad()
    def encode(self) -> tuple[Tensor, Tensor] | None:
        """Return its factors, as ``Recommender`` does."""
        return self.model.encode()

    @torch.no_grad()
    def score_all(self, users: Tensor) -> Tensor:
        """Return the scores of all items: ``(B,) -> (B, num_items)``."""
        return self.model.score_all(users)

    def top_items(self, count: int) -> Tensor:
        """Return each user's best items outside the training set, ``(num_users, count)`` int32."""
        return self._top("items", count)

    def top_users(self, count: int) -> Tensor:
        """Return each item's best users who did not train on it, ``(num_items, count)`` int32."""
        if self.model.in_order:
            raise self._lacks("lists of users, for each is asked after some items")
        return self._top("users", count)

    @property
    def states(self) -> Sequence[Teacher]:
        """The same teacher at earlier epochs, first to last, itself at the end.

        Each is read when it is asked for, and not kept.
        """
        remedy = "train it with main_no_KD.py --keep_states 4 --overwrite"
        paths = state_files(self.path.parent)
        if not paths:
            raise UserError(f"{self.path}: has no states of earlier epochs beside it; {remedy}")
        return _States(paths, self, remedy)

    def _top(self, kind: str, count: int) -> Tensor:
        """Read the lists, best first; make and keep them if they are missing, short or foreign."""
        top = self.kept_lists(kind, count)
        if top is None:
            top = top_lists(self.model, self.asked, kind, count, self.path.parent)
            self.keep_lists(kind, top)
        return top

    def _path_of_lists(self, kind: str) -> Path:
        of_state = f"{self.path.stem}_" if self.path.stem.startswith("state") else ""
        return self.path.with_name(f"{of_state}top_{kind}.npz")

    def kept_lists(self, kind: str, count: int) -> Tensor | None:
        """Return lists of ``kind``, if so long ones of this teacher are in its file."""
        path = self._path_of_lists(kind)
        if path.exists():
            kept = read_npz(path, ["top", "teacher_sha256"])
            sizes = self.asked.num_users, self.asked.num_items
            rows, columns = sizes if kind == "items" else sizes[::-1]
            if str(kept["teacher_sha256"]) != self.sha256:
                warn(f"{path}: is of another teacher; making it anew")
            else:
                require_ids(path, "top", kept["top"], (rows, None), columns)
                if kept["top"].shape[1] >= count:
                    top = kept["top"][:, :count].astype(np.int32, copy=False)
                    return torch.from_numpy(top).to(self.device)
        return None

    def keep_lists(self, kind: str, top: Tensor) -> None:
        """Write lists of ``kind`` into its file."""
        try:
            with write_whole(self._path_of_lists(kind)) as file:
                write_npz(file, {"top": top.cpu().numpy(), "teacher_sha256": self.sha256})
        except UserError as error:
            warn(f"the teacher's lists are not kept: {error}")


class _States(Sequence):
    """Teachers in files, and one that is at hand behind them."""

    def __init__(self, paths: list[Path], last: TrainedTeacher, remedy: str) -> None:
        self.paths, self.last, self.remedy = paths, last, remedy

    def __len__(self) -> int:
        return len(self.paths) + 1

    def __getitem__(self, place: int) -> TrainedTeacher:
        path = [*self.paths, None][place]
        last = self.last
        return read_teacher(path, last.split, last.device, self.remedy) if path else last


def top_lists(
    model: Recommender,
    split: Split | Asked,
    kind: str,
    count: int,
    folder: Path | None = None,
    first: int = 0,
) -> Tensor:
    """Return a ``Recommender``'s best ``count`` items of each user, best first, or the mirror.

    ``(num_users, count)`` int32 for ``kind`` items, ``(num_items, count)`` for users; on a CPU, if
    they are many, in a file of ``folder``. Training pairs are left out. The model knows the first
    user, or item, by the number ``first``.

    Raises
    ------
    UserError
        If there are not that many beside those in training.
    """
    rows, columns = split.train_users, split.train_items
    num_rows, num_columns = split.num_users, split.num_items
    if kind == "users":
        rows, columns, num_rows, num_columns = columns, rows, num_columns, num_rows
    most = np.bincount(rows).max()
    if count > num_columns - most:
        raise UserError(
            f"lists of {count} {kind} are too long: {split.dataset} has {num_columns:,} {kind}, of "
            f"which up to {most} are seen; use shorter ones (--pool, or --K without a pool)"
        )
    device = next(model.parameters()).device
    score = model.score_all if kind == "items" else partial(_scores_of_items, model)
    size = max(min(CHUNK, HELD // num_columns), 1)
    queries = torch.arange(first, first + num_rows, device=device)
    best = best_lists(score, queries, (rows, columns), count, size)
    top = torch.from_numpy(room_for((num_rows, count), np.int32, folder))
    for part, (found, _) in zip(top.split(size), best, strict=True):
        part.copy_(found)
    return top.to(device)


def _scores_of_items(model: Recommender, items: Tensor) -> Tensor:
    """Return all users' scores of ``(B,)`` items: ``(B, num_users)``."""
    factors = model.encode()
    if factors:
        return factors[1][items] @ factors[0].T
    users = torch.arange(model.num_users, device=items.device)
    return model.score(users.expand(len(items), -1), items)


def read_teacher(path: Path, split: Split, device: torch.device, remedy: str) -> TrainedTeacher:
    """Return the teacher whose weights a run has left in ``path``, ``best.pt`` or its folder.

    Raises
    ------
    UserError
        If the file is missing or broken, of another data set or split, or if its weights do not fit
        the model that it names; with ``remedy``.
    """
    path = path / "best.pt" if path.is_dir() else path
    identity = {
        "format": RUN_FORMAT,
        "dataset": split.dataset,
        "split": split.name,
        "split_sha256": split.sha256,
    }
    kept = read_checkpoint(path, identity, device, remedy)
    if "modules" in kept:
        raise UserError(
            f"{path}: is a state for --resume, not a model; best.pt beside it is the model"
        )
    name, dim, options = (kept.get(key) for key in ("model", "dim", "options"))
    if not (isinstance(name, str) and is_count(dim) and _are_options(name, options)):
        raise UserError(f"{path}: does not say what model it is; {remedy}")
    model = build_model(name, split, dim, seed=0, **options).to(device)
    require_like(path, "weights", kept.get("weights"), model.state_dict(), remedy)
    model.load_state_dict(kept["weights"])
    if kept.get("finished") is not True:
        warn(f"{path}: this teacher was never trained to its end; main_no_KD.py --resume goes on")
    return TrainedTeacher(model, split, path)


def _are_options(name: str, options: object) -> bool:
    """Return whether these can be a model's options: counts above 0, other numbers at least 0.

    ``build_model`` refuses those that it does not have.
    """
    if not isinstance(options, dict):
        return False
    kinds = MODELS[name].options if name in MODELS else {}
    return all(
        is_count(value) if kinds.get(option) is int else is_number(value) and value >= 0
        for option, value in options.items()
    )
