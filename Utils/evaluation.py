"""The rank of every held-out item, and the metrics of each user.

Among candidates (DE-RRD paper, section 5.1): a held-out item is ranked with 499 items that the user
never touched; the other held-out item is no candidate. In full: with all items that the user has
not trained on, without those held out in the other part.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from Utils.files import release
from Utils.sampled_product import sampled_product
from Utils.split import HeldOut, Protocol, Split

USERS = 1024  # whose scores of all items are held at a time
USERS_CPU = 32  # the same on a CPU, whose cache holds them


class Evaluator:
    """Ranks the held-out items of every user, on the model's device, as the split's protocol says.

    A rank is 1 + the number of candidates that do not score lower, so neither ties nor NaN flatter
    a model.
    """

    def __init__(self, split: Split, device: torch.device | str) -> None:
        self.split = split
        self.ranking = (_FullRanking if split.candidates is None else _Candidates)(split, device)

    @torch.no_grad()
    def ranks(self, model: nn.Module) -> dict[str, Tensor]:
        """Return a ``Recommender``'s ranks, from 1, of the held-out items in the split's order.

        ``{"valid": (n,), "test": (m,)}`` int32, on the CPU.
        """
        was_training = model.training
        model.eval()
        ranks = self.ranking.ranks(model)
        model.train(was_training)
        return {part: values.int().cpu() for part, values in ranks.items()}

    def evaluate(self, model: nn.Module) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Return validation and test metrics (``valid_H@5``, ...) and the ranks."""
        ranks = self.ranks(model)
        return metrics_of(ranks, self.split), ranks


class _Candidates:
    """Ranks one held-out item a user and part among the user's candidates."""

    def __init__(self, split: Split, device: torch.device | str) -> None:
        held_out = np.stack([split.valid.items, split.test.items], axis=1).astype(np.int32)
        self.users = torch.from_numpy(split.valid.users).to(device)  # (U,), who are measured
        self.held_out = torch.from_numpy(held_out).to(device)  # (U, 2)
        self.candidates = torch.from_numpy(split.candidates).to(device)  # (U, 499)
        self.mapped = split.candidates  # which is the same on a CPU

    def ranks(self, model: nn.Module) -> dict[str, Tensor]:
        factors = model.encode()
        num_users, num_candidates = self.candidates.shape
        # Candidates are sorted: 64 neighbouring columns lie in an eighth of the item table, which
        # stays in the cache while thousands of users pass. That is three times faster at d = 200.
        # Other models' scores keep to the cache by themselves.
        columns = 64 if factors else num_candidates
        ranks = []
        for rows in torch.arange(num_users, device=self.candidates.device).split(4096):
            users = self.users[rows]
            if factors:
                score = partial(sampled_product, factors[0][users], factors[1])
            else:
                score = partial(model.score, users)
            held_out = score(self.held_out[rows])
            lower = torch.zeros_like(held_out, dtype=torch.int64)
            for candidates in self.candidates[rows].split(columns, dim=1):
                scores = score(candidates)
                for part in (0, 1):
                    target = held_out[:, part : part + 1]
                    lower[:, part] += torch.count_nonzero(scores < target, dim=1)
            ranks.append(1 + num_candidates - lower)
            release(self.mapped)
        valid, test = torch.cat(ranks).T
        return {"valid": valid, "test": test}


class _FullRanking:
    """Ranks all held-out items of a user among all items that the user has not trained on.

    Users pass in the order of how much of theirs is held out, most first: of a chunk, the first
    ones alone have a k-th held-out item, so that few comparisons are made for nothing.
    """

    def __init__(self, split: Split, device: torch.device | str) -> None:
        self.num_items = split.num_items
        parts = {"valid": split.valid, "test": split.test}
        most = np.maximum(split.valid.counts, split.test.counts)
        users = np.argsort(-most, kind="stable")[: np.count_nonzero(most)]
        train = split.train
        size = USERS_CPU if torch.device(device).type == "cpu" else USERS
        self.chunks = [
            (
                torch.from_numpy(chunk).to(device),
                _Pairs(train, chunk, device),
                {name: _Pairs(part, chunk, device) for name, part in parts.items()},
            )
            for chunk in np.array_split(users, range(size, len(users), size))
        ]
        # where the ranks of the chunks stand among those of all
        self.places = {
            name: torch.from_numpy(part.places(users)).to(device) for name, part in parts.items()
        }

    def ranks(self, model: nn.Module) -> dict[str, Tensor]:
        valid = model.encode_before("valid")
        test = model.encode_before("test") if model.in_order else valid
        factors = {"valid": valid, "test": test}
        # made first: small tensors between large ones that come and go would have the heap grow
        found = {part: torch.empty_like(places) for part, places in self.places.items()}
        done = dict.fromkeys(found, 0)
        for users, train, held_out in self.chunks:
            scores = None
            for part, other in (("valid", "test"), ("test", "valid")):
                if scores is None or model.in_order:  # else, both parts have the same
                    pair = factors[part]
                    scores = pair[0][users] @ pair[1].T if pair else model.score_all(users)
                    scores[train.rows, train.items] = torch.inf  # not below anything
                mine, others = held_out[part], held_out[other]
                kept = scores[others.rows, others.items]
                scores[others.rows, others.items] = torch.inf
                candidates = self.num_items - train.counts - others.counts  # with the item itself
                start, done[part] = done[part], done[part] + len(mine.rows)
                found[part][start : done[part]] = candidates[mine.rows] - mine.count_lower(scores)
                scores[others.rows, others.items] = kept
        ranks = {part: torch.empty_like(values) for part, values in found.items()}
        for part, values in found.items():
            ranks[part][self.places[part]] = values
        return ranks


class _Pairs:
    """The items that a chunk of users has in one part of the data, on the device.

    ``rows``, ``items``: (n,), which of the users has which item; ``counts``: (users,).
    """

    def __init__(self, part: HeldOut, users: np.ndarray, device: torch.device | str) -> None:
        counts = part.counts[users]
        rows = np.repeat(np.arange(len(users)), counts)
        column = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]  # 0 is a user's first
        arrays = (rows, part.items[part.places(users)], column, counts)
        self.rows, self.items, self.column, self.counts = (
            torch.from_numpy(array).to(device) for array in arrays
        )
        # how many users, from the first one on, may have a first, a second, ... item
        self.heights = [int(rows[column == k].max()) + 1 for k in range(counts.max(initial=0))]

    def count_lower(self, scores: Tensor) -> Tensor:
        """Return how many scores in its row are below that of each item: ``(n,)``."""
        targets = scores.new_full((len(scores), max(len(self.heights), 1)), -torch.inf)
        targets[self.rows, self.column] = scores[self.rows, self.items]
        lower = torch.zeros_like(targets, dtype=torch.int32)
        is_lower = torch.empty_like(scores, dtype=torch.bool)
        for k, height in enumerate(self.heights):
            torch.lt(scores[:height], targets[:height, k : k + 1], out=is_lower[:height])
            lower[:height, k] = is_lower[:height].view(torch.uint8).sum(1, dtype=torch.int32)
        return lower[self.rows, self.column]


def user_metrics(ranks: Tensor, starts: np.ndarray, protocol: Protocol) -> dict[str, Tensor]:
    """Return each metric of the users who have held-out items, ``(U,)`` float64.

    ``ranks``: (n,), those of user u between ``starts[u]`` and ``starts[u + 1]``. With p the ranks
    of a user's m items, and only for p <= N:

    - H@N = 1 if there is one, M@N = 1 / min p, R@N = sum 1 / m, P@N = sum 1 / N
    - N@N = sum 1 / log2(p + 1) over the same sum if the items had the ranks 1 to min(m, N)
    - MAP@N = sum (number of the items up to rank p) / p, over min(m, N); MAP that of all ranks

    For a single item, H@N = R@N and N@N = log 2 / log(p + 1).
    """
    counts = torch.from_numpy(np.diff(starts))
    users = torch.arange(len(counts)).repeat_interleave(counts)
    order = (users * (int(ranks.max()) + 1) + ranks).argsort()  # by user, best first
    ranks = ranks[order].double()
    nth = 1 + torch.arange(len(ranks)) - (counts.cumsum(0) - counts)[users]  # of the user's items
    measured = counts > 0
    counts = counts[measured].double()
    ideal = (1 / torch.log2(torch.arange(2.0, max(protocol.cutoffs) + 2).double())).cumsum(0)

    def total(values: Tensor) -> Tensor:
        return torch.zeros(len(measured), dtype=values.dtype).index_add(0, users, values)[measured]

    found = {}
    for name in protocol.metrics:
        letter, _, cutoff = name.partition("@")
        n = int(cutoff) if cutoff else 2**31  # none: all ranks count
        hits, most = (ranks <= n).double(), counts.clamp_max(n)
        match letter:
            case "H":
                found[name] = total(hits * (nth == 1))
            case "M":
                found[name] = total(hits * (nth == 1) / ranks)
            case "R":
                found[name] = total(hits) / counts
            case "P":
                found[name] = total(hits) / n
            case "N":
                found[name] = total(hits / torch.log2(ranks + 1)) / ideal[most.long() - 1]
            case "MAP":
                found[name] = total(hits * nth / ranks) / most
    return found


def metrics(ranks: Tensor, held_out: HeldOut, protocol: Protocol) -> dict[str, float]:
    """Return the mean over users of ``user_metrics``."""
    values = user_metrics(ranks, held_out.starts, protocol)
    return {name: value.mean().item() for name, value in values.items()}


def metrics_of(ranks: dict[str, Tensor], split: Split) -> dict[str, float]:
    """Return the metrics of a split's parts: ``valid_H@5``, ..."""
    return {
        f"{part}_{name}": value
        for part, values in ranks.items()
        for name, value in metrics(values, getattr(split, part), split.protocol).items()
    }
