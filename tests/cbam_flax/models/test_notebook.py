"""The notebook preset against numbers that Keras computed (data/notebook_reference_small.npz).

The file holds the original graph, narrow (16, 32, 32, 64), at 32 x 32: weights, inputs, inference
and training outputs, both parts of the loss, its gradient, and the batch statistics after a step.
"""

from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from cbam_flax.models import block_kernel_l2, cbam_resnet, create_model
from cbam_flax.models.keras_import import variables_from_keras


@pytest.fixture(scope="module")
def reference():
    with np.load(Path(__file__).parent / "data" / "notebook_reference_small.npz") as arrays:
        return dict(arrays)


def part(reference, prefix):
    return variables_from_keras(
        {name.removeprefix(prefix): a for name, a in reference.items() if name.startswith(prefix)}
    )


@pytest.fixture(scope="module")
def build(jit, reference):
    """`(settings) -> function of the weights -> {figure: difference from the reference}`."""

    def make(**settings):
        model = create_model({"preset": "notebook", "width": 0.25} | settings)

        def loss(params, statistics):
            variables = {"params": params, "batch_stats": statistics}
            logits, updated = model.apply(
                variables, reference["x"], train=True, mutable=["batch_stats"]
            )
            bce = optax.sigmoid_binary_cross_entropy(logits, reference["label"]).mean()
            l2 = 0.001 * block_kernel_l2(params)
            return bce + l2, (bce, l2, jax.nn.sigmoid(logits), updated["batch_stats"])

        @jit
        def everything(variables):
            prob = jax.nn.sigmoid(model.apply(variables, reference["x"]))
            gradient, rest = jax.grad(loss, has_aux=True)(
                variables["params"], variables["batch_stats"]
            )
            return prob, gradient, *rest

        def differences(variables):
            prob, gradient, bce, l2, train_prob, statistics = everything(variables)
            after = pairs(statistics, part(reference, "after/")["batch_stats"])
            return {
                "prob": np.abs(prob - reference["prob"]).max(),
                "train_prob": np.abs(train_prob - reference["train_prob"]).max(),
                "bce": np.abs(bce - reference["bce"]),
                "l2": np.abs(l2 - reference["l2"]),
                "gradient": relative(gradient, part(reference, "grad/")["params"]),
                "batch_stats": max(np.abs(a - b).max() for a, b in after),
            }

        return differences

    return make


@pytest.fixture(scope="module")
def notebook(build):
    return build()


def pairs(ours, theirs):
    ours, theirs = flatten_dict(ours), flatten_dict(theirs)
    assert ours.keys() == theirs.keys()
    return [(np.float64(ours[path]), np.float64(theirs[path])) for path in ours]


def relative(gradient, expected):
    """The largest error of an array relative to its norm, or to 1e-2 of the whole gradient's norm.

    The second because some arrays have a gradient of exactly zero (biases before a batch
    normalisation, a dead ReLU), of which the reference holds the rounding.
    """
    both = pairs(gradient, expected)
    floor = 1e-2 * np.sqrt(sum((b**2).sum() for _, b in both))
    return max(np.linalg.norm(a - b) / max(np.linalg.norm(b), floor) for a, b in both)


BOUNDS = {
    "prob": 1e-6,
    "train_prob": 2e-6,
    "bce": 1e-6,
    "l2": 1e-6,
    "gradient": 1e-4,
    "batch_stats": 1e-6,
}


def test_every_number_agrees(notebook, reference):
    differences = notebook(part(reference, "w/"))
    print(differences)
    assert np.ptp(reference["train_prob"]) > 0.1
    for figure, bound in BOUNDS.items():
        assert differences[figure] < bound, figure


def disagrees(differences, *figures):
    return all(differences[figure] > 10 * BOUNDS[figure] for figure in figures)


@pytest.mark.parametrize(
    "path",
    [
        ("block1", "cbam", "channel", "mean_mlp", "max_mlp"),
        ("block4", "cbam", "channel", "mean_mlp", "max_mlp"),
        ("context1", "atrous1", "atrous2"),
        ("context2", "atrous2", "atrous3"),
        ("block2", "norm1", "norm2"),
    ],
    ids="/".join,
)
def test_exchanged_weights_disagree(path, notebook, reference):
    weights = part(reference, "w/")
    *parents, one, other = path
    layer = weights["params"]
    for name in parents:
        layer = layer[name]
    layer[one], layer[other] = layer[other], layer[one]
    assert disagrees(notebook(weights), "prob", "gradient")


def test_exchanged_rates_disagree(build, reference):
    differences = build(dilations=(4, 2, 8))(part(reference, "w/"))
    assert disagrees(differences, "prob", "gradient")


def test_maximum_for_mean_disagrees(build, reference, monkeypatch):
    preset = cbam_resnet.PRESETS["notebook"]._replace(spatial_statistics=("max", "mean"))
    monkeypatch.setitem(cbam_resnet.PRESETS, "notebook", preset)
    assert disagrees(build()(part(reference, "w/")), "prob", "gradient")


def test_the_original_has_17_187_285_numbers():
    images = jax.ShapeDtypeStruct((1, 224, 224, 1), np.float32)
    model = create_model({"preset": "notebook"})
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    trainable, statistics = (
        sum(leaf.size for leaf in jax.tree.leaves(shapes[kind]))
        for kind in ("params", "batch_stats")
    )
    assert (trainable, statistics) == (17_184_981, 2_304)
