"""Shared by the CPU implementations: how many images to plan for."""

from collections.abc import Sequence

from jax.export import is_symbolic_dim

USUAL_BATCH = 8


def planned_batch(shape: Sequence[int]) -> int:
    """The images of a batch of this shape; `USUAL_BATCH` in an export for any number of them."""
    return USUAL_BATCH if is_symbolic_dim(shape[0]) else shape[0]
