"""Imports data/Model.h5.gz, which Keras 2 wrote (make_model_h5.py), and what is not one."""

import gzip
import subprocess
import sys
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest

from cbam_flax.models.keras_import import (
    load_imported,
    main,
    read_keras_h5,
    save_imported,
    variables_from_keras,
)
from data_prep.cli import UserError

IMAGES = np.random.default_rng(1).random((4, 32, 32, 1), np.float32)
# What Keras 2 predicted for IMAGES when it wrote the file.
PROBABILITIES = [0.45046091079711914, 0.35194483399391174, 0.4096921980381012, 0.381050169467926]


@pytest.fixture(scope="module")
def model_h5(tmp_path_factory):
    path = tmp_path_factory.mktemp("keras") / "Model.h5"
    path.write_bytes(gzip.decompress((Path(__file__).parent / "data/Model.h5.gz").read_bytes()))
    return path


def test_command_makes_a_model_that_predicts_what_keras_predicted(model_h5, tmp_path, jit):
    out = tmp_path / "notebook.npz"
    command = [sys.executable, "-m", "cbam_flax.models.keras_import", model_h5, f"--out={out}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"stages": [16, 16, 16, 16]' in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["notebook.npz"]
    model, variables = load_imported(out)
    assert model.preset == "notebook"
    assert (model.hidden, model.reduction) == (8, 16)
    probabilities = jax.nn.sigmoid(jit(model.apply)(variables, IMAGES))
    np.testing.assert_allclose(probabilities, PROBABILITIES, atol=1e-6)


def test_layers_are_numbered_anew(model_h5):
    weights = read_keras_h5(model_h5)
    with h5py.File(model_h5) as file:
        first = file["model_weights/conv2d_24/conv2d_24/kernel:0"][()]
    np.testing.assert_array_equal(weights["conv2d_0/kernel"], first)
    assert len(weights) == 24 * 2 + 8 * 4 + 26 * 2


def test_weights_without_the_model_are_the_same(model_h5, tmp_path):
    """`save_weights` puts at the root of the file what `save` puts into model_weights."""
    path = tmp_path / "weights.h5"
    with h5py.File(model_h5) as whole, h5py.File(path, "w") as file:
        for name in whole["model_weights"]:
            whole.copy(f"model_weights/{name}", file)
        file.attrs.update(whole["model_weights"].attrs)
    expected, weights = read_keras_h5(model_h5), read_keras_h5(path)
    assert weights.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(weights[name], array)


def test_names_as_older_and_newer_keras_write_them(model_h5, tmp_path):
    """Bytes in the attributes (h5py 2), no `:0` (Keras 3)."""
    path = tmp_path / "renamed.h5"
    with h5py.File(model_h5) as whole, h5py.File(path, "w") as file:
        root = whole["model_weights"]
        file.attrs["layer_names"] = [name.encode() for name in root.attrs["layer_names"]]
        for layer in root:
            names = [name.removesuffix(":0") for name in root[layer].attrs["weight_names"]]
            file.create_group(layer).attrs["weight_names"] = np.array(names, "S")
            for name in names:
                file[layer][name] = root[layer][f"{name}:0"][()]
    assert read_keras_h5(path).keys() == read_keras_h5(model_h5).keys()


def test_unknown_variables_are_refused():
    with pytest.raises(ValueError, match="conv2d_24/kernel is not a variable"):
        variables_from_keras({"conv2d_24/kernel": np.zeros(1)})
    with pytest.raises(ValueError, match="bn_0/kernel is not a variable"):
        variables_from_keras({"bn_0/kernel": np.zeros(1)})


def test_weights_that_do_not_fit_together_are_refused(model_h5, tmp_path):
    weights = read_keras_h5(model_h5)
    missing = {name: array for name, array in weights.items() if name != "dense_3/bias"}
    with pytest.raises(ValueError, match="lacks params/block1/cbam/channel/max_mlp/dense1/bias"):
        save_imported(tmp_path / "out.npz", variables_from_keras(missing))
    weights["conv2d_5/kernel"] = weights["conv2d_5/kernel"][..., :8]
    with pytest.raises(ValueError, match=r"block2/conv2/kernel has shape \(3, 3, 16, 8\)"):
        save_imported(tmp_path / "out.npz", variables_from_keras(weights))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is not a file"),
        (b"no HDF5", "is not an HDF5 file"),
        ({"layers": None}, "holds no Keras layers"),
        ({"layer_names": ["lstm"], "lstm": ["lstm/kernel:0"]}, "has lstm/kernel:0"),
        ({"layer_names": []}, "lacks params/block1/conv1/kernel"),
    ],
    ids=str,
)
def test_command_refuses_in_words(content, words, tmp_path, monkeypatch):
    path = tmp_path / "Model.h5"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        with h5py.File(path, "w") as file:
            for name, value in content.items():
                if name == "layer_names":
                    file.attrs[name] = value
                else:
                    file.create_group(name).attrs["weight_names"] = value or []
    monkeypatch.setattr("sys.argv", ["keras_import", str(path), f"--out={tmp_path / 'out.npz'}"])
    with pytest.raises(UserError, match=words):
        main()
    assert not (tmp_path / "out.npz").exists()
