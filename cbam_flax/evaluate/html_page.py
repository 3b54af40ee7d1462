"""The parts of a self-contained HTML page."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cbam_flax.evaluate.plots import shown

SCALE = 0.7  # of pictures on the page, whose pixels are finer than a screen's
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#111;background:#fff;max-width:72rem;
margin:auto;padding:1rem}
h1{font-size:1.4rem;margin:.2rem 0;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:2.5rem 0 .5rem}h3{font-size:1rem;margin:1.8rem 0 .3rem}
h2,h3,h2+p{break-after:avoid}
.notice{border:1px solid #111;padding:.2rem .6rem;margin:0 0 1rem;font-weight:700;width:fit-content}
.headline{font-size:1.7rem;font-weight:700;line-height:1.2}
.warning{border-left:.4rem solid #D55E00;background:#fff4ec;padding:.5rem .8rem;margin:.5rem 0;
overflow-wrap:anywhere}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:0 1rem}
.grid>*{min-width:0}.headlines{row-gap:1rem}
figure{margin:0;break-inside:avoid}img,svg{max-width:100%;height:auto;display:block}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.2rem .8rem .2rem 0;border-bottom:1px solid #ccc;
vertical-align:top}tr{break-inside:avoid}
.long :is(th,td){font-size:.8rem}.long td{overflow-wrap:anywhere}small,.small{color:#555}
code{white-space:nowrap}details{margin:.5rem 0}summary{cursor:pointer}
button,input,select{font:inherit}input[type=range]{display:block;width:100%}
input[type=number]{width:6rem}:focus-visible{outline:3px solid #0072B2;outline-offset:2px}
svg{max-width:24rem;margin:auto;font-size:5px;text-anchor:middle}
svg .axes{fill:none;stroke:#666;stroke-width:.5}polyline{fill:none;stroke:#0072B2}
circle{fill:#E69F00;stroke:#111;stroke-width:.5}
.gallery figure{margin-bottom:1.5rem}
figcaption{font-size:.8rem;white-space:pre-line;overflow-wrap:anywhere}
.large button{all:unset;display:block;width:100%;cursor:zoom-in}
.large button:focus-visible{outline:3px solid #0072B2}.large img{width:100%}
.large:not(:popover-open){display:block;position:static;width:auto;height:auto;margin:0;border:0;
padding:0;overflow:visible}
.large:popover-open{box-sizing:border-box;width:96vw;max-height:96vh;border:0;padding:.5rem}
.large:popover-open button{width:max(100%,56rem);cursor:zoom-out}
.large::backdrop{background:#000c}
@media (max-width:40rem){table{font-size:.85rem}th,td{padding-right:.5rem}}
@media print{tr:nth-child(-n+2){break-after:avoid}tr:nth-last-child(-n+2){break-before:avoid}
@page{margin:15mm}body{max-width:none;font-size:11px;padding:0}
h2{margin-top:1.5rem}.grid{grid-template-columns:1fr 1fr}.headlines{grid-template-columns:auto auto
auto}.headline{font-size:1.2rem}.scroll{overflow:visible}
figure>img{max-height:11cm;width:auto}#operating-point,.screen{display:none}}
"""


def page(title: str, parts: Iterable[str]) -> str:
    """The page of these parts, which are HTML; the title is text."""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{text(title)}</title><link rel=icon href='data:,'><style>{STYLE}</style>"
        f"<body><p class=notice>Research only. Not a medical device.</p>"
        f"{''.join(parts)}</body></html>\n"
    )


def unbroken(figure: Mapping[str, float | None]) -> str:
    """As in `plots.shown`, with the interval unbroken."""
    to = "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}"
    return shown(figure).replace(" to ", to).replace("-", "\N{MINUS SIGN}")


def picture(pictures: Mapping[str, bytes], name: str, heading: str, alt: str) -> str:
    """The picture with its heading, or nothing where it was not drawn."""
    if name not in pictures:
        return ""
    return f"<figure><h3>{heading}</h3>{_image(pictures[name], f'{heading}: {alt}')}</figure>"


def radiographs(name: str, heading: str, alt: str, each: Sequence[tuple[str, bytes]]) -> str:
    """Titles and PNGs side by side, each of which a click shows large; nothing for none.

    A picture is its own popover, so it is in the page once and needs no script.

    Args:
        name: of the group, the beginning of the ids of its elements.
    """
    if not each:
        return ""
    figures = []
    for number, (title, png) in enumerate(each, start=1):
        element = f"{name}-{number}"
        width, height = _size(png)
        figures.append(
            f"<figure><div style='aspect-ratio:{width}/{height}'>"
            f"<div class=large id={element} popover><button type=button popovertarget={element}>"
            f"{_image(png, f'{alt}, number {number}: {title}')}</button></div></div>"
            f"<figcaption>{text(title)}</figcaption></figure>"
        )
    return (
        f"<h2>{heading}</h2><p class='small screen'>A click on a picture shows it large; another "
        f"click or Esc closes it.</p><div class='grid gallery'>{''.join(figures)}</div>"
    )


def _image(png: bytes, alt: str) -> str:
    width, height = (round(SCALE * side) for side in _size(png))
    data = base64.b64encode(png).decode()
    return (
        f"<img width={width} height={height} alt='{text(alt)}' src='data:image/png;base64,{data}'>"
    )


def _size(png: bytes) -> tuple[int, int]:
    """Width and height in pixels, from the chunk IHDR, which is always the first."""
    return int.from_bytes(png[16:20]), int.from_bytes(png[20:24])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells are text; the first of each row is its heading."""
    first = "".join(f"<th scope=col>{text(cell)}" for cell in head)
    first = f"<thead><tr>{first}</thead>" if any(head) else ""
    body = "".join(
        f"<tr><th scope=row>{text(row[0])}" + "".join(f"<td>{text(cell)}" for cell in row[1:])
        for row in rows
    )
    return f"<div class=scroll><table>{first}<tbody>{body}</table></div>"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """The leaves of nested mappings by dotted path, as rows of a table."""
    rows = []
    for name, value in tree.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            value = {str(number): each for number, each in enumerate(value, start=1)}
        if isinstance(value, Mapping):
            rows += flatten(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, str(value)))
    return rows


def text(value: Any) -> str:
    """The value as HTML shows it literally."""
    return html.escape(str(value))
