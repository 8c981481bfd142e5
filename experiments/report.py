"""Report our runs, beside the DE-RRD paper's tables: Markdown, CSV, figures, the README's results.

    python -m experiments.report table2     # prints it, and writes results/table2.md and .csv
    python -m experiments.report            # all of them, their figures, and the README's results

Everything comes from logs/. Ours are means over splits, with the standard deviation (n - 1).
"""

import csv
import io
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import tyro

from experiments import beyond, figures
from experiments.claims import CLAIMS, FAILS, HOLDS, NOT_RUN, UNDECIDED, user_experts, user_groups
from experiments.evidence import Evidence, Place, footnotes
from experiments.figures import Figure, plt
from experiments.plan import (
    EXPERIMENTS,
    METHODS,
    ROOT,
    S2D,
    STUDENT,
    TEACHER,
    Cell,
    cells_of,
    planned,
)
from experiments.published import NOTES, paper_value
from experiments.results import markdown_table, read_runs, read_timings
from experiments.settings import SIZES
from Utils.errors import UserError, require_known
from Utils.evaluation import METRICS
from Utils.files import ANEW, read_npz
from Utils.settings import launch

SETTINGS = [(dataset, model) for dataset in ("CiteULike", "Foursquare") for model in SIZES]
BASELINES = [cell for cell in METHODS if cell.label in ("RD", "CD")]
SHOWN = {"table2": METRICS, "curves": METRICS, "table4": ["H@5", "N@5", "H@10", "N@10"]}
TITLES = {
    "table2": "Table 2: methods, phi = 0.1",
    "figure4": "Figure 4: sizes of the student",
    "table3": "Table 3: size and inference time",
    "table4": "Table 4: other design choices",
    "table5": "Table 5: both lambdas of DE-RRD",
    "figure5": "Figure 5: gain by group of users",
    "figure6": "Figure 6: which expert is whose",
    "figure7": "Figure 7: lambdas, number of experts, K",
    "controls": "What makes S2D good: start, loss, teacher",
    "sizes": "Sizes of the student, S2D and others",
    "curves": "The authors' published split",
}


class Row(NamedTuple):
    """A cell's metric, ours and the paper's; a line of the CSV file. Empty texts: no such value."""

    dataset: str
    model: str
    method: str
    phi: float
    metric: str
    runs: int
    mean: float | str
    deviation: float | str
    paper: float | str
    flag: str
    against: str
    gain: float | str
    p_splits: float | str
    p_users: float | str
    no_users: str  # why there is no p_users


def against(evidence: Evidence, place: Place) -> Place | None:
    """Return what the paper compares a cell with on H@5, of the cell's size and split.

    An ablation with its method; RRD, DE-RRD and IR-RRD with the best baseline, RD or CD, of those
    with most common splits; all others, and these without a baseline, with the student.
    """
    cell = place.cell
    if cell in (TEACHER, STUDENT) or cell.method == "no_KD":
        return None
    method = cell.label.split(" (")[0]
    split = tuple(pair for pair in cell.changes if pair[0] in ("split", "selection"))

    def beside(other: Cell) -> Place:
        changed = Cell(other.label, other.method, cell.phi, split)
        return place._replace(cell=changed)

    if method != cell.label:
        return beside(next(c for c in METHODS if c.label == method))
    if cell.method in ("URRD", "DERRD", "IRRRD"):
        gains = {
            beside(other): (-found.splits, found.difference)
            for other in BASELINES
            if (found := evidence.compare([(1.0, place), (-1.0, beside(other))], "H@5"))
        }
        if gains:  # the baseline with most common splits; of two, the better leaves less
            return min(gains, key=gains.get)
    return beside(STUDENT)


def rows_of(evidence: Evidence, experiment: str, dataset: str, model: str) -> list[Row]:
    """Return a row for each cell and metric of an experiment; none if nothing of it was run."""
    rows = [
        _row(evidence, experiment, Place(dataset, model, cell), metric)
        for cell in cells_of(experiment, model)
        for metric in SHOWN.get(experiment, ["H@5"])
    ]
    return rows if any(row.runs for row in rows) else []


def _row(evidence: Evidence, experiment: str, place: Place, metric: str) -> Row:
    values = list(evidence.values(place, metric).values())
    other = against(evidence, place)
    found = other and evidence.compare([(1.0, place), (-1.0, other)], metric)
    return Row(
        *(place.dataset, place.model, place.cell.label, place.cell.phi, metric, len(values)),
        float(np.mean(values)) if values else "",
        float(np.std(values, ddof=1)) if len(values) > 1 else "",
        *paper_value(experiment, place, metric),
        other.cell.label if found else "",
        *(
            (found.difference, found.p_splits, found.p_users, found.no_users)
            if found
            else ("",) * 4
        ),
    )


def _number(value: float | str, form: str = ".4f") -> str:
    return "" if value == "" or np.isnan(value) else format(value, form)


def _ours(row: Row) -> str:
    if not row.runs:
        return "not run"
    return _number(row.mean) + (f" ± {row.deviation:.4f}" if row.deviation != "" else "")


def comparison_table(rows: list[Row], theirs: str = "paper") -> str:
    """Return H@5 of each cell beside the paper's, and the tests, as Markdown."""
    head = ["method", "phi", "runs", "H@5", theirs, "difference", "against", "gain"]
    table = [[*head, "p, splits", "p, users"]]
    for row in rows:
        if row.metric != "H@5":
            continue
        comparable = row.runs and row.paper != "" and row.dataset not in NOTES
        difference = row.mean - row.paper if comparable else ""
        line = [row.method, f"{row.phi:g}", str(row.runs), _ours(row)]
        line += [_number(row.paper) + ("†" if row.flag else ""), _number(difference, "+.4f")]
        line += [row.against, _number(row.gain, "+.4f")]
        table.append([*line, _number(row.p_splits, ".2g"), _number(row.p_users, ".2g")])
    reasons = [(row.method, row.no_users) for row in rows if row.metric == "H@5"]
    return markdown_table(table) + footnotes(reasons)


def metrics_table(rows: list[Row]) -> str:
    """Return all metrics, each with the paper's in brackets, as Markdown."""
    by_cell = defaultdict(dict)
    for row in rows:
        by_cell[row.method, row.phi][row.metric] = row
    names = list(next(iter(by_cell.values())))
    table = [["method", *names]]
    for (method, _), found in by_cell.items():
        cells = [
            (_number(r.mean) or "-")
            + (f" ({r.paper:.4f}{'†' if r.flag else ''})" if r.paper != "" else "")
            for r in found.values()
        ]
        table.append([method, *cells])
    return markdown_table(table)


def lambda_table(rows: list[Row]) -> str:
    """Return table 5, ours with the paper's in brackets: a row for each lambda_DE, as Markdown."""
    grid = {row.method: row for row in rows}
    cells = EXPERIMENTS["table5"]
    names = {
        name: sorted({dict(c.changes)[name] for c in cells}) for name in dict(cells[0].changes)
    }
    table = [["lambda_DE", *(f"lambda_RRD = {value:g}" for value in names["lmbda_RRD"])]]
    for de in names["lmbda_DE"]:
        line = [f"{de:g}"]
        for rrd in names["lmbda_RRD"]:
            wanted = {"lmbda_DE": de, "lmbda_RRD": rrd}
            row = grid[next(c.label for c in cells if dict(c.changes) == wanted)]
            line.append(_ours(row) + (f" ({row.paper:.4f})" if row.paper != "" else ""))
        table.append(line)
    return markdown_table(table)


def inference_table(evidence: Evidence, dataset: str, model: str) -> str:
    """Return table 3 as Markdown; empty if the inference was not timed."""
    path = evidence.logs / dataset / "inference" / f"{model}.json"
    if not path.exists():
        return ""
    rows = read_timings(path)
    head = "device|threads|phi|d|parameters|paper|MB|all users, s|paper, s".split("|")
    table = [[*head, "one user, ms", "H@5 / teacher", "paper"]]
    teacher = evidence.values(Place(dataset, model, TEACHER))
    for r in rows:
        place = Place(dataset, model, Cell("DE-RRD", "DERRD", r["phi"]))
        theirs = [
            paper_value("table3", place, name)
            for name in ("params_million", "time_s", "H@5_ratio_to_teacher")
        ]
        mine = evidence.values(place)
        seeds = mine.keys() & teacher.keys()
        ratio = (
            np.mean([mine[s] for s in seeds]) / np.mean([teacher[s] for s in seeds])
            if seeds
            else ""
        )
        line = [r["device"], str(r["threads"]), f"{r['phi']:g}", str(r["dim"])]
        line += [f"{r['num_parameters'] / 1e6:.2f} M", f"{theirs[0][0]:.2f} M"]
        line += [f"{r['bytes'] / 1e6:.1f}", f"{r['seconds_all_users']:.2f}", f"{theirs[1][0]:.2f}"]
        line += [f"{r['milliseconds_one_user']:.2f}", _number(ratio, ".2f")]
        table.append([*line, f"{theirs[2][0]:.2f}" + ("†" if theirs[2][1] else "")])
    first = rows[0]
    return (
        f"Top {first['top_n']}, exact, without items in training; {first['users_per_batch']} users "
        f"at a time, or one. The paper's times are of a Tesla P40.\n\n{markdown_table(table)}"
    )


def claims_table(evidence: Evidence, dataset: str, experiment: str | None = None) -> str:
    """Return the paper's claims, of one experiment or all, with our verdicts, as Markdown.

    Those not run are listed below the table.
    """
    table, not_run = [["claim", "section", "verdict", "our evidence (differences of H@5)"]], []
    for claim in CLAIMS:
        if experiment in (None, claim.experiment):
            (verdict, detail), text = claim.check(evidence, dataset), claim.text_on(dataset)
            if verdict == NOT_RUN:
                not_run.append(f"- {text} ({claim.section})" + f": {detail}" * bool(detail))
            else:
                table.append([text, claim.section, f"*{verdict}*", detail])
    parts = [markdown_table(table)] if len(table) > 1 else []
    if not_run:
        parts.append("\n".join(["*Not run*, so open:", "", *not_run]))
    return "\n\n".join(parts)


def figure_of(evidence: Evidence, experiment: str, dataset: str, model: str) -> Figure | None:
    """Draw an experiment's figure; None if it has none or not enough of it was run."""

    def place(cell: Cell) -> Place:
        return Place(dataset, model, cell)

    def scores(cell: Cell) -> list[float]:
        return list(evidence.values(place(cell)).values())

    if experiment == "table2":
        ours = {cell.label: found for cell in EXPERIMENTS["table2"] if (found := scores(cell))}
        paper = {
            cell.label: value
            for cell in EXPERIMENTS["table2"]
            if dataset not in NOTES and (value := paper_value("table2", place(cell), "H@5")[0])
        }
        return figures.beside_paper(ours, paper) if ours else None
    if experiment in ("figure4", "sizes"):
        size = "d" if experiment == "sizes" else "phi"
        lines = beyond.shares_by_size(evidence, experiment, dataset, model, size)
        if not any(len(points) > 1 for label, points in lines.items() if label != STUDENT.label):
            return None
        return figures.size_curves(lines, size)
    if experiment == "controls":
        times = beyond.shares_by_time(evidence, dataset, model)
        return figures.time_map(times) if S2D.label in times else None
    if experiment == "figure7":
        panels = _panels(evidence, dataset, model)
        return figures.setting_curves(panels) if panels else None
    if experiment not in ("figure5", "figure6"):
        return None
    groups = user_groups(evidence, dataset, model, 0)
    if groups is None:
        return None
    folder = evidence.runs(place(TEACHER))[0]["folder"]
    coordinates = read_npz(folder / "user_space.npz", ["coordinates"])["coordinates"]
    if coordinates.shape != (len(groups), 2):
        raise UserError(f"{folder / 'user_space.npz'}: coordinates and groups do not fit; {ANEW}")
    if experiment == "figure6":
        experts = user_experts(evidence, dataset, model, 0)
        chosen = {f"epoch {epoch}": values for epoch, values in experts.items()}
        return figures.selection_maps(coordinates, chosen) if chosen else None
    student = evidence.user_values(place(STUDENT), "N@20", 0)
    gains = {
        cell.label: users - student
        for cell in EXPERIMENTS["figure5"][1:]
        if student is not None
        and (users := evidence.user_values(place(cell), "N@20", 0)) is not None
    }
    return figures.gain_maps(coordinates, groups, gains) if gains else None


def _panels(
    evidence: Evidence, dataset: str, model: str
) -> dict[str, dict[str, dict[float, list[float]]]]:
    """Return figure 7's panels of which more than the student and the tuned value was run.

    The points of a panel are of the same splits, those that all of its cells were run on.
    """
    names = {"lmbda_DE": "λ of DE", "num_experts": "experts M"}
    names |= {"lmbda_RRD": "λ of RRD", "K": "K = L"}
    panels = {}
    for name, title in names.items():
        points = {0: Place(dataset, model, STUDENT)}
        for cell in EXPERIMENTS["figure7"]:
            place = Place(dataset, model, cell)
            if name in dict(cell.changes) and evidence.runs(place):
                points[dict(cell.changes)[name]] = place
        scores = np.array(list(evidence.common(points.values()).values()))  # (splits, cells)
        if len(points) > 2 and len(scores):
            label = points[max(points)].cell.label.split(",")[0]
            panels[title] = {label: dict(zip(points, scores.T.tolist(), strict=True))}
    return panels


def report(evidence: Evidence, experiment: str) -> tuple[str, list[Row]]:
    """Return an experiment's report as Markdown, and its rows."""
    parts, every = [f"# {TITLES[experiment]}"], []
    for dataset, model in SETTINGS:
        rows = rows_of(evidence, experiment, dataset, model)
        every += rows
        tables = []
        if rows:
            if experiment == "table5":
                tables.append(lambda_table(rows))
            elif experiment == "controls":
                tables += [table(evidence, dataset, model) for table in beyond.TABLES]
            else:
                tables.append(comparison_table(rows))
        if rows and experiment in SHOWN:
            tables.append(f"All metrics, the paper's in brackets:\n\n{metrics_table(rows)}")
        if experiment == "table3":
            tables.append(inference_table(evidence, dataset, model))
        flags = {f"† {row.metric} of {row.method}: {row.flag}" for row in rows if row.flag}
        tables += sorted(flags)
        if any(tables):
            parts += [f"## {dataset}, {model}", *NOTES.get(dataset, []), *filter(None, tables)]
    if len(parts) == 1:
        parts.append("Not run.")
    for dataset in dict.fromkeys(dataset for dataset, _ in SETTINGS):
        claims = claims_table(evidence, dataset, experiment)
        if any(f"*{verdict}*" in claims for verdict in (HOLDS, FAILS, UNDECIDED)):
            parts += [f"## The paper's claims, on {dataset}", claims]
    return "\n\n".join(parts) + "\n", every


def to_csv(rows: list[Row]) -> str:
    """Return rows as CSV, numbers to six digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    for row in rows:
        values = (_number(v, ".6g") if isinstance(v, float) else v for v in row)
        writer.writerow(values)
    return text.getvalue()


def coverage_table(evidence: Evidence) -> str:
    """Return how many of each experiment's runs, seeds 0 to 4, were run, as Markdown."""
    table = [["", *(f"{dataset}, {model}" for dataset, model in SETTINGS)]]
    for experiment in EXPERIMENTS:
        if experiment == "curves":
            continue
        line = [TITLES[experiment]]
        for dataset, model in SETTINGS:
            places = {
                planned(cell, dataset, model, 0).folder: Place(dataset, model, cell)
                for cell in cells_of(experiment, model)
            }
            done = sum(len(evidence.runs(place)) for place in places.values())
            line.append(f"{done} of {5 * len(places)}" if done else "not run" if places else "-")
        table.append(line)
    return markdown_table(table)


def readme_results(evidence: Evidence) -> str:
    """Return the README's results: table 2, the claims, the published split, what is missing."""
    parts = []
    for dataset, model in SETTINGS:
        rows = rows_of(evidence, "table2", dataset, model)
        if rows:
            note = NOTES.get(dataset, [])
            parts += [f"**{dataset}, {model}**", *note, comparison_table(rows)]
    parts += ["### Did it reproduce?", claims_table(evidence, "CiteULike")]
    rows = rows_of(evidence, "curves", "CiteULike", "BPR")
    if rows:
        parts += ["### The authors' published split", comparison_table(rows, "their logs")]
    parts += ["### Beyond the papers: S2D"]
    parts += [table(evidence, "CiteULike", "BPR") for table in beyond.TABLES]
    parts += ["### What was run, and what not", coverage_table(evidence)]
    return "\n\n".join(parts)


@dataclass
class Settings:
    """What to report."""

    # table2, figure4, table3, table4, table5, figure5, figure6, figure7, curves, controls, sizes,
    # or all
    experiment: Annotated[str, tyro.conf.Positional] = "all"


def main(args: Settings) -> None:
    """Write the reports."""
    require_known("experiment", args.experiment, [*EXPERIMENTS, "all"])
    runs = read_runs(Path("logs"))
    if not runs:  # also keeps the README from being emptied out of another folder
        raise UserError("logs: no finished run here; call this in the project's folder")
    evidence = Evidence()
    chosen = EXPERIMENTS if args.experiment == "all" else [args.experiment]
    folder = Path("results")
    folder.mkdir(exist_ok=True)
    for experiment in chosen:
        text, rows = report(evidence, experiment)
        (folder / f"{experiment}.md").write_text(text)
        (folder / f"{experiment}.csv").write_text(to_csv(rows))
        for dataset, model in SETTINGS:
            figure = figure_of(evidence, experiment, dataset, model)
            if figure:
                figure.savefig(folder / f"{experiment}-{dataset}-{model}.png", dpi=110)
                plt.close(figure)
        if args.experiment != "all":
            print(text)
    if args.experiment == "all":
        path = ROOT / "README.md"
        before, _, rest = path.read_text().partition("<!-- results -->")
        after = rest.partition("<!-- end of results -->")[2]
        block = f"<!-- results -->\n{readme_results(evidence)}\n<!-- end of results -->"
        path.write_text(before + block + after)
        print(f"{folder}/ and README.md have the results of {len(runs)} runs")


if __name__ == "__main__":
    launch(main, Settings, __doc__)
