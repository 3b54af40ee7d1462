"""What a run says of itself: TensorBoard, metrics.jsonl, a summary at the start, throughput."""

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cv2
import jax
import numpy as np
import optax
from absl import logging
from clu import metric_writers, metrics, parameter_overview
from etils import epath
from flax import traverse_util
from ml_collections import ConfigDict

from cbam_flax.input_pipeline import Order, Split
from cbam_flax.models import create_model
from cbam_flax.models.table import stage_table
from cbam_flax.step import TrainState
from data_prep.cli import UserError

# Dense bf16 FLOP/s of one chip, from the vendors' data sheets; by jax's device_kind.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}

# Means over the steps since the last report, from what `step.train_step` returns.
TrainMetrics = metrics.Collection.create(
    loss=metrics.Average.from_output("loss"),
    accuracy=metrics.Average.from_output("accuracy"),
    gradient_norm=metrics.Average.from_output("gradient_norm"),
    skipped=metrics.Average.from_output("skipped"),
)


class JsonlWriter(metric_writers.MultiWriter):
    """Scalars as lines of WORKDIR/metrics.jsonl, one object per step; other kinds are passed over.

    The file is written anew each time: object stores cannot append, and a reader never sees half a
    line. Lines after `start` are dropped, since a resumed run will write them again.
    """

    def __init__(self, workdir: str, start: int):
        super().__init__([])
        self._path = epath.Path(workdir) / "metrics.jsonl"
        text = self._path.read_text() if self._path.exists() else ""
        lines = map(json.loads, text.splitlines())
        self._rows = {line["step"]: line for line in lines if line["step"] <= start}

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        row = self._rows.setdefault(step, {"step": step})
        row |= {name: round(float(value), 6) for name, value in scalars.items()}
        draft = self._path.with_name(f".{self._path.name}")
        draft.write_text("".join(json.dumps(line) + "\n" for line in self._rows.values()))
        draft.replace(self._path)  # kill -9 while writing must not cost the lines before


def make_writer(workdir: str, start: int) -> metric_writers.MetricWriter:
    """Log lines everywhere, TensorBoard and metrics.jsonl from the first process; never blocks."""
    writers: list[metric_writers.MetricWriter] = [metric_writers.LoggingWriter()]
    if jax.process_index() == 0:
        writers.append(metric_writers.SummaryWriter(str(epath.Path(workdir) / "tensorboard")))
        writers.append(JsonlWriter(workdir, start))
    return metric_writers.AsyncMultiWriter(writers)


def training_flops(config: ConfigDict) -> float:
    """Floating-point operations that the model asks of one image: forward, and twice that backward.

    Of the architecture, not of the compiled program: what is computed again, or in a form that
    takes fewer, counts as usual for model FLOPs utilisation (Chowdhery et al. 2022, "PaLM").
    """
    stages = stage_table(create_model(config.model, "any"), config.image_size, config.image_size)
    return 3.0 * sum(stage.flops for stage in stages)


def log_start(
    config: ConfigDict,
    state: TrainState,
    compiled: jax.stages.Compiled,
    mesh: jax.sharding.Mesh,
    splits: list[Split],
    epoch_size: int,
    total_steps: int,
    flops: float,
) -> None:
    """Logs the parameters, the mesh, the data, and what one compiled step needs."""
    parameter_overview.log_parameter_overview(
        state.params, include_stats=False, jax_logging_process=0
    )
    memory = compiled.memory_analysis()
    size = (
        (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**20
        if memory
        else float("nan")
    )
    logging.info(
        "devices: %d x %s, mesh %s", mesh.size, jax.devices()[0].device_kind, dict(mesh.shape)
    )
    for split in splits:
        logging.info(
            "%s: %d images, %d positive, content %s",
            split.name,
            len(split),
            split.labels.sum(),
            split.fingerprint[:12],
        )
    logging.info(
        "%d steps of %d images, %d images per epoch; "
        "a step needs %.0f MiB per device and %.2f GFLOP per image",
        total_steps,
        config.batch_size,
        epoch_size,
        size,
        flops / 1e9,
    )


class Reporter:
    """Collects the figures of the steps and writes their means where a line is due."""

    def __init__(
        self,
        writer: metric_writers.MetricWriter,
        *,
        every_steps: int,
        batch_size: int,
        epoch_size: int,
        schedule: optax.Schedule,
        flops: float,
        on_non_finite: Callable[[int], None] | None,
    ):
        self._writer, self._every_steps, self._schedule = writer, every_steps, schedule
        self._batch_size, self._epoch_size = batch_size, epoch_size
        self._flops, self._peak = flops, PEAK_FLOPS.get(jax.devices()[0].device_kind)
        self._on_non_finite = on_non_finite
        self._recent: list[metrics.Collection] = []
        self._since = time.monotonic()

    def read(self, number: int, figures: dict[str, jax.Array]) -> None:
        """Waits for what step `number` returned, and takes it in."""
        values = jax.device_get(figures)
        if values["skipped"] and self._on_non_finite:
            self._on_non_finite(number)
        self._recent.append(TrainMetrics.single_from_model_output(**values))
        if number % self._every_steps:
            return
        means = functools.reduce(lambda a, b: a.merge(b), self._recent).compute()
        now = time.monotonic()
        rate = len(self._recent) / (now - self._since)
        means |= {
            "images_per_second": rate * self._batch_size,
            "learning_rate": self._schedule(number - 1),
            "epoch": number * self._batch_size / self._epoch_size,
        }
        if self._peak:
            means["mfu"] = rate * self._batch_size * self._flops / (self._peak * jax.device_count())
        self._recent, self._since = [], now
        self._writer.write_scalars(number, {name: float(value) for name, value in means.items()})

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves what happens inside, an evaluation say, out of the images per second."""
        start = time.monotonic()
        yield
        self._since += time.monotonic() - start


def write_histograms(writer: metric_writers.MetricWriter, number: int, state: TrainState) -> None:
    """The distribution of every parameter, where one process holds them all."""
    if jax.process_count() == 1:
        params = traverse_util.flatten_dict(jax.device_get(state.params), sep="/")
        writer.write_histograms(number, params)


def labelled_grid(images: np.ndarray, labels: np.ndarray, columns: int = 8) -> np.ndarray:
    """Images float (B, S, S, 1) in [0, 1] -> uint8 (1, H, W, 1) with labels in the corners."""
    tiles = []
    for image, label in zip(images, labels, strict=True):
        tile = cv2.resize((image[..., 0] * 255).astype(np.uint8), (128, 128))
        tiles.append(cv2.putText(tile, f"{label:.2g}", (4, 14), 0, 0.45, 255))
    tiles = tiles[: len(tiles) // columns * columns] or tiles
    rows = np.split(np.array(tiles), max(1, len(tiles) // columns))
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])[None, :, :, None]


def stop_at_non_finite(workdir: str, split: Split, order: Order, number: int) -> None:
    """Dumps the batch of step `number`, whose loss or gradient was not finite, and ends the run.

    Raises:
        UserError: always; it names the step, image ids and the dump.
    """
    indices = order.batch(number - 1)
    ids = split.columns["image_id"][indices]
    path = epath.Path(workdir) / f"non_finite_step_{number}.npz"
    with path.open("wb") as file:
        np.savez(file, image=split.images[indices], label=order.labels[indices], image_id=ids)
    raise UserError(
        f"the loss or gradient of step {number} is not finite; its batch "
        f"({', '.join(ids[:4])}, ...) is in {path}; lower "
        f"config.optimizer.learning_rate, or set config.non_finite=skip"
    )
