"""All pictures of an evaluation, as PNG files and in TensorBoard."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure

from cbam_flax.checkpoint import Restored
from cbam_flax.evaluate import plots, saliency
from cbam_flax.input_pipeline import Split
from cbam_flax.metrics_log import read_scalars

MISTAKES = 3  # most confident false alarms, and as many misses
RANDOM = 3  # images of each class
PNG_SMALL = (cv2.IMWRITE_PNG_COMPRESSION, 9)
SHOWN_MAPS = ("attention", "grad_cam")


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What was drawn of an evaluation.

    Attributes:
        files: PNG bytes by name.
        radiographs: of the files that show radiographs, each of these alone: title and PNG bytes.
    """

    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    radiographs: dict[str, list[tuple[str, bytes]]] = dataclasses.field(default_factory=dict)


def draw(
    metrics: Mapping[str, Any],
    predictions: Mapping[str, np.ndarray],
    split: Split,
    restored: Restored,
    workdir: Any,
    *,
    with_maps: bool,
) -> Pictures:
    """All pictures that the data allow.

    Args:
        predictions: in the order of the split.
        workdir: epath.Path of the run, for its metrics.jsonl.
        with_maps: also draw radiographs with the model's saliency maps.
    """
    figures: dict[str, Figure] = {}
    if metrics["auroc"]["value"] is not None:
        figures |= {
            "roc": plots.roc(predictions, metrics),
            "precision_recall": plots.precision_recall(predictions, metrics),
            "subgroups": plots.subgroup_forest(metrics),
        }
    figures |= {
        "reliability": plots.reliability(predictions, metrics),
        "scores": plots.scores(predictions, metrics),
        "confusion": plots.confusion(metrics),
    }
    log = workdir / "metrics.jsonl"
    if log.exists():
        figures["training"] = plots.training(read_scalars(log), restored.step)
    radiographs = {}
    if with_maps:
        for name, chosen in (
            ("mistakes", confident_mistakes(predictions, metrics["threshold"])),
            ("examples", random_examples(predictions)),
        ):
            if chosen.size:
                radiographs[name] = _radiographs(predictions, chosen, split, restored)
    return together(figures, radiographs)


def together(
    figures: Mapping[str, Figure], radiographs: dict[str, list[tuple[str, bytes]]]
) -> Pictures:
    """The figures as PNG, and the radiographs also in one file each, one below the other."""
    files = {name: to_png(figure) for name, figure in figures.items()}
    for name, each in radiographs.items():
        below: list[Any] = [
            cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR) for _, png in each
        ]
        files[name] = cv2.imencode(".png", np.concatenate(below), PNG_SMALL)[1].tobytes()
    return Pictures(files, radiographs)


def confident_mistakes(predictions: Mapping[str, np.ndarray], threshold: float) -> np.ndarray:
    """Indices of the worst false alarms, then of the worst misses, worst first."""
    label, probability = predictions["label"], predictions["probability"]
    falling = np.argsort(-probability, kind="stable")
    alarms = falling[(label[falling] == 0) & (probability[falling] >= threshold)]
    misses = falling[(label[falling] == 1) & (probability[falling] < threshold)][::-1]
    return np.concatenate([alarms[:MISTAKES], misses[:MISTAKES]])


def random_examples(predictions: Mapping[str, np.ndarray]) -> np.ndarray:
    """Indices of a few positives, then of a few negatives, always the same ones."""
    shuffled = np.random.default_rng(0).permutation(len(predictions["label"]))
    classes = [shuffled[predictions["label"][shuffled] == value][:RANDOM] for value in (1, 0)]
    return np.concatenate(classes)


def _radiographs(
    predictions: Mapping[str, np.ndarray], chosen: np.ndarray, split: Split, restored: Restored
) -> list[tuple[str, bytes]]:
    methods = [name for name in SHOWN_MAPS if name in saliency.methods_of(restored.model)]
    images = split.images[chosen]
    maps = {m: saliency.maps(m, restored.model, restored.variables, images) for m in methods}
    titles = [
        f"{'positive' if predictions['label'][i] else 'negative'} "
        f"({predictions['detailed_class'][i]}), p = {predictions['probability'][i]:.2f}\n"
        f"{predictions['image_id'][i]}"
        for i in chosen
    ]
    return one_by_one(images, split.columns["boxes"][chosen], maps, titles)


def one_by_one(
    images: np.ndarray,
    boxes: Sequence[np.ndarray],
    maps: Mapping[str, np.ndarray],
    titles: Sequence[str],
) -> list[tuple[str, bytes]]:
    """Title and PNG of each image; the arguments are those of `plots.radiographs`."""
    found = []
    for i, title in enumerate(titles):
        one = slice(i, i + 1)
        of_one = {name: values[one] for name, values in maps.items()}
        figure = plots.radiographs(images[one], boxes[one], of_one, [title])
        found.append((title, to_png(figure)))
    return found


def to_png(figure: Figure) -> bytes:
    """The same bytes for the same figure: without matplotlib's version in the file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def write_to_tensorboard(folder: Any, step: int, name: str, pictures: Mapping[str, bytes]) -> None:
    """Shows the pictures under `evaluation/<name>/` in TensorBoard at this step."""
    from clu import metric_writers

    writer = metric_writers.SummaryWriter(str(folder))
    for picture, data in pictures.items():
        image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        writer.write_images(step, {f"evaluation/{name}/{picture}": image[None]})
    writer.close()
