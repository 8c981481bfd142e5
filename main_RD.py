"""RD, Ranking Distillation: the teacher's best items are further positives for the student.

    python main_RD.py                                   # d = 20 from 200; trains a missing teacher
    python main_RD.py --model NeuMF                     # d = 25 from 250

Departures from the RD paper (section 3), 1 and 2 as the DE-RRD paper (section 2) tells it:
1. The loss is L_base + lambda L_RD, not (1 - alpha) L_base + alpha L_RD.
2. Base models are BPR and NeuMF, not Caser and Fossil; a user has one list, not one a sequence.
3. L_RD is a sum over the batch's distinct users, as the other methods here; the paper's is of one.
4. The teacher's items are outside all of the user's training items; its code excludes only the item
   at hand.
5. The hybrid weights do not sum to 1 again, as in the authors' code, which the DE-RRD paper used;
   with --variant paper they do.
6. The rank of an item is 1 + floor((items - 1) n / N), as in the code; the paper's is not known.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from experiments.settings import with_defaults
from experiments.teacher import load_teacher
from Models import new_model
from Models.distillers import RD
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
    # of the split, the first weights, the batches, the negatives and the items drawn
    seed: int = 0
    # base model of teacher and student: BPR or NeuMF
    model: str = "BPR"
    # size of the student's representations, d_s: 20 (NeuMF: 25) is phi = 0.1
    dim: int | None = None
    # hidden layers of NeuMF, each half as wide as the one before
    num_layers: int | None = None
    # size of the teacher's representations, d_t: 200 (NeuMF: 250)
    teacher_dim: int | None = None
    # checkpoint of a teacher, or its folder; empty: the run of main_no_KD.py on the same split
    teacher: str = ""
    # weight of the distillation loss, lambda
    lmbda_RD: float | None = None
    # items of the teacher's list
    K: int | None = None
    # the weight of the r-th item is exp(-r / T), normalised; lambda in the RD paper
    T: float | None = None
    # how fast the weight grows with the number of ranks that the student is off
    mu: float | None = None
    # sampled items by which the student's rank is estimated, epsilon
    num_samples: int | None = None
    # epochs before the discrepancy between the ranks counts
    warm_up: int | None = None
    # after the warm-up, the weights of a user's items sum to 1 again (paper), or not
    variant: Literal["published_code", "paper"] = "published_code"
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

    from_zero: ClassVar[tuple[str, ...]] = (*RunSettings.from_zero, "warm_up")


# ---------------------------------------------------------------------------------------------


def main(args: Settings) -> None:
    """Run the experiment."""
    args = with_defaults("RD", args)
    device = use_device(args)
    split = load_split(args.dataset, args.split, args.seed, args.data_dir)
    if is_finished("RD", args, split):
        return
    student = new_model(args, split).to(device)
    teacher = load_teacher(args, split, device)
    distiller = RD(
        student,
        teacher,
        args.K,
        args.T,
        args.mu,
        args.num_samples,
        args.warm_up,
        args.variant,
        args.seed,
    )
    sampler = PairSampler(split, args.batch_size, args.seed, device)

    with Run("RD", args, split, student, distiller, teacher=teacher) as run:
        for epoch in run.epochs():
            distiller.begin_epoch(epoch)
            for batch in sampler.epoch(epoch):
                base, kd = student.loss(*batch), distiller.loss(batch)
                run.step(base + args.lmbda_RD * kd, base=base, RD=kd)
            run.evaluate()


if __name__ == "__main__":
    launch(main, Settings, __doc__)
