"""States of a model along its training, at even shares of the epochs up to the best one."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from Utils.files import read_checkpoint, write_checkpoint

SPARE = 4  # so many times the states that are wanted are at hand at any time


class States:
    """Keeps ``count`` states of a run, of which the best one is the last; 0: nothing is kept.

    As nobody knows which epoch will be the best, states are kept at multiples of a step that
    doubles whenever they are more than ``SPARE`` times those wanted; in the end, those nearest to
    the shares 1 / count, 2 / count, ... of the way stay.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count

    def keep(self, epoch: int, state: Callable[[], dict[str, Any]]) -> None:
        """Keep an epoch's state if it is time."""
        if not self.count:
            return
        step = 1
        while epoch // step >= SPARE * self.count:
            step *= 2
        if epoch % step == 0:
            write_checkpoint(self.folder / f"state-epoch{epoch}.pt", state())
        for path in state_files(self.folder):
            if _epoch(path) % step:
                path.unlink()

    def finish(self, best_epoch: int) -> None:
        """Leave those that are nearest to the shares of the way to ``best_epoch``."""
        if not self.count:
            return
        kept = {_epoch(path): path for path in state_files(self.folder)}
        before = [epoch for epoch in kept if epoch < best_epoch]
        chosen = set()
        for place in range(1, self.count):
            wanted = (best_epoch + 1) * place / self.count - 1
            if before:
                chosen.add(min(before, key=lambda epoch: (abs(epoch - wanted), epoch)))
        for epoch, path in kept.items():
            if epoch not in chosen:
                path.unlink()
            else:
                state = read_checkpoint(path, {}, torch.device("cpu"), "--overwrite starts again")
                write_checkpoint(path, state | {"finished": True})


def state_files(folder: Path) -> list[Path]:
    """Return the states in a folder, first to last."""
    found = [path for path in folder.glob("state-epoch*.pt") if _epoch(path) >= 0]
    return sorted(found, key=_epoch)


def _epoch(path: Path) -> int:
    found = re.fullmatch(r"state-epoch(\d+)", path.stem)
    return int(found[1]) if found else -1
