"""SVD, a baseline absent from the papers: the best approximation of the teacher's scores.

    python main_SVD.py                                  # d = 20 from 200; trains a missing teacher

The student's factors are the truncated singular value decomposition of the teacher's score matrix,
U_d sqrt(S_d) and V_d sqrt(S_d). Nothing is trained. The student's scores are inner products; the
teacher's may be others, whose decomposition is found by subspace iteration.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from experiments.settings import with_defaults
from experiments.teacher import load_teacher
from Models import new_model
from Models.low_rank import require_assignable, spectral_start
from Utils.data_utils import load_split
from Utils.run import Run, is_finished
from Utils.settings import RunSettings, launch, use_device


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings(RunSettings):
    """There is nothing to tune but the size; None is the usual one."""

    # data set; synthetic is built in
    dataset: Literal["CiteULike", "Foursquare", "synthetic"] = "CiteULike"
    # our own split of this seed, or the one that the DE-RRD authors published (CiteULike only)
    split: Literal["seed", "published"] = "seed"
    # of the split and of the teacher
    seed: int = 0
    # base model of teacher and student: BPR or NeuMF
    model: str = "BPR"
    # size of the student's representations, d_s: 20 (NeuMF: 25) is phi = 0.1
    dim: int | None = None
    # size of the teacher's representations, d_t: 200 (NeuMF: 250)
    teacher_dim: int | None = None
    # checkpoint of a teacher, or its folder; empty: the run of main_no_KD.py on the same split
    teacher: str = ""
    # the rule of the runs that this one stands beside, and of a teacher that is missing
    selection: Literal["paper", "published_code"] = "paper"

    # One evaluation and no step: what a run asks for beyond that is of no effect here.
    max_epoch: ClassVar[int] = 1
    patience: ClassVar[int] = 1
    lr: ClassVar[float] = 1.0
    reg: ClassVar[float] = 0.0


# ---------------------------------------------------------------------------------------------


def main(args: Settings) -> None:
    """Run the experiment."""
    args = with_defaults("SVD", args)
    device = use_device(args)
    split = load_split(args.dataset, args.split, args.seed, args.data_dir)
    if is_finished("SVD", args, split):
        return
    student = new_model(args, split).to(device)
    require_assignable(student)
    teacher = load_teacher(args, split, device)

    with Run("SVD", args, split, student, teacher=teacher) as run:
        for _ in run.epochs():
            spectral_start(student, teacher)
            run.evaluate()


if __name__ == "__main__":
    launch(main, Settings, __doc__)
