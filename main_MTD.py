"""MTD, here multi-teacher ranking distillation: each teacher's first items, matched apart.

    python main_MTD.py --teachers BPR,iALS              # d = 20; trains missing teachers
    python main_MTD.py                                  # one teacher: RRD without sampling

HetComp (WWW 2023) compares a method of this name; what it is was not found. This one is ours:
1. The loss is the mean over the teachers of RRD's, each with the weight 1 / (number of teachers):
   no teacher's scores are compared with another's, and none is weighed by how good it is.
2. Of each teacher the first K items are ranked, without sampling, as the comparison there is said
   to do; L others are drawn once an epoch from outside this teacher's first 500, so that what one
   teacher ranks may be among those that another does not.
3. For RRD's own departures see main_URRD.py.
"""

from dataclasses import dataclass

from experiments.script import Device, DistillationSettings, launch
from experiments.teacher import load_teacher
from Models import new_model
from Models.distillers import RRD
from Utils.run import Run
from Utils.split import Split


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings(DistillationSettings):
    """First guesses, for CiteULike and BPR: those of RRD's published run, see main_URRD.py."""

    dim: int = 20  # size of the representations, d: the paper has 20 from 200 (NeuMF: 25 from 250)
    lmbda_MTD: float = 0.001  # weight of the distillation loss; goes with a sum over users
    K: int = 40  # first items of each teacher, in its order
    L: int = 40  # uninteresting items a user and teacher
    pool: int = 500  # length of a teacher's lists, outside of which these are drawn
    lr: float = 0.001  # learning rate of Adam
    reg: float = 0.001  # weight decay of Adam, on all parameters
    batch_size: int = 1024  # training pairs a step, each with one negative


# ---------------------------------------------------------------------------------------------


def main(args: Settings, split: Split, device: Device) -> None:
    """Run the experiment."""
    student = new_model(args, split, device, RRD)
    teacher = load_teacher(args, split, device)
    distillers = [
        RRD(
            student, member, K=args.K, L=args.L, T=1.0, pool=args.pool, interesting="top",
            seed=args.seed, name=str(place or ""),
        )
        for place, member in enumerate(teacher.members)
    ]  # fmt: skip
    sampler = student.sampler(split, args.batch_size, args.seed, device)

    with Run(args, split, student, *distillers, teachers=[teacher]) as run:
        for epoch in run.epochs():
            for batch in sampler.epoch(epoch):
                base = student.loss(batch)
                kd = sum(each.loss(batch) for each in distillers) / len(distillers)
                run.step(base + args.lmbda_MTD * kd, base=base, MTD=kd)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
