"""DE-RRD: DE and RRD added, each with a weight of its own.

    python main_DERRD.py                                # d = 20 from 200; trains a missing teacher
    python main_DERRD.py --lmbda_DE 0.1 --K 30 --L 30

The authors published no joint training; the defaults join those of their two runs. The departures
from the paper (section 4.3) are those of main_DE.py and main_URRD.py.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from experiments.script import Device, DistillationSettings, launch
from experiments.teacher import load_teacher
from Models import new_model
from Models.distillers import DE, RRD
from Models.low_rank import require_assignable, spectral_start
from Utils.run import Run
from Utils.run_folder import epochs_of
from Utils.split import Split


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings(DistillationSettings):
    """The hyperparameters, for CiteULike and BPR: those of the authors' two runs joined."""

    dim: int = 20  # size of the representations, d: the paper has 20 from 200 (NeuMF: 25 from 250)
    # first weights: small random ones, or the teacher's best low-rank approximation
    start: Literal["random", "spectral"] = "random"
    lmbda_DE: float = 0.01  # weight of DE; goes with sums over a batch
    num_experts: int = 30  # M, for users and for items each
    tau_0: float = 1.0  # temperature of the selection: tau_0 (tau_P / tau_0)^(epoch / P)
    tau_P: float = 1e-10  # its value at epoch P
    P: int = 1000  # epochs from tau_0 to tau_P
    # gumbel: the method; the others are the ablations (a) to (c) of the paper's table 4
    expert_selection: Literal["gumbel", "attention", "one_large", "one_small"] = "gumbel"
    layer: Literal["last", "embeddings", "gmf"] = "last"  # rebuilt; NeuMF's last is of pairs
    lmbda_RRD: float = 0.001  # weight of RRD; goes with a sum over users
    K: int = 40  # interesting items a user, in the teacher's order
    L: int = 40  # uninteresting items a user
    T: float = 10.0  # the k-th item of the teacher's list is drawn with weight exp(-k / T)
    pool: int = 500  # length of the teacher's lists, from which interesting ones are drawn
    # sampled: the method; top: the teacher's first K
    interesting: Literal["sampled", "top"] = "sampled"
    # relaxed: the method; the others are the ablations (d) and (e) of the paper's table 4
    ranking: Literal["relaxed", "full", "interesting"] = "relaxed"
    # formulas of the published code, or of the paper: see main_DE.py and main_URRD.py
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
    student = new_model(args, split, device, DE, RRD)
    if args.start == "spectral":
        require_assignable(student)
    teacher = load_teacher(args, split, device)
    if args.start == "spectral":
        spectral_start(student, teacher)
    de = DE(
        student, teacher, num_experts=args.num_experts, tau_0=args.tau_0, tau_P=args.tau_P,
        P=args.P, expert_selection=args.expert_selection, layer=args.layer, variant=args.variant,
        seed=args.seed,
    )  # fmt: skip
    rrd = RRD(
        student, teacher, K=args.K, L=args.L, T=args.T, pool=args.pool,
        interesting=args.interesting, ranking=args.ranking, variant=args.variant, seed=args.seed,
    )  # fmt: skip
    sampler = student.sampler(split, args.batch_size, args.seed, device)

    with Run(args, split, student, de, rrd, teachers=[teacher]) as run:
        run.keep(keep_at, selection=de.most_probable_experts)
        for epoch in run.epochs():
            for batch in sampler.epoch(epoch):
                base, kd_DE, kd_RRD = student.loss(batch), de.loss(batch), rrd.loss(batch)
                loss = base + args.lmbda_DE * kd_DE + args.lmbda_RRD * kd_RRD
                run.step(loss, base=base, DE=kd_DE, RRD=kd_RRD)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
