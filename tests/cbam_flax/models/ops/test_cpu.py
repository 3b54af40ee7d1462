"""The CPU implementations against the references, in float64: values and gradients."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from cbam_flax.models import create_model, infer
from cbam_flax.models.ops import REFERENCE, table
from cbam_flax.models.ops.convolution import cpu, winograd
from cbam_flax.models.ops.gate_convolution.cpu import gate_conv
from cbam_flax.models.ops.product.cpu import product
from cbam_flax.models.ops.statistics import cpu as statistics
from cbam_flax.models.ops.statistics import reference


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def never_lax(monkeypatch):
    """Every kernel gradient as matrix products, of 40 pixels at a time."""
    monkeypatch.setattr(winograd, "pays", lambda *_: False)
    monkeypatch.setattr(cpu, "SMALL", 0)
    monkeypatch.setattr(cpu, "BLOCK", 40)


@pytest.fixture
def always_winograd(monkeypatch):
    monkeypatch.setattr(winograd, "pays", lambda _, kernel, rates: kernel[:2] == (3, 3))
    monkeypatch.setattr(winograd, "BLOCK", 20)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def found(function, *arguments):
    """Outputs, and gradients by every argument of a random weighting of them."""

    def weighted(*arguments):
        outputs = function(*arguments)
        rng = np.random.default_rng(1)
        total = sum(jnp.sum(y * rng.normal(size=y.shape)) for y in jax.tree.leaves(outputs))
        return total, outputs

    every = tuple(range(len(arguments)))
    gradients, outputs = jax.grad(weighted, argnums=every, has_aux=True)(*arguments)
    return outputs, gradients


def assert_same(ours, plain):
    leaves = jax.tree.leaves(ours)
    assert leaves
    for a, b in zip(leaves, jax.tree.leaves(plain), strict=True):
        assert np.abs(b).max() > 0
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def convolution(conv, features, size, rate):
    """A layer as the model has it, as a function of its input and its kernel."""
    layer = nn.Conv(
        features,
        (size, size),
        use_bias=False,
        kernel_dilation=rate,
        param_dtype=jnp.float64,
        conv_general_dilated=conv,
    )
    return lambda x, kernel: layer.apply({"params": {"kernel": kernel}}, x)


@pytest.mark.parametrize(
    ("shape", "rate"),
    [
        ((2, 9, 7, 3), 1),
        ((1, 13, 6, 3), 2),
        ((2, 6, 11, 3), 4),
        ((1, 5, 12, 2), 8),  # taller than the map: some taps see only padding
        ((1, 1, 1, 2), 2),
        ((2, 9, 7, 1), 1),
        ((1, 6, 5, 1), 8),
    ],
)
def test_convolution(shape, rate, jit, never_lax):
    arguments = normal(*shape), normal(3, 3, shape[-1], 5, seed=2)
    run = [convolution(conv, 5, 3, rate) for conv in (cpu.conv, None)]
    assert_same(*(jit(partial(found, function))(*arguments) for function in run))


def test_a_convolution_by_winograd(jit, always_winograd):
    arguments = normal(2, 9, 7, 3), normal(3, 3, 3, 5, seed=2)
    run = [convolution(conv, 5, 3, 2) for conv in (cpu.conv, None)]
    assert_same(*(jit(partial(found, function))(*arguments) for function in run))


def test_winograd_is_chosen_by_what_it_pays():
    texts = [
        str(jax.make_jaxpr(convolution(cpu.conv, c, 3, 1))(normal(2, 8, 8, c), normal(3, 3, c, c)))
        for c in (16, 64)
    ]
    assert ["conv_general_dilated" in text for text in texts] == [True, False]


def test_matrix_products_or_lax_are_chosen_by_size(monkeypatch):
    monkeypatch.setattr(cpu, "SMALL", 60)
    gradient = jax.grad(lambda kernel, x: jnp.sum(convolution(cpu.conv, 4, 3, 1)(x, kernel)))
    kernel = normal(3, 3, 2, 4)
    texts = [str(jax.make_jaxpr(gradient)(kernel, normal(1, 5, w, 2))) for w in (6, 7)]
    assert ["dot_general" in text for text in texts] == [False, True]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_many_blocks_are_added_up_in_float32(dtype, never_lax):
    """Ones: each tap counts the pixels it sees, more than bfloat16 could count one by one."""
    x, kernel = jnp.ones((1, 60, 20, 2), dtype), jnp.ones((3, 3, 2, 4), dtype)

    def total(kernel):
        return jnp.sum(cpu.conv(x, kernel, (1, 1), "SAME"), dtype=jnp.float32)

    gradient = jax.grad(total)(kernel)
    assert gradient.dtype == dtype
    assert gradient[1, 1, 0, 0] == jnp.asarray(60 * 20, dtype)


def test_product(jit):
    arguments = normal(2, 3, 5, 4), normal(4, 6, seed=2)
    assert_same(*(jit(partial(found, op))(*arguments) for op in (product, jnp.matmul)))


@pytest.mark.parametrize("shape", [(2, 9, 11, 2), (1, 2, 3, 2), (1, 8, 7, 3)])
def test_gate_convolution(shape, jit):
    arguments = normal(*shape), normal(7, 7, shape[-1], 1, seed=2)
    run = [convolution(conv, 1, 7, 1) for conv in (gate_conv, None)]
    assert_same(*(jit(partial(found, function))(*arguments) for function in run))


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((2, 36, 3), 1),  # pieces of 6
        ((2, 7, 3), 1),  # a prime: pieces of 1
        ((1, 1, 3), 1),
        ((2, 3, 5, 64), -1),  # 8 slices of 8 channels
        ((2, 3, 5, 24), -1),
        ((2, 3, 5, 3), -1),
    ],
)
def test_mean_and_max(shape, axis, jit):
    x = normal(*shape)
    run = [lambda x, op=op: op(x, axis) for op in (statistics.mean_and_max, reference.mean_and_max)]
    assert_same(*(jit(partial(found, function))(x) for function in run))


@pytest.mark.parametrize(("shape", "axis"), [((3, 36, 4), 1), ((5, 4, 64), -1), ((5, 4, 6), -1)])
def test_of_equal_maxima_the_first_gets_the_gradient(shape, axis, jit):
    x = np.random.default_rng(0).integers(0, 3, shape).astype(np.float64)
    gradient = jit(jax.grad(lambda x: statistics.mean_and_max(x, axis)[1].sum()))(x)
    np.testing.assert_array_equal(np.argmax(gradient, axis), np.argmax(x, axis))
    np.testing.assert_array_equal(gradient.sum(axis), 1)


def test_position_statistics(jit):
    def plain(x):
        pixels = x.reshape(x.shape[0], -1, x.shape[-1])
        lowest = -reference.max_via_argmax(-pixels, 1)
        return (
            jnp.mean(pixels, 1),
            jnp.mean(pixels**2, 1),
            reference.max_via_argmax(pixels, 1),
            lowest,
        )

    x = normal(2, 5, 7, 6)
    assert_same(
        *(jit(partial(found, function))(x) for function in (statistics.position_statistics, plain))
    )


@pytest.mark.parametrize("conv", [cpu.conv, gate_conv])
@pytest.mark.parametrize(("strides", "padding"), [((2, 2), "SAME"), ((1, 1), "VALID")])
def test_what_the_gradient_does_not_know_is_refused(conv, strides, padding):
    with pytest.raises(ValueError, match="must be odd, 1, 'SAME'"):
        conv(normal(1, 8, 8, 2), normal(3, 3, 2, 1), strides, padding)


def training_pass(model, variables, images):
    """Updated batch statistics and logits, and the gradients by all parameters and the images."""

    def outputs(params, images):
        return model.apply(
            variables | {"params": params}, images, train=True, mutable=["batch_stats"]
        )

    return found(outputs, variables["params"], images)


SMALL = {"width": 0.125, "reduction": 4, "dtype": "float64", "param_dtype": "float64"}


@pytest.mark.parametrize(
    ("switches", "convolutions"),
    [({}, "never_lax"), ({}, "always_winograd"), ({"preset": "notebook"}, "always_winograd")],
    ids=str,
)
def test_the_whole_model(switches, convolutions, jit, random_variables, request):
    request.getfixturevalue(convolutions)
    images = np.random.default_rng(0).random((3, 32, 32, 1))
    plain, ours = (create_model(SMALL | switches, platform) for platform in ("any", "cpu"))
    assert ours.stage_ops == (table.CPU,) * 4 != (REFERENCE,) * 4 == plain.stage_ops
    variables = random_variables(plain, images)
    assert_same(*(jit(partial(training_pass, m))(variables, images) for m in (ours, plain)))
    infer = [jit(model.apply)(variables, images) for model in (ours, plain)]
    assert_same(*infer)


def test_how_many_images_inference_takes_at_a_time():
    shape = (6, 224, 224, 1)
    assert [table.CPU.chunk(shape, features) for features in (128, 64, 32, 8)] == [1, 1, 2, 6]


def test_inference_on_a_few_images_at_a_time(jit, random_variables):
    images = np.random.default_rng(0).random((6, 32, 32, 1))
    plain = create_model(SMALL, "any")
    ours = create_model(SMALL, "cpu")
    ours = ours.copy(stage_ops=(table.CPU._replace(chunk=lambda *_: 2),) * 4)
    variables = random_variables(plain, images)
    text = str(jax.make_jaxpr(partial(infer, ours))(variables, images))
    assert "f64[2,32,32,8]" in text
    assert "f64[6,32,32,8]" not in text
    assert_same(*(jit(partial(infer, m))(variables, images) for m in (ours, plain)))
    # What training sees, and gates, are of all images.
    assert_same(*(jit(partial(training_pass, m))(variables, images) for m in (ours, plain)))
    gates = [
        jit(partial(model.apply, mutable=["intermediates"]))(variables, images)
        for model in (ours, plain)
    ]
    assert_same(*gates)


def test_rows_and_images_split_over_devices(jit, never_lax):
    mesh = jax.make_mesh((2, 4), ("data", "rows"), axis_types=(AxisType.Auto,) * 2)
    split, replicated = NamedSharding(mesh, P("data", "rows")), NamedSharding(mesh, P())
    run = partial(found, convolution(cpu.conv, 5, 3, 2))
    gate = partial(found, convolution(gate_conv, 1, 7, 1))
    for function, kernel in ((run, normal(3, 3, 2, 5)), (gate, normal(7, 7, 2, 1))):
        x = normal(2, 8, 9, 2)
        eight = jit(function, in_shardings=(split, replicated))(jax.device_put(x, split), kernel)
        assert_same(eight, jit(function)(x, kernel))
