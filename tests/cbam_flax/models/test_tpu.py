"""The TPU's forms against the plain ones, in float64 on a CPU: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cbam_flax import sharding
from cbam_flax.models import create_model, forms, tpu

SMALL = {"width": 0.0625, "reduction": 4, "dtype": "float64", "param_dtype": "float64"}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64():
        yield


def assert_same(ours, plain, *arguments):
    """Outputs, and gradients by every argument of a random weighting of them, to 1e-10."""

    def weighted(function):
        def run(*arguments):
            leaves = jax.tree.leaves(function(*arguments))
            rng = np.random.default_rng(1)
            return sum(jnp.sum(leaf * rng.normal(size=leaf.shape)) for leaf in leaves)

        every = tuple(range(len(arguments)))
        return function(*arguments), jax.grad(run, argnums=every)(*arguments)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-10),
        jax.jit(lambda: weighted(ours))(),
        jax.jit(lambda: weighted(plain))(),
    )


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(("shape", "axis"), [((2, 35, 6), 1), ((2, 5, 7, 6), -1), ((1, 1, 3), 1)])
def test_mean_and_max(shape, axis):
    x = normal(*shape)
    assert_same(lambda x: tpu.mean_and_max(x, axis), lambda x: forms.mean_and_max(x, axis), x)


def test_the_gradient_of_a_maximum_that_occurs_twice_goes_to_the_first():
    x = jnp.array([[3.0, 7.0, 7.0, 1.0]])
    gradient = jax.grad(lambda x: tpu.mean_and_max(x, 1)[1].sum())(x)
    np.testing.assert_array_equal(gradient, [[0, 1, 0, 0]])


def test_moments():
    def plain(x):
        pixels = x.reshape(x.shape[0], -1, x.shape[-1])
        lowest = -forms.peak(-pixels, 1)
        return jnp.mean(pixels, 1), jnp.mean(pixels**2, 1), forms.peak(pixels, 1), lowest

    assert_same(tpu.moments, plain, normal(2, 5, 7, 6))


@pytest.mark.parametrize("size", [(9, 11), (4, 5), (7, 7)])
def test_gate_convolution_as_a_band_matrix(size):
    def plain(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    ours = lambda x, kernel: tpu.gate_conv(x, kernel, (1, 1), "SAME")  # noqa: E731
    assert_same(ours, plain, normal(2, *size, 2), normal(7, 7, 2, 1, seed=2))


@pytest.mark.parametrize("features", [3, 128])
@pytest.mark.parametrize("size", [(8, 6), (7, 5)])
def test_pool(size, features):
    assert_same(tpu.pool, forms.pool, normal(2, *size, features))


@pytest.mark.parametrize("images_per_device", [1, 128])
@pytest.mark.parametrize("features", [3, 128])
def test_convolution(features, images_per_device):
    def run(conv):
        numbers = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "rhs_dilation": (2, 2)}
        return lambda x, kernel: conv(x, kernel, (1, 1), "SAME", **numbers)

    arguments = normal(2, 5, 6, 2), normal(3, 3, 2, features, seed=2)
    assert_same(
        run(tpu.forms(images_per_device).conv), run(jax.lax.conv_general_dilated), *arguments
    )


def step(model, variables, images):
    """Logits, updated batch statistics and gradients of one training pass."""

    def loss_of(params):
        logits, updated = model.apply(
            variables | {"params": params}, images, train=True, mutable=["batch_stats"]
        )
        return jnp.sum(logits**2), (logits, updated)

    gradients, found = jax.grad(loss_of, has_aux=True)(variables["params"])
    return gradients, found


def random_variables(model, images):
    """No parameter at a special value, and scales of both signs: a negative one swaps extremes."""
    rng = np.random.default_rng(3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    draw = lambda leaf: rng.normal(size=leaf.shape) / np.sqrt(max(leaf.shape, default=1))  # noqa: E731
    return {
        "params": jax.tree.map(draw, shapes["params"]),
        "batch_stats": jax.tree.map(lambda x: rng.uniform(0.5, 2, x.shape), shapes["batch_stats"]),
    }


@pytest.mark.parametrize("switches", [{}, {"preset": "notebook"}], ids=str)
def test_the_whole_model(switches):
    plain, ours = (create_model(SMALL | switches, platform) for platform in ("any", "tpu"))
    images = np.random.default_rng(0).random((3, 29, 33, 1))
    variables = random_variables(plain, images)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)  # noqa: E731
    runs = [jax.jit(lambda v, x, m=m: step(m, v, x))(variables, images) for m in (ours, plain)]
    jax.tree.map(same, *runs)
    inferred = [jax.jit(lambda v, x, m=m: m.apply(v, x))(variables, images) for m in (ours, plain)]
    same(*inferred)


def test_a_mesh_with_split_height_changes_nothing():
    model = create_model(SMALL, "tpu")
    images = np.random.default_rng(0).random((2, 64, 64, 1))
    variables = random_variables(model, images)
    results = []
    for shape in ((1, 1, 1), (2, 1, 2)):
        mesh = sharding.make_mesh(
            dict(zip(sharding.AXES, shape, strict=True)), jax.devices()[: int(np.prod(shape))]
        )
        places = (sharding.replicated(mesh), jax.NamedSharding(mesh, sharding.IMAGES))
        run = jax.jit(lambda v, x: step(model, v, x), in_shardings=places, out_shardings=places[0])
        results.append(jax.device_get(run(variables, images)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-10), *results)
