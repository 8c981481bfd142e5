"""Random generators made from (seed, purpose, epoch), so that no draw depends on what came before.

A run that was killed and resumed therefore draws what an uninterrupted one draws, and a change in
one place (a larger batch, one more sampler) leaves every other draw as it was.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch


def _entropy(seed: int, purpose: str, epoch: int) -> int:
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1  # torch takes signed 64-bit seeds


def numpy_generator(seed: int, purpose: str, epoch: int = 0) -> np.random.Generator:
    """Return the NumPy generator for this purpose and epoch of a run with this seed."""
    return np.random.default_rng(_entropy(seed, purpose, epoch))


def torch_generator(
    seed: int, purpose: str, epoch: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return the PyTorch generator, on ``device``, for this purpose and epoch of a run."""
    return torch.Generator(device).manual_seed(_entropy(seed, purpose, epoch))


@dataclass(frozen=True)
class Draws:
    """The generators of one part of a run; ``name`` tells apart parts that are alike."""

    seed: int
    name: str = ""

    def generator(
        self, purpose: str, epoch: int = 0, device: torch.device | str = "cpu"
    ) -> torch.Generator:
        """Return the generator, on ``device``, for this purpose and epoch of this part."""
        purpose = f"{purpose} of {self.name}" if self.name else purpose
        return torch_generator(self.seed, purpose, epoch, device)
