"""The product for XLA:CPU."""

from typing import Any

import jax
import jax.numpy as jnp


@jax.custom_vjp
def product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """`x @ matrix` for maps; autodiff would transpose `dy` in memory for the matrix's gradient."""
    return x @ matrix


def _product_forward(x: jax.Array, matrix: jax.Array) -> Any:
    return product(x, matrix), (x, matrix)


def _product_backward(saved: Any, dy: jax.Array) -> Any:
    x, matrix = saved
    rows, dy_rows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    dtype = jnp.promote_types(dy.dtype, jnp.float32)
    dmatrix = jnp.dot(rows.T, dy_rows, preferred_element_type=dtype)
    return dy @ matrix.T, dmatrix.astype(matrix.dtype)


product.defvjp(_product_forward, _product_backward)
