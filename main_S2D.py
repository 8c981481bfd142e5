"""S2D, spectral softmax distillation, ours: a softmax over the catalogue from a spectral start.

    python main_S2D.py                                  # d = 20 from 200; trains a missing teacher
    python main_S2D.py --start random                   # without the spectral start
    python main_S2D.py --w 1 --start random             # no teacher at all
    python main_S2D.py --model NeuMF                    # a NeuMF teacher
    python main_S2D.py --teacher als.npz                # one that was trained elsewhere

The student's scores are inner products (BPR's), the teacher's are those of any base model. The
student starts from the best low-rank approximation of the teacher's scores. Then its softmax over
all items learns, in the share 1 - w, the teacher's first K outside the training set, in the
proportions softmax(t / tau) of their scores t, and in the share w the user's training items.

    python main_S2D.py --dataset Toys --model Caser     # a student of sequences, as its teacher is

There, windows of training take the place of users, and there is no spectral start.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from experiments.script import Device, TeacherSettings, TrainingSettings, launch
from experiments.teacher import load_teacher
from Models import MODELS, build_model
from Models.distillers import S2D
from Models.low_rank import require_assignable, spectral_start
from Utils.dataset import UserSampler
from Utils.run import Run
from Utils.split import Split


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings(TrainingSettings, TeacherSettings):
    """For CiteULike, BPR: the best of 13 runs in experiments/tuning/CiteULike-BPR-S2D-d20.csv."""

    dim: int = 20  # size of the representations, d: the paper has 20 from 200 (NeuMF: 25 from 250)
    # first weights: the teacher's best low-rank approximation, or small random ones
    start: Literal["spectral", "random"] = "spectral"
    w: float = 0.3  # share of the data in the loss, from 0 (the teacher alone) to 1 (no teacher)
    K: int = 300  # how many of the teacher's first items are learned
    tau: float = 4.0  # temperature of their scores
    # 0: the softmax is over all items; else over the learned ones and so many drawn for a batch,
    # which --optimizer rows needs
    num_samples: int = 0
    lr: float = 0.01  # learning rate of Adam
    reg: float = 1e-5  # weight decay of Adam, on all parameters
    batch_size: int = 256  # users a step, each with the scores of all items
    on_several = True  # processes may share it: its loss is a sum over users

    from_zero: ClassVar[tuple[str, ...]] = (*TrainingSettings.from_zero, "num_samples")
    shares: ClassVar[tuple[str, ...]] = (*TrainingSettings.shares, "w")


# ---------------------------------------------------------------------------------------------


def main(args: Settings, split: Split, device: Device) -> None:
    """Run the experiment."""
    base = args.model if MODELS[args.model].in_order else "BPR"
    student = build_model(base, split, args.dim, args.seed).to(device)
    if args.start == "spectral":
        require_assignable(student)
    teacher = load_teacher(args, split, device)
    if args.start == "spectral":
        spectral_start(student, teacher)
    distiller = S2D(
        student, teacher, K=args.K, tau=args.tau, num_samples=args.num_samples, seed=args.seed
    )
    sampler = UserSampler(student.asked(split), args.batch_size, args.seed, device)

    with Run(args, split, student, distiller, teachers=[teacher]) as run:
        for epoch in run.epochs():
            for batch in sampler.epoch(epoch):
                hard, soft = distiller.losses(batch)
                run.step(args.w * hard + (1 - args.w) * soft, hard=hard, soft=soft)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
