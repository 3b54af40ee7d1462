"""Machines with other numbers of devices: each needs a process of its own."""

import os
import subprocess
import sys

# Prints the bits of every logit, before rounding, of a model whose early stages run in chunks.
PROGRAM = """
import jax, numpy as np
from cbam_flax.evaluate import predict_split
from cbam_flax.input_pipeline import Split
from cbam_flax.models import create_model
predict_split.LOGIT_DECIMALS = 12
model = create_model({"width": 0.25, "hidden": 16, "dtype": "float32"})
shapes = jax.eval_shape(
    model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 256, 256, 1), np.float32)
)
rng = np.random.default_rng(0)
def draw(path, leaf):
    if path[-1].key == "kernel":
        return rng.normal(0, 1.4 / np.sqrt(np.prod(leaf.shape[:-1])), leaf.shape).astype("f4")
    low, high = (0.5, 1.5) if path[-1].key in ("scale", "var") else (-0.2, 0.2)
    return rng.uniform(low, high, leaf.shape).astype("f4")
images = rng.integers(256, size=(16, 256, 256), dtype=np.uint8)
columns = {name: np.array(list("abcdefghijklmnop")) for name in ("image_id", "patient_id", "label")}
columns |= {name: np.array(list("abcdefghijklmnop")) for name in predict_split.FURTHER_COLUMNS}
variables = jax.tree_util.tree_map_with_path(draw, shapes)
split = Split("test", images, columns, {})
found = predict_split.predict_split(model, variables, split, 16)
print(jax.device_count(), found["logit"].tobytes().hex())
"""


def logits(devices: int) -> str:
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    count, bits = done.stdout.split()
    assert int(count) == devices
    return bits


def test_logits_are_the_same_on_a_machine_with_one_device_and_with_two():
    assert logits(1) == logits(2)
