import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cbam_flax import sharding
from cbam_flax.checksum import state_hash


def a_state():
    rng = np.random.default_rng(0)
    return {
        "step": np.int32(7),
        "kernel": rng.normal(size=(3, 8, 16)).astype(np.float32),
        "half": jnp.asarray(rng.normal(size=(16, 4)), jnp.bfloat16),
        "mask": rng.random(8) < 0.5,
    }


def test_the_hash_never_depends_on_where_the_arrays_lie():
    expected = state_hash(a_state())
    for shape, spec in [((8, 1, 1), P()), ((2, 4, 1), P(None, "fsdp", "data")), ((1, 8, 1), P())]:
        mesh = sharding.make_mesh(dict(zip(sharding.AXES, shape, strict=True)))
        state = jax.tree.map(jnp.asarray, a_state())
        state["kernel"] = jax.device_put(state["kernel"], NamedSharding(mesh, spec))
        state["half"] = jax.device_put(state["half"], NamedSharding(mesh, P("fsdp")))
        assert state_hash(state) == expected
    assert state_hash([a_state()]) != expected


@pytest.mark.parametrize("name", ["step", "kernel", "half", "mask"])
def test_every_flipped_bit_of_any_element_is_noticed(name):
    state = jax.tree.map(np.asarray, a_state())
    array = np.array(state[name])
    words = array.reshape(-1).view(f"uint{8 * array.itemsize}")
    bits = 1 if array.dtype == bool else 8 * array.itemsize
    hashes = {state_hash(state)}
    for position in (0, words.size // 2, words.size - 1):
        for bit in range(bits):
            words[position] ^= 1 << bit
            hashes.add(state_hash(state | {name: array}))
            words[position] ^= 1 << bit
    assert len(hashes) == 1 + len({0, words.size // 2, words.size - 1}) * bits


def test_what_sums_alone_would_miss_is_noticed():
    values = np.arange(24, dtype=np.float32).reshape(4, 6) - 11.5
    swapped = values.copy()
    swapped[[0, 1]] = values[[1, 0]]
    signs = values.copy()
    signs[0, 0], signs[2, 3] = -signs[0, 0], -signs[2, 3]
    others = [values, swapped, signs, values.T, values.reshape(6, 4), values.view(np.int32)]
    assert len({state_hash({"a": np.ascontiguousarray(other)}) for other in others}) == 6
    assert state_hash({"a": values}) != state_hash({"b": values})
