"""Reporting of a run: console, TensorBoard, throughput."""

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cv2
import jax
import numpy as np
import optax
from absl import logging
from clu import metric_writers, parameter_overview
from etils import epath
from flax import traverse_util
from ml_collections import ConfigDict

from cbam_flax.input_pipeline import Order, Split
from cbam_flax.labels import finding_lines
from cbam_flax.metrics_log import JsonlWriter
from cbam_flax.models import create_model
from cbam_flax.models.table import Stage, stage_table
from cbam_flax.step import TrainState
from data_prep.cli import UserError

# Peak dense bf16 FLOP/s per chip, from the vendors' data sheets, by JAX device_kind.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}

# Of what `step.train_step` returns, these are averaged over the steps since the last report.
AVERAGED = ("loss", "accuracy", "gradient_norm")
# The scalars that the console shows, in this order; TensorBoard and metrics.jsonl have all.
CONSOLE = {
    "training": {
        "loss": "loss {:.4f}",
        "accuracy": "accuracy {:.3f}",
        "learning_rate": "learning rate {:.1e}",
        "images_per_second": "{:,.0f} images/s",
        "mfu": "MFU {:.1%}",
        "skipped": "{:.1%} of the steps skipped as not finite",
    },
    "validation": {
        "validation/auroc": "AUROC {:.4f}",
        "validation/average_precision": "average precision {:.4f}",
        "validation/log_loss": "log loss {:.4f}",
        "validation/brier": "Brier score {:.4f}",
        "validation/ece": "calibration error {:.4f}",
    },
}


class ConsoleWriter(metric_writers.MultiWriter):
    """The scalars of `CONSOLE` as a log line for people; other kinds are ignored.

    The time left is estimated from all time since this object was made, including evaluations.
    """

    def __init__(self, start: int, total_steps: int):
        super().__init__([])
        self._start, self._total_steps = start, total_steps
        self._since = time.monotonic()

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        seconds = (time.monotonic() - self._since) / (step - self._start)
        left = datetime.timedelta(seconds=round(seconds * (self._total_steps - step)))
        position = f"step {step:{len(str(self._total_steps))}}/{self._total_steps}  {left} left"
        shown = {name: value for name, value in scalars.items() if value or name != "skipped"}
        for phase, formats in CONSOLE.items():
            told = [text.format(shown[name]) for name, text in formats.items() if name in shown]
            if told:
                logging.info("%s  %-10s  %s", position, phase, ", ".join(told))


def make_writer(workdir: str, start: int, total_steps: int) -> metric_writers.MetricWriter:
    """Log lines everywhere, TensorBoard and metrics.jsonl from the first process; never blocks.

    Histograms, images, texts and hyperparameters reach TensorBoard alone.
    """
    writers: list[metric_writers.MetricWriter] = [ConsoleWriter(start, total_steps)]
    if jax.process_index() == 0:
        writers.append(metric_writers.SummaryWriter(str(epath.Path(workdir) / "tensorboard")))
        writers.append(JsonlWriter(workdir, start))
    return metric_writers.AsyncMultiWriter(writers)


def stages_of(config: ConfigDict) -> list[Stage]:
    """The stages of the config's model at the config's image size."""
    return stage_table(create_model(config.model, "any"), config.image_size, config.image_size)


def training_flops(stages: list[Stage]) -> float:
    """Floating-point operations to train on one image: forward, and twice that backward.

    Counts the architecture, not the compiled program: recomputation and cheaper algorithms do not
    change it, as is usual for model FLOPs utilisation (Chowdhery et al. 2022, "PaLM").
    """
    return 3.0 * sum(stage.flops for stage in stages)


def log_start(
    config: ConfigDict,
    stages: list[Stage],
    compiled: jax.stages.Compiled,
    mesh: jax.sharding.Mesh,
    splits: list[Split],
    epoch_size: int,
    total_steps: int,
) -> None:
    """Logs the data, the model, the devices, and what one compiled step needs."""
    manifest = splits[0].manifest
    size = manifest["preprocessing"]["image_size"]
    shrunk = f", images of {size} px shrunk to {config.image_size}"
    logging.info("data: %s%s", manifest["dataset"], shrunk * (size != config.image_size))
    for split in splits:
        patients = split.manifest["splits"][split.name]["patients"]
        logging.info(
            "  %-10s  %s images%s, %s positive",
            split.name,
            f"{len(split):,}",
            f" of {patients:,} patients" if patients else " of unknown patients",
            f"{(split.labels == 1).reshape(len(split), -1).any(axis=1).sum():,}",
        )
        for line in finding_lines(split):
            logging.info("    %s", line)
    logging.info("model: %s at %d x %d pixels", config.model.preset, *2 * [config.image_size])
    for line in model_lines(stages):
        logging.info("  %s", line)
    memory = compiled.memory_analysis()
    logging.info(
        "training: %d steps of %d images, %s images per epoch",
        total_steps,
        config.batch_size,
        f"{epoch_size:,}",
    )
    logging.info(
        "devices: %d x %s (mesh: %s); a step needs %s of memory on each",
        mesh.size,
        jax.devices()[0].device_kind,
        ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items()),
        f"{(memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**20:,.0f} MiB"
        if memory
        else "an unknown amount",
    )


def model_lines(stages: list[Stage]) -> list[str]:
    """A line per stage: output shape, parameters and forward cost; then the total."""
    rows = [("stage", "output", "parameters", "forward MFLOP")]
    rows += [
        (
            stage.name,
            " x ".join(map(str, stage.output)),
            f"{stage.parameters:,}",
            f"{stage.flops / 1e6:,.2f}",
        )
        for stage in stages
    ]
    parameters = sum(stage.parameters for stage in stages)
    rows.append(("total", "", f"{parameters:,}", f"{sum(s.flops for s in stages) / 1e6:,.2f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"{a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}"
        for a, b, c, d in rows
    ]


class Reporter:
    """Collects the metrics of the steps and writes their means every `every_steps`."""

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
        self._recent: list[dict[str, np.ndarray]] = []
        self._newest = 0
        self._since = time.monotonic()

    def read(self, step: int, figures: dict[str, jax.Array]) -> None:
        """Waits for the metrics that `step` returned, and adds them."""
        values = jax.device_get(figures)
        if values["skipped"] and self._on_non_finite:
            self.write()  # what led there
            self._writer.flush()
            self._on_non_finite(step)
        self._recent.append(values)
        self._newest = step
        if step % self._every_steps == 0:
            self.write()

    def write(self) -> None:
        """Writes the means of the steps since the last line, if there are any.

        Steps that were skipped are no part of the means; where all were, there are none.

        Called at the end too, so that a run shorter than `every_steps` has its loss logged.
        """
        if not self._recent:
            return
        step = self._newest
        done = [figures for figures in self._recent if not figures["skipped"]]
        means = {
            name: np.mean([figures[name] for figures in done], dtype=float)
            for name in AVERAGED
            if done
        }
        now = time.monotonic()
        rate = len(self._recent) / (now - self._since)
        means |= {
            "skipped": 1 - len(done) / len(self._recent),
            "images_per_second": rate * self._batch_size,
            "learning_rate": self._schedule(step - 1),
            "epoch": step * self._batch_size / self._epoch_size,
        }
        if self._peak:
            means["mfu"] = rate * self._batch_size * self._flops / (self._peak * jax.device_count())
        self._recent, self._since = [], now
        self._writer.write_scalars(step, {name: float(value) for name, value in means.items()})

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time inside, for example an evaluation, from the images per second."""
        start = time.monotonic()
        yield
        self._since += time.monotonic() - start


def write_parameters(writer: metric_writers.MetricWriter, state: TrainState) -> None:
    """Name, shape and size of every parameter, as a text."""
    table = parameter_overview.get_parameter_overview(state.params, include_stats=False)
    writer.write_texts(0, {"parameters": f"```\n{table}\n```"})


def write_histograms(writer: metric_writers.MetricWriter, step: int, state: TrainState) -> None:
    """The distribution of every parameter, if one process holds them all."""
    if jax.process_count() == 1:
        params = traverse_util.flatten_dict(jax.device_get(state.params), sep="/")
        writer.write_histograms(step, params)


def labelled_grid(images: np.ndarray, labels: np.ndarray, columns: int = 8) -> np.ndarray:
    """Images float (B, S, S, 1) in [0, 1] -> uint8 (1, H, W, 1) with labels in the corners.

    Of several findings, labels (B, k), the numbers of the positive ones stand there.
    """
    tiles = []
    for image, label in zip(images, labels, strict=True):
        tile = cv2.resize((image[..., 0] * 255).astype(np.uint8), (128, 128))
        shown = f"{label:.2g}" if np.ndim(label) == 0 else str(np.flatnonzero(label > 0.5))
        tiles.append(cv2.putText(tile, shown, (4, 14), 0, 0.45, 255))
    tiles = tiles[: len(tiles) // columns * columns] or tiles
    rows = np.split(np.array(tiles), max(1, len(tiles) // columns))
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])[None, :, :, None]


def stop_at_non_finite(workdir: str, split: Split, order: Order, step: int) -> None:
    """Dumps the batch of `step`, whose loss or gradient was not finite, and ends the run.

    Raises:
        UserError: always; it names the step, image ids and the dump.
    """
    indices = order.batch(step - 1)
    ids = split.columns["image_id"][indices]
    path = epath.Path(workdir) / f"non_finite_step_{step}.npz"
    with path.open("wb") as file:
        np.savez(file, image=split.images[indices], label=order.labels[indices], image_id=ids)
    raise UserError(
        f"the loss or gradient of step {step} is not finite; its batch "
        f"({', '.join(ids[:4])}, ...) is in {path}; train in another "
        f"--workdir with a lower config.optimizer.learning_rate or with config.non_finite=skip"
    )
