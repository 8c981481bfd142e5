"""HyperKDMA with PHR: a hypernetwork makes assistants of every size, for each entity its own.

    python main_PHRTA.py                                 # d = 20 from 200, 8 assistants
    python main_PHRTA.py --num_TAs 2 --precision bf16
    python main_PHRTA.py --TA_dims 40,60                 # those of its published code

Departures from the HyperKDMA paper (sections 4 and 5.1), and choices. In the published code a gate
multiplies sums over a batch; here it is each entity's, as in the paper:
1. Positives and negatives weigh one half each, in both terms, as in its code; the paper sums.
2. Users and items share hypernetwork and gate, as in its code; the paper does not say.
3. An assistant's target is not held fixed, as in its code: target and student may come to meet
   each other. --detach_targets holds it; the hypernetwork then learns by what mappings depend on.
4. Choices 1 and 4 of main_PHR.py hold. Mappings to assistants depend on what these say of the
   entity alone, as in its code: what they say of all neighbours is nowhere held.
5. NeuMF: its GMF embeddings are matched, as in the code: --layer gmf in its row.
6. Without hypernetwork, one projection is learned for all entities; without gate, every assistant
   weighs 1 / m. The paper says which part is left out, and not what stands in its place.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from experiments.script import AssistantSettings, Device, launch
from experiments.teacher import assistant_sizes, load_teacher
from Models import new_model
from Models.distillers import PHR, HyperKDMA
from Utils.run import Run
from Utils.run_folder import epochs_of
from Utils.split import Split


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings(AssistantSettings):
    """The hyperparameters, for CiteULike and BPR: in the paper's ranges, else of its code."""

    dim: int = 20  # size of the representations, d: the paper has 20 from 200 (NeuMF: 25 from 250)
    num_TAs: int = 8  # m, assistants between teacher and student, at even distances
    lmbda_PHR: float = 0.01  # lambda_T, weight of the distillation from the teacher
    lmbda_TA: float = 0.001  # weight of the distillation from the assistants
    enrichment: Literal["neighbours", "none"] = "neighbours"  # as in main_PHR.py, for the teacher
    # the method's, or one for all entities: the ablation "w/o HNet" of the paper's table 4
    projection: Literal["hypernetwork", "shared"] = "hypernetwork"
    gate: Literal["personal", "none"] = "personal"  # none: the ablation "w/o GNet"
    detach_targets: bool = False  # hold the assistants' targets fixed: see 3 above
    layer: Literal["last", "embeddings", "gmf"] = "last"  # what is matched; for BPR, all the same
    precision: Literal["float32", "bf16"] = "float32"  # of the products of both networks
    save_gates: str = ""  # epochs at which the gates of all are kept: 0,20,-1 (-1: the last)
    lr: float = 0.001  # learning rate of Adam
    reg: float = 0.001  # weight decay of Adam, on all parameters
    batch_size: int = 1024  # training pairs a step, each with one negative

    of_record: ClassVar[tuple[str, ...]] = ("save_gates",)


# ---------------------------------------------------------------------------------------------


def main(args: Settings, split: Split, device: Device) -> None:
    """Run the experiment."""
    keep_at = epochs_of(args.save_gates)
    student = new_model(args, split, device, PHR)
    teacher = load_teacher(args, split, device)
    towards = partial(
        PHR, student, teacher, precision=args.precision, layer=args.layer, seed=args.seed
    )
    distiller = towards(enrichment=args.enrichment)
    sizes = assistant_sizes(args.num_TAs, args.TA_dims, distiller.d_s, distiller.d_t)
    assistants = HyperKDMA(
        student, teacher, [towards(enrichment="none", target_dim=d, name=f"d={d}") for d in sizes],
        projection=args.projection, gate=args.gate, detach_targets=args.detach_targets,
        precision=args.precision, seed=args.seed,
    )  # fmt: skip
    sampler = student.sampler(split, args.batch_size, args.seed, device)

    with Run(args, split, student, distiller, assistants, teachers=[teacher]) as run:
        run.keep(keep_at, gates=assistants.all_gates)
        for epoch in run.epochs():
            for batch in sampler.epoch(epoch):
                base, kd, ta = student.loss(batch), distiller.loss(batch), assistants.loss(batch)
                run.step(base + args.lmbda_PHR * kd + args.lmbda_TA * ta, base=base, PHR=kd, TA=ta)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
