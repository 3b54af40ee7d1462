"""TPU and GPU implementations against the references, in float64 on a CPU: values, gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cbam_flax import sharding
from cbam_flax.models import create_model
from cbam_flax.models.ops import table
from cbam_flax.models.ops.affine import reference as reference_affine
from cbam_flax.models.ops.affine import tpu as affine
from cbam_flax.models.ops.convolution import tpu as convolution
from cbam_flax.models.ops.convolution.reference import DIMENSIONS
from cbam_flax.models.ops.feature_map import split_rows
from cbam_flax.models.ops.gate_convolution import tpu as gate_convolution
from cbam_flax.models.ops.pooling import reference as reference_pooling
from cbam_flax.models.ops.pooling import tpu as pooling
from cbam_flax.models.ops.statistics import reference
from cbam_flax.models.ops.statistics import tpu as statistics
from cbam_flax.models.ops.tpu import CHANNELS_LAST, IMAGES_LAST

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
    assert_same(
        lambda x: statistics.mean_and_max(x, axis), lambda x: reference.mean_and_max(x, axis), x
    )


def test_the_gradient_of_a_maximum_that_occurs_twice_goes_to_the_first():
    x = jnp.array([[3.0, 7.0, 7.0, 1.0]])
    gradient = jax.grad(lambda x: statistics.mean_and_max(x, 1)[1].sum())(x)
    np.testing.assert_array_equal(gradient, [[0, 1, 0, 0]])


def plain_statistics(x):
    pixels = x.reshape(x.shape[0], -1, x.shape[-1])
    lowest = -reference.max_via_argmax(-pixels, 1)
    return jnp.mean(pixels, 1), jnp.mean(pixels**2, 1), reference.max_via_argmax(pixels, 1), lowest


@pytest.mark.parametrize("bands", [1, 2, 4])
def test_position_statistics(bands):
    def ours(x):
        return statistics.position_statistics(split_rows(x, 1, bands), bands)

    assert_same(ours, plain_statistics, normal(2, 8, 7, 6))


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).normal(size=(2, 8, 7, 6)),
        -np.random.default_rng(0).random((2, 8, 7, 6)),  # the order of negative numbers
        np.random.default_rng(0).integers(-1, 2, (2, 8, 7, 6)),  # many at both extremes
        np.random.default_rng(0).integers(0, 2, (2, 8, 7, 6)) - 1.0,  # zero is the largest
        np.zeros((2, 8, 7, 6)),
    ],
    ids=["normal", "negative", "few values", "largest zero", "zero"],
)
def test_position_statistics_of_bfloat16_and_where_they_are(values):
    """Extremes exact, and their gradients at the very same pixel as in plain JAX."""
    x = jnp.asarray(values, jnp.bfloat16)
    ours, gradient = jax.vjp(statistics.position_statistics, x)
    plain, expected = jax.vjp(lambda x: plain_statistics(x.astype(jnp.float32)), x)
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-37)
    unit, none = jnp.ones((2, 6), jnp.float32), jnp.zeros((2, 6), jnp.float32)
    for cotangents in ((none, none, unit, none), (none, none, none, unit)):
        np.testing.assert_array_equal(*(np.array(g(cotangents)[0]) for g in (gradient, expected)))


@pytest.mark.parametrize("size", [(9, 11), (4, 5), (7, 7)])
def test_gate_convolution_as_a_band_matrix(size):
    def plain(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    ours = lambda x, kernel: gate_convolution.gate_conv(x, kernel, (1, 1), "SAME")  # noqa: E731
    assert_same(ours, plain, normal(2, *size, 2), normal(7, 7, 2, 1, seed=2))


@pytest.mark.parametrize("layout", [IMAGES_LAST, CHANNELS_LAST])
@pytest.mark.parametrize("size", [(8, 6), (7, 5)])
def test_pool(size, layout):
    assert_same(lambda x: pooling.pool(x, layout), reference_pooling.pool, normal(2, *size, 3))


@pytest.mark.parametrize("layout", [IMAGES_LAST, CHANNELS_LAST])
def test_of_equal_pixels_the_first_is_the_maximum(layout):
    x = jnp.asarray(np.random.default_rng(0).integers(0, 2, (2, 6, 8, 3)), jnp.float64)
    gradients = [
        jax.grad(lambda x, pool=pool: jnp.sum(pool(x)[0]))(x)
        for pool in (lambda x: pooling.pool(x, layout), reference_pooling.pool)
    ]
    np.testing.assert_array_equal(*gradients)


def plain_conv(x, kernel, rate=1):
    numbers = {"dimension_numbers": DIMENSIONS, "rhs_dilation": (rate, rate)}
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", **numbers)


def test_convolution():
    def ours(x, kernel):
        numbers = {"dimension_numbers": DIMENSIONS, "rhs_dilation": (2, 2)}
        return convolution.conv(x, kernel, (1, 1), "SAME", **numbers)

    plain = partial(plain_conv, rate=2)
    assert_same(ours, plain, normal(2, 5, 6, 2), normal(3, 3, 2, 4, seed=2))


@pytest.mark.parametrize(("bands", "rows"), [(1, 5), (2, 6), (4, 8), (4, 4)])
def test_convolution_of_bands(bands, rows):
    def ours(x, kernel):
        y = convolution.band_conv(split_rows(x, 1, bands), kernel, (1, 1), "SAME", bands)
        return split_rows(y, bands, 1)

    assert_same(ours, plain_conv, normal(3, rows, 5, 2), normal(3, 3, 2, 4, seed=2))


@pytest.mark.parametrize(
    ("size", "strides", "padding"), [(5, 1, "SAME"), (3, 2, "SAME"), (3, 1, "VALID")]
)
def test_what_bands_cannot_convolve_is_refused(size, strides, padding):
    with pytest.raises(ValueError, match="must be 3x3, 1, 'SAME'"):
        convolution.band_conv(
            normal(2, 8, 8, 2), normal(size, size, 2, 1), (strides,) * 2, padding, 2
        )


@pytest.mark.parametrize("images", [(), (2,)], ids=["per channel", "per image"])
def test_affine(images):
    def ours(x, scale, offset):
        return split_rows(affine.affine(split_rows(x, 1, 2), scale, offset, 2), 2, 1)

    vectors = normal(*images, 3, seed=1), normal(*images, 3, seed=2)
    assert_same(ours, reference_affine.affine, normal(2, 4, 5, 3), *vectors)


@pytest.mark.parametrize(
    ("images", "rows", "bands"),
    [
        (128, 224, 1),
        (256, None, 1),
        (64, 224, 2),
        (32, 224, 4),
        (16, 224, None),  # the bands would be thin
        (96, 224, None),  # no number of bands fills the lanes
        (64, 220, None),  # two bands of 110 rows can be halved once
        (64, None, None),  # who knows how many rows
    ],
)
def test_images_or_bands_fill_the_lanes(images, rows, bands):
    chosen = table.ops_for("tpu", images, rows)
    early = table.CHANNELS_IN_LANES if bands is None else table.images_in_lanes(bands)
    assert [ops.bands for ops in chosen] == [early.bands] * 2 + [1] * 2
    assert (chosen[0].affine is reference_affine.affine) == (bands is None)


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


@pytest.mark.parametrize(
    ("platform", "switches", "images", "bands", "size"),
    [
        ("tpu", {}, 1, 1, (29, 33)),
        ("tpu", {}, 128, 1, (29, 33)),
        ("tpu", {"preset": "notebook"}, 64, 2, (32, 33)),
        ("tpu", {"spatial_norm": "batch", "pooling": "max"}, 32, 4, (64, 33)),
        ("tpu", {"attention": "spatial"}, 64, 2, (32, 33)),
        ("gpu", {}, 64, 1, (29, 33)),
    ],
    ids=str,
)
def test_the_whole_model(platform, switches, images, bands, size, jit):
    plain = create_model(SMALL | switches, "any")
    ours = create_model(SMALL | switches, platform, images, size[0])
    assert ours.stage_ops != plain.stage_ops
    assert ours.stage_ops[0].bands == bands
    images = np.random.default_rng(0).random((3, *size, 1))
    variables = random_variables(plain, images)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)  # noqa: E731
    runs = [jit(lambda v, x, m=m: step(m, v, x))(variables, images) for m in (ours, plain)]
    jax.tree.map(same, *runs)
    inferred = [jit(lambda v, x, m=m: m.apply(v, x))(variables, images) for m in (ours, plain)]
    same(*inferred)


@pytest.mark.parametrize(("shape", "images_per_device"), [((2, 1, 2), 128), ((4, 1, 1), 64)])
def test_a_mesh_changes_nothing(shape, images_per_device, jit):
    """Split by rows, where an image cannot be cut into bands, and by images, where it can."""
    model = create_model(SMALL, "tpu", images_per_device, 64, split=shape[2] > 1)
    images = np.random.default_rng(0).random((4, 64, 64, 1))
    variables = random_variables(model, images)
    results = []
    for axes in ((1, 1, 1), shape):
        mesh = sharding.make_mesh(
            dict(zip(sharding.AXES, axes, strict=True)), jax.devices()[: int(np.prod(axes))]
        )
        places = (sharding.replicated(mesh), jax.NamedSharding(mesh, sharding.IMAGES))
        run = jit(lambda v, x: step(model, v, x), in_shardings=places, out_shardings=places[0])
        results.append(jax.device_get(run(variables, images)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-10), *results)
