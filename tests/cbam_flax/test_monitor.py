import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cbam_flax import monitor
from cbam_flax.config import default_config
from cbam_flax.input_pipeline import Order, Split
from cbam_flax.models import create_model
from data_prep.cli import UserError


def read(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_scalars_of_one_step_share_a_line(tmp_path):
    writer = monitor.JsonlWriter(str(tmp_path), start=0)
    writer.write_scalars(1, {"loss": 0.5})
    writer.write_scalars(2, {"loss": np.float32(0.25)})
    writer.write_scalars(2, {"validation/auroc": 0.75})
    assert read(tmp_path) == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 0.25, "validation/auroc": 0.75},
    ]


def test_a_resumed_run_drops_the_lines_it_will_write_again(tmp_path):
    first = monitor.JsonlWriter(str(tmp_path), start=0)
    for step in (1, 2, 3):
        first.write_scalars(step, {"loss": step})
    monitor.JsonlWriter(str(tmp_path), start=2).write_scalars(3, {"loss": 30})
    assert [line["loss"] for line in read(tmp_path)] == [1, 2, 30]


def figures(loss, skipped=False):
    return {
        "loss": jnp.float32(loss),
        "accuracy": jnp.float32(0.5),
        "gradient_norm": jnp.float32(1.0),
        "skipped": jnp.array(skipped),
    }


def test_flops_of_training_agree_with_the_compiler():
    config = default_config()
    config.image_size = 512
    config.model.width = 0.125
    model = create_model(config.model, "any")
    images = jax.ShapeDtypeStruct((1, 512, 512, 1), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)

    gradient = jax.grad(lambda variables, images: model.apply(variables, images).sum())
    counted = jax.jit(gradient).lower(variables, images).cost_analysis()["flops"]
    assert monitor.training_flops(config) == pytest.approx(counted, rel=0.1)


def test_the_reporter_writes_means_where_a_line_is_due(tmp_path, monkeypatch):
    monkeypatch.setitem(monitor.PEAK_FLOPS, jax.devices()[0].device_kind, 500.0)
    stopped_at = []
    reporter = monitor.Reporter(
        monitor.JsonlWriter(str(tmp_path), start=0),
        every_steps=2,
        batch_size=8,
        epoch_size=16,
        schedule=lambda step: 0.1 * step,
        flops=1000.0,
        on_non_finite=stopped_at.append,
    )
    for number, loss in enumerate([1.0, 2.0, 5.0, 7.0], 1):
        reporter.read(number, figures(loss))
    lines = read(tmp_path)
    assert [(line["step"], line["loss"], line["epoch"]) for line in lines] == [
        (2, 1.5, 1.0),
        (4, 6.0, 2.0),
    ]
    share = lines[0]["images_per_second"] * 1000 / 500 / jax.device_count()
    assert lines[0]["mfu"] == pytest.approx(share)
    assert lines[0]["learning_rate"] == pytest.approx(0.1)
    assert stopped_at == []
    with reporter.paused():
        pass
    reporter.read(5, figures(float("nan"), skipped=True))
    assert stopped_at == [5]


def test_a_step_that_is_not_finite_leaves_its_batch_behind(tmp_path):
    labels = np.int32([0, 1, 0, 1])
    ids = np.array(["a", "b", "c", "d"])
    split = Split("train", np.zeros((4, 2, 2), np.uint8), {"label": labels, "image_id": ids}, {})
    order = Order(labels, 2, seed=0)
    with pytest.raises(UserError, match="step 2 is not finite"):
        monitor.stop_at_non_finite(str(tmp_path), split, order, 2)
    with np.load(tmp_path / "non_finite_step_2.npz") as dump:
        assert set(dump["image_id"]) == set(ids[order.batch(1)])


def test_the_grid_shows_every_image():
    images = np.linspace(0, 1, 16)[:, None, None, None] * np.ones((16, 4, 4, 1))
    grid = monitor.labelled_grid(images, np.zeros(16))
    assert grid.shape == (1, 256, 1024, 1)
    corners = grid[0, 127::128, 127::128, 0].ravel()
    np.testing.assert_array_equal(corners, (np.linspace(0, 1, 16) * 255).astype(np.uint8))
