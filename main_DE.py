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
from typing import Literal

from experiments.settings import with_defaults
from experiments.teacher import load_teacher
from Models import new_model
from Models.distillers import DE
from Utils.data_utils import load_split
from Utils.dataset import PairSampler
from Utils.run import Run, epochs_of, is_finished
from Utils.settings import RunSettings, launch, use_device


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings(RunSettings):
    """The hyperparameters; None is the tuned value, of a row in experiments/settings.csv."""

    # data set; synthetic is built in
    dataset: Literal["CiteULike", "Foursquare", "synthetic"] = "CiteULike"
    # our own split of this seed, or the one that the DE-RRD authors published (CiteULike only)
    split: Literal["seed", "published"] = "seed"
    # of the split, the first weights, the batches, the negatives and the selection noise
    seed: int = 0
    # base model of teacher and student: BPR or NeuMF
    model: str = "BPR"
    # size of the student's representations, d_s: 20 (NeuMF: 25) is phi = 0.1
    dim: int | None = None
    # hidden layers of NeuMF, each half as wide as the one before
    num_layers: int | None = None
    # size of the teacher's representations, d_t: 200 (NeuMF: 250)
    teacher_dim: int | None = None
    # checkpoint of a teacher, or its folder; empty: the run of main_no_KD.py on the same split
    teacher: str = ""
    # weight of the distillation loss, lambda_DE; 0.01 goes with sums over a batch
    lmbda_DE: float | None = None
    # number of experts M, for users and for items each
    num_experts: int | None = None
    # temperature of the selection: tau_0 (tau_P / tau_0)^(epoch / P)
    tau_0: float = 1.0
    # its value at epoch P
    tau_P: float = 1e-10
    # epochs from tau_0 to tau_P
    P: int = 1000
    # gumbel: the method; the others are the ablations (a) to (c) of the paper's table 4
    expert_selection: Literal["gumbel", "attention", "one_large", "one_small"] = "gumbel"
    # what experts rebuild: the last hidden layer (NeuMF: of pairs), or users and items apart
    layer: Literal["last", "embeddings"] = "last"
    # formulas of the published code, or of the paper: see the departures above
    variant: Literal["published_code", "paper"] = "published_code"
    # epochs at which each user's and item's most probable expert is kept: 0,20,-1 (-1: the last)
    save_selection: str = ""
    # learning rate of Adam
    lr: float | None = None
    # weight decay of Adam, on all parameters
    reg: float | None = None
    # training pairs a step, each with one negative
    batch_size: int | None = None
    # most epochs to train
    max_epoch: int = 1000
    # paper: best validation H@5; published_code: an epoch for each of H@5, H@10, H@20
    selection: Literal["paper", "published_code"] = "paper"
    # epochs without improvement before training stops; None: 30 for paper, 20 for published_code
    patience: int | None = None


# ---------------------------------------------------------------------------------------------


def main(args: Settings) -> None:
    """Run the experiment."""
    args = with_defaults("DE", args)
    device, keep_at = use_device(args), epochs_of(args.save_selection)
    split = load_split(args.dataset, args.split, args.seed, args.data_dir)
    if is_finished("DE", args, split):
        return
    student = new_model(args, split).to(device)
    teacher = load_teacher(args, split, device)
    distiller = DE(
        student,
        teacher,
        args.num_experts,
        args.tau_0,
        args.tau_P,
        args.P,
        args.expert_selection,
        args.layer,
        args.variant,
        args.seed,
    )
    if keep_at:
        distiller.most_probable_experts()  # refuses now, not after hours, what has none
    sampler = PairSampler(split, args.batch_size, args.seed, device)

    with Run("DE", args, split, student, distiller, teacher=teacher) as run:
        for epoch in run.epochs():
            distiller.begin_epoch(epoch)
            for batch in sampler.epoch(epoch):
                base, kd = student.loss(*batch), distiller.loss(batch)
                run.step(base + args.lmbda_DE * kd, base=base, DE=kd)
            run.evaluate(keep_at, selection=distiller.most_probable_experts)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
