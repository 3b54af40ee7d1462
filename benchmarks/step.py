"""Our training step or inference against plain linen, PyTorch, Keras and ONNX Runtime.

Every contestant lives in a process of its own and works only while the others wait; in each round
each runs a few steps, so that a slow minute of the machine meets all of them. Printed are images/s
and peak memory, and how many times faster ours is, paired by round: median, smallest to largest.
A contestant whose packages are missing is left out. Images are random, already where they are
needed; a training step is forward, backward and AdamW. On a GPU all compute in bfloat16.

    python -m benchmarks.step [--mode=train|inference|check] [--device=cpu|gpu] [--only=ours,torch]
        [--image_size=224] [--batch_size=8] [--width=1.0] [--rounds=5] [--steps=2]

`--mode=check` gives all the same random weights and prints how far their logits are from ours.
"""

import argparse
import contextlib
import functools
import importlib.util
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np

from data_prep import cli

STAGES = (64, 128, 128, 256)
PEAK_FLOPS = 989e12  # of an H200 in bfloat16, dense
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-4

# Runs a number of steps to their end, and returns the logits of the last where it was inference.
Run = Callable[[int], np.ndarray | None]


def stages(args: argparse.Namespace) -> tuple[int, ...]:
    return tuple(max(round(features * args.width), 1) for features in STAGES)


def batch(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 (B, S, S, 1) in [0, 1] and labels float32 (B,), the same in every process."""
    rng = np.random.default_rng(0)
    images = rng.random((args.batch_size, args.image_size, args.image_size, 1), np.float32)
    return images, rng.integers(0, 2, args.batch_size).astype(np.float32)


def flops(args: argparse.Namespace) -> float:
    """Of one step, from the convolutions and the dense layers; backward is twice forward."""
    total, inputs, size = 0, 1, args.image_size
    for number, features in enumerate(stages(args), start=1):
        total += size**2 * (9 * (inputs + features) * features + 98)
        size //= 2
        total += size**2 * features**2 * (2 if number % 2 else 2 + 27 + 3)
        inputs = features
    total += size**2 * inputs * 256
    return 2.0 * total * args.batch_size * (3 if args.mode == "train" else 1)


def plain_model(args: argparse.Namespace, dtype: Any) -> Any:
    from benchmarks import plain_model as plain

    plain.STAGES = stages(args)
    return plain.PlainModel(dtype=dtype)


def random_variables(args: argparse.Namespace) -> Any:
    """Weights, biases and batch statistics that are all random, as numpy arrays."""
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(1)

    def value(path: Any, leaf: Any) -> np.ndarray:
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 25
        return (rng.normal(size=leaf.shape) * np.sqrt(2 / fan_in)).astype(np.float32)

    images = jax.ShapeDtypeStruct((1, args.image_size, args.image_size, 1), np.float32)
    model = plain_model(args, jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    return jax.tree_util.tree_map_with_path(value, shapes)


def ours(args: argparse.Namespace) -> Run:
    from cbam_flax.models import create_model, infer

    model = create_model({"dtype": "auto", "width": args.width})
    return run_jax(args, model, functools.partial(infer, model))


def linen(args: argparse.Namespace) -> Run:
    import jax.numpy as jnp

    model = plain_model(args, jnp.bfloat16 if args.device == "gpu" else jnp.float32)
    return run_jax(args, model, model.apply)


def run_jax(args: argparse.Namespace, model: Any, forward: Callable[..., Any]) -> Run:
    """Training with `model`, or inference with `forward`: variables, images -> logits."""
    import jax
    import jax.numpy as jnp
    import optax

    images, labels = map(jnp.asarray, batch(args))
    if args.mode == "check":
        variables = random_variables(args)
    else:
        variables = jax.jit(model.init)(jax.random.key(0), images[:1])
    if args.mode != "train":
        infer = jax.jit(forward)

        def inference(steps: int) -> np.ndarray:
            for _ in range(steps):
                logits = infer(variables, images).block_until_ready()
            return np.asarray(logits)

        return inference

    optimizer = optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def train_step(params: Any, batch_stats: Any, moments: Any) -> Any:
        def loss_of(params: Any) -> Any:
            logits, updated = model.apply(
                {"params": params, "batch_stats": batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
            )
            loss = optax.sigmoid_binary_cross_entropy(logits, labels).mean()
            return loss, updated["batch_stats"]

        gradients, batch_stats = jax.grad(loss_of, has_aux=True)(params)
        updates, moments = optimizer.update(gradients, moments, params)
        return optax.apply_updates(params, updates), batch_stats, moments

    step = jax.jit(train_step, donate_argnums=(0, 1, 2))
    params = variables["params"]
    state = (params, variables["batch_stats"], optimizer.init(params))

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state = step(*state)
        jax.block_until_ready(state)

    return run


def torch(args: argparse.Namespace, compiled: bool = False) -> Run:
    import torch

    from benchmarks.torch_model import Model, load

    torch.set_num_threads(cli.cores())
    device = torch.device("cuda" if args.device == "gpu" else "cpu")
    net = Model(stages(args), args.image_size)
    if args.mode == "check":
        load(net, random_variables(args))
    net = net.to(device, memory_format=torch.channels_last).train(args.mode == "train")
    images, labels = (torch.from_numpy(x).to(device) for x in batch(args))
    images = images.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    forward = torch.compile(net) if compiled else net

    def apply() -> Any:
        with torch.autocast(device.type, torch.bfloat16, enabled=args.device == "gpu"):
            return forward(images)

    def train_step() -> None:
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(apply().float(), labels)
        loss.backward()
        optimizer.step()

    def run(steps: int) -> np.ndarray | None:
        logits = None
        for _ in range(steps):
            if args.mode == "train":
                train_step()
            else:
                with torch.inference_mode():
                    logits = apply()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return None if logits is None else logits.float().cpu().numpy()

    return run


def torch_compile(args: argparse.Namespace) -> Run:
    return torch(args, compiled=True)


def keras(args: argparse.Namespace) -> Run:
    os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"}
    import keras
    import tensorflow as tf

    from benchmarks.keras_model import load, make_model

    if args.device == "gpu":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = make_model(stages(args), args.image_size)
    if args.mode == "check":
        load(model, random_variables(args))
    model.compile(
        keras.optimizers.AdamW(LEARNING_RATE, WEIGHT_DECAY),
        keras.losses.BinaryCrossentropy(from_logits=True),
    )
    images, labels = map(tf.constant, batch(args))

    def run(steps: int) -> np.ndarray | None:
        logits = None
        for _ in range(steps):
            if args.mode == "train":
                model.train_on_batch(images, labels)
            else:
                logits = model.predict_on_batch(images)[:, 0]
        return logits

    return run


def onnx(args: argparse.Namespace) -> Run:
    """The plain linen model through jax2onnx, written by another process: memory is counted."""
    import onnxruntime

    images, _ = batch(args)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.onnx"
        subprocess.run([*command(args, "export"), str(path)], check=True, stdout=sys.stderr)
        session = onnxruntime.InferenceSession(
            str(path), providers=onnxruntime.get_available_providers()
        )

    def run(steps: int) -> np.ndarray:
        for _ in range(steps):
            (logits,) = session.run(None, {"images": images})
        return logits

    return run


def export(args: argparse.Namespace, path: str) -> None:
    import jax.numpy as jnp
    from jax2onnx import to_onnx

    model, variables = plain_model(args, jnp.float32), random_variables(args)
    shape = ("batch", args.image_size, args.image_size, 1)
    network = to_onnx(lambda x: model.apply(variables, x), [shape], input_names=["images"])
    pathlib.Path(path).write_bytes(network.SerializeToString())


# name: (what makes it, the packages without which it is left out)
CONTESTANTS: dict[str, tuple[Callable[[argparse.Namespace], Run], tuple[str, ...]]] = {
    "ours": (ours, ()),
    "linen": (linen, ()),
    "torch": (torch, ("torch",)),
    "torch_compile": (torch_compile, ("torch",)),
    "keras": (keras, ("keras", "tensorflow")),
    "onnx": (onnx, ("jax2onnx", "onnxruntime")),
}


def command(args: argparse.Namespace, work: str) -> list[str]:
    """The command line of a process of this race."""
    keys = ("mode", "device", "image_size", "batch_size", "width")
    options = [f"--{key}={getattr(args, key)}" for key in keys]
    return [sys.executable, "-m", "benchmarks.step", *options, "--work", work]


def peak_memory(name: str, device: str) -> float:
    """GiB: of the process on a CPU, of the GPU's memory on a GPU."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if name.startswith("torch"):
        import torch

        return torch.cuda.max_memory_allocated() / 2**30
    if name in ("ours", "linen"):
        import jax

        return jax.devices()[0].memory_stats()["peak_bytes_in_use"] / 2**30
    return float("nan")


def work(args: argparse.Namespace) -> None:
    """One contestant: for each number of steps on stdin, writes their time to stdout."""
    # Libraries print too; only replies may reach the parent.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    run = CONTESTANTS[args.work[0]][0](args)
    run(1)
    run(1)
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in iter(sys.stdin.readline, ""):
        start = time.perf_counter()
        logits = run(int(line))
        seconds = time.perf_counter() - start
        reply = {
            "seconds": seconds,
            "memory": peak_memory(args.work[0], args.device),
            "logits": logits.tolist() if args.mode == "check" and logits is not None else None,
        }
        print(json.dumps(reply), file=replies, flush=True)


def ask(process: subprocess.Popen[str], steps: int | None = None) -> dict[str, Any] | None:
    """Has a contestant run some steps; without `steps`, waits until it is ready."""
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None
    if steps is not None:
        print(steps, file=stdin, flush=True)
    line = stdout.readline()
    return json.loads(line) if line else None


@contextlib.contextmanager
def contestants(args: argparse.Namespace) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Starts the chosen ones, one after the other, and ends them."""
    env = os.environ | {"JAX_PLATFORMS": "cuda" if args.device == "gpu" else "cpu"}
    env.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    running: dict[str, subprocess.Popen[str]] = {}
    try:
        for name in args.only or CONTESTANTS:
            missing = [p for p in CONTESTANTS[name][1] if importlib.util.find_spec(p) is None]
            if name == "onnx" and args.mode == "train":
                continue
            if missing:
                print(f"{name}: left out, {' and '.join(missing)} not installed")
                continue
            log: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115  (lives as long as it)
            process = subprocess.Popen(
                command(args, name),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=env,
            )
            running[name] = process
            if ask(process) is None:
                log.seek(0)
                last = (log.read().strip().splitlines() or ["no message"])[-1]
                print(f"{name}: left out, it does not run: {last}")
                del running[name]
        yield running
    finally:
        for process in running.values():
            process.stdin.close()  # type: ignore[union-attr]
            process.wait()


def race(args: argparse.Namespace) -> None:
    with contestants(args) as running:
        last: dict[str, dict[str, Any]] = {}
        seconds: dict[str, list[float]] = {name: [] for name in running}
        for _ in range(args.rounds):
            for name, process in running.items():
                reply = ask(process, args.steps)
                if reply is None:
                    raise cli.UserError(f"{name} died in the middle of the race; run without it")
                seconds[name].append(reply["seconds"] / args.steps)
                last[name] = reply
    if args.mode == "check":
        for name, reply in last.items():
            difference = np.abs(np.subtract(reply["logits"], last["ours"]["logits"])).max()
            print(f"{name}: logits differ from ours by {difference:.2g} at most")
        return
    memory = "GPU memory" if args.device == "gpu" else "memory"
    print(f"| who | ms per step | images/s | peak {memory}, GiB | TFLOP/s | ours is faster |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, times in seconds.items():
        median = statistics.median(times)
        rate = flops(args) / median
        utilisation = f" (MFU {rate / PEAK_FLOPS:.1%})" if args.device == "gpu" else ""
        ratios = [peer / own for peer, own in zip(times, seconds.get("ours", []), strict=False)]
        faster = (
            f"{statistics.median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f})"
            if ratios
            else ""
        )
        print(
            f"| {name} | {median * 1e3:.1f} | {args.batch_size / median:.1f} "
            f"| {last[name]['memory']:.2f} | {rate / 1e12:.3g}{utilisation} | {faster} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mode", choices=("train", "inference", "check"), default="train")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="per contestant and round")
    parser.add_argument("--only", help=f"names with commas between, of {', '.join(CONTESTANTS)}")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.only = args.only.split(",") if args.only else []
    unknown = sorted(set(args.only) - set(CONTESTANTS))
    if unknown:
        raise cli.UserError(f"--only names {unknown[0]}; it must be of {', '.join(CONTESTANTS)}")
    if not args.work:
        race(args)
    elif args.work[0] == "export":
        export(args, args.work[1])
    else:
        work(args)
    return 0


if __name__ == "__main__":
    cli.run(main)
