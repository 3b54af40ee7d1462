"""The parts of a self-contained HTML page."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cbam_flax.evaluate.plots import shown

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#111;background:#fff;max-width:72rem;
margin:auto;padding:1rem}
h1{font-size:1.4rem;margin:.2rem 0}h2{font-size:1.15rem;margin:2rem 0 .5rem}
h3{font-size:1rem;margin:.3rem 0}
.headline{font-size:1.7rem;font-weight:700;line-height:1.2}
.warning{border-left:.4rem solid #D55E00;background:#fff4ec;padding:.5rem .8rem;margin:.5rem 0}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:1rem}
figure{margin:0;break-inside:avoid}img{max-width:min(100%,44rem);height:auto}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.2rem .8rem .2rem 0;border-bottom:1px solid #ccc;
vertical-align:top}
.long td{overflow-wrap:anywhere;font-size:.8rem}small,.small{color:#555}
@media (max-width:40rem){table{font-size:.85rem}th,td{padding-right:.5rem}}
@media print{body{max-width:none;font-size:11px}h2,h3{break-after:avoid}
.scroll{break-inside:avoid}img{max-height:22cm;max-width:100%}}
"""


def page(title: str, parts: Iterable[str]) -> str:
    """The page of these parts, which are HTML; the title is text."""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{text(title)}</title><link rel=icon href='data:,'><style>{STYLE}</style>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def unbroken(figure: Mapping[str, float | None]) -> str:
    """As in `plots.shown`, with the interval unbroken."""
    to = "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}"
    return shown(figure).replace(" to ", to).replace("-", "\N{MINUS SIGN}")


def picture(pictures: Mapping[str, bytes], name: str, heading: str, alt: str) -> str:
    """The picture with its heading, or nothing where it was not drawn."""
    if name not in pictures:
        return ""
    data = base64.b64encode(pictures[name]).decode()
    return (
        f"<figure><h3>{heading}</h3>"
        f"<img alt='{heading}: {html.escape(alt)}' src='data:image/png;base64,{data}'></figure>"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells are text; the first of each row is its heading."""
    first = "".join(f"<th scope=col>{text(cell)}" for cell in head) if any(head) else ""
    body = "".join(
        f"<tr><th scope=row>{text(row[0])}" + "".join(f"<td>{text(cell)}" for cell in row[1:])
        for row in rows
    )
    return f"<div class=scroll><table>{first and f'<tr>{first}'}{body}</table></div>"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """The leaves of nested mappings by dotted path, as rows of a table."""
    rows = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            rows += flatten(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, str(value)))
    return rows


def text(value: Any) -> str:
    """The value as HTML shows it literally."""
    return html.escape(str(value))
