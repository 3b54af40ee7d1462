import base64
import html.parser
import re

import pytest

from cbam_flax.evaluate import analysis, calibration, html_page, plots, report
from cbam_flax.evaluate.pictures import Pictures

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


@pytest.fixture
def metrics(make_predictions, make_columns):
    validation = make_predictions(100, seed=5, name="validation")
    fitted = calibration.fit(validation, "sensitivity=0.9", step=3, split="validation")
    train = make_columns(100, seed=1, name="train")
    found = analysis.analyse(make_predictions(80), fitted, train, resamples=30)
    score = {name: found["auroc"] for name in ("pointing", "energy", "energy_gain")}
    return found | {
        "dataset": "rsna/<b>64px</b>",
        "split": "test",
        "external": False,
        "calibration": {"split": "validation", "criterion": "sensitivity=0.9", "n": 100},
        "localisation": {"n": 7, "scores": {"grad_cam": score}},
        "data": {
            "dataset": "rsna",
            "split_scheme": "patient",
            "synthetic": True,
            "splits": {"train": {"images": 1234, "patients": 99, "positive": 11}},
        },
        "provenance": {"code": {"sha256": "c0de"}, "config": {"model": {"width": 0.5}}},
        "warnings": ["LEAK: <3> images"],
    }


class Page(html.parser.HTMLParser):
    """Collects tags and text, and complains of tags closed in the wrong order."""

    OPTIONAL = (
        *("tr", "td", "th", "p", "html", "body", "meta", "img", "link"),
        *("thead", "tbody", "option", "input"),
    )

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.OPTIONAL:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.OPTIONAL:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


CURVE = {"name": "", "positive": 1, "negative": 1, "start": 0, "points": [(0.5, 1, 0)]}


def test_the_page_needs_no_network(metrics):
    drawn = Pictures({"roc": PNG}, {"examples": [("a title", PNG)]})
    text = report.render(metrics, drawn, [CURVE])
    page = Page(text)
    assert "http" not in text
    assert {tag for tag, _ in page.tags}.isdisjoint({"iframe", "object", "embed"})
    for tag, attributes in page.tags:
        for name in ("src", "href"):
            if name in attributes:
                assert attributes[name].startswith("data:"), tag
    assert "@import" not in text
    assert "url(" not in text


def test_pictures_are_inlined_whole_with_words_for_them(metrics):
    mistakes = [("negative, p = 0.9\n<id>", PNG), ("positive, p = 0.1\nid", PNG)]
    page = Page(report.render(metrics, Pictures({"roc": PNG}, {"mistakes": mistakes})))
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 3
    assert "negative, p = 0.9\n<id>" in pictures[1]["alt"]
    for picture in pictures:
        assert base64.b64decode(picture["src"].split(",")[1]) == PNG
        assert len(picture["alt"]) > 20


def test_the_figures_are_told(metrics):
    text = Page(report.render(metrics, Pictures())).text
    auroc = metrics["auroc"]
    assert f"AUROC{plots.shown(auroc)}" in text.replace("\N{NO-BREAK SPACE}", " ")
    best = metrics["best_baseline"]
    assert f"{metrics['baselines'][best]['gain']['value']:.3f}" in text
    for expected in (
        "sensitivity=0.9",
        "view: AP",
        "1,234",
        "split by patient",
        "c0de",
        "grad cam",
        "Not a medical device",
    ):
        assert expected in text, expected
    for row in metrics["subgroups"]:
        assert f"{row['n_positive']:,} / {row['n']:,}" in text


def test_text_from_outside_is_escaped(metrics):
    page = Page(report.render(metrics, Pictures()))
    assert "<b>64px</b>" in page.text
    assert "LEAK: <3> images" in page.text
    assert "b" not in {tag for tag, _ in page.tags}


def test_what_is_undefined_or_absent_is_left_out(metrics):
    undefined = {"value": None, "low": None, "high": None}
    metrics |= {"baselines": None, "localisation": None, "auroc": undefined, "ppv": undefined}
    text = Page(report.render(metrics, Pictures())).text
    assert "undefined" in text
    assert "shortcuts" not in text
    assert "Saliency maps" not in text


def test_a_click_shows_a_mistake_large_without_a_script(metrics):
    mistakes = [("one", PNG), ("two", PNG)]
    page = Page(report.render(metrics, Pictures({}, {"mistakes": mistakes, "examples": mistakes})))
    opened = [of["id"] for tag, of in page.tags if "popover" in of]
    openers = [of["popovertarget"] for tag, of in page.tags if tag == "button"]
    assert opened == openers == ["mistakes-1", "mistakes-2", "examples-1", "examples-2"]
    assert "script" not in {tag for tag, _ in page.tags}


def test_text_is_dark_enough_on_its_ground():
    """WCAG 2.2 asks for a contrast of 4.5."""

    def luminance(colour):
        digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
        channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    text = re.findall(r"[;{]color:#(\w+)", html_page.STYLE)
    ground = re.findall(r"background:#((?:\w{3}){1,2})[;}]", html_page.STYLE)
    assert (len(text), len(ground)) == (2, 2)
    for dark in text:
        for light in ground:
            assert (luminance(light) + 0.05) / (luminance(dark) + 0.05) > 4.5
