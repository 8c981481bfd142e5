"""What all main scripts share: the settings that they inherit, and how they are started."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import torch

from experiments.estimate import estimate
from experiments.settings import resolve
from Models import MODELS
from Utils import processes, settings
from Utils.errors import UserError, require_known
from Utils.run_folder import is_finished
from Utils.settings import RunSettings, use_device
from Utils.sources import DATASETS, split_of
from Utils.split import Split
from Utils.tables import Reading

# by this name scripts need not import torch before ``experiments``, which takes care of Ctrl-C
Device = torch.device
Main = Callable[[Any, Split, Device], None]


@dataclass
class ScriptSettings(Reading, RunSettings):
    """On what a script runs, and which epoch it reports."""

    shares: ClassVar[tuple[str, ...]] = ("valid_share", "test_share")
    any_sign: ClassVar[tuple[str, ...]] = ("min_rating",)
    from_zero: ClassVar[tuple[str, ...]] = (*RunSettings.from_zero, "eval_users")

    # data set: CiteULike, Foursquare or synthetic, which is built in; of sequences,
    # AmazonVideoGames, Toys or Beauty; a file of your own, as in ratings.csv; or one of any size,
    # users x items x pairs, that is made, as in synthetic:1e6x1e6x2e7
    dataset: str = "CiteULike"
    # seed: our own leave-one-out split of this seed; share: 60/20/20 of each user's items, ranked
    # among all; time: 70/10/20 of each user's items in their order, the default of sequences;
    # published: the one that the DE-RRD authors published (CiteULike only)
    split: Literal["seed", "share", "published", "time"] = "seed"
    # share and time: of a user's items, those for validation; None: 0.2, by time 0.1
    valid_share: float | None = None
    # share and time: of a user's items, those for the test; None: 0.2
    test_share: float | None = None
    # users who are measured, for validation and test, drawn by the seed; 0: all
    eval_users: int = 0
    # of the split, the first weights, the batches and all else that is drawn
    seed: int = 0
    # base model of teacher and student, such as BPR, NeuMF, LightGCN; README lists them
    model: str = "BPR"
    # paper: best validation H@5 (share: R@50); published_code: an epoch for each of H@5, H@10, H@20
    selection: Literal["paper", "published_code"] = "paper"

    @property
    def held_out(self) -> tuple[float | None, float | None]:
        """The shares for validation and test, as ``load_split`` takes them."""
        return self.valid_share, self.test_share

    def irrelevant(self) -> set[str]:
        """Return the settings that change nothing of what is learned."""
        # a file may be moved, and a size be written otherwise: its name is its runs' folder's, and
        # its content is compared
        return super().irrelevant() | (set() if self.dataset in DATASETS else {"dataset"})


@dataclass
class TrainingSettings(ScriptSettings):
    """How long is trained."""

    # most epochs to train
    max_epoch: int = 1000
    # evaluations without improvement before training stops; None: the rule's, 30 for paper (share:
    # 5; time: 10, of every fifth epoch) and 20 for published_code
    patience: int | None = None
    # dense: Adam moves every row of every table at each step, as the papers do; rows: those that a
    # step looks at, each making up for what it missed, nearly the same, for large data
    optimizer: Literal["dense", "rows"] = "dense"
    # states along the training that are kept beside the best one, which is the last: for HetComp
    keep_states: int = 0

    from_zero: ClassVar[tuple[str, ...]] = (*ScriptSettings.from_zero, "keep_states")

    def irrelevant(self) -> set[str]:
        """Return the settings that change nothing of what is learned."""
        return super().irrelevant() | {"keep_states"}


@dataclass
class ModelSettings(TrainingSettings):
    """What base models have beside their size; None leaves it to the model."""

    shares: ClassVar[tuple[str, ...]] = (*TrainingSettings.shares, "dropout", "beta_KL")

    # hidden layers of NeuMF, each half as wide as the one before; layers L of the graph models;
    # blocks of SASRec
    num_layers: int | None = None
    # share of the messages (NGCF), of the edges of each augmented graph (SGL), of the rows that are
    # encoded (MultVAE, ItemVAE) or of hidden units (Caser, SASRec) that is dropped
    dropout: float | None = None
    # SGL: weight of the contrast between the two augmented graphs; goes with sums over a batch
    lmbda_SSL: float | None = None
    # SGL: temperature of the contrast, tau
    tau_SSL: float | None = None
    # CML: by how much a squared distance to a positive must be below that to a negative
    margin: float | None = None
    # MultVAE and ItemVAE: weight of the KL term, when it is fully grown
    beta_KL: float | None = None
    # iALS: how much more a training pair weighs than any other
    alpha: float | None = None
    # iALS: weight of the squared norms
    ridge: float | None = None
    # Caser and SASRec: the latest items that are looked at, L
    length: int | None = None
    # Caser: items after these that are learned, T
    num_targets: int | None = None
    # Caser: vertical filters
    n_v: int | None = None
    # Caser: horizontal filters of each height
    n_h: int | None = None


@dataclass
class TeacherSettings(ScriptSettings):
    """Whom a student learns from."""

    # size of the teacher's representations, d_t: 200 (NeuMF: 250)
    teacher_dim: int = 200
    # checkpoint of a teacher, or its run's folder; or one that was trained elsewhere: its factors
    # (.npz, .safetensors, a folder of Parquet) or lists (.parquet, .csv, .tsv), under the original
    # ids; empty: the run of main_no_KD.py on the same split
    teacher: str = ""
    # several teachers as one, for methods of lists and scores: base models, checkpoints or factors,
    # as in BPR,iALS; those that are missing are trained first
    teachers: str = ""
    # how much each counts, as in 1,2; empty: all the same
    teacher_weights: str = ""
    # scores: each user's are standardised and averaged; ranks: logarithms of places are averaged
    combine: Literal["scores", "ranks"] = "scores"

    def irrelevant(self) -> set[str]:
        """Return the settings that change nothing of what is learned."""
        named = {"teacher_dim"} if self.teacher or self.teachers else set()  # they have sizes
        if not self.teachers:
            named |= {"teacher_weights", "combine"}
        return super().irrelevant() | named


@dataclass
class DistillationSettings(ModelSettings, TeacherSettings):
    """A student of a base model, and its teacher."""


@dataclass
class AssistantSettings(DistillationSettings):
    """A student, its teacher, and assistants of sizes in between."""

    # assistants between teacher and student
    num_TAs: int = 2
    # their sizes, as in 80,140; empty: d_i = d_S + i (d_T - d_S) / (num_TAs + 1)
    TA_dims: str = ""

    def irrelevant(self) -> set[str]:
        """Return the settings that change nothing of what is learned."""
        return super().irrelevant() | ({"num_TAs"} if self.TA_dims else set())


def launch(main: Main, kind: type, description: str) -> None:
    """Start a script from its command line; errors are a line and exit status 2."""
    settings.launch(lambda args: start(main, kind, given_on(args, sys.argv[1:])), kind, description)


def given_on(args: Any, words: list[str]) -> dict[str, Any]:
    """Return those settings that a command line names, though it may give them their default."""
    names = {word[2:].partition("=")[0].replace("-", "_") for word in words if word[:2] == "--"}
    return {field.name: getattr(args, field.name) for field in fields(args) if field.name in names}


def start(main: Main, kind: type, given: dict[str, Any]) -> None:
    """Call ``main`` with what it needs, unless the very run is finished.

    Parameters
    ----------
    main : takes the settings, the split and the device. Of several processes, each calls it with
        the split of its share of the users.
    kind : the script's settings, of which ``given`` are chosen; see ``resolve`` for the others.
    """
    args, said = resolve(kind, given)
    print(said)
    device = use_device(args)
    if processes.count() > 1 and getattr(args, "keep_states", 0):
        raise UserError(f"--keep_states {args.keep_states}: one process keeps states; leave it out")
    with processes.first_alone():
        split = split_of(args)
    require_known("--selection", args.selection, split.protocol.rules)
    _require_use(args, given)
    if not processes.agreed(lambda: is_finished(args, split)):
        split = processes.share_of(split)
        if args.dataset not in DATASETS:
            print(estimate(args, split), flush=True)
        main(args, split, device)


def _require_use(args: Any, given: dict[str, Any]) -> None:
    """Raise ``UserError`` if a setting is given that its base model has no use for."""
    unused = [name for name in MODELS[args.model].unused if name in given]
    if unused and not hasattr(args, "teacher"):
        raise UserError(
            f"--{unused[0]} {given[unused[0]]}: {args.model} is solved for, and not trained in "
            f"steps, so this changes nothing; leave it out"
        )
