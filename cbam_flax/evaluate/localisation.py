"""Scores saliency maps against the radiologists' boxes, which training never uses.

For each positive image: `pointing`, whether the map's maximum lies inside a box (the pointing game,
Zhang et al. 2018, Top-down neural attention by excitation backprop), and `energy`, the share of the
map inside the boxes (Wang et al. 2020, Score-CAM, section 4.2). Three baselines ignore the
image or the training: the boxes' share of the area (the score of a uniform map on both measures),
the mean box of the training split, and a model with random weights.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cbam_flax.evaluate import bootstrap, saliency
from cbam_flax.models import CBAMResNet
from data_prep import cli

MEASURES = ("pointing", "energy")
UNTRAINED = 32  # draws of random weights


def coverage(boxes: np.ndarray, height: int, width: int, oversample: int = 8) -> np.ndarray:
    """The share of each cell of a height x width grid that lies in the union of the boxes.

    Args:
        boxes: (k, 4) ymin, xmin, ymax, xmax in [0, 1].
        oversample: points along each side of a cell at which the union is sampled.
    """
    rows = (np.arange(height * oversample) + 0.5) / (height * oversample)
    columns = (np.arange(width * oversample) + 0.5) / (width * oversample)
    inside = np.zeros((rows.size, columns.size), bool)
    for ymin, xmin, ymax, xmax in boxes:
        inside |= np.outer((rows >= ymin) & (rows < ymax), (columns >= xmin) & (columns < xmax))
    return inside.reshape(height, oversample, width, oversample).mean(axis=(1, 3))


def score(maps: np.ndarray, boxes: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """`pointing` and `energy`, (N,) each in [0, 1], of maps (N, h, w) against N arrays of boxes.

    The maps are shifted to a minimum of zero first. Pointing is the chance that a point drawn
    uniformly from the highest cell, or cells where several tie, lies in a box.
    """
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    for each, its_boxes in zip(maps, boxes, strict=True):
        cover = coverage(its_boxes, *each.shape)
        energy = each.astype(np.float64) - each.min()
        if not energy.any():
            energy = np.ones_like(energy)
        found["pointing"].append(float(cover[energy == energy.max()].mean()))
        found["energy"].append(float((energy * cover).sum() / energy.sum()))
    return {name: np.array(values) for name, values in found.items()}


def mean_box_map(boxes: np.ndarray, size: int = 32) -> np.ndarray:
    """(size, size): how often each cell lies in a box, over the images that have boxes."""
    return np.mean([coverage(each, size, size, 1) for each in boxes if len(each)], axis=0)


def with_intervals(
    scores: Mapping[str, Mapping[str, np.ndarray]],
    patient_id: np.ndarray,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Means over images with intervals over patients, and each one's gain over the box area.

    Args:
        scores: what `score` returned for each source of maps; one of them is named `area`.

    Returns:
        For each source `pointing`, `energy`, and except for `area` also `pointing_gain`
        and `energy_gain`.
    """
    columns = {
        f"{source} {name}": values
        for source, found in scores.items()
        for name, values in found.items()
    }
    for source in scores.keys() - {"area"}:
        for name in MEASURES:
            gain = scores[source][name] - scores["area"][name]
            columns[f"{source} {name}_gain"] = gain
    stacked = np.stack(list(columns.values()), axis=1)

    def means(weights: np.ndarray) -> dict[str, np.ndarray]:
        mean = weights @ stacked / weights.sum(axis=1, keepdims=True)
        return dict(zip(columns, mean.T, strict=True))

    samples = bootstrap.resample(means, patient_id, resamples, seed)
    patients = len(np.unique(patient_id))
    table: dict[str, dict[str, Any]] = {source: {} for source in scores}
    for column, values in columns.items():
        source, name = column.split()
        limits = bootstrap.interval if name.endswith("_gain") else bootstrap.share_interval
        table[source][name] = limits(values.mean(), samples[column], patients)
    return table


def localise(
    model: CBAMResNet,
    variables: dict[str, Any],
    columns: Mapping[str, np.ndarray],
    images: np.ndarray,
    train_boxes: np.ndarray | None,
    limit: int,
    resamples: int = bootstrap.RESAMPLES,
) -> dict[str, Any] | None:
    """Scores all maps of the model, of random weights and of the baselines on the same images.

    Args:
        columns: of the split; `boxes` and `patient_id` are used.
        images: uint8 (N, S, S) of the split.
        train_boxes: an array (k, 4) for each image of the training split, for the mean box; None
            if not available.
        limit: the most images, drawn at random with a fixed seed.

    Returns:
        `n` images and `scores` as `with_intervals` returns them; None if no image has boxes.
    """
    boxed = np.flatnonzero([len(boxes) > 0 for boxes in columns["boxes"]])
    chosen = np.sort(np.random.default_rng(0).permutation(boxed)[:limit])
    if not chosen.size:
        return None
    boxes, images = columns["boxes"][chosen], images[chosen]
    untrained = [_redrawn(variables, seed) for seed in range(UNTRAINED)]
    share = -(-len(images) // UNTRAINED)  # images per draw of weights
    found = {}
    methods = saliency.methods_of(model)
    for method in cli.progress(methods, "saliency maps", unit="method", delay=3, leave=False):
        found[method] = score(saliency.maps(method, model, variables, images, share), boxes)
        found[f"random_{method}"] = score(
            _maps_of_untrained(untrained, method, model, images, share), boxes
        )
    if train_boxes is not None and any(map(len, train_boxes)):
        mean_box = mean_box_map(train_boxes)
        found["mean_box"] = score(np.broadcast_to(mean_box, (len(images), *mean_box.shape)), boxes)
    found["area"] = score(np.ones((len(images), 32, 32)), boxes)
    patient = columns["patient_id"][chosen]
    return {"n": int(chosen.size), "scores": with_intervals(found, patient, resamples)}


def _redrawn(variables: dict[str, Any], seed: int) -> dict[str, Any]:
    """Untrained variables: kernels from He's normal, biases zero, batch norm the identity.

    In numpy, because compiling the model's own initialisers takes longer than all its maps.
    """
    rng = np.random.default_rng(seed)

    def draw(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
        kind = path[-1].key
        if kind == "kernel":
            spread = np.sqrt(2 / np.prod(leaf.shape[:-1]))
            return rng.normal(scale=spread, size=leaf.shape).astype(leaf.dtype)
        return np.full(leaf.shape, kind in ("scale", "var"), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, variables)


def _maps_of_untrained(
    draws: Sequence[dict[str, Any]], method: str, model: CBAMResNet, images: np.ndarray, share: int
) -> np.ndarray:
    """Maps with a new draw of weights for every `share` images: one draw prefers bright or dark
    regions by chance, the same ones in all images."""
    parts = [images[start : start + share] for start in range(0, len(images), share)]
    return np.concatenate(
        [
            saliency.maps(method, model, variables, part, share)
            for variables, part in zip(draws, parts, strict=False)
        ]
    )
