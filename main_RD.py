"""RD, Ranking Distillation: the teacher's best items are further positives for the student.

    python main_RD.py                                   # d = 20 from 200; trains a missing teacher
    python main_RD.py --model Caser --dataset Toys      # after sequences, d = 50 from 100

Departures from the RD paper (section 3), 1 and 2 as the DE-RRD paper (section 2) tells it:
1. The loss is L_base + lambda L_RD, not (1 - alpha) L_base + alpha L_RD.
2. Base models are those of the README, not Caser and Fossil alone; where they know no order, a user
   has one list, not one for each training sequence.
3. L_RD is a sum over the batch's distinct users or sequences, as the other methods here; the
   paper's is of one.
4. The teacher's items are outside all of the user's training items; its code excludes only the item
   at hand.
5. The hybrid weights do not sum to 1 again, as in the authors' code, which the DE-RRD paper used;
   with --variant paper they do.
6. The rank of an item is 1 + floor((items - 1) n / N), as in the code; the paper's is not known.

In the authors' code, lmbda_RD is teach_alpha, T is lamda, num_samples is dynamic_samples and
warm_up is dynamic_start_epoch.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from experiments.script import Device, DistillationSettings, launch
from experiments.teacher import load_teacher
from Models import new_model
from Models.distillers import RD
from Utils.run import Run
from Utils.split import Split


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings(DistillationSettings):
    """For CiteULike and BPR: the best of 3 runs in experiments/tuning/CiteULike-BPR-RD-d20.csv."""

    dim: int = 20  # size of the representations, d: the paper has 20 from 200 (NeuMF: 25 from 250)
    lmbda_RD: float = 0.01  # weight of the distillation loss, lambda
    K: int = 30  # items of the teacher's list
    T: float = 10.0  # the r-th item weighs exp(-r / T), normalised; lambda in the RD paper
    mu: float = 0.1  # how fast the weight grows with the number of ranks that the student is off
    num_samples: int = 100  # sampled items by which the student's rank is estimated, epsilon
    warm_up: int = 30  # epochs before the discrepancy between the ranks counts
    # after the warm-up, the weights of a user's items sum to 1 again (paper), or not
    variant: Literal["published_code", "paper"] = "published_code"
    # hybrid: the method; the others are the ablation of the RD paper's section 4.4
    weights: Literal["hybrid", "position", "discrepancy", "uniform"] = "hybrid"
    lr: float = 0.001  # learning rate of Adam
    reg: float = 0.001  # weight decay of Adam, on all parameters
    batch_size: int = 1024  # training pairs a step, each with one negative

    from_zero: ClassVar[tuple[str, ...]] = (*DistillationSettings.from_zero, "warm_up")


# ---------------------------------------------------------------------------------------------


def main(args: Settings, split: Split, device: Device) -> None:
    """Run the experiment."""
    student = new_model(args, split, device, RD)
    teacher = load_teacher(args, split, device)
    distiller = RD(
        student, teacher, K=args.K, T=args.T, mu=args.mu, num_samples=args.num_samples,
        warm_up=args.warm_up, variant=args.variant, weights=args.weights, seed=args.seed,
    )  # fmt: skip
    sampler = student.sampler(split, args.batch_size, args.seed, device)

    with Run(args, split, student, distiller, teachers=[teacher]) as run:
        for epoch in run.epochs():
            for batch in sampler.epoch(epoch):
                base, kd = student.loss(batch), distiller.loss(batch)
                run.step(base + args.lmbda_RD * kd, base=base, RD=kd)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
