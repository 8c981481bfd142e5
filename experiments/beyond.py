"""What S2D, which is ours, gains and by what: its controls, the student's size, training time."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from experiments.evidence import Comparison, Evidence, Place, footnotes
from experiments.plan import (
    CONTROLS,
    DE_RRD,
    EXPERIMENTS,
    IR_RRD,
    METHODS,
    S2D,
    SAMPLED,
    TEACHER,
    Cell,
    planned,
)
from experiments.results import markdown_table

Contrast = tuple[str, Cell, Cell]  # a question, and the cells whose difference answers it


def contrasts() -> Iterator[Contrast]:
    """Yield what the controls are compared for."""
    for loss, (random, spectral) in CONTROLS.items():
        yield f"the start: {loss}, spectral - random", spectral, random
    for start in (0, 1):
        cells = {loss: pair[start] for loss, pair in CONTROLS.items()}
        where = f"{('random', 'spectral')[start]} start"
        alone = cells["softmax, no teacher"]
        yield f"the teacher: S2D - softmax without a teacher, {where}", cells["S2D"], alone
        for loss in ("RRD", "DE-RRD"):
            yield f"the teacher: {loss} - BPR, {where}", cells[loss], cells["BPR"]
            yield f"the loss, with a teacher: S2D - {loss}, {where}", cells["S2D"], cells[loss]
        yield f"the loss, without: softmax - BPR, {where}", alone, cells["BPR"]
    start_alone = CONTROLS["BPR"][1]
    for loss in ("RRD", "DE-RRD"):
        random = CONTROLS[loss][0]
        yield f"a start in place of a loss: BPR, spectral - {loss}, random", start_alone, random
    yield "a start in place of a loss: BPR, spectral - DE-RRD as published", start_alone, DE_RRD
    yield "the search: DE-RRD, random - as published", CONTROLS["DE-RRD"][0], DE_RRD
    yield "all: S2D - DE-RRD as published", S2D, DE_RRD
    yield "all: S2D - IR-RRD as published", S2D, IR_RRD
    yield "what is left: S2D - teacher", S2D, TEACHER
    yield "a sampled softmax - the whole", SAMPLED, S2D


def controls_table(evidence: Evidence, dataset: str, model: str) -> str:
    """Return H@5 of each loss from either start, as Markdown."""
    table = [["loss", "start", "runs", "H@5", "of the teacher's", "best epoch", "minutes"]]
    cells = [
        (loss, start, cell)
        for loss, pair in CONTROLS.items()
        for start, cell in zip(("random", "spectral"), pair, strict=True)
    ]
    for loss, start, cell in [*cells, ("S2D, sampled softmax", "spectral", SAMPLED)]:
        runs = evidence.runs(Place(dataset, model, cell))
        if not runs:
            table.append([loss, start, "0", "not run", "", "", ""])
            continue
        values = [run["test"]["H@5"] for run in runs.values()]
        spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
        share = np.mean([*shares(evidence, Place(dataset, model, cell)).values()])
        line = [loss, start, str(len(runs)), f"{np.mean(values):.4f}{spread}", f"{share:.1%}"]
        line += [f"{np.mean([run['best_epoch'] for run in runs.values()]):.0f}"]
        table.append([*line, f"{np.mean(minutes(runs)):.1f}"])
    return markdown_table(table)


def contrasts_table(evidence: Evidence, dataset: str, model: str) -> str:
    """Return the answers that the runs give, as Markdown; what has no runs is left out."""
    reasons = []
    table = [["what makes the difference", "H@5", "splits", "p, splits", "p, users"]]
    for question, one, other in contrasts():
        found = evidence.compare(
            [(1.0, Place(dataset, model, one)), (-1.0, Place(dataset, model, other))], "H@5"
        )
        if found:
            table.append([question, *_numbers(found)])
            reasons.append((question, found.no_users))
    return markdown_table(table) + footnotes(reasons)


def _numbers(found: Comparison) -> list[str]:
    ps = [
        "" if np.isnan(p) else f"{p:.2g}" if p else "< 1e-300"
        for p in (found.p_splits, found.p_users)
    ]
    return [f"{found.difference:+.4f}", str(found.splits), *ps]


def minutes(runs: dict[int, dict]) -> list[float]:
    """Return how long each run trained and evaluated."""
    return [(run["train_seconds"] + run["eval_seconds"]) / 60 for run in runs.values()]


TABLES = (controls_table, contrasts_table)


def shares(evidence: Evidence, place: Place) -> dict[int, float]:
    """Return seed -> H@5 as a share of the teacher's on the same split.

    Not all was run on the same splits, and splits differ by more than methods do.
    """
    mine, teacher = (evidence.values(at) for at in (place, place._replace(cell=TEACHER)))
    return {seed: mine[seed] / teacher[seed] for seed in mine if seed in teacher}


def shares_by_size(
    evidence: Evidence, experiment: str, dataset: str, model: str, size: str
) -> dict[str, dict[float, list[float]]]:
    """Return method -> size, ``"d"`` or ``"phi"`` -> shares of the teacher's H@5, by run."""
    lines: dict[str, dict[float, list[float]]] = defaultdict(dict)
    for cell in EXPERIMENTS[experiment]:
        found = shares(evidence, Place(dataset, model, cell))
        if found and cell != TEACHER:
            dim = planned(cell, dataset, model, 0).settings.dim
            lines[cell.label][dim if size == "d" else cell.phi] = list(found.values())
    return dict(lines)


def shares_by_time(
    evidence: Evidence, dataset: str, model: str
) -> dict[str, tuple[list[float], list[float]]]:
    """Return method -> minutes and shares of the teacher's H@5, by run, for a tenth of its size."""
    points = {}
    for cell in METHODS:
        place = Place(dataset, model, cell)
        runs, found = evidence.runs(place), shares(evidence, place)
        if found:
            points[cell.label] = minutes({s: runs[s] for s in found}), list(found.values())
    return points
