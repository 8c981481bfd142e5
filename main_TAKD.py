"""TAKD: the student learns from an assistant that learned from a larger one, up to the teacher.

    python main_TAKD.py                                 # 200, 140, 80, 20, with DE at each link
    python main_TAKD.py --kd PHR --TA_dims 40 --name PHR

Assistants that are missing are trained first, and found again by other chains: the largest is a run
of main_DE.py or main_PHR.py, the others are runs of this script, each with the settings that stand
in its script. Departures and choices:
1. The distillation loss between two links is that of DE or PHR, as in the HyperKDMA paper, instead
   of the divergence of the TAKD paper's classifiers; there is no code of this.
2. Number and sizes of its assistants are not in that paper: two, at even distances.
"""

from dataclasses import dataclass
from typing import Literal

from experiments.script import AssistantSettings, Device, launch
from experiments.teacher import load_assistants, load_teacher
from Models import new_model
from Models.distillers import RepresentationDistiller, new_hints
from Utils.run import Run
from Utils.split import Split


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings(AssistantSettings):
    """The hyperparameters, for CiteULike and BPR: those of main_DE.py and main_PHR.py."""

    dim: int = 20  # size of the representations, d: the paper has 20 from 200 (NeuMF: 25 from 250)
    kd: Literal["DE", "PHR"] = "DE"  # what is distilled at each link
    num_TAs: int = 2  # assistants between teacher and student, at even distances
    lmbda_KD: float = 0.01  # weight of the distillation loss; goes with sums over a batch
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


# ---------------------------------------------------------------------------------------------


def main(args: Settings, split: Split, device: Device) -> None:
    """Run the experiment."""
    student = new_model(args, split, device, RepresentationDistiller)
    load_teacher(args, split, device)
    assistant = load_assistants(args, split, device)[-1]
    distiller = new_hints(args, student, assistant)
    sampler = student.sampler(split, args.batch_size, args.seed, device)

    with Run(args, split, student, distiller, teachers=[assistant]) as run:
        for epoch in run.epochs():
            for batch in sampler.epoch(epoch):
                base, kd = student.loss(batch), distiller.loss(batch)
                run.step(base + args.lmbda_KD * kd, base=base, KD=kd)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
