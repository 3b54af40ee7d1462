"""Estimates the cost of a training step on a TPU or GPU with its compiler, on any machine.

Compiles the step that `cbam_flax.main` runs (or, with --stage, one part of the model alone: seconds
instead of minutes) for a topology and prints memory, estimated time, traffic, collectives and the
most expensive instructions. For TPUs it needs libtpu (requirements-tpu.txt), for GPUs the packages
of requirements-cuda.txt, but neither a TPU nor a GPU.

  python -m cbam_flax.aot --config=configs/rsna.py --topology=v5e:2x4
  python -m cbam_flax.aot --config=configs/rsna.py --topology=v5e:2x2 --stage=block1 --by=op
  python -m cbam_flax.aot --config=configs/rsna.py --topology=v6e:4x4 --config.mesh.fsdp=4 \\
      --config.image_size=512 --batch_per_chip=32 --out=cost.json
  python -m cbam_flax.aot --config=configs/rsna.py --topology=h200

All figures are estimates; nothing is run. Those of a GPU are lower bounds (docs/gpu.md).
"""

import json
import os
import pathlib
import sys
import time

from absl import app, flags
from ml_collections import config_flags

from cbam_flax import command_line
from data_prep import cli

CONFIG = config_flags.DEFINE_config_file("config", None, "a file like those in configs/")
TOPOLOGY = flags.DEFINE_string(
    "topology",
    None,
    "v4, v5e, v5p or v6e, and a shape: v5e:2x4; or a100, h100 or h200, for several GPUs h200:8",
)
CHIPS = flags.DEFINE_integer("chips", None, "use only the first N chips (default: all)")
BATCH = flags.DEFINE_integer("batch_per_chip", 64, "images", lower_bound=1)
STAGE = flags.DEFINE_string("stage", None, "compile only this part, on one device: block1, ...")
BY = flags.DEFINE_enum("by", "stage", ["stage", "op"], "what the time is summed by")
OUT = flags.DEFINE_string("out", None, "also write the figures to this JSON file")
PARSER = command_line.parser(__name__, needed=("config", "topology"))


def main() -> int:
    # Only the compiler is used; libtpu would hang looking for devices.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from cbam_flax.aot.compile import stage_reports, stages, train_step
    from cbam_flax.aot.summary import describe, summarise
    from cbam_flax.aot.targets import target as target_of

    config = CONFIG.value
    target = target_of(str(TOPOLOGY.value), CHIPS.value)
    print(f"compiling for {target.chips} chips of {TOPOLOGY.value}; estimates only; nothing is run")
    start = time.perf_counter()
    if STAGE.value is None:
        report = train_step(config, target, BATCH.value)
    else:
        per_device = BATCH.value * target.chips // len(target.devices)
        models = stages(config, per_device, target.platform)
        if STAGE.value not in models:
            raise cli.UserError(f"--stage is {STAGE.value!r}; it must be of {', '.join(models)}")
        report = stage_reports(models, config.image_size, per_device, target, only=STAGE.value)[
            STAGE.value
        ]
    print(f"compiled in {time.perf_counter() - start:.0f} s")
    figures = summarise(
        report,
        target,
        topology=str(TOPOLOGY.value),
        batch_per_chip=BATCH.value,
        stage=STAGE.value,
        by=BY.value,
    )
    print(describe(figures))
    if OUT.value:
        pathlib.Path(OUT.value).write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    cli.run(lambda: app.run(lambda _: sys.exit(main()), flags_parser=PARSER))
