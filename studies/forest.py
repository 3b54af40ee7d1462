"""A forest plot: the differences that a study asks for, with their intervals."""

import io
from collections.abc import Sequence

from matplotlib.figure import Figure

from cbam_flax.evaluate.plots import BLUE, GREY, ORANGE
from studies.differences import SAME, Difference

COLOURS = {"helps": BLUE, "hurts": ORANGE}
ENDS = ("value", "low", "high")
MARKERS = {"helps": ">", "hurts": "<"}


def draw(found: Sequence[Difference], figure: str, label: str, source: str) -> bytes:
    """A PNG of the differences that have a value.

    Args:
        figure: of the differences.
        label: its name for people.
        source: written into the file, to tell of what it is a picture.
    """
    drawn = Figure(figsize=(7.2, 0.9 + 0.3 * len(found)), dpi=110, layout="constrained")
    axes = drawn.subplots()
    for place, one in enumerate(reversed(found)):
        value, low, high = (float(one.figures[figure][end] or 0) for end in ENDS)
        colour = COLOURS.get(one.verdict, GREY)
        axes.plot([low, high], [place, place], color=colour, lw=2, solid_capstyle="butt")
        filled = colour if one.verdict != SAME else "white"
        axes.plot(
            value, place, MARKERS.get(one.verdict, "o"), color=colour, mfc=filled, ms=6, zorder=3
        )
    axes.axvline(0, color="black", lw=0.8)
    axes.set_yticks(range(len(found)), [one.comparison.idea for one in reversed(found)])
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.set_xlabel(f"difference in {label}, with 95 % interval")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    stream = io.BytesIO()
    drawn.savefig(stream, format="png", metadata={"Source": source})
    return stream.getvalue()
