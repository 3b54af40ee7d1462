import json

import cv2
import numpy as np
import pytest
from etils import epath
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cbam_flax import checkpoint
from cbam_flax.evaluate import analysis, calibration, pictures, plots, saliency
from cbam_flax.input_pipeline import Split


@pytest.fixture
def predictions(make_predictions):
    return make_predictions(90)


@pytest.fixture
def metrics(predictions):
    fitted = calibration.fit(predictions, "youden", step=3, split="validation")
    predictions["probability"] = fitted.probability(predictions["logit"])
    return analysis.analyse(predictions, fitted, None, resamples=30)


@pytest.fixture
def restored(tiny_config):
    return checkpoint.Restored(tiny_config, None, {}, 20, {})


def decode(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def test_all_plots_are_drawn_the_same_twice(predictions, metrics, restored, tmp_path):
    rows = [
        {"step": 10, "loss": 0.7},
        {"step": 20, "loss": 0.6, "validation/auroc": 0.7, "validation/log_loss": 0.6},
    ]
    log = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(log)
    split = Split("test", np.zeros((90, 8, 8), np.uint8), predictions, {})
    draw = lambda: pictures.draw(  # noqa: E731
        metrics, predictions, split, restored, epath.Path(tmp_path), with_maps=False
    )
    drawn = draw().files
    assert set(drawn) == {
        "roc", "precision_recall", "subgroups", "reliability", "scores", "confusion", "training",
    }  # fmt: skip
    for name, data in drawn.items():
        picture = decode(data)
        assert 500 < picture.shape[1] < 1000, name
        assert picture.std() > 5, name
    assert draw() == pictures.Pictures(drawn)


def test_the_curves_of_a_run_without_a_logged_loss_warn_of_nothing(recwarn):
    plots.training([{"step": 1, "learning_rate": 0.1}], 1)
    assert [str(warning.message) for warning in recwarn] == []


def test_curves_pass_through_the_operating_point(predictions, metrics):
    axes = plots.roc(predictions, metrics).axes[0]
    lines = {line.get_label().split(",")[0]: line.get_xydata() for line in axes.lines}
    point = lines["operating point"][0]
    assert point == pytest.approx(
        [1 - metrics["specificity"]["value"], metrics["sensitivity"]["value"]]
    )
    assert np.abs(lines["model"] - point).sum(axis=1).min() < 1e-4
    # The band holds the curve.
    band = axes.collections[0].get_paths()[0]
    inside = [band.contains_point(p, radius=0.02) for p in lines["model"][1:-1]]
    assert np.mean(inside) > 0.9


def test_one_class_alone_has_no_curves(predictions, restored, tmp_path):
    fitted = calibration.fit(predictions, "youden", step=3, split="validation")
    negative = {name: column[predictions["label"] == 0] for name, column in predictions.items()}
    metrics = analysis.analyse(negative, fitted, None, resamples=30)
    split = Split("test", np.zeros((60, 8, 8), np.uint8), negative, {})
    drawn = pictures.draw(metrics, negative, split, restored, epath.Path(tmp_path), with_maps=False)
    assert set(drawn.files) == {"reliability", "scores", "confusion"}


def test_mistakes_are_wrong_and_the_most_confident_first():
    predictions = {
        "label": np.array([0, 0, 0, 0, 0, 1, 1, 1]),
        "probability": np.array([0.9, 0.6, 0.7, 0.8, 0.1, 0.2, 0.3, 0.9]),
    }
    assert pictures.confident_mistakes(predictions, 0.5).tolist() == [0, 3, 2, 5, 6]


def test_random_examples_are_of_both_classes_and_always_the_same(predictions):
    chosen = pictures.random_examples(predictions)
    assert predictions["label"][chosen].tolist() == [1, 1, 1, 0, 0, 0]
    assert pictures.random_examples(predictions).tolist() == chosen.tolist()


def test_radiographs_show_boxes_where_they_are(monkeypatch):
    images = np.full((1, 40, 40), 100, np.uint8)
    boxes = [np.float32([[0.25, 0.5, 0.5, 0.75]])]
    figure = plots.radiographs(images, boxes, {"grad_cam": np.eye(5)[None]}, ["a title"])
    [patch] = figure.axes[0].patches
    assert (patch.get_y(), patch.get_x()) == (9.5, 19.5)
    assert (patch.get_height(), patch.get_width()) == (10, 10)
    overlaid = figure.axes[1].images[0].get_array()
    assert np.ptp(overlaid[..., 0]) > 50  # the map shows
    assert np.ptp(figure.axes[0].images[0].get_array()) == 0
    assert figure.axes[0].get_title(loc="left") == "a title"
    ticks = [label.get_text() for label in figure.axes[2].get_yticklabels()]
    assert ticks == ["0", "1"]  # of the colour bar


def test_a_blank_map_says_why_and_has_no_scale():
    images = np.full((1, 40, 40), 100, np.uint8)
    figure = plots.radiographs(images, [np.zeros((0, 4))], {"grad_cam": np.zeros((1, 5, 5))}, ["t"])
    plain, blank = figure.axes
    assert (blank.images[0].get_array() == plain.images[0].get_array()).all()
    assert "nothing in the last block raised the score" in blank.texts[0].get_text()


def test_pictures_carry_the_models_maps(predictions, metrics, restored, tmp_path, monkeypatch):
    monkeypatch.setattr(saliency, "methods_of", lambda model: ["grad_cam", "occlusion"])
    asked = []

    def maps(method, model, variables, images):
        asked.append((method, len(images)))
        return np.zeros((len(images), 4, 4))

    monkeypatch.setattr(saliency, "maps", maps)
    grey = np.tile(np.arange(90, dtype=np.uint8)[:, None, None], (1, 32, 32))
    split = Split("test", grey, predictions, {})
    drawn = pictures.draw(
        metrics, predictions, split, restored, epath.Path(tmp_path), with_maps=True
    )
    assert {"mistakes", "examples"} <= set(drawn.files)
    # In the file one below the other, what the page shows one by one.
    each = [decode(png) for _, png in drawn.radiographs["examples"]]
    assert len(each) == 6
    np.testing.assert_array_equal(decode(drawn.files["examples"]), np.concatenate(each))
    chosen = pictures.random_examples(predictions)
    assert [picture[200, 200].mean() for picture in each] == chosen.tolist()
    titles = [title for title, _ in drawn.radiographs["examples"]]
    assert [title.split()[0] for title in titles] == ["positive"] * 3 + ["negative"] * 3
    assert ("grad_cam", 6) in asked
    assert {method for method, _ in asked} == {"grad_cam"}


def test_tensorboard_gets_the_same_pixels(tmp_path):
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([0, 1], color="red")
    png = pictures.to_png(figure)
    pictures.write_to_tensorboard(tmp_path, 12, "test", {"roc": png})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    [event] = events.Tensors("evaluation/test/roc")
    assert event.step == 12
    width, height, picture = event.tensor_proto.string_val
    assert (width, height) == (b"100", b"100")
    np.testing.assert_array_equal(decode(picture), decode(png))


def test_figures_are_shown_with_their_interval():
    assert plots.shown({"value": -0.01, "low": -0.05, "high": 0.03}) == "-0.010 (-0.050 to 0.030)"
    assert plots.shown({"value": None, "low": None, "high": None}) == "undefined"
