"""A teacher as one of several processes knows it: of a share of the users alone."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from Models.teacher import Teacher, TrainedTeacher, top_lists
from Utils import processes
from Utils.files import room_for
from Utils.processes import Share


class SharedTeacher(Teacher):
    """What a teacher says of a share of the users, who are numbered by their place there.

    Parameters
    ----------
    whole : the teacher of all users. Each process has it in whole, but lists of its users alone.
    split : the share.
    """

    def __init__(self, whole: Teacher, split: Share) -> None:
        if whole.asked is not whole.split:
            raise whole._lacks("lists that several processes can share, for it asks of windows")
        self.whole, self.split = whole, split
        self.sha256, self.device = whole.sha256, whole.device

    @property
    def metrics(self) -> dict[str, float]:
        """Those of all users."""
        return self.whole.metrics

    def describe(self) -> str:
        """Return one line: what the teacher is and how good it is."""
        return self.whole.describe()

    def record(self) -> dict[str, Any]:
        """Return what a run keeps of it."""
        return self.whole.record()

    def covered(self, kind: str, count: int) -> Tensor | None:
        """Return who of the users, or of all items, has a list of its own."""
        covered = self.whole.covered(kind, count)
        return covered if covered is None or kind == "users" else covered[self.split.users]

    def top_items(self, count: int) -> Tensor:
        """Return the best items of each user of the share, ``(num_users, count)`` int32.

        Each process makes its own, if they are not kept yet, and process 0 keeps those of all.
        """
        whole = self.whole
        if not isinstance(whole, TrainedTeacher):
            return whole.top_items(count)[self.split.users]
        if processes.agreed(lambda: whole.kept_lists("items", count) is not None):
            return whole.kept_lists("items", count)[self.split.users]
        share, folder = self.split, whole.path.parent
        top = top_lists(whole.model, share, "items", count, folder, share.users.start)
        processes.meet()
        if processes.is_first():
            room = room_for((whole.split.num_users, count), np.int32, folder)
            whole.keep_lists("items", processes.gathered(top, share.bounds, torch.from_numpy(room)))
        else:
            processes.gathered(top, share.bounds)
        return top

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return logits, as ``Recommender`` does."""
        return self.whole.score(users + self.split.users.start, items)

    def score_all(self, users: Tensor) -> Tensor:
        """Return the scores of all items: ``(B,) -> (B, num_items)``."""
        return self.whole.score_all(users + self.split.users.start)

    def encode(self) -> tuple[Tensor, Tensor] | None:
        """Return its factors, as ``Recommender`` does."""
        factors = self.whole.encode()
        return factors and (factors[0][self.split.users], factors[1])

    def representations(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """Return the last hidden layer, as ``Recommender`` does."""
        return self.whole.representations(users + self.split.users.start, items)
