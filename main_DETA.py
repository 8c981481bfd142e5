"""HyperKDMA with DE: a hypernetwork makes assistants of every size, for each entity its own.

    python main_DETA.py                                 # d = 20 from 200, 8 assistants between them
    python main_DETA.py --num_TAs 2 --precision bf16
    python main_DETA.py --TA_dims 40,60                 # those of its published code

Departures from the HyperKDMA paper (sections 4 and 5.1), and choices. The published code never adds
the assistants' loss with BPR and LightGCN; what is described here is the paper's:
1. Positives and negatives weigh one half each, in both terms, as in its code; the paper sums.
2. Users and items share hypernetwork and gate, as in its code; the paper does not say.
3. An assistant's target is not held fixed, as in its code: target and student may come to meet
   each other. --detach_targets holds it; the hypernetwork then learns by what DE selects.
4. Departures 1, 3, 4 and 5 of main_DE.py hold of all distances.
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
from Models.distillers import DE, HyperKDMA
from Utils.run import Run
from Utils.run_folder import epochs_of
from Utils.split import Split


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings(AssistantSettings):
    """The hyperparameters, for CiteULike and BPR: in the paper's ranges, else of its code."""

    dim: int = 20  # size of the representations, d: the paper has 20 from 200 (NeuMF: 25 from 250)
    num_TAs: int = 8  # m, assistants between teacher and student, at even distances
    lmbda_DE: float = 0.01  # lambda_T, weight of the distillation from the teacher
    lmbda_TA: float = 0.001  # weight of the distillation from the assistants
    num_experts: int = 30  # M, for users and for items, of the teacher and of each assistant
    tau_0: float = 1.0  # temperature of the selection: tau_0 (tau_P / tau_0)^(epoch / P)
    tau_P: float = 1e-10  # its value at epoch P
    P: int = 1000  # epochs from tau_0 to tau_P
    # the method's, or one for all entities: the ablation "w/o HNet" of the paper's table 4
    projection: Literal["hypernetwork", "shared"] = "hypernetwork"
    gate: Literal["personal", "none"] = "personal"  # none: the ablation "w/o GNet"
    detach_targets: bool = False  # hold the assistants' targets fixed: see 3 above
    layer: Literal["last", "embeddings", "gmf"] = "last"  # what is matched; for BPR, all the same
    precision: Literal["float32", "bf16"] = "float32"  # of the hypernetwork's products
    save_gates: str = ""  # epochs at which the gates of all are kept: 0,20,-1 (-1: the last)
    lr: float = 0.001  # learning rate of Adam
    reg: float = 0.001  # weight decay of Adam, on all parameters
    batch_size: int = 1024  # training pairs a step, each with one negative

    of_record: ClassVar[tuple[str, ...]] = ("save_gates",)


# ---------------------------------------------------------------------------------------------


def main(args: Settings, split: Split, device: Device) -> None:
    """Run the experiment."""
    keep_at = epochs_of(args.save_gates)
    student = new_model(args, split, device, DE)
    teacher = load_teacher(args, split, device)
    towards = partial(
        DE, student, teacher, num_experts=args.num_experts, tau_0=args.tau_0, tau_P=args.tau_P,
        P=args.P, layer=args.layer, seed=args.seed,
    )  # fmt: skip
    distiller = towards()
    sizes = assistant_sizes(args.num_TAs, args.TA_dims, distiller.d_s, distiller.d_t)
    assistants = HyperKDMA(
        student, teacher, [towards(target_dim=size, name=f"d={size}") for size in sizes],
        projection=args.projection, gate=args.gate, detach_targets=args.detach_targets,
        precision=args.precision, seed=args.seed,
    )  # fmt: skip
    sampler = student.sampler(split, args.batch_size, args.seed, device)

    with Run(args, split, student, distiller, assistants, teachers=[teacher]) as run:
        run.keep(keep_at, gates=assistants.all_gates)
        for epoch in run.epochs():
            for batch in sampler.epoch(epoch):
                base, kd, ta = student.loss(batch), distiller.loss(batch), assistants.loss(batch)
                run.step(base + args.lmbda_DE * kd + args.lmbda_TA * ta, base=base, DE=kd, TA=ta)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
