"""The plain linen model against ours on a TPU, stage by stage, by the TPU compiler's estimates.

Forward and backward of every stage alone, bfloat16, on one chip; ours with the compiler options of
our training step, plain with the compiler's defaults (`--plain_options=ours`: with ours too).
Nothing is run, so the figures are the same on every machine. What the compiler gives no estimate
for (pads, select-and-scatter) counts with the time that its traffic takes. The gradient of the
plain model's 7x7 kernels is left out: inside a block the compiler is not done with it after 15
minutes; alone it takes about 1 ms. Traffic is HBM bytes at the bandwidth, arithmetic (of ours)
FLOPs at the peak, both in ms.

    python -m benchmarks.tpu [--topology=v5e:2x2] [--batch_size=128] [--image_size=224]
        [--plain_options=default]
"""

import argparse
import os
from typing import Any

from data_prep import cli


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--batch_size", type=int, default=128, help="per chip")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--plain_options", choices=("default", "ours"), default="default")
    args = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"

    import jax
    import jax.numpy as jnp

    from benchmarks.plain_model import PlainModel
    from cbam_flax.aot import compile as tpu_compile
    from cbam_flax.aot import targets
    from configs import rsna

    def without_gate_kernels(params: Any) -> Any:
        def stop(path: Any, x: jax.Array) -> jax.Array:
            return jax.lax.stop_gradient(x) if "'spatial'" in jax.tree_util.keystr(path) else x

        return jax.tree_util.tree_map_with_path(stop, params)

    target = targets.target(args.topology)
    share = len(target.devices) // target.chips
    chip = target.chip._replace(
        bandwidth=target.chip.bandwidth / share, flops=target.chip.flops / share
    )
    config = rsna.get_config()
    config.model.dropout = 0.0  # the plain model has none
    config.image_size = args.image_size
    ours = tpu_compile.stages(config, args.batch_size // share)
    plain = {name: PlainModel(dtype=jnp.bfloat16, only=name) for name in ours}

    def milliseconds(models: Any, name: str, **options: Any) -> tuple[float, float, float]:
        report = tpu_compile.stage_reports(
            models, args.image_size, args.batch_size // share, target, only=name, **options
        )[name]
        times = report.seconds(chip), report.flops / chip.flops, report.hbm_bytes / chip.bandwidth
        return times[0] * 1e3, times[1] * 1e3, times[2] * 1e3

    opponent: dict[str, Any] = {"prepare": without_gate_kernels}
    if args.plain_options == "default":
        opponent["compiler_options"] = {}
    print("| stage | plain, ms | ours, ms | ours / plain | its traffic | traffic | arithmetic |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    totals = [0.0] * 6
    for name in ours:
        row = [*milliseconds(plain, name, **opponent), *milliseconds(ours, name)]
        totals = [total + value for total, value in zip(totals, row, strict=True)]
        show(name, row)
    show("sum", totals)
    return 0


def show(name: str, row: list[float]) -> None:
    plain, _, plain_traffic, ours, arithmetic, traffic = row
    print(
        f"| {name} | {plain:.1f} | {ours:.1f} | {ours / plain:.2f} | {plain_traffic:.1f} "
        f"| {traffic:.1f} | {arithmetic:.1f} |",
        flush=True,
    )


if __name__ == "__main__":
    cli.run(main)
