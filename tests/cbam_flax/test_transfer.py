import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from cbam_flax import checkpoint, lineage, loop, transfer
from cbam_flax.config import default_config, duration
from cbam_flax.evaluate import pictures
from cbam_flax.evaluate.run import evaluate_workdir
from cbam_flax.input_pipeline import load_split
from cbam_flax.models import create_model
from cbam_flax.models.keras_import import save_imported
from cbam_flax.step import TrainState
from data_prep.cli import UserError


def make_config(prepared, **changes):
    """Two steps of the smallest model, which take seconds."""
    config = default_config()
    config.data_dir, config.dataset, config.image_size = str(prepared), "pneumonia_mnist", 28
    config.batch_size = 16
    config.duration = config.evaluate.every = duration(steps=2)
    config.optimizer.warmup = duration(steps=0)
    config.model.update(width=0.0625, hidden=8, pooling="max", context="none", attention="none")
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def parent(prepared, draw_variables, tmp_path_factory):
    """A run as training leaves it, with drawn parameters."""
    workdir, config = tmp_path_factory.mktemp("parent"), make_config(prepared)
    splits = [load_split(str(prepared), "pneumonia_mnist", 28, name) for name in lineage.PARTS]
    variables = jax.tree.map(jnp.asarray, draw_variables(create_model(config.model), 28))
    params, batch_stats = variables["params"], variables["batch_stats"]
    with checkpoint.make_manager(str(workdir), config) as manager:
        checkpoint.save(
            manager,
            TrainState(jnp.int32(5), params, batch_stats, {}, params),
            step=5,
            config=config,
            fingerprint={split.name: split.fingerprint for split in splits},
            metrics={"auroc": 0.5},
        )
    lineage.write(str(workdir), lineage.trained_on(splits), [])
    return workdir


@pytest.fixture(scope="module")
def child(prepared, parent, tmp_path_factory):
    """A run that started from it with a larger head, the first block frozen."""
    workdir = tmp_path_factory.mktemp("child") / "run"
    changes = {"model.hidden": 12, "init.from_run": str(parent), "init.freeze": ("block1/*",)}
    assert loop.train(make_config(prepared, **changes), str(workdir)) == 0
    return workdir


def parameters(workdir):
    restored = checkpoint.load_for_inference(str(workdir))
    return flatten_dict(restored.variables["params"], sep="/")


def test_what_fits_starts_from_the_parent_and_what_is_frozen_stays(parent, child):
    before, after = parameters(parent), parameters(child)
    assert after["hidden/kernel"].shape == (16, 12)
    for path in before.keys() - {"hidden/kernel", "hidden/bias", "logit/kernel"}:
        moved = np.abs(np.asarray(after[path]) - np.asarray(before[path])).max()
        # Adam's first steps are as long as the learning rate, 0.001.
        assert moved < 1e-6 if path.startswith("block1") else 0 < moved < 0.01, path


def test_evaluation_tells_of_the_leak_through_the_parent(child, monkeypatch):
    monkeypatch.setattr(pictures, "draw", lambda *args, **kwargs: pictures.Pictures())
    monkeypatch.setattr(pictures, "write_to_tensorboard", lambda *args: None)
    metrics = evaluate_workdir(str(child), "train", resamples=20, explained=0)
    assert any(
        text.startswith("LEAK: 70 of 70 images have the names of images on which the model")
        for text in metrics["warnings"]
    )
    [ancestor] = metrics["ancestors"]
    assert ancestor["shared"]["train"]["images"] == 70
    [provenance] = metrics["provenance"]["ancestors"]
    assert provenance["step"] == 5
    assert metrics["provenance"]["config"]["init"]["from_run"] == provenance["weights_sha256"]
    page = (child / "evaluation" / "train" / "report.html").read_text()
    assert "<h2>Started from</h2>" in page


def test_a_run_that_has_begun_needs_its_parent_no_more(child):
    assert transfer.read_parent("a parent that is gone", str(child)) is None
    with checkpoint.make_manager(str(child)) as manager:
        assert [each["step"] for each in checkpoint.ancestors_of(manager, 2)] == [5]


def test_a_grandchild_knows_all_before_it(parent, child, tmp_path):
    found = transfer.read_parent(str(child), str(tmp_path))
    weights = [checkpoint.load_for_inference(str(w)).weights_sha256 for w in (child, parent)]
    assert [each["weights_sha256"] for each in found.ancestors] == weights
    assert [each["splits"].keys() for each in found.trained_on] == 2 * [{"train", "validation"}]


def test_one_checkpoint_can_be_named(parent, tmp_path):
    found = transfer.read_parent(str(parent / "checkpoints" / "5"), str(tmp_path))
    assert found.ancestors[0]["step"] == 5
    with pytest.raises(UserError, match="has no checkpoint of step 7"):
        transfer.read_parent(str(parent / "checkpoints" / "7"), str(tmp_path))


def test_of_a_parent_of_an_older_version_the_patients_are_unknown(parent, tmp_path):
    shutil.copytree(parent, tmp_path / "old")
    (tmp_path / "old" / "trained_on.json").unlink()
    found = transfer.read_parent(str(tmp_path / "old"), str(tmp_path / "new"))
    assert found.trained_on == [None]
    assert found.ancestors[0]["trained_on_sha256"] is None
    assert found.ancestors[0]["dataset"] == "pneumonia_mnist"


def test_what_is_no_parent_is_refused_before_the_folder_is_touched(prepared, parent, tmp_path):
    (tmp_path / "broken.npz").write_bytes(b"PK")
    wrong = {
        "is no run: it has no folder checkpoints": tmp_path,
        "is no model that": tmp_path / "broken.npz",
        "is not a file": tmp_path / "nothing.npz",
    }
    for sentence, where in wrong.items():
        with pytest.raises(UserError, match=sentence):
            loop.train(
                make_config(prepared, **{"init.from_run": str(where)}), str(tmp_path / "child")
            )
    assert not (tmp_path / "child").exists()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "own")
    with pytest.raises(UserError, match="is the run that is to be trained"):
        transfer.read_parent(str(link), str(tmp_path / "own"))


def test_an_imported_notebook_is_a_parent_of_unknown_patients(draw_variables, tmp_path):
    config = {"preset": "notebook", "stages": (4, 4, 4, 4), "reduction": 2, "hidden": 5}
    variables = draw_variables(create_model(config), 28)
    save_imported(tmp_path / "notebook.npz", variables)
    found = transfer.read_parent(str(tmp_path / "notebook.npz"), str(tmp_path / "run"))
    assert found.trained_on == [None]
    kernel = variables["params"]["block1"]["conv1"]["kernel"]
    np.testing.assert_array_equal(found.arrays["params"]["block1/conv1/kernel"], kernel)
    assert json.dumps(found.ancestors)


STATE = types.SimpleNamespace(
    params={"conv": {"kernel": np.zeros((3, 3))}, "head": {"kernel": np.zeros((9, 2))}},
    batch_stats={"norm": {"mean": np.zeros(3)}},
    ema_params=None,
)


def make_parent(**params):
    arrays = {"params": params, "batch_stats": {"norm/mean": np.ones(3)}}
    return transfer.Parent("PARENT", arrays, [], [])


def test_name_and_shape_decide_and_the_rest_is_listed():
    params = {"conv/kernel": np.ones((3, 3)), "head/kernel": np.ones((4, 2)), "pool": np.ones(1)}
    arrays = transfer.fitting(found := make_parent(**params), STATE, "kept")
    assert list(arrays["params"]) == ["conv/kernel"]
    assert list(arrays["batch_stats"]) == ["norm/mean"]
    assert list(transfer.differences(found, arrays, STATE)) == [
        "1 of 2 parameter arrays start from PARENT, BatchNorm statistics kept",
        "  starts fresh: head/kernel (9, 2), (4, 2) there",
        "  not used: pool (1,), not in this model",
    ]
    assert "batch_stats" not in transfer.fitting(found, STATE, "fresh")


def test_a_parent_of_which_nothing_fits_is_refused():
    with pytest.raises(UserError, match="PARENT has the name and the shape of one of"):
        transfer.fitting(make_parent(other=np.ones(2)), STATE, "kept")


def test_averaged_parameters_start_from_the_parent_too():
    # With buffers of their own: the training step donates the state.
    params = jax.tree.map(jnp.asarray, STATE.params)
    state = TrainState(jnp.int32(0), params, STATE.batch_stats, {}, params)
    kernel = np.full((3, 3), 7, np.float32)
    after = jax.jit(transfer.replace)(state, {"params": {"conv/kernel": kernel}})
    for each in (after.params, after.ema_params):
        np.testing.assert_array_equal(each["conv"]["kernel"], kernel)
        np.testing.assert_array_equal(each["head"]["kernel"], np.zeros((9, 2)))
    assert len({leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(after)}) == 6
    assert transfer.replace(state.replace(ema_params=None), {}).ema_params is None
