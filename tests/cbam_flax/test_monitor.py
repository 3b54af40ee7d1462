import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cbam_flax import metrics_log, monitor
from cbam_flax.config import default_config
from cbam_flax.input_pipeline import Order, Split
from cbam_flax.models import create_model
from data_prep.cli import UserError


def read(folder):
    return metrics_log.read_scalars(folder / "metrics.jsonl")


def test_the_console_gets_scalars_and_tensorboard_everything(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="absl")
    writer = monitor.make_writer(str(tmp_path), start=0, total_steps=20)
    writer.write_hparams({"seed": 0})
    writer.write_texts(0, {"parameters": "a table"})
    writer.write_images(0, {"augmented": np.zeros((1, 8, 8, 1), np.uint8)})
    writer.write_scalars(5, {"loss": 0.25, "gradient_norm": 3.0, "skipped": 0.0})
    writer.write_scalars(5, {"validation/auroc": 0.75})
    writer.write_histograms(5, {"block1/kernel": np.arange(9.0)})
    writer.flush()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert lines[0].startswith("step  5/20  0:00:0")
    assert lines[0].endswith(" left  training    loss 0.2500")
    assert lines[1].endswith(" left  validation  AUROC 0.7500")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    names = {"parameters", "augmented", "loss", "validation/auroc", "block1/kernel"}
    assert names <= set(events.Tags()["tensors"])


def test_skipped_steps_are_told(caplog):
    caplog.set_level(logging.INFO, logger="absl")
    monitor.ConsoleWriter(start=0, total_steps=9).write_scalars(3, {"loss": 1.0, "skipped": 0.125})
    assert "12.5% of the steps skipped" in caplog.text


def test_the_model_is_a_line_for_each_stage_and_their_sum():
    stages = monitor.stages_of(default_config())
    lines = monitor.model_lines(stages)
    names = [line.split()[0] for line in lines]
    assert names == ["stage", *(stage.name for stage in stages), "total"]
    assert len({len(line) for line in lines}) == 1  # the columns are aligned
    assert f" {sum(stage.parameters for stage in stages):,} " in lines[-1]


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
    assert monitor.training_flops(monitor.stages_of(config)) == pytest.approx(counted, rel=0.1)


def test_the_reporter_writes_means_where_a_line_is_due(tmp_path, monkeypatch):
    monkeypatch.setitem(monitor.PEAK_FLOPS, jax.devices()[0].device_kind, 500.0)
    stopped_at = []
    reporter = monitor.Reporter(
        metrics_log.JsonlWriter(str(tmp_path), start=0),
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


def test_steps_that_were_skipped_are_no_part_of_the_means(tmp_path):
    reporter = monitor.Reporter(
        metrics_log.JsonlWriter(str(tmp_path), start=0),
        every_steps=4,
        batch_size=8,
        epoch_size=16,
        schedule=lambda step: 0.1,
        flops=1000.0,
        on_non_finite=None,
    )
    nan = float("nan")
    for number, loss in enumerate([1.0, nan, 2.0, 6.0, nan, nan, nan, nan], 1):
        reporter.read(number, figures(loss, skipped=loss != loss))
    some, none = read(tmp_path)
    assert (some["loss"], some["accuracy"], some["gradient_norm"], some["skipped"]) == (
        (3.0, 0.5, 1.0, 0.25)
    )
    assert none["skipped"] == 1.0
    assert none.keys() == some.keys() - {"loss", "accuracy", "gradient_norm"}


def test_the_steps_before_one_that_stops_the_run_are_written(tmp_path):
    def stop(step):
        raise UserError(str(read(tmp_path)[-1]["loss"]))

    reporter = monitor.Reporter(
        monitor.make_writer(str(tmp_path), start=0, total_steps=9),
        every_steps=9,
        batch_size=8,
        epoch_size=16,
        schedule=lambda step: 0.1,
        flops=1000.0,
        on_non_finite=stop,
    )
    reporter.read(1, figures(1.0))
    reporter.read(2, figures(2.0))
    with pytest.raises(UserError, match=r"^1\.5$"):
        reporter.read(3, figures(float("nan"), skipped=True))


def test_a_run_shorter_than_a_line_is_due_has_its_loss_written(tmp_path):
    reporter = monitor.Reporter(
        metrics_log.JsonlWriter(str(tmp_path), start=0),
        every_steps=20,
        batch_size=8,
        epoch_size=16,
        schedule=lambda step: 0.1,
        flops=1000.0,
        on_non_finite=None,
    )
    for number, loss in enumerate([1.0, 2.0, 6.0], 1):
        reporter.read(number, figures(loss))
    assert not (tmp_path / "metrics.jsonl").exists()
    reporter.write()
    reporter.write()  # nothing is left, so nothing is written
    assert [(line["step"], line["loss"]) for line in read(tmp_path)] == [(3, 3.0)]


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
