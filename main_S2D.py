"""S2D, spectral softmax distillation, ours: a softmax over the catalogue from a spectral start.

    python main_S2D.py                                  # d = 20 from 200; trains a missing teacher
    python main_S2D.py --start random                   # without the spectral start
    python main_S2D.py --w 1 --start random             # no teacher at all
    python main_S2D.py --model NeuMF                    # a NeuMF teacher

The student's scores are inner products (BPR's), the teacher's are those of any base model. The
student starts from the best low-rank approximation of the teacher's scores. Then its softmax over
all items learns, in the share 1 - w, the teacher's first K outside the training set, in the
proportions softmax(t / tau) of their scores t, and in the share w the user's training items.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from experiments.settings import with_defaults
from experiments.teacher import load_teacher
from Models import build_model
from Models.distillers import S2D
from Models.low_rank import spectral_start
from Utils.data_utils import load_split
from Utils.dataset import UserSampler
from Utils.run import Run, is_finished
from Utils.settings import RunSettings, launch, use_device


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings(RunSettings):
    """The hyperparameters; None is the tuned value, of a row in experiments/settings.csv."""

    from_zero: ClassVar[tuple[str, ...]] = (*RunSettings.from_zero, "num_samples")
    shares: ClassVar[tuple[str, ...]] = ("w",)

    # data set; synthetic is built in
    dataset: Literal["CiteULike", "Foursquare", "synthetic"] = "CiteULike"
    # our own split of this seed, or the one that the DE-RRD authors published (CiteULike only)
    split: Literal["seed", "published"] = "seed"
    # of the split, the first weights, the batches and the samples
    seed: int = 0
    # base model of the teacher: BPR or NeuMF
    model: str = "BPR"
    # size of the student's representations, d_s: 20 (NeuMF: 25) is phi = 0.1
    dim: int | None = None
    # size of the teacher's representations, d_t: 200 (NeuMF: 250)
    teacher_dim: int | None = None
    # checkpoint of a teacher, or its folder; empty: the run of main_no_KD.py on the same split
    teacher: str = ""
    # first weights: the teacher's best low-rank approximation, or small random ones
    start: Literal["spectral", "random"] = "spectral"
    # share of the data in the loss, from 0 (the teacher alone) to 1 (no teacher)
    w: float | None = None
    # how many of the teacher's first items are learned
    K: int | None = None
    # temperature of their scores
    tau: float | None = None
    # 0: the softmax is over all items; else over the learned ones and so many drawn for a batch
    num_samples: int = 0
    # learning rate of Adam
    lr: float | None = None
    # weight decay of Adam, on all parameters
    reg: float | None = None
    # users a step, each with the scores of all items
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
    args = with_defaults("S2D", args)
    device = use_device(args)
    split = load_split(args.dataset, args.split, args.seed, args.data_dir)
    if is_finished("S2D", args, split):
        return
    student = build_model("BPR", split.num_users, split.num_items, args.dim, args.seed).to(device)
    teacher = load_teacher(args, split, device)
    if args.start == "spectral":
        spectral_start(student, teacher)
    distiller = S2D(student, teacher, args.K, args.tau, args.num_samples, args.seed)
    sampler = UserSampler(split.num_users, args.batch_size, args.seed, device)

    with Run("S2D", args, split, student, distiller, teacher=teacher) as run:
        for epoch in run.epochs():
            distiller.begin_epoch(epoch)
            for users in sampler.epoch(epoch):
                hard, soft = distiller.losses(users)
                run.step(args.w * hard + (1 - args.w) * soft, hard=hard, soft=soft)
            run.evaluate()


if __name__ == "__main__":
    launch(main, Settings, __doc__)
