import jax
import numpy as np
import optax
import pytest
from scipy.signal import correlate
from scipy.special import expit

from cbam_flax.models import create_model

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
    ids=str,
)
def test_forward_differs_from_every_departure(forward, departure):
    x, variables, logits = forward
    departed = np_forward(variables, x, **(DESCRIBED | departure))
    assert np.abs(logits - departed).max() > 1e-3


def train_loss(model, variables, x):
    """A function of the parameters: loss and new batch statistics of one training step."""

    def loss(params):
        logits, updated = model.apply(
            {"params": params, "batch_stats": variables["batch_stats"]},
            x,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        return optax.sigmoid_binary_cross_entropy(logits, LABELS).mean(), updated["batch_stats"]

    return loss


SWITCHED = [
    {},
    {"attention": "se", "pooling": "max"},
    {"attention": "channel", "pooling": "avg"},
    {"attention": "spatial", "spatial_norm": "batch"},
    {"attention": "none", "context": "none"},
    {"head": "gap", "image_level": True},
    {"dilations": (1, 3), "dropout": 0.3},
    {"remat": True, "kernel_init": "glorot_uniform"},
    {"dtype": "bfloat16"},
    {"preset": "notebook"},
    {"preset": "notebook", "attention": "se", "spatial_norm": "batch", "pooling": "max"},
]


@pytest.mark.parametrize("switches", SWITCHED, ids=str)
def test_one_step_of_every_switch_moves_every_parameter(switches, jit):
    model = create_model({"width": 0.25, "reduction": 4} | switches)
    x = images(4, 33, 29)
    variables = jit(model.init)(jax.random.key(0), x)
    loss = train_loss(model, variables, x)
    (before, _), gradient = jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    assert np.isfinite(before)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert np.isfinite(leaf).all(), name
        # A batch normalisation takes its input's mean away, and with it the notebook's biases.
        followed_by_norm = name.endswith(("conv1/bias", "conv2/bias"))
        largest = np.abs(leaf).max()
        assert (largest < 1e-5) if followed_by_norm else (largest > 0), name
