"""UnKD, Unbiased Knowledge Distillation: the teacher's order among items of similar popularity.

    python main_UnKD.py                                 # d = 20 from 200; trains a missing teacher
    python main_UnKD.py --num_groups 1                  # pairs of any popularity

Departures, and choices where the authors' formulas leave them open:
1. Popularity is the number of training users. Groups have equal total popularity as far as items
   allow: of equal popularity, they go by their ids; one that lies across a border is in the less
   popular group.
2. Pairs are shared out over the groups in turn, the least popular first: equally, which is an
   exponent of 0 for the authors' weights of the groups.
3. The two items of a pair are drawn one after the other; pairs of a user may repeat.
4. The loss is a mean over a user's pairs and a sum over the batch's distinct users, beside a base
   loss that is a sum over pairs; the authors' lambda is 1.
"""

from dataclasses import dataclass

from experiments.script import Device, DistillationSettings, launch
from experiments.teacher import load_teacher
from Models import new_model
from Models.distillers import UnKD
from Utils.run import Run
from Utils.split import Split


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings(DistillationSettings):
    """For CiteULike and BPR: the authors' numbers for another data set; lambda is a first guess."""

    dim: int = 20  # size of the representations, d
    lmbda_UnKD: float = 0.2  # weight of the distillation loss; goes with a sum over users
    num_groups: int = 4  # groups of items by popularity, G
    num_pairs: int = 30  # pairs of items of a user and epoch, n, in all groups together
    pool: int = 1000  # the teacher's first items of a group, from which pairs are drawn
    T: float = 20.0  # the k-th of them is drawn with weight exp(-k / T)
    lr: float = 0.001  # learning rate of Adam
    reg: float = 0.001  # weight decay of Adam, on all parameters
    batch_size: int = 1024  # training pairs a step, each with one negative


# ---------------------------------------------------------------------------------------------


def main(args: Settings, split: Split, device: Device) -> None:
    """Run the experiment."""
    student = new_model(args, split, device, UnKD)
    teacher = load_teacher(args, split, device)
    distiller = UnKD(
        student, teacher, num_groups=args.num_groups, num_pairs=args.num_pairs, pool=args.pool,
        T=args.T, seed=args.seed,
    )  # fmt: skip
    sampler = student.sampler(split, args.batch_size, args.seed, device)

    with Run(args, split, student, distiller, teachers=[teacher]) as run:
        for epoch in run.epochs():
            for batch in sampler.epoch(epoch):
                base, kd = student.loss(batch), distiller.loss(batch)
                run.step(base + args.lmbda_UnKD * kd, base=base, UnKD=kd)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
