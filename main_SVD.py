"""SVD, a baseline absent from the papers: the best approximation of the teacher's scores.

    python main_SVD.py                                  # d = 20 from 200; trains a missing teacher

The student's factors are the truncated singular value decomposition of the teacher's score matrix,
U_d sqrt(S_d) and V_d sqrt(S_d). Nothing is trained. The student's scores are inner products; the
teacher's may be others, whose decomposition is found by subspace iteration.
"""

from dataclasses import dataclass

from experiments.script import Device, TeacherSettings, launch
from experiments.teacher import load_teacher
from Models import new_model
from Models.low_rank import require_assignable, spectral_start
from Utils.run import Run
from Utils.split import Split


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings(TeacherSettings):
    """There is nothing to tune but the size."""

    dim: int = 20  # size of the representations, d: the paper has 20 from 200 (NeuMF: 25 from 250)


# ---------------------------------------------------------------------------------------------


def main(args: Settings, split: Split, device: Device) -> None:
    """Run the experiment."""
    student = new_model(args, split, device)
    require_assignable(student)
    teacher = load_teacher(args, split, device)

    with Run(args, split, student, teachers=[teacher]) as run:
        for _ in run.epochs(1):
            spectral_start(student, teacher)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
