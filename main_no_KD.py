"""Train a base model on the interactions alone: a teacher or a student without distillation.

    python main_no_KD.py                                # a student, d = 20
    python main_no_KD.py --dim 200                      # a teacher, d = 200

Departures from the DE-RRD paper (section 5.1), all as in its authors' code:
1. Items are not filtered by count; the published data set has items with a single user.
2. Weight decay acts on every row at every step, not on the rows of the batch alone.
3. Held-out items may be drawn as negatives in training.
"""

from dataclasses import dataclass

from experiments.script import Device, ModelSettings, launch
from Models import new_model
from Utils.run import Run
from Utils.split import Split


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings(ModelSettings):
    """The hyperparameters, for CiteULike and BPR: those of the DE-RRD authors' published run."""

    dim: int = 20  # size of the representations, d: the paper has 20 from 200 (NeuMF: 25 from 250)
    lr: float = 0.001  # learning rate of Adam
    reg: float = 0.001  # weight decay of Adam, on all parameters
    batch_size: int = 1024  # training pairs a step, each with one negative
    on_several = True  # processes may share it: its loss is a sum over users


# ---------------------------------------------------------------------------------------------


def main(args: Settings, split: Split, device: Device) -> None:
    """Run the experiment."""
    model = new_model(args, split, device)
    sampler = model.sampler(split, args.batch_size, args.seed, device)

    with Run(args, split, model) as run:
        for epoch in run.epochs():
            for batch in sampler.epoch(epoch):
                run.step(model.loss(batch))


if __name__ == "__main__":
    launch(main, Settings, __doc__)
