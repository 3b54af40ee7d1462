"""What one training step needs per device, as the compiler says, for some meshes.

The step is only compiled, for virtual CPU devices, never run: the figures are those of XLA's
program for CPUs, which fuses and lays out otherwise than the ones for TPUs and GPUs.

    python -m benchmarks.memory [--image_size=1024] [--batch_size=1] [--remat]
        [--mesh 1,1,1 1,1,2 1,1,4]
"""

import argparse
import os
import sys


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image_size", type=int, default=1024)
    parser.add_argument("--batch_size", type=int, default=1, help="per data x fsdp group")
    parser.add_argument("--remat", action="store_true")
    parser.add_argument(
        "--mesh", nargs="+", default=["1,1,1", "1,1,2", "1,1,4"], help="data,fsdp,spatial"
    )
    args = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

    import jax
    import numpy as np

    from cbam_flax import input_pipeline, sharding
    from cbam_flax import optimizer as optimizer_lib
    from cbam_flax import step as step_lib
    from configs import rsna

    print("| data x fsdp x spatial | batch | state and batch, GiB | temporary, GiB | together |")
    print("|---|--:|--:|--:|--:|", flush=True)
    for text in args.mesh:
        shape = [int(size) for size in text.split(",")]
        config = rsna.get_config()
        config.image_size = args.image_size
        config.batch_size = args.batch_size * shape[0] * shape[1]
        config.model.remat = args.remat
        mesh = sharding.make_mesh(
            dict(zip(sharding.AXES, shape, strict=True)), jax.devices()[: int(np.prod(shape))]
        )
        model = step_lib.model_for(config, mesh)
        optimizer = optimizer_lib.make_optimizer(config.optimizer, lambda step: 1e-3)
        step, state = step_lib.sharded_train_step(model, optimizer, config, mesh)
        batch = input_pipeline.abstract_batch(config.batch_size, config.image_size, mesh)
        memory = step.lower(state, batch).compile().memory_analysis()
        # The new state takes the place of the old one, which is donated.
        arguments, temporary = (
            size / 2**30 for size in (memory.argument_size_in_bytes, memory.temp_size_in_bytes)
        )
        print(
            f"| {' x '.join(map(str, shape))} | {config.batch_size} | {arguments:.2f} "
            f"| {temporary:.2f} | {arguments + temporary:.2f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
