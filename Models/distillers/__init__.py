"""One file for each method of knowledge distillation: its loss, its sampling, its schedule.

A distiller is built from the student, the teacher and its own hyperparameters, by keyword; what all
of them keep is in ``Models/distillers/distiller.py``.
"""

from Models.distillers.cd import CD
from Models.distillers.de import DE
from Models.distillers.ir import ItemSideRRD
from Models.distillers.rd import RD
from Models.distillers.rrd import RRD
from Models.distillers.s2d import S2D

__all__ = ["CD", "DE", "RD", "RRD", "S2D", "ItemSideRRD"]
