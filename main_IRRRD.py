"""IR-RRD: RRD, and for each item the teacher's order of users.

    python main_IRRRD.py                                # d = 20 from 200; trains a missing teacher
    python main_IRRRD.py --lmbda_IR 0.001

The formulas are those of the published code; this paper's text (Information Sciences 580, 2021) was
not at hand to compare. For RRD's own departures see main_URRD.py.
"""

from dataclasses import dataclass
from typing import Literal

from experiments.settings import with_defaults
from experiments.teacher import load_teacher
from Models import new_model
from Models.distillers import RRD, ItemSideRRD
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
    # weight of the user side, lambda_U; 0.001 goes with a sum over users
    lmbda_RRD: float | None = None
    # interesting items a user, in the teacher's order
    K: int | None = None
    # uninteresting items a user
    L: int | None = None
    # the k-th item of the teacher's list is drawn with weight exp(-k / T)
    T: float | None = None
    # length of the teacher's lists of items and of users
    pool: int = 500
    # sampled: the method; top: the teacher's first K, and K_I
    interesting: Literal["sampled", "top"] = "sampled"
    # relaxed: the method; the others are the ablations (d) and (e) of the paper's table 4
    ranking: Literal["relaxed", "full", "interesting"] = "relaxed"
    # weight of the item side, lambda_I
    lmbda_IR: float | None = None
    # interesting users an item
    K_I: int | None = None
    # uninteresting users an item
    L_I: int | None = None
    # the k-th user of the teacher's list is drawn with weight exp(-k / T_I)
    T_I: float | None = None
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
    args = with_defaults("IRRRD", args)
    device = use_device(args)
    split = load_split(args.dataset, args.split, args.seed, args.data_dir)
    if is_finished("IRRRD", args, split):
        return
    student = new_model(args, split).to(device)
    teacher = load_teacher(args, split, device)
    user_side = RRD(
        student,
        teacher,
        args.K,
        args.L,
        args.T,
        args.pool,
        args.interesting,
        args.ranking,
        seed=args.seed,
    )
    item_side = ItemSideRRD(
        user_side,
        student,
        teacher,
        args.K_I,
        args.L_I,
        args.T_I,
        args.pool,
        args.interesting,
        args.seed,
    )
    sampler = PairSampler(split, args.batch_size, args.seed, device)

    with Run("IRRRD", args, split, student, user_side, item_side, teacher=teacher) as run:
        for epoch in run.epochs():
            user_side.begin_epoch(epoch)
            item_side.begin_epoch(epoch)
            for batch in sampler.epoch(epoch):
                base, rrd, ir = student.loss(*batch), user_side.loss(batch), item_side.loss(batch)
                loss = base + args.lmbda_RRD * rrd + args.lmbda_IR * ir
                run.step(loss, base=base, RRD=rrd, IR=ir)
            run.evaluate()


if __name__ == "__main__":
    launch(main, Settings, __doc__)
