"""What the pages for people point to is there: links, their anchors, files and modules."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
FOLDERS = "cbam_flax|data_prep|configs|studies|benchmarks|docs|tests|launch"
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(rf"`((?:{FOLDERS})/[\w./-]*)`")
MODULE = re.compile(rf"-m ((?:{FOLDERS})(?:\.[a-z_]+)+)\b")


def anchors(page: pathlib.Path) -> set[str]:
    """The names that GitHub gives the headings of a page."""
    headings = re.findall(
        r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: pathlib.Path) -> list[str]:
    found = []
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if "://" not in link and not (
            target.exists() and (not anchor or anchor in anchors(target))
        ):
            found.append(link)
    return found


def missing_files(text: str) -> list[str]:
    modules = [ROOT / name.replace(".", "/") for name in MODULE.findall(text)]
    return [path for path in PATH.findall(text) if not (ROOT / path).exists()] + [
        str(module.relative_to(ROOT))
        for module in modules
        if not module.with_suffix(".py").exists() and not (module / "__main__.py").exists()
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_files_and_modules_exist(page):
    assert broken_links(page) == []
    assert missing_files(page.read_text(encoding="utf-8")) == []


def test_every_page_is_in_the_index():
    linked = LINK.findall((ROOT / "docs" / "README.md").read_text(encoding="utf-8"))
    pages = {page.name for page in ROOT.glob("docs/*.md")} - {"README.md"}
    assert pages - set(linked) == set()


def test_what_is_not_there_is_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One heading\n[a](#one-heading) [b](#another) [c](none.md) [d](page.md)\n",
        encoding="utf-8",
    )
    assert broken_links(page) == ["#another", "none.md"]
    text = "`cbam_flax/none.py` `cbam_flax/main.py` `python -m benchmarks.none` -m cbam_flax.export"
    assert missing_files(text) == ["cbam_flax/none.py", "benchmarks/none"]
