"""Draws the figures of architecture.md: `python -m docs.draw_architecture`, from the root.

The overview takes its shapes from the model itself (`cbam_flax.models.table`).
"""

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Circle, FancyBboxPatch, Polygon, Rectangle

from cbam_flax.models import create_model
from cbam_flax.models.table import stage_table

DOCS = Path(__file__).parent
INK = "#22303c"
BLUE, GREY, ORANGE, GREEN, VIOLET, ROSE, WHITE = (
    *("#a6cee9", "#dcdfe3", "#fdd9a9", "#b9e0b3", "#d5c4ea", "#f5bcbc", "#ffffff"),
)
INCHES = 0.74  # of one unit of the drawings
plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 10, "text.color": INK})


class Drawing:
    """A sheet in units of a small box's height, the origin at the lower left."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = plt.figure(figsize=(width * INCHES, height * INCHES))
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
        self.axes.axis("off")

    def text(self, x: float, y: float, text: str, size: float = 10, **options: str) -> None:
        place = {"ha": "center", "va": "center"} | options
        self.axes.text(x, y, text, fontsize=size, linespacing=1.35, **place)

    def box(
        self, x: float, y: float, text: str, colour: str, width: float = 1.9, height: float = 0.95
    ) -> None:
        corner, style = (x - width / 2, y - height / 2), "round,pad=0,rounding_size=0.14"
        patch = FancyBboxPatch(corner, width, height, style, fc=colour, ec=INK, lw=1.1, zorder=2)
        self.axes.add_patch(patch)
        self.text(x, y, text)

    def circle(self, x: float, y: float, sign: str) -> None:
        self.axes.add_patch(Circle((x, y), 0.27, fc=WHITE, ec=INK, lw=1.2, zorder=2))
        arms = {"+": ((0.14, 0), (0, 0.14)), "x": ((0.1, 0.1), (0.1, -0.1))}[sign]
        for dx, dy in arms:
            self.axes.plot([x - dx, x + dx], [y - dy, y + dy], color=INK, lw=1.4, zorder=3)

    def line(self, *points: tuple[float, float], style: str = "-") -> None:
        xs, ys = zip(*points, strict=True)
        self.axes.plot(xs, ys, style, color=INK, lw=1.2, zorder=1, solid_joinstyle="miter")

    def arrow(self, *points: tuple[float, float], style: str = "-") -> None:
        """A line through the points with a head at the last."""
        self.line(*points, style=style)
        head = {"arrowstyle": "-|>", "color": INK, "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
        self.axes.annotate("", points[-1], points[-2], arrowprops=head, zorder=1)

    def save(self, name: str) -> None:
        self.figure.savefig(DOCS / name, dpi=150, facecolor="white")
        plt.close(self.figure)


def block() -> None:
    d = Drawing(19.2, 4.0)
    y = 1.35
    d.text(0.55, y, "x")
    d.arrow((0.75, y), (1.3, y))
    d.box(2.25, y, "conv 3x3\nF", BLUE)
    d.box(4.15, y, "batch\nnorm", GREY, 1.3)
    d.box(5.75, y, "ReLU", ORANGE, 1.2)
    d.box(8.35, y, "conv 3x3\nF", BLUE)
    d.box(10.25, y, "batch\nnorm", GREY, 1.3)
    d.box(12.5, y, "channel\nattention", VIOLET, 1.8)
    d.box(14.7, y, "spatial\nattention", VIOLET, 1.8)
    d.circle(16.4, y, "+")
    d.box(17.65, y, "ReLU", ORANGE, 1.2)
    for start, end in ((3.2, 3.5), (4.8, 5.15), (6.35, 7.4), (9.3, 9.6), (10.9, 11.6)):
        d.arrow((start, y), (end, y))
    for start, end in ((13.4, 13.8), (15.6, 16.13), (16.67, 17.05), (18.25, 18.8)):
        d.arrow((start, y), (end, y))
    d.arrow((6.85, y), (6.85, 3.1), (16.4, 3.1), (16.4, y + 0.27))
    d.text(6.85, y - 0.35, "c1")
    d.text(11.25, y - 0.35, "c2")
    d.text(11.5, 3.4, "skip, from the first convolution's output: no projection is needed")
    d.text(5.75, 0.35, "not in the notebook", 9, style="italic")
    d.save("figures/block.png")


def channel_attention(d: Drawing, y: float, notebook: bool) -> None:
    """One row of the figure, around height `y`."""
    d.text(0.65, y, "x\nH x W x C")
    d.line((1.3, y), (1.75, y))
    for row, name in ((0.75, "mean"), (-0.75, "max")):
        d.arrow((1.75, y), (1.75, y + row), (2.2, y + row))
        d.box(3.25, y + row, f"{name} over\nH and W", GREEN, 2.1)
        d.arrow((4.3, y + row), (5.0, y + row))
        if notebook:
            text = "MLP  C, C, C/16, C\nReLU after every layer"
            d.box(7.1, y + row, text, ROSE, 4.2, 1.1)
        d.arrow((9.2, y + row), (10.1, y + row), (10.1, y + (0.27 if row > 0 else -0.27)))
    if not notebook:
        d.box(7.1, y, "one shared MLP\nC, C/16, C\nReLU on the hidden layer", ROSE, 4.2, 2.45)
    d.circle(10.1, y, "+")
    d.arrow((10.37, y), (10.9, y))
    d.box(11.75, y, "sigmoid", ORANGE, 1.7)
    d.arrow((12.6, y), (13.43, y))
    d.circle(13.7, y, "x")
    d.arrow((13.97, y), (14.7, y))
    d.arrow((1.75, y), (1.75, y + 1.75), (13.7, y + 1.75), (13.7, y + 0.27))
    d.text(13.0, y - 0.7, "gate\n1 x 1 x C", 9)
    d.text(0.1, y + 1.75, "notebook" if notebook else "cbam_resnet", 11, ha="left", weight="bold")


def spatial_attention(d: Drawing, y: float, notebook: bool) -> None:
    """One row of the figure, around height `y`."""
    d.text(0.65, y, "x\nH x W x C")
    d.line((1.3, y), (1.75, y))
    for row, name in ((0.65, "mean" if notebook else "max"), (-0.65, "mean")):
        d.arrow((1.75, y), (1.75, y + row), (2.2, y + row))
        d.box(3.4, y + row, f"{name} over C", GREEN, 2.4)
        d.line((4.6, y + row), (5.2, y + row), (5.2, y))
    d.arrow((5.2, y), (5.7, y))
    d.box(6.6, y, "stack\n2 maps", GREY, 1.8)
    d.arrow((7.5, y), (8.0, y))
    d.box(9.2, y, "conv 7x7\n1 filter", BLUE, 2.4)
    d.arrow((10.4, y), (10.9, y))
    d.box(11.75, y, "sigmoid", ORANGE, 1.7)
    d.arrow((12.6, y), (13.43, y))
    d.circle(13.7, y, "x")
    d.arrow((13.97, y), (14.7, y))
    d.arrow((1.75, y), (1.75, y + 1.55), (13.7, y + 1.55), (13.7, y + 0.27))
    d.text(13.0, y - 0.7, "gate\nH x W x 1", 9)
    d.text(0.1, y + 1.55, "notebook" if notebook else "cbam_resnet", 11, ha="left", weight="bold")


def mixed_pool() -> None:
    d = Drawing(13.4, 2.6)
    y = 1.3
    d.text(0.65, y, "x\nH x W x C")
    d.line((1.3, y), (1.75, y))
    for row, name in ((0.65, "max"), (-0.65, "mean")):
        d.arrow((1.75, y), (1.75, y + row), (2.2, y + row))
        d.box(3.4, y + row, f"{name} 2x2, stride 2", GREEN, 2.4)
        d.line((4.6, y + row), (5.2, y + row), (5.2, y))
    d.arrow((5.2, y), (5.7, y))
    d.box(6.6, y, "concat\n2C", GREY, 1.8)
    d.arrow((7.5, y), (8.0, y))
    d.box(8.95, y, "conv 1x1\nC", BLUE)
    d.arrow((9.9, y), (10.2, y))
    d.box(10.8, y, "ReLU", ORANGE, 1.2)
    d.arrow((11.4, y), (11.9, y))
    d.text(12.65, y, "H/2 x W/2\nx C")
    d.save("figures/mixed_pool.png")


def atrous_pyramid() -> None:
    d = Drawing(15.4, 5.3)
    y = 3.4
    d.text(0.65, y, "x\nH x W x C")
    d.line((1.3, y), (1.75, y))
    for row, rate in ((1.3, 2), (0, 4), (-1.3, 8)):
        d.arrow((1.75, y), (1.75, y + row), (2.2, y + row))
        d.box(3.4, y + row, f"conv 3x3\nrate {rate}, C", BLUE, 2.4)
        d.arrow((4.6, y + row), (5.0, y + row))
        d.box(5.6, y + row, "ReLU", ORANGE, 1.2)
        d.line((6.2, y + row), (7.1, y + row), (7.1, y))
    d.arrow((7.1, y), (7.7, y))
    low = 0.75
    d.arrow((1.75, y - 1.3), (1.75, low), (2.2, low), style="--")
    d.box(2.9, low, "mean over\nH and W", GREEN, 1.4)
    d.arrow((3.6, low), (3.85, low), style="--")
    d.box(4.35, low, "1x1", BLUE, 1.0)
    d.arrow((4.85, low), (5.0, low), style="--")
    d.box(5.6, low, "ReLU", ORANGE, 1.2)
    d.line((6.2, low), (7.1, low), (7.1, y - 1.3), style="--")
    d.text(7.4, low, "with image_level=True", 9, style="italic", ha="left")
    d.box(8.6, y, "concat\n3C", GREY, 1.8)
    d.arrow((9.5, y), (10.0, y))
    d.box(10.95, y, "conv 1x1\nC", BLUE)
    d.arrow((11.9, y), (12.2, y))
    d.box(12.8, y, "ReLU", ORANGE, 1.2)
    d.arrow((13.4, y), (13.9, y))
    d.text(14.6, y, "H x W x C")
    d.save("figures/atrous_pyramid.png")


def slab(d: Drawing, x: float, y: float, width: float, height: float, colour: str) -> float:
    """A map seen from the left front, its channels to the right; returns the depth drawn."""
    depth = 0.2 * height
    right, top = x + width, y + height
    face = [(x, y), (right, y), (right, top), (x, top)]
    lid = [(x, top), (right, top), (right + depth, top + depth), (x + depth, top + depth)]
    side = [(right, y), (right + depth, y + depth), (right + depth, top + depth), (right, top)]
    for corners, fill in ((face, colour), (lid, WHITE), (side, GREY)):
        d.axes.add_patch(Polygon(corners, fc=fill, ec=INK, lw=1.0, zorder=2))
    return depth


def overview() -> None:
    kinds = {
        "block": (ROSE, "residual CBAM block"),
        "pool": (GREEN, "mixed pooling"),
        "context": (BLUE, "atrous pyramid"),
        "dense": (ORANGE, "dense layer"),
    }
    d = Drawing(18.8, 6.3)
    x, middle, labels = 1.3, 3.5, 1.5
    d.text(0.7, middle, "image\n224 x 224\nx 1")
    for stage in stage_table(create_model({}), 224, 224):
        name = stage.name.replace("hidden", "dense")
        kind = "dense" if name == "logit" else name.rstrip("12345")
        if kind == "dense":
            height, width, shape = (1.5, 0.2, "256") if name == "dense" else (0.3, 0.2, "1")
        else:
            side, _, channels = stage.output
            height, width = 0.5 + 3.2 * (side / 224) ** 0.8, 0.2 + channels / 400
            shape = f"{side} x {side}\nx {channels}"
        d.arrow((x, middle), (x + 0.45, middle))
        x += 0.45
        depth = slab(d, x, middle - height / 2, width, height, kinds[kind][0])
        d.text(x + width / 2, labels, name, 9, va="top", weight="bold")
        d.text(x + width / 2, labels - 0.3, shape, 9, va="top")
        x += width + max(depth, 0.45)
    for number, (colour, meaning) in enumerate(kinds.values()):
        left = 3.2 + 3.4 * number
        d.axes.add_patch(Rectangle((left, 0.14), 0.3, 0.22, fc=colour, ec=INK, lw=0.9))
        d.text(left + 0.45, 0.25, meaning, ha="left")
    d.save("architecture.png")


def main() -> None:
    (DOCS / "figures").mkdir(exist_ok=True)
    overview()
    block()
    d = Drawing(14.9, 8.4)
    channel_attention(d, 6.2, notebook=False)
    channel_attention(d, 1.75, notebook=True)
    d.save("figures/channel_attention.png")
    d = Drawing(14.9, 7.0)
    spatial_attention(d, 5.1, notebook=False)
    spatial_attention(d, 1.5, notebook=True)
    d.save("figures/spatial_attention.png")
    mixed_pool()
    atrous_pyramid()


if __name__ == "__main__":
    main()
