"""How fast a bundle predicts: cold start, images per second, and where the time goes.

Each figure of the command is from a process of its own; the parts are timed alone, one after the
other, in this one.

    python -m benchmarks.predict --bundle=BUNDLE --films=FOLDER [--count=500] [--batch_size=8]
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from cbam_flax.predict import RUNTIMES, Predictor, reader


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def command(bundle: pathlib.Path, runtime: str, batch_size: int, *paths: pathlib.Path) -> float:
    """Seconds from starting the command to its end."""
    with tempfile.TemporaryDirectory() as scratch:
        arguments = (f"--bundle={bundle}", f"--runtime={runtime}", f"--out={scratch}/out")
        line = [sys.executable, "-m", "cbam_flax.predict", *arguments]
        line += [f"--batch_size={batch_size}", *map(str, paths)]
        return seconds(lambda: subprocess.run(line, check=True, capture_output=True))


def measure_parts(bundle: pathlib.Path, runtime: str, batch_size: int) -> None:
    """Prints what each part costs alone: imports, loading, first and later batches."""
    importing = f"import cbam_flax.predict, {'jax' if runtime == 'jax' else 'onnxruntime'}"
    imports = seconds(lambda: subprocess.run([sys.executable, "-c", importing], check=True))
    start = time.perf_counter()
    predictor = Predictor.load(bundle, runtime, batch_size)
    loading = time.perf_counter() - start
    size = predictor.bundle["preprocessing"]["image_size"]
    squares = np.random.default_rng(0).integers(0, 256, (batch_size, size, size), np.uint8)
    first = seconds(lambda: predictor.run(squares))
    later = min(seconds(lambda: predictor.run(squares)) for _ in range(5))
    print(f"  Python and imports      {imports:8.2f} s")
    print(f"  reading the artefact    {loading:8.2f} s")
    print(f"  first batch (compiling) {first:8.2f} s")
    print(f"  a later batch           {later:8.2f} s = {batch_size / later:.1f} images/s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=pathlib.Path, required=True)
    parser.add_argument("--films", type=pathlib.Path, required=True)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    sources = reader.find_files([arguments.films])[: arguments.count]
    paths = [source.path for source in sources]
    preprocessing = Predictor.load(arguments.bundle, "onnx").bundle["preprocessing"]
    tasks = [reader.Task(source, preprocessing, with_panel=False) for source in sources]
    one = seconds(lambda: [reader.read_file(task) for task in tasks])
    print(f"decoding alone, one core: {len(sources) / one:.1f} images/s")
    many = seconds(lambda: list(reader.read_files(tasks, arguments.workers)))
    print(
        f"decoding alone, {arguments.workers} processes, starting them included: "
        f"{len(sources) / many:.1f} images/s"
    )
    for runtime in RUNTIMES:
        print(runtime)
        measure_parts(arguments.bundle, runtime, arguments.batch_size)
        cold = command(arguments.bundle, runtime, 1, paths[0])
        print(f"  the command, one image  {cold:8.2f} s")
        whole = command(arguments.bundle, runtime, arguments.batch_size, *paths)
        print(
            f"  the command, {len(sources)} images {whole:8.2f} s = "
            f"{len(sources) / whole:.1f} images/s, "
            f"{(len(sources) - 1) / (whole - cold):.1f} after the start"
        )


if __name__ == "__main__":
    main()
