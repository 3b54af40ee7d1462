"""The affine map for a TPU, whose registers want a whole vector of scales."""

import jax
import jax.numpy as jnp
from jax import lax


def affine(x: jax.Array, scale: jax.Array, offset: jax.Array, bands: int = 1) -> jax.Array:
    """`forms.affine` with a number for every image, or band, and channel: a whole vector of them.

    One number per channel would be spread over the lanes anew wherever it is used.
    """
    shape = x.shape[0], x.shape[-1]
    if scale.ndim == 1:
        scale, offset = (jnp.broadcast_to(v, shape) for v in (scale, offset))
    else:
        scale, offset = (jnp.repeat(v, bands, axis=0) for v in (scale, offset))
    scale, offset = lax.optimization_barrier((scale, offset))
    return (x * scale[:, None, None] + offset[:, None, None]).astype(x.dtype)
