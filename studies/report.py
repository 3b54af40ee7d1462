"""Makes docs/results.md and its pictures from the lines in studies/results, and from nothing else.

    python -m studies.report

What the studies ask stands in studies/questions.
"""

import argparse
import hashlib
import pathlib
from collections.abc import Mapping, Sequence

from cbam_flax.evaluate.bootstrap import Interval
from cbam_flax.evaluate.plots import shown
from data_prep import cli
from data_prep.files.text_files import replace_text
from studies import differences, forest, lines
from studies import study as study_lib
from studies.differences import Difference, Line, Row
from studies.study import ROOT, Study

NAMES = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "brier": "Brier score",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
}
HEAD = """# Results

What the studies in `studies/questions/` have found so far. `python -m studies.report` makes this
page and its pictures from the lines that the runs left in `studies/results/`, and from nothing
else. `python -m studies.run STUDY --out=DIR` makes the lines, and goes on where it was stopped.

## Verdicts
"""
READING = f"""
- An interval is a 95 % one over seeds and patients together (over images where no patient is
  named): the spread over the seeds, with Student's t for their number, and a bootstrap over
  patients (Obuchowski and Rockette 1995, Hillis 2007). Differences are paired by seed, and by image
  where both sides judge the same images. The intervals are not widened for the number of
  comparisons. One seed gives an interval over patients alone, and no verdict.
- p is adjusted by Holm over all comparisons of the study. Helps and hurts: p below
  {differences.LEVEL}. Not distinguishable is not the same as equal.
- "could have seen" is the true difference that a study of this size and spread calls a difference
  with {differences.POWER:.0%} probability at that level. Less may be there and not be seen.
- A line has the figures of its run on {lines.RESAMPLES} resamples of the patients, the same ones
  for all runs on the same images. No image, label or prediction is in it.
- Checkpoint, calibration and operating point of each run are chosen on validation. No choice of a
  study was made on the test split.
"""


def page(tables: Mapping[str, Sequence[Line]]) -> tuple[str, dict[str, bytes]]:
    """The page, and its pictures by file name.

    Args:
        tables: the lines of each study."""
    verdicts, sections, plan, left_out, pictures = [], [], [], [], {}
    runs = seconds = 0
    for name in study_lib.names():
        study, docstring = study_lib.load(name)
        every = tables.get(name, ())
        table = _present(study, every)
        own_runs = {(line["variant"], line["seed"], line["fold"]): line for line in table}
        used = sum(int(line["cpu_seconds"]) for line in own_runs.values())
        planned = len(study.seeds) * max(1, study.folds) * len(study.variants)
        runs, seconds = runs + len(own_runs), seconds + used
        question = " ".join(docstring.split("\n\n")[0].split())
        hours = planned * study.cpu_minutes / 60
        plan.append(f"| {name} | {question} | {planned} | {hours:.1f} | {len(own_runs)} |")
        if len(table) < len(every):
            left_out.append(f"{len(every) - len(table)} lines of {name}")
        if not table:
            continue
        found = differences.differences_of(study, table)
        verdicts += [_verdict(name, study, one) for one in found if one.of]
        told = [one for one in found if one.figures[study.figures[0]]["value"] is not None]
        picture = f"results-{name}.png"
        if told:
            label, source = NAMES[study.figures[0]], _hash(table)
            pictures[picture] = forest.draw(told, study.figures[0], label, source)
        sections += _section(name, study, docstring, table, found, picture if told else "", used)
    head = [HEAD]
    if verdicts:
        head += [
            f"Of {runs} runs, {seconds / 3600:.1f} CPU hours.",
            "",
            "| idea | study | difference | p (Holm) | verdict | could have seen | seeds |",
            "|---|---|--:|--:|---|--:|--:|",
            *verdicts,
        ]
    else:
        head += ["Nothing was run yet."]
    text = [
        *head,
        READING,
        "## The plan",
        "",
        "CPU hours are of one core, as estimated before anything was run.",
        "",
        "| study | what it answers | runs | CPU hours | runs done |",
        "|---|---|--:|--:|--:|",
        *plan,
        *([""] * bool(left_out)),
        *(f"Left out, since the study has another config now: {one}." for one in left_out),
        *sections,
    ]
    return "\n".join(text) + "\n", pictures


def _section(
    name: str,
    study: Study,
    docstring: str,
    table: Sequence[Line],
    found: Sequence[Difference],
    picture: str,
    used: int,
) -> list[str]:
    rows = differences.rows_of(study, table)
    whole = min((len(row.seeds) for row in rows), default=0)
    codes = len({line["code_sha256"] for line in table})
    out = ["", f"## {name}", "", docstring.strip(), ""]
    out += [
        f"{len(table)} lines; {whole} of {len(study.seeds)} seeds of every variant that has one; "
        f"{used / 3600:.1f} CPU hours; {codes} version{'s' * (codes > 1)} of the code."
    ]
    for judged, line in {row.judged: row.line for row in rows}.items():
        of = (
            "no patient is named"
            if line["unit"] == "images"
            else f"{line['patients']} {line['unit']}"
        )
        out.append(
            f"Judged on `{judged}`: {line['images']} images, {line['positive']} of them positive, "
            f"{of}; data {line['evaluated_on']}."
        )
    names = [NAMES[figure] for figure in study.figures]
    out += [
        "",
        f"| variant | set | seeds | {' | '.join(names)} | parameters | MFLOP |",
        f"|---|---|--:|{'---|' * len(names)}--:|--:|",
        *(_row(study, row) for row in rows),
        "",
    ]
    if picture:
        out += [f"![differences of {name}]({picture})", ""]
    out += [
        f"| idea | first - second | {' | '.join(names)} |",
        f"|---|---|{'---|' * len(names)}",
        *(
            f"| {one.comparison.idea} | `{one.comparison.first}` - `{one.comparison.second}` | "
            + " | ".join(_signed(one.figures[figure]) for figure in study.figures)
            + " |"
            for one in found
        ),
    ]
    return out


def _present(study: Study, table: Sequence[Line]) -> list[Line]:
    """Without lines of variants, configs and seeds that the study no longer has."""
    seeds, hashes = {str(seed) for seed in study.seeds}, study_lib.config_hashes(study)
    return [
        line
        for line in table
        if line["seed"] in seeds and hashes.get(line["variant"]) == line["config_sha256"]
    ]


def _row(study: Study, row: Row) -> str:
    settings = ", ".join(f"{key}={value}" for key, value in study.variants[row.variant].items())
    cells = []
    for figure in study.figures:
        sd = row.sd[figure]
        cells.append(shown(row.figures[figure]) + ("" if sd is None else f", sd {sd:.4f}"))
    name = row.variant + f"@{row.judged}" * (len(study.judged) > 1)
    cost = f"{int(row.line['parameters']):,} | {float(row.line['mflop']):,.1f}"
    return f"| {name} | {settings} | {len(row.seeds)} | {' | '.join(cells)} | {cost} |"


def _verdict(name: str, study: Study, one: Difference) -> str:
    figure = study.figures[0]
    p = "-" if one.p_adjusted is None else "<0.001" if one.p_adjusted < 0.001 else None
    seen = "-" if one.detectable is None else f"{one.detectable:.4f}"
    return (
        f"| {one.comparison.idea} | [{name}](#{name}) | {NAMES[figure]} "
        f"{_signed(one.figures[figure])} | {p or f'{one.p_adjusted:.3f}'} | **{one.verdict}** "
        f"| {seen} | {len(one.of)} of {len(study.seeds)} |"
    )


def _signed(figure: Interval) -> str:
    if figure["value"] is None:
        return "not run yet"
    return f"{figure['value']:+.4f} ({figure['low']:+.4f} to {figure['high']:+.4f})"


def _hash(table: Sequence[Line]) -> str:
    text = "\n".join(",".join(map(str, line.values())) for line in table)
    return hashlib.sha256(text.encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m studies.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()
    tables = {name: lines.read(lines.path_of(name)) for name in study_lib.names()}
    text, pictures = page(tables)
    docs: pathlib.Path = ROOT / "docs"
    for name, data in pictures.items():
        (docs / name).write_bytes(data)
    replace_text(docs / "results.md", text)
    print(f"{docs / 'results.md'} and {len(pictures)} pictures")


def command() -> None:
    cli.run(main)


if __name__ == "__main__":
    command()
