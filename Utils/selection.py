"""Which epoch is reported, and when training stops; decided by validation metrics alone."""

from Utils.errors import require_known
from Utils.split import Protocol


class Selection:
    """Follows validation metrics from one evaluation to the next, by a rule of the protocol.

    ``paper``: the epoch with the best value of one metric is reported for all of them, and training
    stops after so many evaluations without a better one (by leave-one-out: H@5 and 30; DE-RRD
    paper, section 5.1).

    ``published_code``, by leave-one-out: H, N and M at each N of 5, 10, 20 are reported from the
    epoch with the best validation H@N, so one row may mix three epochs, and training stops after 20
    evaluations in which none of the three improved. For comparison with the published logs only.
    """

    def __init__(self, rule: str, protocol: Protocol, patience: int | None = None) -> None:
        require_known("--selection", rule, protocol.rules)
        self.cutoffs, usual = protocol.rules[rule]
        self.patience = usual if patience is None else patience
        self.letter = protocol.letters[0]
        self.best = dict.fromkeys(self.cutoffs, -1.0)
        self.epochs = dict.fromkeys(self.cutoffs, -1)  # N -> its best epoch
        self.evaluations = self.improved_at = 0

    def update(self, epoch: int, values: dict[str, float]) -> bool:
        """Take in an evaluation (``valid_H@5``, ...); return whether the weights are to be kept."""
        self.evaluations += 1
        for n in self.cutoffs:
            value = values[f"valid_{self.letter}@{n}"]
            if value > self.best[n]:
                self.best[n], self.epochs[n] = value, epoch
                self.improved_at = self.evaluations
        return self.best_epoch == epoch

    @property
    def best_epoch(self) -> int:
        """The best epoch of the selecting metric: the one whose weights and ranks are kept."""
        return self.epochs[self.cutoffs[0]]

    @property
    def stops(self) -> bool:
        """Whether training ends here."""
        return self.evaluations - self.improved_at >= self.patience

    def epoch_for(self, n: int) -> int:
        """Return the epoch from which metrics at cut-off ``n`` are reported."""
        return self.epochs.get(n, self.best_epoch)
