"""What preparing one image costs, beside the bare codecs and beside the plain pydicom way.

Everything is measured in one run, on one core, in CPU time. The ways take turns image by image, so
that a busy machine disturbs all of them alike; each is reported by its median over the images.
"""

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PYDICOM_WAY = "pydicom's pixel_array and cv2.resize"
EXAMPLE = """example:
  python -m benchmarks.prepare --raw=rsna --images=200
"""


def decoding_costs(paths: list[str], size: int) -> dict[str, float]:
    """Milliseconds of CPU per image of each step and of each way."""
    import cv2
    import numpy as np
    import pydicom
    import simplejpeg
    from pydicom.encaps import get_frame

    from data_prep.dicom import read_radiograph
    from data_prep.radiographs import Preprocessing, prepare_radiograph
    from data_prep.records import Record
    from data_prep.resize import fit_image

    cv2.setNumThreads(1)
    how = Preprocessing(size)

    def frame_of(path: str) -> Any:
        frame = get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1)
        return np.frombuffer(frame, np.uint8)

    def pydicom_way(path: str) -> Any:
        pixels = pydicom.dcmread(path).pixel_array
        return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)

    # name: (what is made before the clock starts, what is timed)
    ways: dict[str, tuple[Callable[[str], Any], Callable[[Any], Any]]] = {
        "bare decode, OpenCV": (frame_of, lambda f: cv2.imdecode(f, cv2.IMREAD_UNCHANGED)),
        "bare decode, simplejpeg": (frame_of, lambda f: simplejpeg.decode_jpeg(f, "GRAY")),
        "PNG of the square": (
            lambda path: fit_image(read_radiograph(path).image, size)[0],
            lambda square: cv2.imencode(".png", square),
        ),
        "header": (str, lambda path: pydicom.dcmread(path, stop_before_pixels=True)),
        "read and decode": (str, read_radiograph),
        "resize": (
            lambda path: read_radiograph(path).image,
            lambda image: fit_image(image, size),
        ),
        "read, decode, resize, encode": (
            lambda path: (Record("", path, "train", 0, "Normal", (), ""), how),
            prepare_radiograph,
        ),
        PYDICOM_WAY: (str, pydicom_way),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for path in [paths[0], *paths]:  # the first one twice: imports and caches
        for name, (prepare, timed) in ways.items():
            argument = prepare(path)
            start = time.process_time()
            timed(argument)
            times[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def tensorflow_png_cost(paths: list[str], size: int) -> float:
    """Milliseconds of CPU for the same PNG by TensorFlow, which TFDS would use on arrays."""
    import tensorflow as tf

    from data_prep.dicom import read_radiograph
    from data_prep.resize import fit_image

    squares = [fit_image(read_radiograph(path).image, size)[0][..., None] for path in paths[:50]]
    times = []
    for square in squares:
        start = time.process_time()
        tf.io.encode_png(square).numpy()
        times.append(1e3 * (time.process_time() - start))
    return statistics.median(times)


def builder_costs(paths: list[str], size: int, workers: int) -> tuple[float, float]:
    """CPU milliseconds per image with TFRecords written, in one process; images/s with workers.

    The cost that does not grow with the number of images is taken out by two runs.
    """
    import tensorflow_datasets as tfds

    from data_prep.radiographs import Preprocessing
    from data_prep.record_builder import RecordConfig
    from data_prep.rsna import CLASSES, IMAGES, LABELS
    from data_prep.rsna_pneumonia import Builder

    tfds.disable_progress_bar()
    config = RecordConfig.of(Preprocessing(size), "image")

    def seconds(paths: list[str], workers: int, clock: Callable[[], float]) -> float:
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            raw = Path(folder, "raw")
            (raw / IMAGES).mkdir(parents=True)
            for path in paths:
                (raw / IMAGES / Path(path).name).symlink_to(path)
            for table in (LABELS, CLASSES):
                (raw / table).symlink_to(Path(paths[0]).parents[1] / table)
            builder = Builder(
                config=Builder.builder_configs.get(config.name, config),
                data_dir=folder,
                workers=workers,
            )
            start = clock()
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(manual_dir=raw)
            )
            return clock() - start

    few = paths[: len(paths) // 4]
    seconds(few, 0, time.process_time)  # imports
    more = seconds(paths, 0, time.process_time) - seconds(few, 0, time.process_time)
    wall = seconds(paths, workers, time.monotonic)
    return 1e3 * more / (len(paths) - len(few)), len(paths) / wall


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--raw", type=Path, required=True, help="a folder in the challenge's layout"
    )
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    paths = [str(path) for path in sorted((args.raw.resolve() / "stage_2_train_images").iterdir())]
    paths = paths[: args.images]

    costs = decoding_costs(paths, args.image_size)
    costs["PNG of the square by TensorFlow"] = tensorflow_png_cost(paths, args.image_size)
    costs["the same and TFRecords written"], rate = builder_costs(
        paths, args.image_size, args.workers
    )
    print(f"{len(paths)} images, {args.image_size} px, CPU milliseconds per image, median")
    for name, cost in costs.items():
        print(f"{cost:8.2f}  {name}")
    bare = min(costs["bare decode, OpenCV"], costs["bare decode, simplejpeg"])
    codecs = bare + costs["PNG of the square"]
    ours = costs["read, decode, resize, encode"]
    print(f"{ours / codecs:8.2f}  x bare decode and PNG (at most 1.6)")
    print(
        f"{costs['the same and TFRecords written'] / codecs:8.2f}  x with TFRecords (at most 2.2)"
    )
    print(f"{costs[PYDICOM_WAY] / ours:8.2f}  x faster than pydicom and resize alone (at least 2)")
    print(f"{rate:8.0f}  images/s, {args.workers} workers, start and TFRecords included")


if __name__ == "__main__":
    main()
