"""Base models by name."""

from typing import Any

from Models.bpr import BPR
from Models.neumf import NeuMF
from Models.recommender import Recommender
from Utils.data_utils import LeaveOneOutSplit
from Utils.errors import UserError, require_known
from Utils.seeding import torch_generator

MODELS: dict[str, type[Recommender]] = {"BPR": BPR, "NeuMF": NeuMF}


def build_model(
    name: str, num_users: int, num_items: int, dim: int, seed: int, **options: int | None
) -> Recommender:
    """Return a freshly initialised base model; the seed alone decides its first weights.

    ``options`` are the model's own settings, such as ``num_layers``; None leaves it the choice.

    Raises
    ------
    UserError
        If there is no such model, or if it does not have a setting that is given.
    """
    require_known("--model", name, MODELS)
    given = {option: value for option, value in options.items() if value is not None}
    for option in given.keys() - set(MODELS[name].options):
        raise UserError(f"--{option} {given[option]}: {name} has no such setting; leave it out")
    generator = torch_generator(seed, f"init {name}")
    return MODELS[name](num_users, num_items, dim, **given, generator=generator)


def new_model(args: Any, split: LeaveOneOutSplit) -> Recommender:
    """Return the base model that a script's settings describe, freshly initialised."""
    options = {option for model in MODELS.values() for option in model.options}
    given = {option: getattr(args, option, None) for option in options}
    return build_model(args.model, split.num_users, split.num_items, args.dim, args.seed, **given)
