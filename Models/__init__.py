"""Base models by name."""

from typing import Any

import torch

from Models.autoencoder import ItemVAE, MultVAE
from Models.bpr import BPR
from Models.caser import Caser
from Models.cml import CML
from Models.ials import iALS
from Models.lightgcn import LightGCN
from Models.neumf import NeuMF
from Models.ngcf import NGCF
from Models.popularity import Popularity
from Models.recommender import Recommender
from Models.sasrec import SASRec
from Models.sgl import SGL
from Utils.errors import UserError, require_known
from Utils.optimizer import by_rows, require_memory
from Utils.processes import Share
from Utils.seeding import torch_generator
from Utils.split import Split

EVERY = (BPR, NeuMF, LightGCN, NGCF, SGL, CML, MultVAE, ItemVAE, iALS, Popularity, Caser, SASRec)
MODELS: dict[str, type[Recommender]] = {each.__name__: each for each in EVERY}


def build_model(
    name: str, split: Split, dim: int, seed: int, **options: float | None
) -> Recommender:
    """Return a freshly initialised base model; the seed alone decides all that it draws.

    ``options`` are the model's own settings, such as ``num_layers``; None leaves it the choice.

    Raises
    ------
    UserError
        If there is no such model, if it does not have a setting that is given, if it sees more than
        the users of a share, or if this machine could not hold a vector of this size for each user
        and item.
    """
    require_known("--model", name, MODELS)
    given = {option: value for option, value in options.items() if value is not None}
    for option in given.keys() - set(MODELS[name].options):
        raise UserError(f"--{option} {given[option]}: {name} has no such setting; leave it out")
    if isinstance(split, Share) and not MODELS[name].by_users:
        raise UserError(
            f"--model {name}: sees all users at once, so they cannot be shared out among "
            f"processes; start it with python, without torchrun"
        )
    require_memory((split.num_users + split.num_items) * dim, f"--dim {dim}: training {name}")
    generator = torch_generator(seed, f"init {name}")
    return MODELS[name](split, dim, **given, generator=generator)


def new_model(args: Any, split: Split, device: torch.device, *methods: Any) -> Recommender:
    """Return the base model that a script's settings describe, freshly initialised.

    ``methods`` are the classes of distillers that are to teach it: each may ``require`` something
    of it, and what cannot be is known before a teacher is trained.

    Raises
    ------
    UserError
        As ``build_model``, if it is to learn from a teacher and is not trained in steps or a method
        cannot teach it, or if only rows of tables are to be updated and it learns from whole ones.
    """
    if by_rows(args) and MODELS[args.model].whole_tables:
        raise UserError(
            f"--optimizer rows: {args.model} learns from all rows of its tables at each step, so "
            f"nothing would be gained; use --optimizer dense"
        )
    if MODELS[args.model].unused and hasattr(args, "teacher"):
        raise UserError(
            f"--model {args.model}: is solved for, and not trained in steps, so it cannot learn "
            f"from a teacher; as a teacher, name its run with --teacher"
        )
    options = {option for model in MODELS.values() for option in model.options}
    given = {option: getattr(args, option, None) for option in options}
    model = build_model(args.model, split, args.dim, args.seed, **given).to(device)
    for method in methods:
        method.require(model)
    return model
