"""Input pipeline alone against the training step, in one run: images per second and their ratios.

    python -m benchmarks.input_pipeline --data_dir=demo/data --image_size=64 --width=0.25

Batches are gathered at an early and at a late epoch and for a host that holds 1 / n of the batch;
beside them stands tf.data reading, shuffling and decoding the same TFRecords. Rounds alternate
between the contestants, so that a busy machine slows all of them alike.
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
import tensorflow_datasets as tfds

from cbam_flax import input_pipeline, sharding
from cbam_flax import optimizer as optimizer_lib
from cbam_flax import step as step_lib
from cbam_flax.config import default_config
from cbam_flax.models import create_model


def per_second(make_batch: Callable[[], object], batch_size: int, seconds: float = 1.0) -> float:
    """Images per second of calls repeated for about that long."""
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        jax.block_until_ready(make_batch())
        count += 1
    return count * batch_size / passed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--dataset", default="rsna_pneumonia")
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    config = default_config()
    config.image_size, config.batch_size = args.image_size, args.batch_size
    config.model.width = args.width
    mesh = sharding.make_mesh(config.mesh)
    folder = input_pipeline.record_dir(args.data_dir, args.dataset, args.image_size)
    split = input_pipeline.load_split(args.data_dir, args.dataset, args.image_size, "train")
    order = input_pipeline.Order(split.labels, args.batch_size, seed=0)
    late = 1000 * order.epoch_size // args.batch_size

    def counting(start: int) -> Iterator[int]:
        yield from range(start, start + 10**9)

    steps = {"early": counting(0), "late": counting(late)}

    def gather(when: str, hosts: int = 1) -> object:
        indices = order.batch(next(steps[when]))
        return input_pipeline.put_batch(
            split.images, order.labels, indices[: len(indices) // hosts], mesh
        )

    records = iter(
        tfds.as_numpy(
            tfds.builder_from_directory(folder)
            .as_dataset(split="train", shuffle_files=False)
            .map(lambda row: (row["image"], row["label"]))
            .repeat()
            .shuffle(len(split), seed=0)
            .batch(args.batch_size)
            .prefetch(2)
        )
    )

    model = create_model(config.model)
    optimizer = optimizer_lib.make_optimizer(config.optimizer, lambda step: 1e-3)
    state = jax.jit(functools.partial(step_lib.init_state, model, optimizer, config))()
    step = functools.partial(step_lib.train_step, model=model, optimizer=optimizer, config=config)
    batch = gather("early")
    compiled = jax.jit(step).lower(state, batch).compile()

    contestants: dict[str, tuple[Callable[[], object], int]] = {
        "train step": (lambda: compiled(state, batch), args.batch_size),
        "memory map, epoch 0": (lambda: gather("early"), args.batch_size),
        "memory map, epoch 1000": (lambda: gather("late"), args.batch_size),
        "memory map, half the batch (2 hosts)": (lambda: gather("early", 2), args.batch_size // 2),
        "tf.data from TFRecords": (lambda: next(records)[0], args.batch_size),
    }
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(args.rounds):
        for name, (make_batch, size) in contestants.items():
            rates[name].append(per_second(make_batch, size))
    base = np.array(rates["train step"])
    print(f"{'':38}{'images/s':>10}  x the train step (median, min-max of {args.rounds} rounds)")
    for name, values in rates.items():
        ratio = np.array(values) / base
        print(
            f"{name:38}{statistics.median(values):10.0f}  {np.median(ratio):.3g} "
            f"({ratio.min():.3g}-{ratio.max():.3g})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
