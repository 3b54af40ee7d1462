"""Fixtures of the model tests: cheap compilation, and variables in which nothing is zero."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(scope="session")
def jit():
    """`jax.jit` that compiles a training step in 1 s instead of 8 and runs it slowly enough."""
    options = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
    return partial(jax.jit, compiler_options=options)


@pytest.fixture(scope="session")
def random_variables():
    """`(module, inputs) -> variables`: biases, BN offsets and statistics are random too."""

    def make(module, inputs, seed=0):
        rng = np.random.default_rng(seed)

        def value(path, leaf):
            kind = path[-1].key
            if kind in ("scale", "var"):
                return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
            fan_in = max(np.prod(leaf.shape[:-1]), 1) if kind == "kernel" else 25
            return (rng.normal(size=leaf.shape) * np.sqrt(2 / fan_in)).astype(leaf.dtype)

        shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.asarray(inputs))
        return jax.tree_util.tree_map_with_path(value, shapes)

    return make
