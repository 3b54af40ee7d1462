"""How far training on one device is from training on a mesh, on two processes, or in pieces.

Five steps of a small model with every part (CBAM, mixed pooling, atrous pyramid, flatten head),
with augmentation and dropout, on virtual CPU devices, in float32 and in float64. Printed is the
largest difference from one device in the loss of any step and in any parameter after the last.

    python -m benchmarks.equality [--image_size=64] [--width=0.125] [--steps=5]
"""

import argparse
import functools
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

import numpy as np

BATCH_SIZE = 16
ONE = (1, 1, 1)
# name: (mesh data x fsdp x spatial, processes, accumulate, what it is compared with, plain)
# "plain" is without augmentation and dropout, and with every image twice in the batch.
CONFIGURATIONS = {
    "1 device": (ONE, 1, 1, "1 device", False),
    "8 data": ((8, 1, 1), 1, 1, "1 device", False),
    "4 data x 2 fsdp": ((4, 2, 1), 1, 1, "1 device", False),
    "8 fsdp": ((1, 8, 1), 1, 1, "1 device", False),
    "4 data x 2 spatial": ((4, 1, 2), 1, 1, "1 device", False),
    "2 data x 2 fsdp x 2 spatial": ((2, 2, 2), 1, 1, "1 device", False),
    "2 processes x 4 devices, 8 data": ((8, 1, 1), 2, 1, "1 device", False),
    "2 processes x 4 devices, 4 data x 2 fsdp": ((4, 2, 1), 2, 1, "1 device", False),
    "accumulate 2 on 8 data": ((8, 1, 1), 1, 2, "accumulate 2", False),
    "accumulate 2": (ONE, 1, 2, "1 device", False),
    "plain": (ONE, 1, 1, "plain", True),
    "accumulate 2, equal pieces": (ONE, 1, 2, "plain", True),
}


def train(name: str, args: argparse.Namespace) -> dict[str, np.ndarray]:
    """The losses of the first steps and the parameters after them, by name."""
    import jax
    from flax import traverse_util
    from jax.experimental import multihost_utils

    from cbam_flax import optimizer as optimizer_lib
    from cbam_flax import sharding
    from cbam_flax import step as step_lib
    from cbam_flax.config import default_config
    from cbam_flax.input_pipeline import put_batch

    shape, _, accumulate, _, plain = CONFIGURATIONS[name]
    config = default_config()
    config.image_size, config.batch_size = args.image_size, BATCH_SIZE
    config.model.update(width=args.width, dropout=0.0 if plain else 0.3)
    config.model.update(dtype=args.dtype, param_dtype=args.dtype)
    config.optimizer.accumulate = accumulate
    if plain:
        for key, value in config.augment.items():
            config.augment[key] = type(value)(0)
    mesh = sharding.make_mesh(
        dict(zip(sharding.AXES, shape, strict=True)), jax.devices()[: int(np.prod(shape))]
    )
    model = step_lib.model_for(config, mesh)
    schedule = optimizer_lib.make_schedule(config.optimizer, total_steps=100, warmup_steps=2)
    optimizer = optimizer_lib.make_optimizer(config.optimizer, schedule)

    def init() -> step_lib.TrainState:
        # Flax makes batch statistics float32, and in float64 updates them to float64.
        state = step_lib.init_state(model, optimizer, config)
        cast = lambda leaf: leaf.astype(args.dtype)  # noqa: E731
        return state.replace(batch_stats=jax.tree.map(cast, state.batch_stats))

    places = sharding.state_sharding(jax.eval_shape(init), mesh)
    state = jax.jit(init, out_shardings=places)()
    step = jax.jit(
        functools.partial(
            step_lib.train_step, model=model, optimizer=optimizer, config=config, mesh=mesh
        ),
        in_shardings=(places, sharding.batch_sharding(mesh)),
        out_shardings=(places, sharding.replicated(mesh)),
        donate_argnums=0,
    )
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(args.steps):
        images = rng.integers(0, 256, (BATCH_SIZE, args.image_size, args.image_size), np.uint8)
        labels = rng.integers(0, 2, BATCH_SIZE).astype(np.int32)
        chosen = np.arange(BATCH_SIZE) // 2 if plain else np.arange(BATCH_SIZE)
        state, metrics = step(state, put_batch(images, labels, chosen, mesh))
        losses.append(float(metrics["loss"]))
    params = jax.tree.map(
        lambda leaf: (
            multihost_utils.process_allgather(leaf, tiled=True)
            if not leaf.is_fully_addressable
            else np.asarray(leaf)
        ),
        traverse_util.flatten_dict(state.params, sep="/"),
    )
    return {"losses": np.array(losses)} | params


def work(args: argparse.Namespace) -> None:
    """One process: trains the configurations of its number of processes, writes what came out."""
    import jax

    if args.processes > 1:
        jax.distributed.initialize(args.coordinator, args.processes, args.process_id)
    for name, (_, processes, *_) in CONFIGURATIONS.items():
        if processes == args.processes:
            result = train(name, args)
            if jax.process_index() == 0:
                np.savez(pathlib.Path(args.out) / name, **result)


def measure(dtype: str, folder: pathlib.Path, options: list[str]) -> None:
    """Starts every process of every configuration in this precision."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"--coordinator=localhost:{free.getsockname()[1]}"
    for processes in (1, 2):
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_X64": str(int(dtype == "float64")),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={8 // processes}",
        }
        line = [sys.executable, "-m", "benchmarks.equality", *options, f"--dtype={dtype}"]
        line += [f"--out={folder}", f"--processes={processes}", coordinator]
        workers = [
            subprocess.Popen([*line, f"--process_id={number}"], env=environment)
            for number in range(processes)
        ]
        if any([worker.wait() for worker in workers]):
            sys.exit(f"{processes} processes in {dtype} failed")


def differences(folder: pathlib.Path, name: str) -> tuple[float, float]:
    """The largest difference in a loss and in a parameter from what `name` is compared with."""
    with (
        np.load(folder / f"{name}.npz") as got,
        np.load(folder / f"{CONFIGURATIONS[name][3]}.npz") as expected,
    ):
        gaps = {key: float(np.abs(got[key] - expected[key]).max()) for key in expected}
    return gaps.pop("losses"), max(gaps.values())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--steps", type=int, default=5)
    inner = argparse.SUPPRESS  # what this script tells the processes that it starts
    parser.add_argument("--out", help=inner)
    parser.add_argument("--dtype", help=inner)
    parser.add_argument("--processes", type=int, help=inner)
    parser.add_argument("--process_id", type=int, help=inner)
    parser.add_argument("--coordinator", help=inner)
    args = parser.parse_args()
    if args.out:
        work(args)
        return 0

    table: dict[str, list[float]] = {name: [] for name in CONFIGURATIONS}
    for dtype in ("float32", "float64"):
        with tempfile.TemporaryDirectory() as scratch:
            measure(dtype, pathlib.Path(scratch), sys.argv[1:])
            for name, row in table.items():
                row += differences(pathlib.Path(scratch), name)
    print("| configuration | compared with | loss, float32 | parameters, float32 ", end="")
    print("| loss, float64 | parameters, float64 |\n|---|---|--:|--:|--:|--:|")
    for name, row in table.items():
        against = CONFIGURATIONS[name][3]
        if name != against:
            print(f"| {name} | {against} | {' | '.join(f'{gap:.1e}' for gap in row)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
