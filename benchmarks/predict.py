"""A bundle through `predict` against the training code; how long one image takes from the start.

For each setting a bundle with random weights is written. Then everybody scores the same images,
uint8 (S, S), in batches: the training code's own forward pass, and `Predictor` with each runtime.
Every contestant lives in a process of its own and works only while the others wait; in each round
each scores a few batches, so that a slow minute of the machine meets all of them. Printed are the
times, and how many times faster the bundle is, paired by round: median (smallest to largest).

Cold starts are the command on one PNG file, wall-clock and processor time, the runtimes taking
turns. The first start of jax finds an empty cache of compiled programs, which the others read.

    python -m benchmarks.predict [--settings=224:1.0,64:0.25] [--batch_size=8] [--rounds=9]
        [--starts=5] [--workers=0]
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import cv2
import numpy as np

CALIBRATION = {"scale": 1.0, "bias": 0.0}
WHO = ("training", "jax", "onnx")
BATCHES = {224: 1, 64: 20}  # in a round, so that a round takes about as long with each


def random_model(size: int, width: float, platform: str | None):
    """The model for a platform, by default this one, and its variables, the same everywhere."""
    import jax

    from cbam_flax.models import create_model

    rng = np.random.default_rng(1)

    def value(path, leaf) -> np.ndarray:
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 25
        return (rng.normal(size=leaf.shape) / np.sqrt(fan_in)).astype(np.float32)

    model = create_model({"width": width, "dtype": "float32"}, platform)
    image = jax.ShapeDtypeStruct((1, size, size, 1), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    return model, jax.tree_util.tree_map_with_path(value, shapes)


def write_bundle(folder: pathlib.Path, size: int, width: float) -> None:
    """A bundle of both runtimes, without the checks of an export."""
    from cbam_flax.export import artefacts
    from cbam_flax.export.run_record import SCOPE
    from cbam_flax.predict import bundle

    folder.mkdir(parents=True)
    members = [random_model(size, width, "any")]
    infer = artefacts.inference_function(members, CALIBRATION)
    by_platform = artefacts.function_by_platform(members, CALIBRATION)
    artefacts.write_stablehlo(folder / "model.stablehlo", by_platform, size)
    artefacts.write_onnx(folder / "model.onnx", infer, size)
    description = {
        "schema": bundle.SCHEMA,
        "labels": ["no pneumonia", "pneumonia"],
        "input": {"shape": ["batch", size, size, 1], "dtype": "float32", "range": [0, 1]},
        "outputs": {"probability": {}, "attention": {}},
        "preprocessing": {
            "image_size": size,
            "aspect": "letterbox",
            "interpolation": "area",
            "voi": "first",
        },
        "operating_point": {"threshold": 0.5, "criterion": "fixed"},
        "calibration": CALIBRATION,
        "scope": SCOPE,
        "fingerprints": {
            "checkpoint": {"step": 0, "sha256": "0" * 64},
            **{name: {} for name in ("config", "data", "code")},
        },
        "verification": {"platforms": {}},
        "files": bundle.describe_files(folder),
    }
    description["sha256"] = bundle.content_sha256(description)
    (folder / "bundle.json").write_text(json.dumps(description))


def scorer(who: str, folder: pathlib.Path, size: int, width: float, batch_size: int) -> Callable:
    """What scores a list of images."""
    if who != "training":
        from cbam_flax.predict import Predictor

        return Predictor.load(folder, who, batch_size).predict
    import jax

    from cbam_flax.models import infer

    model, variables = random_model(size, width, None)
    forward = jax.jit(lambda images: jax.nn.sigmoid(infer(model, variables, images)))

    def score(images: list[np.ndarray]) -> np.ndarray:
        chunks = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
        squares = [np.stack(chunk)[..., None] / np.float32(255) for chunk in chunks]
        return np.concatenate([forward(square) for square in squares])

    return score


def work(who: str, folder: pathlib.Path, size: int, width: float, batch_size: int) -> None:
    """One contestant: for each line on stdin, scores a round's images and writes its seconds."""
    replies = os.fdopen(os.dup(1), "w")  # libraries print too; only replies may reach the parent
    os.dup2(2, 1)
    score = scorer(who, folder, size, width, batch_size)
    count = batch_size * BATCHES.get(size, 1)
    images = list(np.random.default_rng(0).integers(0, 256, (count, size, size), np.uint8))
    probabilities = score(images)
    score(images)
    print(json.dumps(probabilities.tolist()), file=replies, flush=True)
    for _ in sys.stdin:
        start, processor = time.perf_counter(), time.process_time()
        score(images)
        reply = time.perf_counter() - start, time.process_time() - processor
        print(json.dumps(reply), file=replies, flush=True)


def race(folder: pathlib.Path, setting: str, batch_size: int, rounds: int) -> None:
    """Prints the table of one setting."""
    line = [sys.executable, "-m", "benchmarks.predict", f"--batch_size={batch_size}"]
    running, found = {}, {}
    seconds, processor = ({who: [] for who in WHO} for _ in range(2))
    for who in WHO:
        running[who] = subprocess.Popen(
            [*line, "--work", who, str(folder), *setting.split(":")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        found[who] = json.loads(running[who].stdout.readline())
    for _ in range(rounds):
        for who, process in running.items():
            print(file=process.stdin, flush=True)
            wall, used = json.loads(process.stdout.readline())
            seconds[who].append(wall)
            processor[who].append(used)
    for process in running.values():
        process.stdin.close()
        process.wait()
    count = len(found["training"])
    print("| who | ms per image | processor ms | jax is faster | largest difference |")
    print("|---|--:|--:|--:|--:|")
    for who, times in seconds.items():
        ratios = [other / own for other, own in zip(times, seconds["jax"], strict=True)]
        difference = np.abs(np.subtract(found[who], found["training"])).max()
        print(
            f"| {who} | {statistics.median(times) / count * 1e3:.2f} "
            f"| {min(processor[who]) / count * 1e3:.2f} "
            f"| {statistics.median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f}) "
            f"| {difference:.1e} |"
        )


def cold_starts(folder: pathlib.Path, starts: int, workers: int) -> None:
    """Prints wall-clock and processor seconds of the command on one image."""
    scratch = folder.with_name(f"{folder.name}-starts")
    scratch.mkdir()
    image = scratch / "image.png"
    cv2.imwrite(str(image), np.random.default_rng(0).integers(0, 256, (1024, 1024), np.uint8))
    environment = os.environ | {"XDG_CACHE_HOME": str(scratch / "cache")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)

    def start(runtime: str) -> tuple[float, float]:
        line = [sys.executable, "-m", "cbam_flax.predict", f"--bundle={folder}", str(image)]
        line += [f"--out={scratch / 'out'}", f"--runtime={runtime}", f"--workers={workers}"]
        begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(line, check=True, capture_output=True, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return time.perf_counter() - begun, processor

    found = {"jax, empty cache": [start("jax")], "jax": [], "onnx": [], "auto": []}
    for _ in range(starts):
        for runtime in ("jax", "onnx", "auto"):
            found[runtime].append(start(runtime))
    print("| the command, one image | seconds, median (range) | processor seconds, least |")
    print("|---|--:|--:|")
    for name, times in found.items():
        wall, processor = zip(*times, strict=True)
        print(
            f"| {name} | {statistics.median(wall):.2f} ({min(wall):.2f} to {max(wall):.2f}) "
            f"| {min(processor):.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", default="224:1.0,64:0.25", help="image size:width, ...")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0, help="decoding processes of the command")
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--bundle_of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    if args.work:
        who, folder, size, width = args.work
        work(who, pathlib.Path(folder), int(size), float(width), args.batch_size)
        return
    if args.bundle_of:
        folder, setting = args.bundle_of
        size, width = setting.split(":")
        write_bundle(pathlib.Path(folder), int(size), float(width))
        return
    with tempfile.TemporaryDirectory() as scratch:
        for setting in args.settings.split(","):
            folder = pathlib.Path(scratch) / setting
            print("\n{} px, width {}\n".format(*setting.split(":")), flush=True)
            # By another process, so that no contestant shares its machine with what that leaves.
            line = [sys.executable, "-m", "benchmarks.predict", "--bundle_of", str(folder), setting]
            subprocess.run(line, check=True, capture_output=True)
            if args.rounds:
                race(folder, setting, args.batch_size, args.rounds)
                print()
            if args.starts:
                cold_starts(folder, args.starts, args.workers)


if __name__ == "__main__":
    main()
