"""The affine map for a TPU, with full vectors of scales and offsets."""

import jax
import jax.numpy as jnp
from jax import lax


def affine(x: jax.Array, scale: jax.Array, offset: jax.Array, bands: int = 1) -> jax.Array:
    """`reference.affine` with scales expanded to every image (or band) and channel.

    One number per channel would be broadcast over the lanes again at every use.
    """
    shape = x.shape[0], x.shape[-1]
    if scale.ndim == 1:
        scale, offset = (jnp.broadcast_to(v, shape) for v in (scale, offset))
    else:
        scale, offset = (jnp.repeat(v, bands, axis=0) for v in (scale, offset))
    scale, offset = lax.optimization_barrier((scale, offset))
    return (x * scale[:, None, None] + offset[:, None, None]).astype(x.dtype)
