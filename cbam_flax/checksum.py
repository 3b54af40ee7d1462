"""A hash of a state that is the same however its arrays lie on devices and processes.

It finds damage, not forgery. Each array becomes one 64-bit number: the sum over its elements of the
element's bits times a weight, modulo 2^64. Sums are cheap (no compilation, no copy between
devices), and every process adds up the pieces that it holds. A weight is the product of one fixed
random odd number per axis. Odd numbers can be inverted modulo 2^64, so a change to one element
always changes the sum; any other damage is missed with a probability of about 2^-30.
"""

import functools
import hashlib
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def state_hash(state: Any) -> str:
    """SHA-256 over the names, dtypes, shapes and weighted sums of all arrays of a state.

    A state and the nested dicts and lists as which orbax gives it back have the same hash. With
    arrays that span several processes, all of them must call this.

    Args:
        state: a pytree of numpy or jax arrays of any bool, integer or float dtype.
    """
    paths = jax.tree_util.tree_leaves_with_path(state)
    leaves = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}
    leaves = dict(sorted(leaves.items()))
    sums = np.array([_sum_of_own_pieces(leaf) for leaf in leaves.values()], np.uint64)
    elsewhere = np.array([not _has_all_pieces(leaf) for leaf in leaves.values()], bool)
    if elsewhere.any():
        # As uint32: without 64-bit mode, JAX would cut uint64 in half.
        gathered = multihost_utils.process_allgather(sums.view(np.uint32))
        everywhere = np.ascontiguousarray(gathered).view(np.uint64).sum(0, dtype=np.uint64)
        sums = np.where(elsewhere, everywhere, sums)
    digest = hashlib.sha256()
    for (name, leaf), total in zip(leaves.items(), sums, strict=True):
        digest.update(f"{name} {leaf.dtype} {leaf.shape} {total:016x}\n".encode())
    return digest.hexdigest()


def _has_all_pieces(leaf: Any) -> bool:
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable


def _sum_of_own_pieces(leaf: Any) -> np.uint64:
    """The weighted sum over this process's pieces of an array, each piece counted once."""
    if not isinstance(leaf, jax.Array):
        return _weighted_sum(np.asarray(leaf), (slice(None),) * np.ndim(leaf), np.shape(leaf))
    pieces = [shard for shard in leaf.addressable_shards if shard.replica_id == 0]
    sums = [_weighted_sum(np.asarray(piece.data), piece.index, leaf.shape) for piece in pieces]
    return np.array(sums, np.uint64).sum(dtype=np.uint64)


def _weighted_sum(piece: np.ndarray, index: tuple[slice, ...], shape: tuple[int, ...]) -> np.uint64:
    """The sum over `piece`, which is at `index` of an array of `shape`."""
    total = piece.view(np.dtype(f"uint{8 * piece.itemsize}"))
    for axis in reversed(range(piece.ndim)):
        weights = _weights(axis, shape[axis])[index[axis]]
        total = np.einsum("...i,i->...", total, weights, dtype=np.uint64)
    return np.uint64(total)


@functools.cache
def _weights(axis: int, size: int) -> np.ndarray:
    """Fixed random odd numbers, uint64 (size,); numpy never changes what PCG64 draws."""
    return np.random.PCG64(axis).random_raw(size) | np.uint64(1)
