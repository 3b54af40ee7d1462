"""Seconds from the launch of the training command to its first finished step.

The first start finds an empty compilation cache, the later ones what the first left there. Each
starts in an empty workdir and is killed after its first step. What stands between is told by the
lines of the log that end it.

    python -m benchmarks.startup --data_dir=demo/data [--config=configs/demo.py] [--repeats=5]
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
# What ends a part of the start, as the log tells it.
MARKS = {
    "imports, data and the step compiled": " images per epoch",
    "first step finished": "training    loss ",
}


def start(line: list[str], environment: dict[str, str]) -> list[float]:
    """Seconds from the launch to each of `MARKS`."""
    begun = time.perf_counter()
    process = subprocess.Popen(line, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    marks, seconds, log = list(MARKS.values()), list[float](), list[str]()
    for text in process.stderr:
        log.append(text)
        if marks[len(seconds)] in text:
            seconds.append(time.perf_counter() - begun)
            if len(seconds) == len(marks):
                process.kill()
                process.wait()
                return seconds
    sys.exit("".join(log[-20:]))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--config", default="configs/demo.py")
    parser.add_argument("--repeats", type=int, default=5, help="of the second start")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
        found = []
        for number in range(1 + args.repeats):
            line = [sys.executable, "-m", "cbam_flax.main", f"--config={args.config}"]
            line += [f"--workdir={folder / str(number)}", "--config.log_every_steps=1"]
            line += [f"--config.data_dir={os.path.abspath(args.data_dir)}"]
            found.append(start(line, environment))
    print(f"| seconds from launch | first start | later starts, median of {args.repeats} (range) |")
    print("|---|--:|--:|")
    for mark, (first, *later) in zip(MARKS, zip(*found, strict=True), strict=True):
        print(
            f"| {mark} | {first:.1f} | {statistics.median(later):.1f} "
            f"({min(later):.1f} to {max(later):.1f}) |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
