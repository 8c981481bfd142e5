"""RCE-KD, Rejuvenated Cross-Entropy: a softmax over the student's best items and the teacher's.

    python main_RCEKD.py                                # d = 20 from 200; trains a missing teacher
    python main_RCEKD.py --L 100                        # more of the student's items beside them

The formulas are those of the authors' code. Departures and choices:
1. Training items are outside both lists, as for the other methods here; the authors leave them in.
2. The loss is a sum over the batch's distinct users; the authors count a user once a pair.
3. lambda: theirs is 500 beside the mean base loss of 2,048 pairs, which is 500 * 2,048, or about a
   million, beside the sum that the base loss is here. That leaves the teacher alone: neither the
   base loss nor the weight decay, which is added to the gradient, counts beside it. Ours is of a
   size at which both do.
4. The weight of a place grows with at most 50 of the teacher's items below it, as theirs; that acts
   with a K above 50 alone.
5. Weight decay and batch size are those of BPR here; theirs are 1e-5 and 2,048.
"""

from dataclasses import dataclass

from experiments.script import Device, DistillationSettings, launch
from experiments.teacher import load_teacher
from Models import new_model
from Models.distillers import RCEKD
from Utils.run import Run
from Utils.split import Split


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings(DistillationSettings):
    """For CiteULike and BPR: the authors' K to tau for this pair; lambda is a first guess."""

    dim: int = 20  # size of the representations, d
    lmbda_RCE: float = 1.0  # weight of the distillation loss, lambda; goes with a sum over users
    K: int = 50  # first items of the student, P, and of the teacher, Q
    L: int = 50  # items drawn from the student's list, E
    pool: int = 200  # length of that list
    # a place in it with n of Q there or below is drawn with weight exp((1 + n) / T)
    T: float = 10.0
    beta: float = 3.0  # share of the loss over E and Q: exp(-beta |Q and E| / K)
    tau: float = 1.0  # temperature of the scores of both
    lr: float = 0.001  # learning rate of Adam
    reg: float = 0.001  # weight decay of Adam, on all parameters
    batch_size: int = 1024  # training pairs a step, each with one negative


# ---------------------------------------------------------------------------------------------


def main(args: Settings, split: Split, device: Device) -> None:
    """Run the experiment."""
    student = new_model(args, split, device, RCEKD)
    teacher = load_teacher(args, split, device)
    distiller = RCEKD(
        student, teacher, K=args.K, L=args.L, pool=args.pool, T=args.T, beta=args.beta,
        tau=args.tau, seed=args.seed,
    )  # fmt: skip
    sampler = student.sampler(split, args.batch_size, args.seed, device)

    with Run(args, split, student, distiller, teachers=[teacher]) as run:
        for epoch in run.epochs():
            for batch in sampler.epoch(epoch):
                base, kd = student.loss(batch), distiller.loss(batch)
                run.step(base + args.lmbda_RCE * kd, base=base, RCE=kd)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
