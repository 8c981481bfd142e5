"""One file for each method of knowledge distillation: its loss, its sampling, its schedule.

A distiller is built from the student, the teacher and its own hyperparameters, by keyword; what all
of them keep is in ``Models/distillers/distiller.py``.
"""

from typing import Any

from Models.distillers.cd import CD
from Models.distillers.cldrd import CLDRD
from Models.distillers.dcd import ICD, UCD
from Models.distillers.de import DE
from Models.distillers.dgkd import DGKD
from Models.distillers.distiller import RepresentationDistiller
from Models.distillers.hetcomp import HetComp
from Models.distillers.hyperkdma import HyperKDMA
from Models.distillers.ir import ItemSideRRD
from Models.distillers.phr import PHR
from Models.distillers.rcekd import RCEKD
from Models.distillers.rd import RD
from Models.distillers.rrd import RRD
from Models.distillers.s2d import S2D
from Models.distillers.unkd import UnKD
from Models.recommender import Recommender
from Models.teacher import Teacher

__all__ = [
    "CD", "CLDRD", "DE", "DGKD", "ICD", "PHR", "RCEKD", "RD", "RRD", "S2D", "UCD", "HetComp",
    "HyperKDMA", "ItemSideRRD", "RepresentationDistiller", "UnKD", "new_hints",
]  # fmt: skip


def new_hints(
    args: Any, student: Recommender, teacher: Teacher, name: str = ""
) -> RepresentationDistiller:
    """Return the distiller of representations that a script's settings name, ``args.kd``."""
    shared = {"layer": args.layer, "seed": args.seed, "name": name}
    if args.kd == "DE":
        return DE(
            student, teacher, num_experts=args.num_experts, tau_0=args.tau_0, tau_P=args.tau_P,
            P=args.P, **shared,
        )  # fmt: skip
    return PHR(student, teacher, enrichment=args.enrichment, precision=args.precision, **shared)
