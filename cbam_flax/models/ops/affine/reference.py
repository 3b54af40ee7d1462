"""The affine map in plain jax.numpy."""

import jax


def affine(x: jax.Array, scale: jax.Array, offset: jax.Array) -> jax.Array:
    """`x * scale + offset`, for maps `(B, H, W, C)` and numbers `(C,)` or `(B, C)`."""
    return (x * scale[..., None, None, :] + offset[..., None, None, :]).astype(x.dtype)
