"""Exact predictions of a split: every image once, independent of batch size and devices."""

import collections
import functools
from typing import Any

import jax
import numpy as np
import scipy.special
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cbam_flax.evaluate.patients import with_known_patients
from cbam_flax.input_pipeline import Split
from cbam_flax.models import CBAMResNet
from cbam_flax.sharding import AXES, make_mesh, replicated
from cbam_flax.step import eval_step
from data_prep import cli
from data_prep.manifest import NOT_LABELLED

Predictions = dict[str, np.ndarray]

# Two programs may round the same logit differently in the last float32 bits; this is coarser.
LOGIT_DECIMALS = 4
FURTHER_COLUMNS = ("view", "sex", "age", "spacing", "detailed_class")


def predict_split(
    model: CBAMResNet,
    variables: dict[str, Any],
    split: Split,
    batch_size: int,
    mesh: Mesh | None = None,
    *,
    flip: bool = False,
) -> Predictions:
    """Logits of every image of the split, once each, with the split's columns, in its order.

    With several findings `label`, `logit` and `probability` are (N, k).

    Images always form the same chunks of `chunk_size`, and each chunk runs on one device, so a
    logit depends neither on the batch size (images per call, rounded up to full chunks) nor on the
    number of devices. The last batch is padded and the padding dropped.

    Args:
        variables: `params` and `batch_stats`, anywhere on the devices of `mesh` or on the host.
        mesh: by default all devices.
        flip: every image is mirrored, left to right.

    Raises:
        UserError: logits that are not finite.
    """
    mesh = mesh or make_mesh({"data": -1, "fsdp": 1, "spatial": 1})
    chunk = chunk_size(split.images.shape[1])
    granule = chunk * mesh.size
    batch_size = -(-batch_size // granule) * granule
    forward = _forward(model, mesh, chunk)
    if jax.process_count() > 1:
        # A restored checkpoint is on one device of each process; only from the host can the
        # processes put it on their shared mesh.
        variables = jax.tree.map(
            lambda leaf: leaf if _spans_processes(leaf) else np.asarray(leaf), variables
        )
    variables = jax.device_put(variables, replicated(mesh))
    sharding = NamedSharding(mesh, P(AXES))
    shape = (batch_size, *split.images.shape[1:])

    logits: list[np.ndarray] = []
    pending: collections.deque[jax.Array] = collections.deque()
    with cli.progress(
        None, f"predicting {split.name}", len(split), delay=3, leave=False
    ) as progress:
        for start in range(0, len(split), batch_size):
            images = np.zeros(shape, np.uint8)
            chosen = split.images[start : start + batch_size]
            images[: len(chosen)] = chosen[..., ::-1] if flip else chosen
            batch = jax.make_array_from_callback(shape, sharding, images.__getitem__)
            pending.append(forward(variables, batch))
            if len(pending) > 1:  # read one batch while the next is computed
                logits.append(jax.device_get(pending.popleft()))
            progress.update(len(chosen))
    logits.extend(jax.device_get(list(pending)))
    logit = np.round(np.concatenate(logits)[: len(split)].astype(np.float64), LOGIT_DECIMALS)

    if wrong := int(np.count_nonzero(~np.isfinite(logit).reshape(len(logit), -1).all(axis=1))):
        raise cli.UserError(
            f"the logits of {wrong} of the {len(split)} images of the {split.name} split are not "
            f"finite, so the training has diverged; train in another --workdir with a lower "
            f"config.optimizer.learning_rate"
        )
    columns = {name: split.columns[name] for name in ("image_id", "patient_id", "label")}
    columns |= {"probability": scipy.special.expit(logit), "logit": logit}
    columns |= {name: split.columns[name] for name in FURTHER_COLUMNS}
    return with_known_patients(columns, split.manifest["split_scheme"])


def of_finding(predictions: Predictions, number: int) -> Predictions:
    """The predictions of one of several findings, of the images that are labelled for it.

    Every column has the shape that it has in a data set of this finding alone.
    """
    labelled = predictions["label"][:, number] != NOT_LABELLED
    return {
        name: (column[:, number] if column.ndim == 2 else column)[labelled]
        for name, column in predictions.items()
    }


def _spans_processes(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not leaf.is_fully_addressable


def chunk_size(image_size: int) -> int:
    """Images that one device runs at a time: a million pixels, but at most 16 images."""
    return min(16, max(1, 2**20 // image_size**2))


@functools.lru_cache(maxsize=4)
def _forward(model: CBAMResNet, mesh: Mesh, chunk: int) -> Any:
    """The compiled `eval_step` over (B, S, S) images, chunk after chunk on each device."""

    def on_one_device(variables: Any, images: jax.Array) -> jax.Array:
        chunks = images.reshape(-1, chunk, *images.shape[1:])
        logits = lax.map(lambda one: eval_step(variables, one, model=model), chunks)
        return logits.reshape(len(images), *logits.shape[2:])

    return jax.jit(
        jax.shard_map(
            on_one_device, mesh=mesh, in_specs=(P(), P(AXES)), out_specs=P(AXES), check_vma=False
        ),
        out_shardings=replicated(mesh),
    )
