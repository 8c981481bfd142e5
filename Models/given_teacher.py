"""Teachers that were trained elsewhere: given as factors, or as lists, under the original ids."""

from functools import cached_property
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from Models.factor_model import FactorModel
from Models.teacher import Teacher, TrainedTeacher, top_lists
from Utils.errors import UserError, warn
from Utils.evaluation import Evaluator
from Utils.seeding import numpy_generator
from Utils.split import Split
from Utils.teacher_files import (
    KINDS,
    Rows,
    Vectors,
    hash_of,
    holds_factors,
    read_factors,
    read_lists,
)

OUT = -1e30  # the score of what has no vector: below all, and a softmax over such alone is a number
FIRST = 5  # places of a list that are looked at for items of the test
Z = 4.0  # standard errors that are no accident
FEWEST = 400  # pairs from which on held-out and training items are compared
LIKE = 0.45  # share of the pairs in which a held-out item is above one in training


def read_given(path: Path, split: Split, device: torch.device) -> "FactorTeacher | ListTeacher":
    """Return the teacher that a file or folder holds; warn if it seems to have seen the test.

    Raises
    ------
    UserError
        As ``read_factors`` and ``read_lists``, and if it shares no users or no items with the data.
    """
    if holds_factors(path):
        vectors, files = read_factors(path)
        teacher = FactorTeacher(vectors, split, path, hash_of(files), device)
        warn_if_like_training(teacher)
    else:
        rows, files = read_lists(path)
        teacher = ListTeacher(rows, split, path, hash_of(files), device)
    warn_of_leaks(teacher)
    return teacher


# --- matching by ids -----------------------------------------------------------------------------


def places_of(path: Path, kind: str, ids: list[str], split: Split) -> np.ndarray:
    """Return the number in the split of each id, which are compared as text; -1: it is not there.

    ``(n,)`` int64. Raises ``UserError`` if none is there, or if one stands there twice.
    """
    known = getattr(split, f"{kind}_ids").tolist()
    numbers = {str(each): number for number, each in enumerate(known)}
    places = np.array([numbers.get(each, -1) for each in ids], dtype=np.int64)
    found = places[places >= 0]
    if not found.size:
        theirs, ours = (", ".join(repr(str(each)) for each in some[:3]) for some in (ids, known))
        raise UserError(
            f"{path}: none of its {len(ids):,} {kind}s is in {split.dataset}: it has {theirs}, and "
            f"the data {ours}; write the ids of the raw file beside what it holds"
        )
    counts = np.bincount(found)
    if counts.max() > 1:
        raise UserError(f"{path}: has {kind} {known[counts.argmax()]!r} twice; keep one of them")
    return places


def _found(split: Split, users: int, items: int) -> str:
    return f"{users:,} of {split.num_users:,} users and {items:,} of {split.num_items:,} items"


# --- factors -------------------------------------------------------------------------------------


class GivenFactors(FactorModel):
    """Score ``s_ui = p_u . q_i`` of two tables; what has no vector is below all that has one.

    Parameters
    ----------
    users, items : (num_users, d) and (num_items, d); a row of zeros is no vector.
    """

    def __init__(self, split: Split, users: Tensor, items: Tensor) -> None:
        super().__init__(split, users.shape[1])
        self.user, self.item = nn.Parameter(users), nn.Parameter(items)
        self.known = {"user": users.any(dim=1), "item": items.any(dim=1)}
        self.whole = all(bool(known.all()) for known in self.known.values())

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the two tables."""
        return self.user, self.item

    def table(self, kind: str) -> Tensor:
        """Return the vectors of all users or items, by ``kind``."""
        return self.user if kind == "user" else self.item

    def encode(self) -> tuple[Tensor, Tensor] | None:
        """Return the tables, if all scores are inner products: if all have vectors."""
        return self.factors() if self.whole else None

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return inner products, as ``FactorModel`` does; those of what has no vector are OUT."""
        kind, listed = ("user", users) if users.dim() > items.dim() else ("item", items)
        return super().score(users, items).masked_fill_(~self.known[kind][listed], OUT)

    def score_all(self, users: Tensor) -> Tensor:
        """Return inner products with all items, ``-inf`` of those without a vector."""
        return super().score_all(users).masked_fill_(~self.known["item"], -torch.inf)


class FactorTeacher(TrainedTeacher):
    """Vectors of users and items whose inner products are scores.

    Who has no vector has no list, no list has items or users without one, and no representation of
    theirs is learned.
    """

    def __init__(
        self, vectors: dict[str, Vectors], split: Split, path: Path, sha256: str,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.split, self.path, self.sha256, self.device = split, path, sha256, device
        sizes = [vectors[kind].table.shape[1] for kind in KINDS]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"{path}: its users' vectors have {sizes[0]} numbers and its items' {sizes[1]}; "
                f"they are no factors of one model"
            )
        tables, self.strangers = [], 0
        for kind in KINDS:
            places = places_of(path, kind, vectors[kind].ids, split)
            table = np.zeros((getattr(split, f"num_{kind}s"), sizes[0]), np.float32)
            table[places[places >= 0]] = vectors[kind].table[places >= 0]
            tables.append(torch.from_numpy(table).to(device))
            self.strangers += int((places < 0).sum())
        self.model = GivenFactors(split, *tables).eval().requires_grad_(False)

    def covered(self, kind: str, count: int) -> Tensor | None:
        """Return who has a vector, and so many others with one for a list."""
        pairs = {"user": self.split.train_users, "item": self.split.train_items}
        whose, listed = KINDS if kind == "items" else KINDS[::-1]
        known, others = self.model.known[whose], self.model.known[listed]
        rows, columns = (torch.from_numpy(pairs[k]).to(self.device) for k in (whose, listed))
        seen = torch.bincount(rows[others[columns]], minlength=len(known))
        covered = known & (others.sum() - seen >= count)
        return None if covered.all() else covered

    @torch.no_grad()
    def encode(self) -> tuple[Tensor, Tensor]:
        """Return its factors, zeros where there is none: a start from them is right elsewhere."""
        return self.model.factors()

    @property
    def states(self) -> list[Teacher]:
        """Raise ``UserError``: there are none."""
        raise self._lacks("states of earlier epochs")

    def _top(self, kind: str, count: int) -> Tensor:
        return top_lists(self.model, self.split, kind, count)

    def among_first(self, users: Tensor, items: Tensor) -> Tensor:
        """Return whether items, (n,), are among the first of users' lists, (n,): (n,) bool."""
        first = self.top_items(FIRST)[users]
        return (first == items.unsqueeze(1)).any(dim=1) & self.model.known["user"][users]

    def describe(self) -> str:
        """Return one line: what the teacher is, whom it knows and how good it is."""
        users, items = (int(self.model.known[kind].sum()) for kind in KINDS)
        return (
            f"teacher of given factors d={self.model.dim}: {_found(self.split, users, items)} have "
            f"vectors, {self.strangers:,} more are not in the data, {self._measured()}, {self.path}"
        )


# --- lists ---------------------------------------------------------------------------------------


class Lists(nn.Module):
    """Everybody's list of items, best first, as a model to be measured: it scores by place.

    Parameters
    ----------
    users, items : (n,) int64, whose and what, user by user; no pair twice.
    """

    in_order = False

    def __init__(self, split: Split, users: Tensor, items: Tensor) -> None:
        super().__init__()
        self.items, self.num_items = items, split.num_items
        self.counts = torch.bincount(users, minlength=split.num_users)
        self.starts = self.counts.cumsum(0) - self.counts
        self.keys, self.rows = (users * split.num_items + items).sort()

    def find(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the row of each pair, or -1: ``(B,)``, and ``(B,)`` or ``(B, K)``, like items."""
        users = users.unsqueeze(1) if items.dim() > users.dim() else users
        wanted = users * self.num_items + items
        near = torch.searchsorted(self.keys, wanted).clamp_max_(len(self.keys) - 1)
        return torch.where(self.keys[near] == wanted, self.rows[near], -1)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return minus the place in the user's list, 0 the first, or ``-inf``."""
        found = self.find(users, items)
        starts = self.starts[users]
        starts = starts.unsqueeze(1) if items.dim() > users.dim() else starts
        return (starts - found).float().masked_fill_(found < 0, -torch.inf)

    def score_all(self, users: Tensor) -> Tensor:
        """Return the same of all items: ``(B,) -> (B, num_items)``."""
        counts = self.counts[users]
        rows = torch.arange(len(users), device=users.device).repeat_interleave(counts)
        place = torch.arange(len(rows), device=users.device) - (counts.cumsum(0) - counts)[rows]
        scores = torch.full((len(users), self.num_items), -torch.inf, device=users.device)
        scores[rows, self.items[self.starts[users][rows] + place]] = -place.float()
        return scores

    def encode(self) -> None:
        """Return None: scores are no inner products."""

    def encode_before(self, part: str) -> None:
        """Return None."""

    def first(self, count: int) -> Tensor:
        """Return each user's first items, ``(num_users, count)`` int32.

        Shorter lists are filled up with their last item, empty ones with any.
        """
        place = torch.arange(count, device=self.items.device).expand(len(self.counts), -1)
        place = place.minimum((self.counts.unsqueeze(1) - 1).clamp_min(0))
        rows = (self.starts.unsqueeze(1) + place).clamp_max(len(self.items) - 1)
        return self.items[rows].int()


class ListTeacher(Teacher):
    """Lists of items, and perhaps the scores of what is in them; training items are left out."""

    def __init__(
        self, rows: Rows, split: Split, path: Path, sha256: str, device: torch.device
    ) -> None:
        self.split, self.path, self.sha256, self.device = split, path, sha256, device
        users, items = (
            places_of(path, kind, ids.different, split)[ids.rows]
            for kind, ids in zip(KINDS, (rows.users, rows.items), strict=True)
        )
        known = np.flatnonzero((users >= 0) & (items >= 0))
        keys = users[known] * split.num_items + items[known]
        trained = np.isin(keys, split.train_users * split.num_items + split.train_items)
        self.strangers, self.trained = len(users) - len(known), int(trained.sum())
        kept = known[~trained]
        kept = kept[np.lexsort((rows.order[kept], users[kept]))]
        users, items = users[kept], items[kept]
        _require_lists(path, users, items, split)
        self.lists = Lists(split, *(torch.from_numpy(ids).to(device) for ids in (users, items)))
        scores = rows.scores
        self.scores = None if scores is None else torch.from_numpy(scores[kept]).to(device)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Validation and test metrics, measured now; what is in no list is below all that is."""
        return Evaluator(self.split, self.device).evaluate(self.lists)[0]

    def covered(self, kind: str, count: int) -> Tensor | None:
        """Return whose lists are as long.

        Raises
        ------
        UserError
            If none is.
        """
        if kind == "users":
            raise self._lacks("lists of users")
        counts = self.lists.counts
        covered = counts >= count
        lengths = counts[counts > 0].sort(descending=True).values
        if not covered.any():
            most, usual = int(lengths[0]), int(lengths[len(lengths) * 9 // 10])
            raise UserError(
                f"{self.path}: nobody has a list of {count} items outside the training set; the "
                f"longest has {most}, and 9 of 10 have {usual} or more: use --K {usual} or less "
                f"(where there is a --pool, that)"
            )
        if covered.all():
            return None
        warn(
            f"{self.path}: {int(covered.sum()):,} of {len(counts):,} users have a list of {count} "
            f"items outside the training set; the others learn from the data alone"
        )
        return covered

    def among_first(self, users: Tensor, items: Tensor) -> Tensor:
        """Return whether items, (n,), are among the first of users' lists, (n,): (n,) bool."""
        return self.lists.score(users, items) > -FIRST

    def top_items(self, count: int) -> Tensor:
        """Return each user's first items, ``(num_users, count)`` int32; see ``covered``."""
        return self.lists.first(count)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the scores of items in lists; 0 for whoever has no list.

        Raises
        ------
        UserError
            If there are no scores, or if an item is not in the list.
        """
        if self.scores is None:
            raise self._lacks("scores, but ranks alone")
        found = self.lists.find(users, items)
        nobody = self.lists.counts[users] == 0
        nobody = nobody.unsqueeze(1) if items.dim() > users.dim() else nobody
        if ((found < 0) & ~nobody).any():
            raise self._lacks("scores of items outside its lists")
        return self.scores[found].masked_fill(nobody, 0)

    def score_all(self, users: Tensor) -> Tensor:
        """Raise ``UserError``: it has not all."""
        raise self._lacks("scores of all items, which S2D needs with --start spectral alone")

    def describe(self) -> str:
        """Return one line: what the teacher is, whom it knows and how good it is."""
        users, items = int((self.lists.counts > 0).sum()), len(self.lists.items.unique())
        return (
            f"teacher of given lists: {_found(self.split, users, items)} are in them, left out are "
            f"{self.strangers:,} rows of others and {self.trained:,} of training items, "
            f"{self._measured()}, {self.path}"
        )

    def record(self) -> dict[str, Any]:
        """Return what a run keeps of it."""
        metrics = {name: round(value, 6) for name, value in self.metrics.items()}
        return {
            "path": str(self.path),
            "sha256": self.sha256,
            "model": type(self).__name__,
            "metrics": metrics,
        }


def _require_lists(path: Path, users: np.ndarray, items: np.ndarray, split: Split) -> None:
    """Raise ``UserError`` if there are none, or if an item is in one of them twice."""
    if not len(users):
        raise UserError(f"{path}: no list has an item of the data outside the training set")
    keys = np.sort(users * split.num_items + items)
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if twice.size:
        user, item = divmod(int(keys[twice[0]]), split.num_items)
        raise UserError(
            f"{path}: the list of user {split.user_ids[user]} has item {split.item_ids[item]} "
            f"twice; keep one of them"
        )


# --- has it seen the test? -----------------------------------------------------------------------


def warn_of_leaks(teacher: FactorTeacher | ListTeacher) -> None:
    """Warn if items of the test are much more often among the first of lists than of validation.

    Lists are of all items outside the training set. Of items that were held out in the same way,
    or later, the share at ranks 1 to ``FIRST`` is no higher by more than ``Z`` standard errors of
    the difference of two proportions, unless the teacher was trained on some. Where it was trained
    on the test and on validation, this sees nothing; see ``warn_if_like_training``.
    """
    parts = teacher.split.valid, teacher.split.test
    users, items = (
        torch.from_numpy(np.concatenate([getattr(part, name) for part in parts])).to(teacher.device)
        for name in ("users", "items")
    )
    counts = [len(part.items) for part in parts]
    hits = [int(part.sum()) for part in teacher.among_first(users, items).split(counts)]
    valid, test = (hit / count for hit, count in zip(hits, counts, strict=True))
    share = sum(hits) / sum(counts)
    error = sqrt(share * (1 - share) * sum(1 / count for count in counts))
    if test - valid > Z * error:
        warn(
            f"{teacher.path}: {test:.1%} of the items of the test are among the first {FIRST} of "
            f"its lists, and {valid:.1%} of validation's, as if it had been trained on the test: "
            f"then neither its results there nor its students' say anything"
        )


def warn_if_like_training(teacher: FactorTeacher) -> None:
    """Warn if items of the test score as high as those in training do.

    Each is compared with one of the same user's training items, drawn at random; equal scores count
    half. A teacher that was trained on both has either order in half of the pairs, one that was not
    prefers what it was trained on. A share of ``LIKE`` in ``FEWEST`` pairs or more is warned about.
    So is a teacher that hardly knows its training pairs, as one that goes by popularity.
    """
    split, known = teacher.split, teacher.model.known
    counts = np.bincount(split.train_users, minlength=split.num_users)
    users, items = split.test.users, split.test.items
    chance = numpy_generator(0, "training items to compare with").random(len(users))
    place = (np.cumsum(counts) - counts)[users] + (chance * counts[users]).astype(np.int64)
    trained = split.train_items[np.minimum(place, len(split.train_items) - 1)]
    some = counts[users] > 0
    users, items, trained = (
        torch.from_numpy(ids[some]).to(teacher.device) for ids in (users, items, trained)
    )
    both = known["user"][users] & known["item"][items] & known["item"][trained]
    users, items, trained = users[both], items[both], trained[both]
    ahead = (teacher.score(users, items) - teacher.score(users, trained)).sign()
    share = float((ahead.double() + 1).mean() / 2)
    if len(users) >= FEWEST and share >= LIKE:
        warn(
            f"{teacher.path}: in {share:.1%} of pairs, an item of the test scores above one of the "
            f"same user's in training, as if it had been trained on both, so that neither its "
            f"results on the test nor its students' say anything; or as if its ids were other ones"
        )
