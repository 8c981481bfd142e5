"""CD, Collaborative Distillation: the student regresses the teacher's probabilities of items.

    python main_CD.py                                   # d = 20 from 200; trains a missing teacher
    python main_CD.py --sampling student                # CD-SG: the student's ranking, not CD-TG

Departures from the CD paper, 1 to 3 as the DE-RRD paper (sections 2 and 5.1) tells it:
1. The base loss keeps its negatives, as for the other methods here; CD has positives only.
2. The base models are BPR and NeuMF, whose scores are logits here; CD has CDAE and Caser.
3. The weight of the k-th item is exp(-k / T): CD's exponential one with gamma = items / T. Its
   linear one is left out.
4. L_CD is a sum over the batch's distinct users.
5. The items drawn come from the first 500 of the list (T of 20 leaves e^-25 beyond).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from experiments.script import Device, DistillationSettings, launch
from experiments.teacher import load_teacher
from Models import new_model
from Models.distillers import CD
from Utils.run import Run
from Utils.split import Split


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings(DistillationSettings):
    """For CiteULike and BPR: the best of 3 runs in experiments/tuning/CiteULike-BPR-CD-d20.csv."""

    dim: int = 20  # size of the representations, d: the paper has 20 from 200 (NeuMF: 25 from 250)
    lmbda_CD: float = 0.01  # weight of the distillation loss, lambda
    K: int = 30  # items drawn for a user
    T: float = 10.0  # the k-th item of the list is drawn with weight exp(-k / T)
    T1: float = 1.0  # scale and shift of the teacher's logits: q = sigmoid((t + T2) / T1)
    T2: float = 0.0  # the shift, of any sign
    # whose list: the teacher's (CD-TG), the student's (CD-SG), or none (CD-Base)
    sampling: Literal["teacher", "student", "uniform"] = "teacher"
    pool: int = 500  # length of the list
    refresh: int = 10  # epochs after which the student's list is made anew
    lr: float = 0.001  # learning rate of Adam
    reg: float = 0.001  # weight decay of Adam, on all parameters
    batch_size: int = 1024  # training pairs a step, each with one negative

    any_sign: ClassVar[tuple[str, ...]] = (*DistillationSettings.any_sign, "T2")


# ---------------------------------------------------------------------------------------------


def main(args: Settings, split: Split, device: Device) -> None:
    """Run the experiment."""
    student = new_model(args, split, device, CD)
    teacher = load_teacher(args, split, device)
    distiller = CD(
        student, teacher, K=args.K, T=args.T, T1=args.T1, T2=args.T2, sampling=args.sampling,
        pool=args.pool, refresh=args.refresh, seed=args.seed,
    )  # fmt: skip
    sampler = student.sampler(split, args.batch_size, args.seed, device)

    with Run(args, split, student, distiller, teachers=[teacher]) as run:
        for epoch in run.epochs():
            for batch in sampler.epoch(epoch):
                base, kd = student.loss(batch), distiller.loss(batch)
                run.step(base + args.lmbda_CD * kd, base=base, CD=kd)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
