"""DGKD: several guides at once, of which some are left out at random."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from Models.distillers.distiller import Distiller
from Utils.dataset import Pairs
from Utils.errors import UserError


class DGKD(Distiller):
    """Densely Guided Knowledge Distillation: the sum of the terms towards teacher and assistants.

    For each batch, ``num_dropped`` guides are left out, drawn uniformly.

    Source: Son et al., "Densely Guided Knowledge Distillation using Multiple Teacher Assistants",
    ICCV 2021, section 3.2 and 3.3, with a recommender's distillation losses.

    Parameters
    ----------
    guides : a distiller for each larger model, with names of their own.
    num_dropped : how many are left out for a batch, less than there are.
    draws : ``seed`` and ``name``, see ``Distiller``.

    Raises
    ------
    UserError
        If no guide would be left.
    """

    def __init__(self, guides: Sequence[Distiller], *, num_dropped: int, **draws: Any) -> None:
        super().__init__(**draws)
        require_a_guide(num_dropped, len(guides))
        self.guides, self.num_dropped = torch.nn.ModuleList(guides), num_dropped

    def begin_epoch(self, epoch: int) -> None:
        """Begin it for all guides, and draw anew who is left out."""
        for guide in self.guides:
            guide.begin_epoch(epoch)
        self.generator = self.draws.generator("dropped guides", epoch)

    def loss(self, batch: Pairs) -> Tensor:
        """Return the sum of the terms of those who stay."""
        order = torch.randperm(len(self.guides), generator=self.generator)
        kept = order[self.num_dropped :].sort().values.tolist()
        return torch.stack([self.guides[n].loss(batch) for n in kept]).sum()


def require_a_guide(num_dropped: int, count: int) -> None:
    """Raise ``UserError`` if none of ``count`` guides is left."""
    if num_dropped >= count:
        raise UserError(
            f"--num_dropped {num_dropped}: there are {count} guides, the teacher and its "
            f"assistants, of which one must stay; use {count - 1} or less"
        )
