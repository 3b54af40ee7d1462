"""The TPU compiler's estimates against the schedules that it makes in the end, for a few programs.

The estimates (`estimated_cycles`) come from a model of the cost; what runs are the instruction
words ("bundles", one each cycle) that libtpu writes when asked to. Of each program's largest
instruction: the estimate, bundles of its loop x times around, and the time that its bytes take,
which overlaps with the schedule. Programs of one v5e chip; nothing is run.

    python -m benchmarks.schedule [--batch_size=128] [--only=gather,scale]
"""

import argparse
import collections
import glob
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from typing import Any

from data_prep import cli

IMAGE, MAP = (224, 224), (224, 224, 64)
PROGRAMS = {
    "gather": "one number of an image for each pixel, as bilinear sampling does four times",
    "products": "images turned by matrix products (augment.sample_by_products)",
    "scale": "a map of 64 channels times a number",
    "sum": "its sum over all positions",
    "mean and max": "its mean and maximum over the channels, and where that stands",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--only", default=",".join(PROGRAMS), help="with commas between")
    args = parser.parse_args()
    print("| program | estimate, ms | loop, bundles | times | schedule, ms | traffic, ms |")
    print("|---|--:|--:|--:|--:|--:|")
    for name in args.only.split(","):
        if name not in PROGRAMS:
            raise cli.UserError(f"--only names {name!r}; it must be of {', '.join(PROGRAMS)}")
        # libtpu reads its options once, when it is loaded.
        with tempfile.TemporaryDirectory() as folder:
            dump = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
            call = f"schedule.compile_one({name!r}, {args.batch_size})"
            done = subprocess.run(
                [sys.executable, "-c", f"from benchmarks import schedule; {call}"],
                env=os.environ | {"LIBTPU_INIT_ARGS": dump, "JAX_PLATFORMS": "cpu"},
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise cli.UserError(f"{name} was not compiled: {done.stderr.strip()[-300:]}")
            found = json.loads(done.stdout.splitlines()[-1])
            (path,) = glob.glob(f"{folder}/*-{found['name']}-*[0-9]-final_bundles.txt")
            with open(path) as file:
                loop = main_loop(file.read())
        scheduled = loop * found["times"] / found["clock"] * 1e3
        print(
            f"| {name}: {PROGRAMS[name]} | {found['estimate'] or '-'} | {loop:,} "
            f"| {found['times']:,} | {scheduled:.2f} | {found['traffic']:.2f} |",
            flush=True,
        )
    return 0


def main_loop(text: str) -> int:
    """How many bundles stand at the depth of loops that has the most of them."""
    depths = re.findall(r"^ *0x\w+ +(?:\w\w)?: +(>*) *\{", text, re.MULTILINE)
    return collections.Counter(depths).most_common(1)[0][1]


def compile_one(name: str, batch_size: int) -> None:
    """Compiles a program and prints what is known of its largest instruction, as JSON."""
    import jax
    import jax.numpy as jnp
    from jax.experimental.layout import Format, Layout
    from jax.sharding import SingleDeviceSharding

    from cbam_flax import augment
    from cbam_flax.aot import compile as tpu_compile
    from cbam_flax.aot import hlo_cost, targets
    from cbam_flax.models.ops.statistics.tpu import mean_and_max
    from cbam_flax.models.ops.tpu import IMAGES_LAST

    target = targets.target("v5e:2x2")
    place = SingleDeviceSharding(target.devices[0])

    def array(shape: tuple[int, ...], dtype: Any, layout: tuple[int, ...] | None = None) -> Any:
        form = Format(Layout(layout), place) if layout else place
        return jax.ShapeDtypeStruct((batch_size, *shape), dtype, sharding=form)

    images, maps = array(IMAGE, jnp.float32), array(MAP, jnp.bfloat16, IMAGES_LAST)
    pick = jax.vmap(lambda image, index: image[index[0], index[1]])
    programs = {
        "gather": (pick, images, array((2, *IMAGE), jnp.int32)),
        "products": (
            jax.vmap(augment.sample_by_products),
            array((*IMAGE, 1), jnp.float32),
            array((*IMAGE, 2), jnp.float32),
        ),
        "scale": (lambda x: x * 2, maps),
        "sum": (lambda x: jnp.sum(x.astype(jnp.float32), (1, 2)), maps),
        "mean and max": (lambda x: mean_and_max(x, 3), maps),
    }
    function, *arrays = programs[name]
    text = jax.jit(function).lower(*arrays).compile().as_text()
    largest = max(hlo_cost.instructions(text), key=lambda one: tpu_compile.cost(one, target.chip))
    (line,) = re.findall(rf"^ +(?:ROOT )?%{re.escape(largest.name)} = .*$", text, re.MULTILINE)
    if largest.gathered:
        (at_once,) = re.findall(r'"integer_config":{"integer":"(\d+)"}', line)
        times = largest.gathered // int(at_once)
    else:
        (bounds,) = re.findall(r'"iteration_bounds":\[([^]]*)\]', line)
        times = math.prod(map(int, re.findall(r"\d+", bounds)))
    found = {
        "name": largest.name,
        "estimate": round(largest.cycles / target.chip.clock * 1e3, 2),
        "times": times,
        "clock": target.chip.clock,
        "traffic": largest.moved_bytes / target.chip.bandwidth * 1e3,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    cli.run(main)
