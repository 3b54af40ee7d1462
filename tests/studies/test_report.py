"""docs/results.md is what the lines give, and nothing else."""

import io
import pathlib

import numpy as np
from PIL import Image

from studies import lines, report, study

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_the_page_is_what_the_lines_give():
    tables = {name: lines.read(lines.path_of(name)) for name in study.names()}
    text, pictures = report.page(tables)
    again = "run python -m studies.report"
    assert (ROOT / "docs/results.md").read_text(encoding="utf-8") == text, again
    there = {path.name: path for path in ROOT.glob("docs/results-*.png")}
    assert there.keys() == pictures.keys(), again
    for name, data in pictures.items():
        made, kept = Image.open(io.BytesIO(data)), Image.open(there[name])
        assert (made.info["Source"], made.size) == (kept.info["Source"], kept.size), again


def test_it_opens_with_the_verdicts_and_says_how_much_was_run(draw_lines, monkeypatch):
    rng = np.random.default_rng(0)
    asked = study.Study(
        config="configs/pneumoniamnist.py",
        variants={"old": {"batch_size": 8}, "new": {}, "later": {}},
        comparisons=[
            study.Comparison("the new one", "new", "old"),
            study.Comparison("the later one", "later", "old"),
        ],
        figures=("auroc",),
        cpu_minutes=2.0,
    )
    monkeypatch.setattr(study, "names", lambda: ["drawn"])
    monkeypatch.setattr(study, "load", lambda name: (asked, "Does it help?\n\nMore."))
    monkeypatch.setattr(
        study, "config_hashes", lambda one: {name: f"of {name}" for name in one.variants}
    )
    table = draw_lines(rng, "old", 0.8, [0, 1]) + draw_lines(rng, "new", 0.9, [0, 1, 2])
    table += draw_lines(rng, "gone", 0.9, [0])
    table += draw_lines(rng, "later", 0.9, [0, 1], config_sha256="of an earlier config")
    text, pictures = report.page({"drawn": table})
    head, rest = text.split("## The plan")
    assert "Of 5 runs, 0.1 CPU hours." in head
    [verdict] = [line for line in head.split("\n") if line.startswith("| the new one |")]
    assert "| **helps** |" in verdict
    assert verdict.endswith("| 2 of 10 |")
    assert "the later one" not in head
    assert "| drawn | Does it help? | 30 | 1.0 | 5 |" in rest
    assert "| the later one | `later` - `old` | not run yet |" in rest
    assert "| old | batch_size=8 | 2 | 0.8" in rest
    assert "gone" not in text
    assert "another config now: 3 lines of drawn." in rest
    assert Image.open(io.BytesIO(pictures["results-drawn.png"])).format == "PNG"
