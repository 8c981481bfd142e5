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

from experiments.script import Device, DistillationSettings, launch
from experiments.teacher import load_teacher
from Models import new_model
from Models.distillers import RRD
from Models.low_rank import require_assignable, spectral_start
from Utils.run import Run
from Utils.split import Split


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings(DistillationSettings):
    """The hyperparameters, for CiteULike and BPR: those of the authors' published run."""

    dim: int = 20  # size of the representations, d: the paper has 20 from 200 (NeuMF: 25 from 250)
    # first weights: small random ones, or the teacher's best low-rank approximation
    start: Literal["random", "spectral"] = "random"
    lmbda_RRD: float = 0.001  # weight of the distillation loss; goes with a sum over users
    K: int = 40  # interesting items a user, in the teacher's order
    L: int = 40  # uninteresting items a user
    T: float = 10.0  # the k-th item of the teacher's list is drawn with weight exp(-k / T)
    pool: int = 500  # length of the teacher's lists, from which interesting ones are drawn
    # sampled: the method; top: the teacher's first K
    interesting: Literal["sampled", "top"] = "sampled"
    # relaxed: the method; the others are the ablations (d) and (e) of the paper's table 4
    ranking: Literal["relaxed", "full", "interesting"] = "relaxed"
    # formulas of the published code, or of the paper: see the departures above
    variant: Literal["published_code", "paper"] = "published_code"
    lr: float = 0.001  # learning rate of Adam
    reg: float = 0.001  # weight decay of Adam, on all parameters
    batch_size: int = 1024  # training pairs a step, each with one negative
    on_several = True  # processes may share it: its loss is a sum over users


# ---------------------------------------------------------------------------------------------


def main(args: Settings, split: Split, device: Device) -> None:
    """Run the experiment."""
    student = new_model(args, split, device, RRD)
    if args.start == "spectral":
        require_assignable(student)
    teacher = load_teacher(args, split, device)
    if args.start == "spectral":
        spectral_start(student, teacher)
    distiller = RRD(
        student, teacher, K=args.K, L=args.L, T=args.T, pool=args.pool,
        interesting=args.interesting, ranking=args.ranking, variant=args.variant, seed=args.seed,
    )  # fmt: skip
    sampler = student.sampler(split, args.batch_size, args.seed, device)

    with Run(args, split, student, distiller, teachers=[teacher]) as run:
        for epoch in run.epochs():
            for batch in sampler.epoch(epoch):
                base, kd = student.loss(batch), distiller.loss(batch)
                run.step(base + args.lmbda_RRD * kd, base=base, RRD=kd)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
