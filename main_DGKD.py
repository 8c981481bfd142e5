"""DGKD: the student learns from the teacher and all assistants at once, some left out at random.

    python main_DGKD.py                                 # 20 from 200, 140 and 80, with DE
    python main_DGKD.py --kd PHR --TA_dims 40 --name PHR

An assistant learns in the same way from whoever is larger. Those that are missing are trained
first, and found again: the largest is a run of main_DE.py or main_PHR.py, the others are runs of
this script, each with the settings that stand in its script. Departures and choices:
1. The distillation losses are those of DE or PHR, as in the HyperKDMA paper, instead of the
   divergences of the DGKD paper's classifiers; there is no code of this. They are summed, as there.
2. Number and sizes of its assistants, and how many guides are left out, are not in that paper: two,
   at even distances, and one.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from experiments.script import AssistantSettings, Device, launch
from experiments.teacher import load_assistants, load_teacher
from Models import new_model
from Models.distillers import DGKD, RepresentationDistiller, new_hints
from Models.distillers.dgkd import require_a_guide
from Utils.run import Run
from Utils.split import Split


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings(AssistantSettings):
    """The hyperparameters, for CiteULike and BPR: those of main_DE.py and main_PHR.py."""

    dim: int = 20  # size of the representations, d: the paper has 20 from 200 (NeuMF: 25 from 250)
    kd: Literal["DE", "PHR"] = "DE"  # what is distilled
    num_TAs: int = 2  # assistants between teacher and student, at even distances
    num_dropped: int = 1  # of teacher and assistants, how many are left out for a batch
    lmbda_KD: float = 0.01  # weight of each distillation loss; goes with sums over a batch
    num_experts: int = 30  # M of DE, for users and for items each
    tau_0: float = 1.0  # temperature of DE's selection: tau_0 (tau_P / tau_0)^(epoch / P)
    tau_P: float = 1e-10  # its value at epoch P
    P: int = 1000  # epochs from tau_0 to tau_P
    enrichment: Literal["neighbours", "none"] = "neighbours"  # what PHR's mappings depend on
    precision: Literal["float32", "bf16"] = "float32"  # of the products of PHR's network
    layer: Literal["last", "embeddings", "gmf"] = "last"  # what is matched; for BPR, all the same
    lr: float = 0.001  # learning rate of Adam
    reg: float = 0.001  # weight decay of Adam, on all parameters
    batch_size: int = 1024  # training pairs a step, each with one negative

    from_zero: ClassVar[tuple[str, ...]] = (*AssistantSettings.from_zero, "num_dropped")

    def __post_init__(self) -> None:
        """Refuse what would leave no guide, before assistants are trained for it."""
        super().__post_init__()
        assistants = len(self.TA_dims.split(",")) if self.TA_dims else self.num_TAs
        require_a_guide(self.num_dropped, 1 + assistants)


# ---------------------------------------------------------------------------------------------


def main(args: Settings, split: Split, device: Device) -> None:
    """Run the experiment."""
    student = new_model(args, split, device, RepresentationDistiller)
    teacher = load_teacher(args, split, device)
    guides = [teacher, *load_assistants(args, split, device)]
    hints = [new_hints(args, student, guide, name=f"d={guide.model.dim}") for guide in guides]
    distiller = DGKD(hints, num_dropped=args.num_dropped, seed=args.seed)
    sampler = student.sampler(split, args.batch_size, args.seed, device)

    with Run(args, split, student, distiller, teachers=guides) as run:
        for epoch in run.epochs():
            for batch in sampler.epoch(epoch):
                base, kd = student.loss(batch), distiller.loss(batch)
                run.step(base + args.lmbda_KD * kd, base=base, KD=kd)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
