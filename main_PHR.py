"""PHR, Personalized Hint Regression: each user and item has a mapping to the teacher of its own.

    python main_PHR.py                                  # d = 20 from 200; trains a missing teacher
    python main_PHR.py --enrichment none                # personalised by the teacher's vector alone

The formulas are those of the HyperKDMA paper (section 3); PHR's own code was not found. Departures
and choices:
1. The mapping is linear, without bias, and users and items share the network that makes it, as in
   HyperKDMA's code; the paper does not say.
2. Positives and negatives weigh one half each, as in its code; the paper sums over the items.
3. Neighbours are those with whom an entity is in a training pair, all of them, in the teacher's
   frozen tables. The paper's symbols name the others, a misprint; its code leaves neighbours out:
   --enrichment none.
4. The network is as wide as the paper says; for BPR, its code has twice the hidden units.
5. NeuMF: its GMF embeddings are matched, as in the code: --layer gmf in its row.
"""

from dataclasses import dataclass
from typing import Literal

from experiments.script import Device, DistillationSettings, launch
from experiments.teacher import load_teacher
from Models import new_model
from Models.distillers import PHR
from Utils.run import Run
from Utils.split import Split


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings(DistillationSettings):
    """The hyperparameters, for CiteULike and BPR: the defaults of HyperKDMA's published code."""

    dim: int = 20  # size of the representations, d: the paper has 20 from 200 (NeuMF: 25 from 250)
    lmbda_PHR: float = 0.01  # weight of the distillation loss; goes with sums over a batch
    # what the mapping depends on: the teacher's vectors of the entity and of its neighbours (the
    # paper), or of the entity alone (the published code)
    enrichment: Literal["neighbours", "none"] = "neighbours"
    layer: Literal["last", "embeddings", "gmf"] = "last"  # what is matched; for BPR, all the same
    precision: Literal["float32", "bf16"] = "float32"  # of the products of the mapping's network
    lr: float = 0.001  # learning rate of Adam
    reg: float = 0.001  # weight decay of Adam, on all parameters
    batch_size: int = 1024  # training pairs a step, each with one negative


# ---------------------------------------------------------------------------------------------


def main(args: Settings, split: Split, device: Device) -> None:
    """Run the experiment."""
    student = new_model(args, split, device, PHR)
    teacher = load_teacher(args, split, device)
    distiller = PHR(
        student, teacher, enrichment=args.enrichment, precision=args.precision, layer=args.layer,
        seed=args.seed,
    )  # fmt: skip
    sampler = student.sampler(split, args.batch_size, args.seed, device)

    with Run(args, split, student, distiller, teachers=[teacher]) as run:
        for epoch in run.epochs():
            for batch in sampler.epoch(epoch):
                base, kd = student.loss(batch), distiller.loss(batch)
                run.step(base + args.lmbda_PHR * kd, base=base, PHR=kd)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
