"""Which epoch is reported, and when training stops; decided by validation metrics alone."""

from Utils.evaluation import CUTOFFS

# Rule -> the cut-offs N whose H@N is tracked, each with an epoch of its own, and the patience.
RULES = {"paper": ((5,), 30), "published_code": (CUTOFFS, 20)}


class Selection:
    """Follows validation H@N epoch by epoch.

    ``paper``: the epoch with the best validation H@5 is reported for all metrics, and training
    stops after 30 epochs without a better one (DE-RRD paper, section 5.1).

    ``published_code``: H, N and M at each N of 5, 10, 20 are reported from the epoch with the best
    validation H@N, so one row may mix three epochs, and training stops after 20 epochs in which
    none of the three improved. For comparison with the published logs only.
    """

    def __init__(self, rule: str, patience: int | None = None) -> None:
        self.cutoffs, usual = RULES[rule]
        self.patience = usual if patience is None else patience
        self.best = dict.fromkeys(self.cutoffs, -1.0)
        self.epochs = dict.fromkeys(self.cutoffs, -1)  # N -> its best epoch

    def update(self, epoch: int, values: dict[str, float]) -> bool:
        """Take in an epoch's metrics (``valid_H@5``, ...); return whether its H@5 is the best."""
        for n in self.cutoffs:
            if values[f"valid_H@{n}"] > self.best[n]:
                self.best[n], self.epochs[n] = values[f"valid_H@{n}"], epoch
        return self.best_epoch == epoch

    @property
    def best_epoch(self) -> int:
        """The epoch of the best validation H@5: the one whose weights and ranks are kept."""
        return self.epochs[5]

    def stops(self, epoch: int) -> bool:
        """Return whether training ends after this epoch."""
        return epoch - max(self.epochs.values()) >= self.patience

    def epoch_for(self, n: int) -> int:
        """Return the epoch from which metrics at cut-off ``n`` are reported."""
        return self.epochs.get(n, self.best_epoch)
