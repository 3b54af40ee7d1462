"""Draws code.png, the stages of the code and who imports whom: `python -m docs.draw_code`.

The table of imports is read from tests/test_imports.py, which holds it.
"""

import runpy
from pathlib import Path

from matplotlib.patches import Rectangle

from docs.draw_architecture import BLUE, GREEN, GREY, INK, ORANGE, VIOLET, WHITE, Drawing

PARTS = ("data_prep", "models", "predict", "training", "evaluate", "export", "aot")
NOTES = (
    "1  data_prep.cli only: parser, errors",
    "2  loop.py: its validation;",
    "    cbam_flax.train: the final one",
    "3  all but main.py and loop.py",
)


def stage(d: Drawing, x: float, y: float, name: str, folder: str, colour: str) -> None:
    d.box(x, y, "", colour, 2.6, 1.0)
    d.text(x, y + 0.2, name, 11, weight="bold")
    d.text(x, y - 0.22, folder, 9)


def files(d: Drawing, x: float, y: float, name: str, lines: str) -> float:
    """A sheet of paper with the files that a stage leaves; returns half of its height."""
    height = 0.62 + 0.31 * (lines.count("\n") + 1)
    left, bottom = x - 1.25, y - height / 2
    d.axes.add_patch(Rectangle((left, bottom), 2.5, height, fc=WHITE, ec=INK, lw=1.0, zorder=2))
    d.text(x, y + height / 2 - 0.27, name, 10, weight="bold")
    d.text(x, y - 0.2, lines, 9)
    return height / 2


def stages(d: Drawing) -> None:
    raw, prepared, middle, right = 1.6, 7.5, 10.7, 13.9
    top, second, third, fourth, last = 9.3, 7.15, 5.2, 3.05, 0.95
    files(d, raw, top, "raw data", "DICOM files\ntables of labels")
    stage(d, 4.55, top, "preparation", "data_prep/", GREEN)
    low = files(d, prepared, top, "prepared data", "TFRecords\nmanifest.json\nrejected.csv")
    stage(d, middle, top, "training", "cbam_flax/*.py, models/", BLUE)
    run = files(
        d, right, top, "run", "config.json, data.json\ncheckpoints/\ntensorboard/\nmetrics.jsonl"
    )
    stage(d, middle, second, "evaluation", "cbam_flax/evaluate/", BLUE)
    lines = "metrics.json, *.png\npredictions.csv\nreport.html"
    figures = files(d, middle, third, "evaluation", lines)
    stage(d, right, third, "export", "cbam_flax/export/", BLUE)
    lines = "bundle.json\nmodel.stablehlo\nmodel.onnx\nsaved_model/\nMODEL_CARD.md"
    bundle = files(d, right, fourth, "bundle", lines)
    stage(d, middle, fourth, "prediction", "cbam_flax/predict/", VIOLET)
    files(d, prepared, fourth, "new images", "DICOM files")
    results = files(d, middle, last, "predictions", "predictions.csv\nrejected.csv\noverlays/")

    d.arrow((raw + 1.25, top), (4.55 - 1.3, top))
    d.arrow((4.55 + 1.3, top), (prepared - 1.25, top))
    d.arrow((prepared + 1.25, top), (middle - 1.3, top))
    d.arrow((middle + 1.3, top), (right - 1.25, top))
    d.arrow((prepared, top - low), (prepared, second), (middle - 1.3, second))
    d.arrow((right, top - run), (right, third + 0.5))
    d.arrow((right, second), (middle + 1.3, second))
    d.arrow((middle, second - 0.5), (middle, third + figures))
    d.arrow((middle + 1.25, third), (right - 1.3, third))
    d.arrow((right, third - 0.5), (right, fourth + bundle))
    d.arrow((right - 1.25, fourth), (middle + 1.3, fourth))
    d.arrow((prepared + 1.25, fourth), (middle - 1.3, fourth))
    d.arrow((middle, fourth - 0.5), (middle, last + results))


def may_import() -> dict[str, dict[str, str]]:
    """Of each part, the parts that it may import, and the number of the note on that."""
    rules = runpy.run_path(str(Path(__file__).parents[1] / "tests" / "test_imports.py"))
    allowed, flat = dict(rules["ALLOWED"]), rules["FLAT"]
    allowed["training"] = allowed.pop("flat")
    table: dict[str, dict[str, str]] = {"data_prep": {}}
    for part, others in allowed.items():
        table[part] = dict.fromkeys(others & set(PARTS), "")
        table[part]["data_prep"] = "1" if part == "models" else ""
        if part != "training" and others & flat:
            table[part]["training"] = "3"
    assert all(".evaluate." in name for _, name in rules["TO_EVALUATE"])
    table["training"]["evaluate"] = "2"
    return table


def imports(d: Drawing) -> None:
    left, top, cell = 1.75, 5.55, 0.52
    d.text(0.25, 7.55, "Who may import whom", 11, ha="left", weight="bold")
    table = may_import()
    for row, part in enumerate(PARTS):
        y = top - cell * (row + 1)
        d.text(left - 0.12, y + cell / 2, part, 10, ha="right")
        d.text(left + cell * (row + 0.5), top + 0.1, part, 10, va="bottom", rotation="vertical")
        for column, other in enumerate(PARTS):
            note = table[part].get(other)
            colour = GREY if part == other else WHITE
            if note is not None:
                colour = ORANGE if note else GREEN
            corner = (left + cell * column, y)
            d.axes.add_patch(Rectangle(corner, cell, cell, fc=colour, ec=INK, lw=0.8))
            d.text(corner[0] + cell / 2, y + cell / 2, note or "", 10)
    low = top - cell * len(PARTS)
    for x, colour, meaning in (
        (0.25, GREEN, "row may import column"),
        (3.45, ORANGE, "a part of it"),
    ):
        d.axes.add_patch(Rectangle((x, low - 0.48), 0.3, 0.22, fc=colour, ec=INK, lw=0.8))
        d.text(x + 0.42, low - 0.37, meaning, 9, ha="left")
    for number, note in enumerate(NOTES):
        d.text(0.25, low - 0.75 - 0.3 * number, note, 9, ha="left")


def main() -> None:
    d = Drawing(15.4, 10.4)
    stages(d)
    imports(d)
    d.save("code.png")


if __name__ == "__main__":
    main()
