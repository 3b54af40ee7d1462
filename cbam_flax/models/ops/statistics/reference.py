"""Statistics in plain jax.numpy, and a maximum whose gradient no compiler loses."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def max_via_argmax(x: jax.Array, axis: int) -> jax.Array:
    """`jnp.max` over one axis, whose gradient goes to the first maximum, found by its index.

    The gradient of `jnp.max` goes to the elements that equal the result. There may be none: a
    compiler may compute x once for the maximum and once more for the comparison, and round the two
    differently. XLA:CPU does, and the gradient is lost or becomes 0/0 (docs/architecture.md).
    """
    return jnp.max(x, axis)


@max_via_argmax.defjvp
def _max_via_argmax_jvp(axis: int, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    index = jnp.argmax(x, axis, keepdims=True)
    first = jax.lax.broadcasted_iota(index.dtype, x.shape, axis % x.ndim) == index
    return jnp.max(x, axis), jnp.sum(jnp.where(first, dx, 0), axis)


def mean_and_max(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """The mean and the maximum over one axis, which the gates use."""
    return jnp.mean(x, axis), max_via_argmax(x, axis)


def mean_and_mean_square(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and mean of squares of every channel, `(B, H, W, C)` to `(C,)`, float32 or better."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.mean(x, (1, 2)).mean(0), jnp.mean(jnp.square(x), (1, 2)).mean(0)
