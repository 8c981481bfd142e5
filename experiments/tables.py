"""Tables of an experiment's runs, beside the paper's values, as Markdown and as CSV."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np

from experiments.evidence import Comparison, Evidence, Place, footnotes, minutes
from experiments.paper import FAILS, HOLDS, NOT_RUN, UNDECIDED, Paper, Row, View
from experiments.plan import TEACHER, Cell, cells_on, planned
from experiments.results import markdown_table, mean_of, read_timings


def number(value: float | str, form: str = ".4f") -> str:
    """Return a number as a text, an empty one for what is none."""
    return "" if value == "" or np.isnan(value) else format(value, form)


def _ours(row: Row) -> str:
    if not row.runs:
        return "not run"
    return number(row.mean) + (f" ± {row.deviation:.4f}" if row.deviation != "" else "")


def comparison(view: View, theirs: str = "paper") -> str:
    """Return each cell's main metric beside the paper's, and the tests."""
    head = ["method", "phi", "runs", view.paper.metric, theirs, "difference", "against", "gain"]
    table = [[*head, "p, splits", "p, users"]]
    for row in view.main_rows:
        comparable = row.runs and row.paper != "" and row.dataset not in view.paper.notes
        difference = row.mean - row.paper if comparable else ""
        line = [row.method, f"{row.phi:g}", str(row.runs), _ours(row)]
        line += [number(row.paper) + ("†" if row.flag else ""), number(difference, "+.4f")]
        line += [row.against, number(row.gain, "+.4f")]
        table.append([*line, number(row.p_splits, ".2g"), number(row.p_users, ".2g")])
    reasons = [(row.method, row.no_users) for row in view.main_rows]
    return markdown_table(table) + footnotes(reasons)


def all_metrics(view: View) -> str:
    """Return all metrics, each with the paper's in brackets."""
    by_cell = defaultdict(dict)
    for row in view.rows:
        by_cell[row.method, row.phi][row.metric] = row
    table = [["method", *view.experiment.metrics]]
    for (method, _), found in by_cell.items():
        cells = [
            (number(r.mean) or "-")
            + (f" ({r.paper:.4f}{'†' if r.flag else ''})" if r.paper != "" else "")
            for r in found.values()
        ]
        table.append([method, *cells])
    return f"All metrics, the paper's in brackets:\n\n{markdown_table(table)}"


Contrast = tuple[str, Cell, Cell]  # a question, and the cells whose difference answers it


def contrasts_table(view: View, contrasts: Iterable[Contrast], head: str) -> str:
    """Return the difference that answers each question; what has no runs is left out."""
    reasons = []
    table = [[head, view.paper.metric, "splits", "p, splits", "p, users"]]
    for question, one, other in contrasts:
        terms = [(1.0, view.place(one)), (-1.0, view.place(other))]
        found = view.evidence.compare(terms, view.paper.metric)
        if found:
            table.append([question, *contrast(found)])
            reasons.append((question, found.no_users))
    return markdown_table(table) + footnotes(reasons)


def contrast(found: Comparison) -> list[str]:
    """Return a difference, its number of splits, and its p-values over splits and users."""
    ps = p_value(found.p_splits), p_value(found.p_users)
    return [f"{found.difference:+.4f}", str(found.splits), *ps]


def p_value(p: float) -> str:
    """Return a p-value as a text, an empty one for nan."""
    return number(p, ".2g") if p else "< 1e-300"


def in_minutes(value: float) -> str:
    """Return a time as a text, an empty one for nan."""
    return "< 0.1" if value < 0.05 else number(value, ".1f")


def headline(view: View) -> str:
    """Return what each cell reaches, of the teacher, and in how much time: the README's table."""
    table = [["method", "runs", f"test {view.paper.metric}", "paper", "of the teacher", "minutes"]]
    for cell in view.cells:
        runs, shares = view.runs(cell), list(view.shares(cell).values())
        paper, flag = view.printed(cell, view.paper.metric)
        line = [cell.label, str(len(runs)), mean_of(view.values(cell).values())]
        line += [number(paper) + ("†" if flag else ""), f"{np.mean(shares):.1%}" if shares else ""]
        mean = np.mean(minutes(runs.values())) if runs else np.nan
        table.append([*line, in_minutes(mean)])
    return markdown_table(table)


def inference(view: View, cell: Cell, note: str) -> str:
    """Return the times of inference that were measured; empty if there are none.

    Shares of the teacher are those of ``cell``'s method. The paper's are looked up as the metrics
    ``params_million``, ``time_s`` and ``<main metric>_ratio_to_teacher``; ``note`` says how they
    were taken.
    """
    path = view.evidence.logs / view.dataset / "inference" / f"{view.model}.json"
    if not path.exists():
        return ""
    head = "device|threads|phi|d|parameters|paper|MB|all users, s|paper, s".split("|")
    table = [[*head, "one user, ms", f"{view.paper.metric} / teacher", "paper"]]
    rows = read_timings(path)
    for r in rows:
        sized = Cell(cell.label, cell.method, r["phi"])
        names = ("params_million", "time_s", f"{view.paper.metric}_ratio_to_teacher")
        parameters, seconds, share = (view.printed(sized, name) for name in names)
        line = [r["device"], str(r["threads"]), f"{r['phi']:g}", str(r["dim"])]
        line += [
            f"{r['num_parameters'] / 1e6:.2f} M",
            number(parameters[0], ".2f") + " M" * bool(parameters[0]),
        ]
        line += [f"{r['bytes'] / 1e6:.1f}", f"{r['seconds_all_users']:.2f}"]
        line += [number(seconds[0], ".2f"), f"{r['milliseconds_one_user']:.2f}"]
        line += [_of_teacher(view, sized), number(share[0], ".2f") + "†" * bool(share[1])]
        table.append(line)
    return (
        f"Top {rows[0]['top_n']}, exact, without items in training; {rows[0]['users_per_batch']} "
        f"users at a time, or one. {note}\n\n{markdown_table(table)}"
    )


def _of_teacher(view: View, cell: Cell) -> str:
    """Return a cell's mean over the teacher's, on the splits that both have."""
    common = view.evidence.common([view.place(cell), view.place(TEACHER)], view.paper.metric)
    if not common:
        return ""
    mine, teachers = np.mean(list(common.values()), axis=0)
    return f"{mine / teachers:.2f}"


def claims_table(
    paper: Paper, evidence: Evidence, dataset: str, experiment: str | None = None
) -> str:
    """Return the paper's claims, of one experiment or all, with our verdicts.

    Those not run are listed below the table, the same of several base models in one line.
    """
    head = ["claim", "section", "verdict", f"our evidence (differences of {paper.metric})"]
    table: list[list[str]] = [head]
    not_run: dict[str, list[str]] = {}  # of which models, by what is claimed of them
    for claim in paper.claims:
        if experiment in (None, claim.experiment):
            (verdict, detail), text = claim.check(paper, evidence, dataset), claim.text_on(dataset)
            if verdict == NOT_RUN:
                of, colon, claimed = text.partition(": ") if ": " in text else ("", "", text)
                line = f"{colon}{claimed} ({claim.section})" + f": {detail}" * bool(detail)
                not_run.setdefault(line, []).append(of)
            else:
                table.append([text, claim.section, f"*{verdict}*", detail])
    parts = [markdown_table(table)] if len(table) > 1 else []
    if not_run:
        lines = [f"- {'; '.join(of)}{line}" for line, of in not_run.items()]
        parts.append("\n".join(["*Not run*, so open:", "", *lines]))
    return "\n\n".join(parts)


def verdicts(paper: Paper, evidence: Evidence, dataset: str) -> str:
    """Return how many of a paper's claims have which verdict, as a sentence."""
    counts = Counter(claim.check(paper, evidence, dataset).verdict for claim in paper.claims)
    return (
        f"Claims of {paper.title} on {dataset}: {counts[HOLDS]} held, "
        f"{counts[FAILS]} did not hold, {counts[UNDECIDED]} undecided, {counts[NOT_RUN]} "
        f"not run, of {len(paper.claims)}."
    )


def coverage(paper: Paper, evidence: Evidence) -> str:
    """Return how many of the runs of a paper's experiments were run, with links to them."""
    table = [["", *(f"{dataset}, {model}" for dataset, model in paper.settings)]]
    for name, experiment in paper.experiments.items():
        if not experiment.splits:
            continue
        line = [f"[{experiment.title}]({paper.name}/{name}.md)"]
        for dataset, model in paper.settings:
            places = {
                planned(cell, dataset, model, 0).folder: Place(dataset, model, cell)
                for cell in cells_on(model, experiment.cells)
            }
            done = sum(len(evidence.runs(place)) for place in places.values())
            of = experiment.splits * len(places)
            line.append(f"{done} of {of}" if done else "not run" if places else "-")
        table.append(line)
    return markdown_table(table)


def to_csv(rows: list[Row]) -> str:
    """Return rows as CSV, numbers to six digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    for row in rows:
        values = (number(v, ".6g") if isinstance(v, float) else v for v in row)
        writer.writerow(values)
    return text.getvalue()
