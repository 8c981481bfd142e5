"""DE, Distillation Experts: the student learns to rebuild the teacher's representations.

    python main_DE.py                                   # d = 20 from 200; trains a missing teacher
    python main_DE.py --num_experts 10 --lmbda_DE 0.1

Departures from the DE-RRD paper (section 4.1), all as in its authors' code; with --variant paper,
1 to 3 are as in the paper:
1. The distance is squared.
2. Positives and negatives weigh one half each; the paper sums over the batch's items.
3. Epoch e has the temperature of epoch e - 1.
4. The temperature falls by a clock of P = 1000 epochs, the most there may be; early stopping ends
   the run long before it reaches tau_P.
5. Weight decay acts on the experts, too.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from experiments.script import Device, DistillationSettings, launch
from experiments.teacher import load_teacher
from Models import new_model
from Models.distillers import DE
from Utils.run import Run
from Utils.run_folder import epochs_of
from Utils.split import Split


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings(DistillationSettings):
    """The hyperparameters, for CiteULike and BPR: those of the authors' published run."""

    dim: int = 20  # size of the representations, d: the paper has 20 from 200 (NeuMF: 25 from 250)
    lmbda_DE: float = 0.01  # weight of the distillation loss; goes with sums over a batch
    num_experts: int = 30  # M, for users and for items each
    tau_0: float = 1.0  # temperature of the selection: tau_0 (tau_P / tau_0)^(epoch / P)
    tau_P: float = 1e-10  # its value at epoch P
    P: int = 1000  # epochs from tau_0 to tau_P
    # gumbel: the method; the others are the ablations (a) to (c) of the paper's table 4
    expert_selection: Literal["gumbel", "attention", "one_large", "one_small"] = "gumbel"
    layer: Literal["last", "embeddings", "gmf"] = "last"  # to rebuild; NeuMF's last is of pairs
    # formulas of the published code, or of the paper: see the departures above
    variant: Literal["published_code", "paper"] = "published_code"
    # epochs at which each user's and item's most probable expert is kept: 0,20,-1 (-1: the last)
    save_selection: str = ""
    lr: float = 0.001  # learning rate of Adam
    reg: float = 0.001  # weight decay of Adam, on all parameters
    batch_size: int = 1024  # training pairs a step, each with one negative

    of_record: ClassVar[tuple[str, ...]] = ("save_selection",)


# ---------------------------------------------------------------------------------------------


def main(args: Settings, split: Split, device: Device) -> None:
    """Run the experiment."""
    keep_at = epochs_of(args.save_selection)
    student = new_model(args, split, device, DE)
    teacher = load_teacher(args, split, device)
    distiller = DE(
        student, teacher, num_experts=args.num_experts, tau_0=args.tau_0, tau_P=args.tau_P,
        P=args.P, expert_selection=args.expert_selection, layer=args.layer, variant=args.variant,
        seed=args.seed,
    )  # fmt: skip
    sampler = student.sampler(split, args.batch_size, args.seed, device)

    with Run(args, split, student, distiller, teachers=[teacher]) as run:
        run.keep(keep_at, selection=distiller.most_probable_experts)
        for epoch in run.epochs():
            for batch in sampler.epoch(epoch):
                base, kd = student.loss(batch), distiller.loss(batch)
                run.step(base + args.lmbda_DE * kd, base=base, DE=kd)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
