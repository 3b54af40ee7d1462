"""Files and folders -> decoded radiographs, while the model works on the previous ones.

`preprocessing` in bundle.json says how an image is decoded and fitted to the square, and from which
size the square is shrunk. The code that does it also made the training data.
"""

import collections
import dataclasses
import hashlib
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import cv2
import numpy as np

from cbam_flax.predict.overlay import scale_to_panel
from data_prep.cli import UserError
from data_prep.dicom import REFUSAL_CODES, DicomRefusal, Radiograph
from data_prep.grey_range import grey_range
from data_prep.images import read_image
from data_prep.resize import Placement, fit_image, shrink
from data_prep.workers import Lost, run_tasks

MAX_NAME = 200  # bytes; file systems allow 255, of which results add a few

cv2.setNumThreads(1)  # the workers are the parallelism

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Source:
    """One file to read: its position among the inputs, its name, its path.

    The name is unique among the inputs: the file's stem, plus a hash where stems repeat.
    """

    index: int
    image_id: str
    path: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Decoded:
    """A decoded file on its way to the model.

    Attributes:
        header: as `data_prep.images.read_image` gives it.
        square: uint8 (S, S), what the model sees.
        greys: `data_prep.grey_range` of the image as the training images were prepared.
        panel: uint8, the image with a longer side of 768 pixels; None if no picture is wanted.
        box: float (4,), where the image lies in the square, as fractions ymin, xmin, ymax, xmax.
    """

    source: Source
    header: dict[str, Any]
    square: np.ndarray
    greys: dict[str, int]
    panel: np.ndarray | None
    box: np.ndarray


@dataclasses.dataclass(frozen=True)
class Refused:
    """A refused file, and why."""

    source: Source
    refusal: DicomRefusal


def decode(path: str | os.PathLike[str], preprocessing: dict[str, Any]) -> Radiograph:
    """The radiograph in one DICOM, PNG, JPEG or TIFF file. Raises `DicomRefusal`."""
    return read_image(path, voi=preprocessing["voi"])


@dataclasses.dataclass(frozen=True)
class Fitted:
    """An image as its record would hold it, and as the model sees it.

    Attributes:
        prepared: uint8 (P, P), at the size at which the training images were prepared.
        square: uint8 (S, S), the same shrunk to the model's size.
        placement: where the image lies in `prepared`.
    """

    prepared: np.ndarray
    square: np.ndarray
    placement: Placement


def fit(image: np.ndarray, preprocessing: dict[str, Any]) -> Fitted:
    """Fits an H x W uint8 or uint16 image in the same steps as preparation and training."""
    size = preprocessing["image_size"]
    prepared, placement = fit_image(
        image,
        preprocessing.get("prepared_size") or size,
        preprocessing["aspect"],
        preprocessing["interpolation"],
    )
    return Fitted(prepared, shrink(prepared, size), placement)


@dataclasses.dataclass(frozen=True)
class Task:
    """What a worker process is given."""

    source: Source
    preprocessing: dict[str, Any]
    with_panel: bool


def read_file(task: Task) -> Decoded | Refused:
    """Reads one file; a refusal is returned, so that it stops nothing else."""
    try:
        radiograph = decode(task.source.path, task.preprocessing)
    except DicomRefusal as refusal:
        return Refused(task.source, refusal)
    image = radiograph.image
    fitted = fit(image, task.preprocessing)
    return Decoded(
        task.source,
        radiograph.header,
        fitted.square,
        grey_range(fitted.prepared),
        scale_to_panel(image) if task.with_panel else None,
        fitted.placement.forward_boxes(np.array([[0, 0, *image.shape]]))[0],
    )


def read_files(tasks: list[Task], workers: int) -> Iterator[Decoded | Refused]:
    """Every task's result, in the order in which they finish.

    A file that hangs, crashes or exhausts the decoder costs its worker process, not the command.

    Args:
        workers: processes; 0 reads all files in this one, without that protection.
    """
    for task, result in run_tasks(read_file, tasks, workers=min(workers, len(tasks))):
        if isinstance(result, Lost):
            yield Refused(task.source, DicomRefusal(result.code, REFUSAL_CODES[result.code]))
        else:
            yield result


def find_files(paths: Iterable[pathlib.Path]) -> list[Source]:
    """Files as given and, below folders, everything whose name does not start with a dot; sorted.

    DICOM files often have no extension, so the content decides later. A file that is named twice
    is taken once. What is no file, such as a pipe, and a folder that cannot be listed are kept, so
    that they are refused by name. Links to folders are not followed.

    Args:
        paths: files and folders.

    Raises:
        UserError: a path does not exist, or there is no file at all.
        OSError: a path cannot be looked at.
    """
    found: dict[str, pathlib.Path] = {}
    paths = list(paths)
    for path in paths:
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(
                f"{path} does not exist; give radiographs or folders of them"
            ) from error
        for file in sorted(_walk(path)) if os.path.isdir(path) else [path]:
            found.setdefault(os.path.realpath(file), file)  # unlike `resolve`, of a loop too
    if not found:
        raise UserError(f"there is no file in {', '.join(map(str, paths))}")
    stems = collections.Counter(file.stem for file in found.values())
    return [
        Source(index, _name(file, is_unique=stems[file.stem] == 1), file)
        for index, file in enumerate(found.values())
    ]


def _name(path: pathlib.Path, is_unique: bool) -> str:
    """The stem; with a hash of the path where it is not unique or leaves no room for suffixes."""
    if is_unique and len(os.fsencode(path.stem)) <= MAX_NAME:
        return path.stem
    short = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    return f"{path.stem[: MAX_NAME // 4]}-{short}"


def _walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    unlisted: list[OSError] = []
    for parent, folders, files in os.walk(folder, onerror=unlisted.append):
        here = pathlib.Path(parent)
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (here / name for name in files if not name.startswith("."))
    yield from (pathlib.Path(error.filename) for error in unlisted)


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, ahead: int
) -> Iterator[Result]:
    """`map(function, items)` in order, in threads, never more than `ahead` results in advance.

    Threads suffice for C code that releases the interpreter lock: decoders, models.
    """
    queue: collections.deque = collections.deque()
    remaining = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        try:
            queue.extend(pool.submit(function, item) for item in itertools.islice(remaining, ahead))
            while queue:
                result = queue.popleft().result()
                queue.extend(pool.submit(function, item) for item in itertools.islice(remaining, 1))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items; the last may be shorter."""
    remaining = iter(items)
    while batch := list(itertools.islice(remaining, size)):
        yield batch
