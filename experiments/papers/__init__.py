"""The papers whose experiments are here: each module of this package is one, and has ``PAPER``.

A name with an underscore is no paper's: ``<paper>_<part>.py`` is a part of that paper.
"""

import pkgutil
from functools import cache
from importlib import import_module

from experiments.paper import Paper
from Utils.errors import UserError, require_known


@cache
def papers() -> dict[str, Paper]:
    """Return the papers by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    found = [import_module(f"{__name__}.{name}").PAPER for name in names if "_" not in name]
    return {paper.name: paper for paper in found}


def find(name: str) -> tuple[Paper, str]:
    """Return an experiment's paper and its name there.

    ``name`` is ``<paper>/<experiment>``, or ``<experiment>`` alone where one paper has it.

    Raises
    ------
    UserError
        If there is none of this name, or more than one.
    """
    every = {
        f"{paper.name}/{e}": (paper, e) for paper in papers().values() for e in paper.experiments
    }
    fitting = [full for full, (_, alone) in every.items() if name in (full, alone)]
    if len(fitting) > 1:
        raise UserError(f"experiment {name!r} is of several papers: {'; '.join(fitting)}")
    if not fitting:
        require_known("experiment", name, names())
    return every[fitting[0]]


def names() -> list[str]:
    """Return the experiments as short as they can be called, paper by paper."""
    every = [(paper.name, e) for paper in papers().values() for e in paper.experiments]
    alone = [e for _, e in every]
    return [e if alone.count(e) == 1 else f"{paper}/{e}" for paper, e in every]
