"""CL-DRD, a curriculum of rankings: the teacher's first 30, in a finer order at each stage.

    python main_CLDRD.py                                # d = 20 from 200; trains a missing teacher
    python main_CLDRD.py --stage_epochs 10

It was made to distil a re-ranker of passages into a retriever. Choices, made for recommendation:
1. A user stands for a query, and the teacher's first 30 items outside the training set for its
   passages; nothing is sampled.
2. It is a term beside the base loss, summed over the batch's distinct users.
3. The stages are 5 ranked, then bands of 12 and 13; 10, 10 and 10; 20, 5 and 5: as read from the
   published code, for the paper's text was not at hand; the code has 30 ranked as another last one.
4. A stage ends after --stage_epochs epochs; the labels of the last one then stay.
"""

from dataclasses import dataclass

from experiments.script import Device, DistillationSettings, launch
from experiments.teacher import load_teacher
from Models import new_model
from Models.distillers import CLDRD
from Utils.run import Run
from Utils.split import Split


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings(DistillationSettings):
    """The hyperparameters, for CiteULike and BPR: first guesses."""

    dim: int = 20  # size of the representations, d: the paper has 20 from 200 (NeuMF: 25 from 250)
    lmbda_CLDRD: float = 1.0  # weight of the distillation loss; goes with a sum over users
    stage_epochs: int = 50  # epochs of each stage; the last one goes on
    lr: float = 0.001  # learning rate of Adam
    reg: float = 0.001  # weight decay of Adam, on all parameters
    batch_size: int = 1024  # training pairs a step, each with one negative


# ---------------------------------------------------------------------------------------------


def main(args: Settings, split: Split, device: Device) -> None:
    """Run the experiment."""
    student = new_model(args, split, device, CLDRD)
    teacher = load_teacher(args, split, device)
    distiller = CLDRD(student, teacher, stage_epochs=args.stage_epochs, seed=args.seed)
    sampler = student.sampler(split, args.batch_size, args.seed, device)

    with Run(args, split, student, distiller, teachers=[teacher]) as run:
        for epoch in run.epochs():
            for batch in sampler.epoch(epoch):
                base, kd = student.loss(batch), distiller.loss(batch)
                run.step(base + args.lmbda_CLDRD * kd, base=base, CLDRD=kd)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
