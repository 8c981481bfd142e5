"""CD, Collaborative Distillation: the student regresses the teacher's probabilities of items.

    python main_CD.py                                   # d = 20 from 200; trains a missing teacher
    python main_CD.py --sampling student                # CD-SG: the student's ranking, not CD-TG

Departures from the CD paper, 1 to 3 as the DE-RRD paper (sections 2 and 5.1) tells it:
1. The base loss keeps its negatives, as for the other methods here; CD has positives only.
2. The base models are BPR and NeuMF, whose scores are logits here; CD has CDAE and Caser.
3. The weight of the k-th item is exp(-k / T): CD's exponential one with gamma = items / T. Its
   linear one is left out.
4. L_CD is a sum over the batch's distinct users.
5. The items drawn come from the first 500 of the list (T of 20 leaves e^-25 beyond).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from experiments.settings import with_defaults
from experiments.teacher import load_teacher
from Models import new_model
from Models.distillers import CD
from Utils.data_utils import load_split
from Utils.dataset import PairSampler
from Utils.run import Run, is_finished
from Utils.settings import RunSettings, launch, use_device


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings(RunSettings):
    """The hyperparameters; None is the tuned value, of a row in experiments/settings.csv."""

    # data set; synthetic is built in
    dataset: Literal["CiteULike", "Foursquare", "synthetic"] = "CiteULike"
    # our own split of this seed, or the one that the DE-RRD authors published (CiteULike only)
    split: Literal["seed", "published"] = "seed"
    # of the split, the first weights, the batches, the negatives and the items drawn
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
    # weight of the distillation loss, lambda
    lmbda_CD: float | None = None
    # items drawn for a user
    K: int | None = None
    # the k-th item of the list is drawn with weight exp(-k / T)
    T: float | None = None
    # scale and shift of the teacher's logits: q = sigmoid((t + T2) / T1)
    T1: float | None = None
    # the shift, of any sign
    T2: float | None = None
    # whose list: the teacher's (CD-TG), the student's (CD-SG), or none (CD-Base)
    sampling: Literal["teacher", "student", "uniform"] = "teacher"
    # length of the list
    pool: int = 500
    # epochs after which the student's list is made anew
    refresh: int = 10
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

    any_sign: ClassVar[tuple[str, ...]] = ("T2",)


# ---------------------------------------------------------------------------------------------


def main(args: Settings) -> None:
    """Run the experiment."""
    args = with_defaults("CD", args)
    device = use_device(args)
    split = load_split(args.dataset, args.split, args.seed, args.data_dir)
    if is_finished("CD", args, split):
        return
    student = new_model(args, split).to(device)
    teacher = load_teacher(args, split, device)
    distiller = CD(
        student,
        teacher,
        args.K,
        args.T,
        args.T1,
        args.T2,
        args.sampling,
        args.pool,
        args.refresh,
        args.seed,
    )
    sampler = PairSampler(split, args.batch_size, args.seed, device)

    with Run("CD", args, split, student, distiller, teacher=teacher) as run:
        for epoch in run.epochs():
            distiller.begin_epoch(epoch)
            for batch in sampler.epoch(epoch):
                base, kd = student.loss(*batch), distiller.loss(batch)
                run.step(base + args.lmbda_CD * kd, base=base, CD=kd)
            run.evaluate()


if __name__ == "__main__":
    launch(main, Settings, __doc__)
