import jax
import jax.numpy as jnp
import pytest

from cbam_flax import sharding
from data_prep.cli import UserError


def test_minus_one_takes_the_rest():
    mesh = sharding.make_mesh({"data": -1, "fsdp": 2, "spatial": 2})
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "spatial": 2}


@pytest.mark.parametrize("shape", [(3, 1, 1), (-1, 3, 1), (-1, -1, 1), (16, 1, 1)])
def test_a_mesh_that_does_not_fit_is_refused(shape):
    with pytest.raises(UserError, match="does not fit 8 devices"):
        sharding.make_mesh(dict(zip(sharding.AXES, shape, strict=True)))


def test_large_arrays_are_split_over_fsdp_along_their_longest_divisible_axis():
    mesh = sharding.make_mesh({"data": 2, "fsdp": 4, "spatial": 1})
    state = {
        "dense": jax.ShapeDtypeStruct((4096, 8), jnp.float32),
        "odd": jax.ShapeDtypeStruct((4097, 8), jnp.float32),
        "small": jax.ShapeDtypeStruct((8, 8), jnp.float32),
    }
    specs = {name: tuple(s.spec) for name, s in sharding.state_sharding(state, mesh).items()}
    assert specs == {"dense": ("fsdp", None), "odd": (None, "fsdp"), "small": (None, None)}


def test_sizes_that_cannot_be_cut_are_named():
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "spatial": 2})
    sharding.check_divisible(mesh, image_size=64, batch_size=8)
    with pytest.raises(UserError, match=r"batch_size 6 .* multiple of 4"):
        sharding.check_divisible(mesh, image_size=64, batch_size=6)
    with pytest.raises(UserError, match=r"batch_size 8 .* 4 microbatches .* multiple of 16"):
        sharding.check_divisible(mesh, image_size=64, batch_size=8, accumulate=4)
    with pytest.raises(UserError, match=r"image_size 65 cannot"):
        sharding.check_divisible(mesh, image_size=65, batch_size=8)
    with pytest.raises(UserError, match=r"image_size 32 .* from 64 pixels"):
        sharding.check_divisible(mesh, image_size=32, batch_size=8)
