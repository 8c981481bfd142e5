"""DCD, Dual Correction: items, and users, that the student ranks too low go above those too high.

    python main_DCD.py                                  # d = 20 from 200; trains a missing teacher
    python main_DCD.py --lmbda_ICD 0                    # the user side alone
    python main_DCD.py --sampling top                   # the n largest weights, without drawing

The formulas are those of the published code; the paper's text (CIKM 2021) was not at hand to
compare. A summary of it has the two terms on top of another distillation loss; here, as in the
code, they are beside the base loss alone. Choices:
1. Weights are at least 1e-5, as in a third party's code; the authors' fails where fewer than n have
   any. What fills up is then uniform over the rest of the list.
2. Equal scores of the student are ranked as the teacher ranks them; the code leaves it open.
3. Without drawing, eps does nothing: the larger weight is the larger difference of the ranks.
"""

from dataclasses import dataclass
from typing import Literal

from experiments.script import Device, DistillationSettings, launch
from experiments.teacher import load_teacher
from Models import new_model
from Models.distillers import ICD, UCD
from Utils.run import Run
from Utils.split import Split


# ---------------------------------------------------------------------------------------------
@dataclass
class Settings(DistillationSettings):
    """For CiteULike and BPR: n, pool, eps and lambda_U of a third party; lambda_I a first guess."""

    dim: int = 20  # size of the representations, d: the paper has 20 from 200 (NeuMF: 25 from 250)
    lmbda_UCD: float = 0.01  # weight of the user side, lambda_U; goes with a sum over users
    lmbda_ICD: float = 0.001  # weight of the item side, lambda_I; 0: its lists are not made
    n: int = 100  # too low and too high ones each, of a user's items and of an item's users
    eps: float = 0.1  # weight tanh(eps d), epsilon, of what is ranked d places too low, or too high
    pool: int = 500  # length of the teacher's lists of items and of users, in which ranks are taken
    refresh: int = 3  # epochs after which the student's ranks are taken anew
    # weighted: the method, drawn anew for each batch; top: the n largest weights
    sampling: Literal["weighted", "top"] = "weighted"
    lr: float = 0.001  # learning rate of Adam
    reg: float = 0.001  # weight decay of Adam, on all parameters
    batch_size: int = 1024  # training pairs a step, each with one negative


# ---------------------------------------------------------------------------------------------


def main(args: Settings, split: Split, device: Device) -> None:
    """Run the experiment."""
    weights = {"UCD": args.lmbda_UCD, "ICD": args.lmbda_ICD}
    used = [side for side in (UCD, ICD) if weights[side.__name__]]
    student = new_model(args, split, device, *used)
    teacher = load_teacher(args, split, device)
    sides = {
        side.__name__: side(
            student, teacher, n=args.n, eps=args.eps, pool=args.pool, refresh=args.refresh,
            sampling=args.sampling, seed=args.seed,
        )
        for side in used
    }  # fmt: skip
    sampler = student.sampler(split, args.batch_size, args.seed, device)

    with Run(args, split, student, *sides.values(), teachers=[teacher]) as run:
        for epoch in run.epochs():
            for batch in sampler.epoch(epoch):
                base = student.loss(batch)
                kd = {name: side.loss(batch) for name, side in sides.items()}
                loss = base + sum(weights[name] * term for name, term in kd.items())
                run.step(loss, base=base, **kd)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
