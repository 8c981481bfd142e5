"""Report our runs, beside the papers' tables: Markdown, CSV, figures, the README's results.

    python -m experiments.report <experiment>   # prints it, and writes results/<paper>/<experiment>
    python -m experiments.report                # all of them, their figures, and both READMEs

Everything comes from logs/. Ours are means over splits, with the standard deviation (n - 1).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from experiments import ROOT
from experiments.evidence import Evidence
from experiments.figures import pyplot, save, time_figure
from experiments.paper import FAILS, HOLDS, UNDECIDED, Paper, Row, View
from experiments.papers import find, names, papers
from experiments.results import read_runs
from experiments.tables import (
    all_metrics,
    claims_table,
    comparison,
    coverage,
    headline,
    to_csv,
    verdicts,
)
from Utils.errors import UserError
from Utils.settings import launch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = Path("results")
MARKS = "<!-- results -->", "<!-- end of results -->"


def views(evidence: Evidence, experiment: str) -> list[View]:
    """Return an experiment on each data set and base model of its paper."""
    paper, name = find(experiment)
    return [View(paper, name, evidence, dataset, model) for dataset, model in paper.settings]


def report(evidence: Evidence, experiment: str) -> tuple[str, list[Row]]:
    """Return an experiment's report as Markdown, and its rows."""
    paper, name = find(experiment)
    parts, rows = [f"# {paper.experiments[name].title}"], []
    for view in views(evidence, experiment):
        rows += view.rows
        parts += _section(view)
    if len(parts) == 1:
        parts.append("Not run.")
    for dataset in dict.fromkeys(dataset for dataset, _ in paper.settings):
        claims = claims_table(paper, evidence, dataset, name)
        if any(f"*{verdict}*" in claims for verdict in (HOLDS, FAILS, UNDECIDED)):
            parts += [f"## The paper's claims, on {dataset}", claims]
    return "\n\n".join(parts) + "\n", rows


def _section(view: View) -> list[str]:
    """Return what a report says of a data set and a base model; nothing of what was not run."""
    if not view.rows:
        return []
    tables = _tables(view)
    if view.experiment.metrics:
        tables.append(all_metrics(view))
    flags = {f"† {row.metric} of {row.method}: {row.flag}" for row in view.rows if row.flag}
    note = view.paper.notes.get(view.dataset, "")
    title = f"## {view.dataset}, {view.model}"
    return [title, *filter(None, [note, *tables]), *sorted(flags)]


def _tables(view: View) -> list[str]:
    return [table(view) for table in view.experiment.tables or (comparison,)]


def figure_of(evidence: Evidence, experiment: str, dataset: str, model: str) -> "Figure | None":
    """Draw an experiment's figure; None if it has none or not enough of it was run."""
    paper, name = find(experiment)
    draw = paper.experiments[name].figure
    return draw and draw(View(paper, name, evidence, dataset, model))


def readme_results(evidence: Evidence) -> str:
    """Return the README's results: a paper's main table, and how many claims hold."""
    every = papers().values()
    parts = [headline(_main_view(evidence, paper)) for paper in every if paper.headline]
    counts = [verdicts(paper, evidence, paper.settings[0][0]) for paper in every if paper.claims]
    return "\n\n".join([*parts, "\n".join(f"- {sentence}" for sentence in counts)])


def _main_view(evidence: Evidence, paper: Paper) -> View:
    return View(paper, paper.headline, evidence, *paper.settings[0])


def overview(evidence: Evidence) -> str:
    """Return the results of all papers: main tables, claims, and what was run and what not."""
    parts = []
    for paper in papers().values():
        parts.append(f"## {paper.title[0].upper()}{paper.title[1:]}")
        for name in paper.overview:
            parts += _overview_of(evidence, paper, name)
        if paper.claims:
            dataset = paper.settings[0][0]
            parts += [f"### Did it reproduce? Claims, on {dataset}"]
            parts += [claims_table(paper, evidence, dataset)]
        parts += ["### What was run, and what not", coverage(paper, evidence)]
    return "\n\n".join(parts)


def _overview_of(evidence: Evidence, paper: Paper, name: str) -> list[str]:
    parts = [f"### {paper.experiments[name].title}"]
    for view in views(evidence, f"{paper.name}/{name}"):
        if view.rows:
            note = paper.notes.get(view.dataset, "")
            title = f"**{view.dataset}, {view.model}**"
            parts += [title, *filter(None, [note, *_tables(view)])]
    return parts


def write_between_marks(path: Path, text: str) -> None:
    """Replace what stands between the marks in a file that is otherwise written by hand."""
    before, _, rest = path.read_text().partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    path.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")


@dataclass
class Settings:
    """What to report."""

    # <paper>/<experiment>, or <experiment> alone where one paper has it; or all
    experiment: Annotated[str, tyro.conf.Positional] = "all"


def write_report(evidence: Evidence, experiment: str) -> str:
    """Write an experiment's tables and figures, and return its report."""
    paper, name = find(experiment)
    folder = FOLDER / paper.name
    folder.mkdir(parents=True, exist_ok=True)
    text, rows = report(evidence, experiment)
    (folder / f"{name}.md").write_text(text)
    (folder / f"{name}.csv").write_text(to_csv(rows))
    for dataset, model in paper.settings:
        figure = figure_of(evidence, experiment, dataset, model)
        if figure:
            save(figure, folder / f"{name}-{dataset}-{model}.png")
    return text


def write_readmes(evidence: Evidence) -> None:
    """Write the results in the README and in that of results/, and the README's figure."""
    write_between_marks(ROOT / "README.md", readme_results(evidence))
    path = FOLDER / "README.md"
    if not path.exists():
        path.write_text(f"# Results\n\n{MARKS[0]}\n{MARKS[1]}\n")
    write_between_marks(path, overview(evidence))
    for paper in papers().values():
        figure = paper.headline and time_figure(_main_view(evidence, paper))
        if figure:
            save(figure, FOLDER / "methods.png")


def main(args: Settings) -> None:
    """Write the reports."""
    pyplot()
    if args.experiment != "all":
        find(args.experiment)
    runs = read_runs(Path("logs"))
    if not runs:  # also keeps the README from being emptied out of another folder
        raise UserError("logs: no finished run here; call this in the project's folder")
    evidence = Evidence()
    if args.experiment != "all":
        print(write_report(evidence, args.experiment))
        return
    for paper in papers().values():
        for name in paper.experiments:
            write_report(evidence, f"{paper.name}/{name}")
    write_readmes(evidence)
    print(f"{FOLDER}/ and README.md have the results of {len(runs)} runs")


if __name__ == "__main__":
    launch(main, Settings, f"{__doc__}\nExperiments: {', '.join(names())}.\n")
