"""IR-RRD: RRD, and for each item the teacher's order of users.

    python main_IRRRD.py                                # d = 20 from 200; trains a missing teacher
    python main_IRRRD.py --lmbda_IR 0.001

The formulas are those of the published code; this paper's text (Information Sciences 580, 2021) was
not at hand to compare. For RRD's own departures see main_URRD.py.
"""

from dataclasses import dataclass
from typing import Literal

from experiments.script import Device, DistillationSettings, launch
from experiments.teacher import load_teacher
from Models import new_model
from Models.distillers import RRD, ItemSideRRD
from Utils.run import Run
from Utils.split import Split


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings(DistillationSettings):
    """The hyperparameters, for CiteULike and BPR: those of the authors' published run."""

    dim: int = 20  # size of the representations, d: the paper has 20 from 200 (NeuMF: 25 from 250)
    lmbda_RRD: float = 0.001  # weight of the user side, lambda_U; goes with a sum over users
    K: int = 40  # interesting items a user, in the teacher's order
    L: int = 40  # uninteresting items a user
    T: float = 10.0  # the k-th item of the teacher's list is drawn with weight exp(-k / T)
    pool: int = 500  # length of the teacher's lists of items and of users
    # sampled: the method; top: the teacher's first K, and K_I
    interesting: Literal["sampled", "top"] = "sampled"
    # relaxed: the method; the others are the ablations (d) and (e) of the paper's table 4
    ranking: Literal["relaxed", "full", "interesting"] = "relaxed"
    lmbda_IR: float = 0.0005  # weight of the item side, lambda_I
    K_I: int = 20  # interesting users an item
    L_I: int = 20  # uninteresting users an item
    T_I: float = 10.0  # the k-th user of the teacher's list is drawn with weight exp(-k / T_I)
    lr: float = 0.001  # learning rate of Adam
    reg: float = 0.001  # weight decay of Adam, on all parameters
    batch_size: int = 1024  # training pairs a step, each with one negative


# ---------------------------------------------------------------------------------------------


def main(args: Settings, split: Split, device: Device) -> None:
    """Run the experiment."""
    student = new_model(args, split, device, RRD, ItemSideRRD)
    teacher = load_teacher(args, split, device)
    user_side = RRD(
        student, teacher, K=args.K, L=args.L, T=args.T, pool=args.pool,
        interesting=args.interesting, ranking=args.ranking, seed=args.seed,
    )  # fmt: skip
    item_side = ItemSideRRD(
        user_side, student, teacher, K=args.K_I, L=args.L_I, T=args.T_I, pool=args.pool,
        interesting=args.interesting, seed=args.seed,
    )  # fmt: skip
    sampler = student.sampler(split, args.batch_size, args.seed, device)

    with Run(args, split, student, user_side, item_side, teachers=[teacher]) as run:
        for epoch in run.epochs():
            for batch in sampler.epoch(epoch):
                base, rrd, ir = student.loss(batch), user_side.loss(batch), item_side.loss(batch)
                loss = base + args.lmbda_RRD * rrd + args.lmbda_IR * ir
                run.step(loss, base=base, RRD=rrd, IR=ir)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
