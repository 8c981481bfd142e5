"""HetComp: unlike teachers, at states along their training, are compressed into one student.

    python main_HetComp.py --split share --teachers MF,ML,DL,GNN,AE,I-AE --dim 6
    python main_HetComp.py --split share                # from the states of a single teacher

Missing teachers are trained first, with states. The paper's equation 8, its architectures and the
epochs of its states are not public: 1 to 4 are ours to choose; no number here is one of its tables.
1. The importance of place r in a teacher's list is exp(-r / T), summed over teachers.
2. The teachers are BPR, CML, NeuMF, LightGCN and auto-encoders over users and over items; each
   alone has its own lists, and the ensemble of all decides the order of observed items.
3. States are at even shares of the epochs up to the best one, which is the last state.
4. A user's observed list has his 10 training items that the ensemble scores highest.
5. An epoch passes each user once. The code passes him as often as he has pairs, without learning
   from these. Scores are not clipped at 40, as losses are in log space.
6. With --construction final, the first stage ends when the dynamic one could end at the earliest.
"""

from dataclasses import dataclass
from typing import Literal

from experiments.script import Device, DistillationSettings, launch
from experiments.teacher import load_teacher
from Models import new_model
from Models.distillers import HetComp
from Utils.dataset import UserSampler
from Utils.run import Run
from Utils.split import Split


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings(DistillationSettings):
    """The hyperparameters, for CiteULike and BPR: the published code's, but for T and batches."""

    dim: int = 20  # size of the representations, d; the published code has 6
    num_states: int = 4  # of each teacher, the best one the last; missing teachers keep so many
    K: int = 100  # items in a user's list of unobserved ones
    T: float = 10.0  # the k-th of a teacher's list has importance exp(-k / T); ours
    p: int = 10  # epochs from one construction of the lists to the next
    threshold: float = 1.05  # alpha: how much nearer a student must come to take a state
    # dynamic: the method; scheduled: a state every p epochs; final: the last states from the start
    construction: Literal["dynamic", "scheduled", "final"] = "dynamic"
    stages: Literal["both", "overall", "rank"] = "both"  # the method, or one of its stages alone
    lmbda_overall: float = 0.01  # weight of the loss of the first stage
    lmbda_rank: float = 0.005  # weight of the loss of the second one
    base_loss: bool = False  # add the base model's own loss; then an epoch passes pairs
    lr: float = 0.001  # learning rate of Adam
    reg: float = 1e-5  # weight decay of Adam, on all parameters
    batch_size: int = 64  # users a step; with --base_loss, training pairs


# ---------------------------------------------------------------------------------------------


def main(args: Settings, split: Split, device: Device) -> None:
    """Run the experiment."""
    student = new_model(args, split, device, HetComp)
    teacher = load_teacher(args, split, device)
    distiller = HetComp(
        student, teacher, K=args.K, T=args.T, p=args.p, threshold=args.threshold,
        construction=args.construction, stages=args.stages, seed=args.seed,
    )  # fmt: skip
    kind = student.sampler if args.base_loss else UserSampler
    sampler = kind(split, args.batch_size, args.seed, device)

    with Run(args, split, student, distiller, teachers=[teacher]) as run:
        for epoch in run.epochs():
            weight = args.lmbda_rank if distiller.ranks else args.lmbda_overall
            for batch in sampler.epoch(epoch):
                kd = distiller.loss(batch)
                base = student.loss(batch) if args.base_loss else 0 * kd
                run.step(base + weight * kd, base=base, HetComp=kd)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
