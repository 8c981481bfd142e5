"""RRD, Relaxed Ranking Distillation (URRD where there is an item side as well).

    python main_URRD.py                                 # d = 20 from 200; trains a missing teacher
    python main_URRD.py --interesting top               # no sampling among the teacher's best

Departures from the DE-RRD paper (section 4.2), all as in its authors' code; with --variant paper,
1 and 2 are as in the paper:
1. The loss is a sum over the batch's distinct users, not a mean: lambda 0.001 here is about 0.7 for
   the mean, as a batch has some 700 distinct users.
2. Uninteresting items come from outside the teacher's first 500; the paper takes them from all
   items that rank below the interesting ones drawn.
3. Interesting items come from the teacher's first 500 (their weights fall to e^-50 there).
4. Equation 9 as printed counts item K twice; the second sum is over the L uninteresting items.
The authors later report that leaving out the sampling of interesting items helps.
"""

from dataclasses import dataclass
from typing import Literal

from experiments.settings import with_defaults
from experiments.teacher import load_teacher
from Models import new_model
from Models.distillers import RRD
from Models.low_rank import require_assignable, spectral_start
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
    # of the split, the first weights, the batches, the negatives and the lists
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
    # first weights: small random ones, or the teacher's best low-rank approximation
    start: Literal["random", "spectral"] = "random"
    # weight of the distillation loss, lambda_RRD; 0.001 goes with a sum over users
    lmbda_RRD: float | None = None
    # interesting items a user, in the teacher's order
    K: int | None = None
    # uninteresting items a user
    L: int | None = None
    # the k-th item of the teacher's list is drawn with weight exp(-k / T)
    T: float | None = None
    # length of the teacher's lists, from which interesting ones are drawn
    pool: int = 500
    # sampled: the method; top: the teacher's first K
    interesting: Literal["sampled", "top"] = "sampled"
    # relaxed: the method; the others are the ablations (d) and (e) of the paper's table 4
    ranking: Literal["relaxed", "full", "interesting"] = "relaxed"
    # formulas of the published code, or of the paper: see the departures above
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


# ---------------------------------------------------------------------------------------------


def main(args: Settings) -> None:
    """Run the experiment."""
    args = with_defaults("URRD", args)
    device = use_device(args)
    split = load_split(args.dataset, args.split, args.seed, args.data_dir)
    if is_finished("URRD", args, split):
        return
    student = new_model(args, split).to(device)
    if args.start == "spectral":
        require_assignable(student)
    teacher = load_teacher(args, split, device)
    if args.start == "spectral":
        spectral_start(student, teacher)
    distiller = RRD(
        student,
        teacher,
        args.K,
        args.L,
        args.T,
        args.pool,
        args.interesting,
        args.ranking,
        args.variant,
        args.seed,
    )
    sampler = PairSampler(split, args.batch_size, args.seed, device)

    with Run("URRD", args, split, student, distiller, teacher=teacher) as run:
        for epoch in run.epochs():
            distiller.begin_epoch(epoch)
            for batch in sampler.epoch(epoch):
                base, kd = student.loss(*batch), distiller.loss(batch)
                run.step(base + args.lmbda_RRD * kd, base=base, RRD=kd)
            run.evaluate()


if __name__ == "__main__":
    launch(main, Settings, __doc__)
