"""Train a base model on the interactions alone: a teacher or a student without distillation.

    python main_no_KD.py                                # a student, d = 20
    python main_no_KD.py --dim 200                      # a teacher, d = 200

Departures from the DE-RRD paper (section 5.1), all as in its authors' code:
1. Items are not filtered by count; the published data set has items with a single user.
2. Weight decay acts on every row at every step, not on the rows of the batch alone.
3. Held-out items may be drawn as negatives in training.
"""

from dataclasses import dataclass
from typing import Literal

from experiments.settings import with_defaults
from Models import new_model
from Utils.data_utils import load_split
from Utils.dataset import PairSampler
from Utils.run import Run, is_finished
from Utils.settings import RunSettings, launch, use_device


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings(RunSettings):
    """The hyperparameters; None is the tuned value, of a row in experiments/settings.csv."""

    # data set; synthetic is built in
    dataset: Literal["CiteULike", "Foursquare", "synthetic"] = "CiteULike"
    # our own split of this seed, or the one that the DE-RRD authors published (CiteULike only)
    split: Literal["seed", "published"] = "seed"
    # of the split, the first weights, the batches and the negatives
    seed: int = 0
    # base model: BPR or NeuMF
    model: str = "BPR"
    # size of the representations, d: 200 (NeuMF: 250) is the paper's teacher, 20 (25) its student
    dim: int | None = None
    # hidden layers of NeuMF, each half as wide as the one before
    num_layers: int | None = None
    # learning rate of Adam
    lr: float | None = None
    # weight decay of Adam, on all parameters
    reg: float | None = None
    # training pairs a step, each with one negative
    batch_size: int | None = None
    # most epochs to train
    max_epoch: int = 1000
    # paper: best validation H@5; published_code: an epoch for each of H@5, H@10, H@20
    selection: Literal["paper", "published_code"] = "paper"
    # epochs without improvement before training stops; None: 30 for paper, 20 for published_code
    patience: int | None = None


# ---------------------------------------------------------------------------------------------


def main(args: Settings) -> None:
    """Run the experiment."""
    args = with_defaults("no_KD", args)
    device = use_device(args)
    split = load_split(args.dataset, args.split, args.seed, args.data_dir)
    if is_finished("no_KD", args, split):
        return
    model = new_model(args, split).to(device)
    sampler = PairSampler(split, args.batch_size, args.seed, device)

    with Run("no_KD", args, split, model) as run:
        for epoch in run.epochs():
            for batch in sampler.epoch(epoch):
                run.step(model.loss(*batch))
            run.evaluate()


if __name__ == "__main__":
    launch(main, Settings, __doc__)
