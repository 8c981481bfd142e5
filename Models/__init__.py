"""Base models by name."""

from Models.bpr import BPR
from Models.recommender import Recommender
from Utils.seeding import torch_generator

MODELS: dict[str, type[Recommender]] = {"BPR": BPR}


def build_model(name: str, num_users: int, num_items: int, dim: int, seed: int) -> Recommender:
    """Return a freshly initialised base model; the seed alone decides its first weights."""
    generator = torch_generator(seed, f"init {name}")
    return MODELS[name](num_users, num_items, dim, generator=generator)
