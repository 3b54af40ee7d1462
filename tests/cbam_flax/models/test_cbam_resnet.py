from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy.signal import correlate
from scipy.special import expit

from cbam_flax.models import create_model
from cbam_flax.models.cbam_resnet import CBAMResNet

LABELS = np.array([0, 1, 1, 0], np.float32)


def images(*shape, seed=1):
    return np.random.default_rng(seed).random((*shape, 1)).astype(np.float32)


# The described architecture once more, in NumPy and SciPy, in float64, one operation at a time.


def np_conv(x, layer, rate=1):
    kernel = np.float64(layer["kernel"])
    pad = rate * (kernel.shape[0] // 2)
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = x.shape[1:3]
    taps = (
        padded[:, i * rate : i * rate + height, j * rate : j * rate + width] @ kernel[i, j]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    )
    return sum(taps) + layer.get("bias", 0.0)


def np_batch_norm(x, params, statistics):
    scaled = (x - statistics["mean"]) / np.sqrt(statistics["var"] + np.float64(1e-5))
    return scaled * params["scale"] + params["bias"]


def np_dense(x, layer):
    return x @ np.float64(layer["kernel"]) + layer["bias"]


def np_relu(x):
    return np.maximum(x, 0)


def np_forward(variables, x, *, channel, spatial, rates, skip_after_relu):
    """Logits `(B,)`. The options exist so that a test can depart from the description."""
    params, statistics = variables["params"], variables["batch_stats"]
    x = np.float64(x)
    for n in (1, 2, 3, 4):
        block, stats = params[f"block{n}"], statistics[f"block{n}"]
        before = np_batch_norm(np_conv(x, block["conv1"]), block["norm1"], stats["norm1"])
        c1 = np_relu(before)
        c2 = np_batch_norm(np_conv(c1, block["conv2"]), block["norm2"], stats["norm2"])

        mlp = block["cbam"]["channel"]["mlp"]
        logits = sum(
            np_dense(np_relu(np_dense(reduce(c2, axis=(1, 2)), mlp["dense1"])), mlp["dense2"])
            for reduce in channel
        )
        c2 = c2 * expit(logits)[:, None, None, :]
        conv = block["cbam"]["spatial"]["conv"]
        maps = np.stack([reduce(c2, axis=-1) for reduce in spatial], axis=-1)
        maps = np.pad(maps, ((0, 0), (3, 3), (3, 3), (0, 0)))
        kernel = np.float64(conv["kernel"][..., 0])
        c2 = c2 * expit(np.stack([correlate(m, kernel, mode="valid") for m in maps]) + conv["bias"])
        x = np_relu((c1 if skip_after_relu else before) + c2)

        batch, height, width, features = x.shape
        windows = x[:, : height // 2 * 2, : width // 2 * 2].reshape(
            batch, height // 2, 2, width // 2, 2, features
        )
        both = np.concatenate([windows.max((2, 4)), windows.mean((2, 4))], axis=-1)
        x = np_relu(np_conv(both, params[f"pool{n}"]["mix"]))
        if n in (2, 4):
            context = params[f"context{n // 2}"]
            scales = [np_relu(np_conv(x, context[f"atrous{i}"], r)) for i, r in enumerate(rates, 1)]
            x = np_relu(np_conv(np.concatenate(scales, axis=-1), context["project"]))
    hidden = np_relu(np_dense(x.reshape(len(x), -1), params["hidden"]))
    return np_dense(hidden, params["logit"])[:, 0]


DESCRIBED = {
    "channel": (np.mean, np.max),
    "spatial": (np.max, np.mean),
    "rates": (2, 4, 8),
    "skip_after_relu": True,
}


@pytest.fixture(scope="module", params=[(37, 29), (64, 64)], ids=str)
def forward(request, jit, random_variables):
    """The images, the variables, and the logits that the model makes of them."""
    model = create_model({"width": 0.25})
    x = images(3, *request.param)
    variables = random_variables(model, x)
    return x, variables, jit(model.apply)(variables, x)


def test_forward_equals_the_description(forward):
    x, variables, logits = forward
    expected = np_forward(variables, x, **DESCRIBED)
    assert np.ptp(expected) > 0.02
    np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "departure",
    [
        {"channel": (np.mean,)},
        {"channel": (np.max, np.max)},
        {"spatial": (np.mean, np.max)},
        {"spatial": (np.mean, np.mean)},
        {"spatial": (np.max, np.max)},
        {"rates": (4, 2, 8)},
        {"rates": (2, 4, 6)},
        {"skip_after_relu": False},
    ],
    ids=lambda departure: next(iter(departure)),
)
def test_forward_differs_from_every_departure(forward, departure):
    x, variables, logits = forward
    departed = np_forward(variables, x, **(DESCRIBED | departure))
    assert np.abs(logits - departed).max() > 1e-3


def train_loss(model, variables, x, labels=LABELS):
    """A function of the parameters: loss and new batch statistics of one training step."""

    def loss(params):
        logits, updated = model.apply(
            {"params": params, "batch_stats": variables["batch_stats"]},
            x,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        return optax.sigmoid_binary_cross_entropy(logits, labels).mean(), updated["batch_stats"]

    return loss


SWITCHED = [
    {},
    {"attention": "se", "pooling": "max"},
    {"attention": "channel", "pooling": "avg"},
    {"attention": "spatial", "spatial_norm": "batch"},
    {"attention": "none", "context": "none"},
    {"head": "gap", "image_level": True},
    {"dilations": (1, 3), "dropout": 0.3, "remat": True},
    {"dtype": "bfloat16"},
    {"preset": "notebook"},
    {"preset": "notebook", "attention": "se", "spatial_norm": "batch", "pooling": "max"},
]


@pytest.mark.parametrize("switches", SWITCHED, ids=str)
def test_one_step_of_every_switch_moves_every_parameter(switches, jit, random_variables):
    model = create_model({"width": 0.25, "reduction": 4} | switches)
    x = images(4, 33, 29)
    variables = random_variables(model, x)
    step = jit(jax.value_and_grad(train_loss(model, variables, x), has_aux=True))
    (before, _), gradient = step(variables["params"])
    assert np.isfinite(before)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert np.isfinite(leaf).all(), name
        # A batch normalisation takes its input's mean away, and with it the notebook's biases.
        followed_by_norm = name.endswith(("conv1/bias", "conv2/bias"))
        largest = np.abs(leaf).max()
        assert (largest < 1e-5) if followed_by_norm else (largest > 0), name
    moved = jax.tree.map(lambda p, g: p - 1e-3 * g, variables["params"], gradient)
    (after, statistics), _ = step(moved)
    assert after < before
    assert jax.tree.structure(statistics) == jax.tree.structure(variables["batch_stats"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(statistics))


def test_zero_initialised_blocks_learn_from_the_second_step_on(jit, random_variables):
    model = create_model({"width": 0.25, "reduction": 4, "zero_init_last_bn": True})
    x = images(4, 32, 32)
    norms = jit(lambda key: model.init(key, x)["params"]["block3"])(jax.random.key(0))
    assert not norms["norm2"]["scale"].any()
    assert norms["norm1"]["scale"].all()
    variables = random_variables(model, x)
    params = variables["params"]
    for n in (1, 2, 3, 4):
        params[f"block{n}"]["norm2"] = jax.tree.map(np.zeros_like, params[f"block{n}"]["norm2"])
    gradient = jit(jax.grad(train_loss(model, variables, x), has_aux=True))
    first, _ = gradient(params)
    assert not first["block1"]["conv2"]["kernel"].any()
    assert first["block1"]["norm2"]["scale"].any()
    second, _ = gradient(jax.tree.map(lambda p, g: p - g, params, first))
    assert all(leaf.any() for leaf in jax.tree.leaves(second))


def float64_setup(random_variables, **settings):
    model = create_model(
        {"width": 0.25, "reduction": 4, "dtype": "float64", "param_dtype": "float64"} | settings
    )
    x = np.float64(images(8, 33, 29))
    variables = random_variables(model, x)
    return model, jax.tree.map(np.float64, variables), x


def test_gradient_is_the_slope_of_the_loss(jit, random_variables):
    """In float64, along random directions: no maximum loses its gradient under jit.

    At this width and size XLA:CPU does lose that of `jnp.max` and of `jnp.maximum`.
    """
    with jax.enable_x64(True):
        model, variables, x = float64_setup(random_variables)
        loss = train_loss(model, variables, x, np.tile(LABELS, 2))
        flat, unravel = ravel_pytree(variables["params"])
        value = jit(lambda flat: loss(unravel(flat))[0])
        gradient = jit(jax.grad(lambda flat: loss(unravel(flat))[0]))(flat)
        for seed in range(3):
            direction = np.random.default_rng(seed).normal(size=flat.shape)
            step = 1e-6 * direction / np.linalg.norm(direction)
            slope = value(flat + step) - value(flat - step)
            np.testing.assert_allclose(2 * gradient @ step, slope, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-12), ("float32", 1e-5)])
def test_eight_devices_equal_one(dtype, bound, jit, random_variables):
    """Same loss, gradients and batch statistics: under jit a sharded batch is normalised whole."""
    with jax.enable_x64(True):
        model, variables, x = float64_setup(random_variables, dtype=dtype, param_dtype=dtype)
        variables, x = jax.tree.map(lambda array: array.astype(dtype), (variables, x))

        def step(params, x):
            loss = train_loss(model, variables, x, np.tile(LABELS, 2))
            return jax.value_and_grad(loss, has_aux=True)(params)

        def run(devices):
            mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
            split, replicated = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
            placed = jax.device_put(x, split)
            assert len(placed.addressable_shards) == devices
            return jax.device_get(
                jit(step, in_shardings=(replicated, split), out_shardings=replicated)(
                    variables["params"], placed
                )
            )

        one, eight = run(1), run(8)
        scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(one))
        assert scale > 0.1
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
            np.testing.assert_allclose(a, b, rtol=bound, atol=bound)


def test_batch_statistics_are_biased_and_move_by_a_tenth(jit, random_variables):
    model = create_model({"width": 0.125})
    x = images(4, 32, 32)
    variables = random_variables(model, x)
    _, new = jit(train_loss(model, variables, x))(variables["params"])
    convolved = np_conv(np.float64(x), variables["params"]["block1"]["conv1"])
    old = variables["batch_stats"]["block1"]["norm1"]
    mean, var = convolved.mean((0, 1, 2)), convolved.var((0, 1, 2))
    np.testing.assert_allclose(
        new["block1"]["norm1"]["mean"], 0.9 * old["mean"] + 0.1 * mean, atol=1e-6
    )
    np.testing.assert_allclose(
        new["block1"]["norm1"]["var"], 0.9 * old["var"] + 0.1 * var, atol=1e-5
    )


def test_bfloat16_is_for_activations_only(jit, random_variables):
    x = images(4, 32, 32)
    exact, rounded = (create_model({"width": 0.125, "dtype": d}) for d in ("float32", "bfloat16"))
    variables = random_variables(rounded, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    capture = partial(rounded.apply, capture_intermediates=True, mutable=["intermediates"])
    logits, captured = jit(capture)(variables, x)
    assert logits.dtype == jnp.float32
    assert captured["intermediates"]["block2"]["__call__"][0].dtype == jnp.bfloat16
    np.testing.assert_allclose(logits, jit(exact.apply)(variables, x), atol=0.05)
    _, statistics = jit(train_loss(rounded, variables, x))(variables["params"])
    assert {leaf.dtype for leaf in jax.tree.leaves(statistics)} == {np.dtype("float32")}


def test_remat_changes_neither_parameters_nor_logits(jit, random_variables):
    x = images(2, 32, 32)
    plain, remat = (create_model({"width": 0.125, "remat": flag}) for flag in (False, True))
    variables = random_variables(plain, x)
    np.testing.assert_allclose(
        jit(remat.apply)(variables, x), jit(plain.apply)(variables, x), atol=1e-6
    )

    def recomputes(model):
        loss = train_loss(model, variables, x, LABELS[:2])
        return "remat" in str(jax.make_jaxpr(jax.grad(loss, has_aux=True))(variables["params"]))

    assert recomputes(remat)
    assert not recomputes(plain)


def test_a_profile_names_the_stages(jit):
    """`cbam_flax.aot` sums its estimates by these names."""
    model, x = create_model({"width": 0.125}), images(2, 32, 32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    text = jit(model.apply).lower(variables, x).as_text(debug_info=True)
    for name in ("block1", "pool1", "context2", "hidden"):
        assert f"/CBAMResNet/{name}/" in text


def test_dropout_acts_in_training_only(jit, random_variables):
    x = images(2, 32, 32)
    model = create_model({"width": 0.125, "dropout": 0.5})
    variables = random_variables(model, x)
    train = jit(partial(model.apply, train=True, mutable=["batch_stats"]))
    one, other = (train(variables, x, rngs={"dropout": jax.random.key(k)})[0] for k in (0, 1))
    assert np.abs(one - other).min() > 1e-3
    plain = jit(model.clone(dropout=0.0).apply)
    np.testing.assert_array_equal(jit(model.apply)(variables, x), plain(variables, x))


@pytest.mark.parametrize("preset", ["cbam_resnet", "notebook"])
@pytest.mark.parametrize("size", [(28, 28), (28, 71), (45, 31), (224, 224)], ids=str)
def test_any_size_from_28_fits(preset, size):
    model = create_model({"preset": preset})
    x = jax.ShapeDtypeStruct((2, *size, 1), jnp.float32)
    logits, variables = jax.eval_shape(partial(model.init_with_output, jax.random.key(0)), x)
    assert logits.shape == (2,)
    assert variables["params"]["hidden"]["kernel"].shape[0] == size[0] // 16 * (size[1] // 16) * 256


@pytest.mark.parametrize(
    ("preset", "kernel_init", "block", "gate"),
    [
        ("cbam_resnet", "auto", 2 / 64 / 9, 2 / 64),
        ("notebook", "auto", 1 / 64 / 9, 2 / 64),
        ("cbam_resnet", "glorot_uniform", 1 / 64 / 9, 2 / 64),
        ("notebook", "he_normal", 2 / 64 / 9, 2 / 64),
    ],
)
def test_initial_variances(preset, kernel_init, block, gate, jit):
    """he_normal has variance 2 / fan_in, glorot_uniform 2 / (fan_in + fan_out)."""
    model = create_model({"preset": preset, "kernel_init": kernel_init, "stages": (64, 8, 8, 8)})

    def init(key):  # only what is asked for is compiled
        params = model.init(key, images(1, 28, 28))["params"]
        mlp = params["block1"]["cbam"]["channel"]["mlp" if preset == "cbam_resnet" else "mean_mlp"]
        layers = (params["block1"]["conv2"], mlp["dense1"], params["pool1"]["mix"])
        return [layer["kernel"] for layer in layers]

    conv2, dense1, mix = jit(init)(jax.random.key(0))
    assert np.var(conv2) == pytest.approx(block, rel=0.05)
    assert np.var(dense1) == pytest.approx(gate, rel=0.2)
    assert np.var(mix) == pytest.approx(2 / 128, rel=0.1)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((2, 27, 64, 1), np.float32), "27 x 64; height and width must be at least 28"),
        (np.zeros((2, 64, 16, 1), np.float32), "64 x 16; height and width must be at least 28"),
        (np.zeros((2, 32, 32, 3), np.float32), r"3 channels; model.channels is 1"),
        (np.zeros((2, 32, 32), np.float32), r"\(2, 32, 32\); it must be \(batch, height, width"),
        (np.zeros((2, 32, 32, 1), np.uint8), "uint8; divide them by 255"),
    ],
    ids=str,
)
def test_odd_inputs_are_refused_in_words(x, words):
    with pytest.raises(ValueError, match=words):
        CBAMResNet().init(jax.random.key(0), x)
