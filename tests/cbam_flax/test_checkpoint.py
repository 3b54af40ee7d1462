import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cbam_flax import checkpoint, sharding
from cbam_flax import optimizer as optimizer_lib
from cbam_flax import step as step_lib
from cbam_flax.models import create_model
from data_prep.cli import UserError

DATA = {"train": "a", "validation": "b"}


def make_state(config, mesh):
    """A fresh state on the mesh, and its shapes with their places."""
    optimizer = optimizer_lib.make_optimizer(config.optimizer, lambda step: 0.1)
    init = functools.partial(step_lib.init_state, create_model(config.model), optimizer, config)
    places = sharding.state_sharding(jax.eval_shape(init), mesh, min_size=256)
    abstract = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        jax.eval_shape(init),
        places,
    )
    return jax.jit(init, out_shardings=places)(), abstract


@pytest.fixture(scope="module")
def saved(make_tiny_config, tmp_path_factory):
    """A run with checkpoints after steps 1 to 5, of which step 2 is the first of the two best."""
    workdir, config = tmp_path_factory.mktemp("run"), make_tiny_config()
    mesh = sharding.make_mesh({"data": 2, "fsdp": 4, "spatial": 1})
    state, _ = make_state(config, mesh)
    checkpoint.claim_workdir(str(workdir), config, DATA)
    aurocs = {1: 0.6, 2: 0.9, 3: 0.9, 4: None, 5: None}
    with checkpoint.make_manager(str(workdir), config) as manager:
        for step, auroc in aurocs.items():
            moved = jax.tree.map(lambda p, by=step: p + by, state.params)
            state = state.replace(step=jnp.int32(step), ema_params=moved)
            metrics = None if auroc is None else {"auroc": auroc}
            checkpoint.save(
                manager, state, step=step, config=config, fingerprint=DATA, metrics=metrics
            )
        manager.wait_until_finished()
    return workdir, state


def test_the_newest_and_the_best_are_kept(saved):
    with checkpoint.make_manager(str(saved[0])) as manager:
        assert sorted(manager.all_steps()) == [2, 4, 5]
        assert (manager.best_step(), manager.latest_step()) == (2, 5)


@pytest.mark.parametrize("shape", [(2, 4, 1), (1, 2, 2), (1, 1, 1)])
def test_a_state_comes_back_bit_equal_on_another_mesh(saved, tiny_config, shape):
    devices = jax.devices()[: int(np.prod(shape))]
    mesh = sharding.make_mesh(dict(zip(sharding.AXES, shape, strict=True)), devices)
    _, abstract = make_state(tiny_config, mesh)
    with checkpoint.make_manager(str(saved[0]), tiny_config) as manager:
        restored = checkpoint.restore(manager, 5, abstract)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), jax.device_get(saved[1]))
    assert restored.params["hidden"]["kernel"].sharding.mesh.shape == mesh.shape


def test_inference_takes_the_best_checkpoint_and_its_averaged_parameters(saved, tiny_config):
    restored = checkpoint.load_for_inference(str(saved[0]))
    assert restored.step == 2
    assert restored.fingerprint == DATA
    assert restored.config.model.width == 0.0625
    kernel = saved[1].params["hidden"]["kernel"]
    np.testing.assert_array_equal(restored.variables["params"]["hidden"]["kernel"], kernel + 2)
    logits = restored.model.apply(restored.variables, jnp.zeros((1, 32, 32, 1)), train=False)
    assert logits.shape == (1,)


def test_what_is_no_run_is_refused(saved, tmp_path):
    with pytest.raises(UserError, match="no run"):
        checkpoint.load_for_inference(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match=r"no checkpoint of step 3; it has \[2, 4, 5\]"):
        checkpoint.load_for_inference(str(saved[0]), 3)


@pytest.fixture
def run_copy(saved, tmp_path):
    """A copy of the run that a test may damage."""
    return shutil.copytree(saved[0], tmp_path / "run")


def largest(folder):
    return max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)


def flip(path):
    """A bit in each 1/64 of the file: some of its bytes belong to no array."""
    content = bytearray(path.read_bytes())
    for place in range(0, len(content), len(content) // 64):
        content[place] ^= 1
    path.write_bytes(content)


def rewrite(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGE = {
    "flipped bits": lambda folder: flip(largest(folder / "state/ocdbt.process_0")),
    "a truncated file": lambda folder: largest(folder / "state/ocdbt.process_0").write_bytes(b"x"),
    "a missing file": lambda folder: (folder / "state/manifest.ocdbt").unlink(),
    "no state": lambda folder: shutil.rmtree(folder / "state"),
    "no record": lambda folder: (folder / "run/metadata").unlink(),
    "half a record": lambda folder: (folder / "run/metadata").write_text('{"config": {'),
    "another record": lambda folder: (folder / "run/metadata").write_text("[]"),
    "another step": lambda folder: rewrite(folder / "run/metadata", step=7),
    "other data": lambda folder: rewrite(folder / "run/metadata", data={"train": "c"}),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_told_in_a_sentence_that_names_the_folder_and_the_mend(run_copy, damage):
    damage(run_copy / "checkpoints" / "5")
    with pytest.raises(UserError) as told:
        checkpoint.load_for_inference(str(run_copy), 5)
    assert "checkpoints/5 is damaged (" in str(told.value)
    assert "move this folder away" in str(told.value)
    assert str(told.value).endswith("run the same command again; the steps [2, 4] are left")
    assert "\n" not in str(told.value)


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(run_copy, tiny_config):
    _, abstract = make_state(tiny_config, sharding.make_mesh({"data": 8, "fsdp": 1, "spatial": 1}))
    flip(largest(run_copy / "checkpoints/5/state/ocdbt.process_0"))
    with (
        checkpoint.make_manager(str(run_copy), tiny_config) as manager,
        pytest.raises(UserError, match=r"checkpoints/5 is damaged"),
    ):
        checkpoint.restore(manager, 5, abstract)
    (run_copy / "checkpoints/5").rename(run_copy / "5")
    with checkpoint.make_manager(str(run_copy), tiny_config) as manager:
        assert checkpoint.restore(manager, manager.latest_step(), abstract).step == 4


def test_other_figures_never_choose_another_best_checkpoint(run_copy):
    rewrite(run_copy / "checkpoints/2/metrics/metrics", auroc=0.1)
    with pytest.raises(UserError, match=r"checkpoints/2 is damaged \(its validation figures"):
        checkpoint.load_for_inference(str(run_copy))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"auroc": "1"}'])
def test_broken_figures_are_named_before_orbax_reads_them(run_copy, tiny_config, text):
    (run_copy / "checkpoints/2/metrics/metrics").write_text(text)
    for config in (None, tiny_config):
        with pytest.raises(UserError, match=r"2/metrics/metrics .*; move .*checkpoints/2 away"):
            checkpoint.make_manager(str(run_copy), config)


def test_a_checkpoint_without_a_hash_is_loaded_and_it_is_told(run_copy, capsys):
    path = run_copy / "checkpoints/5/run/metadata"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({key: record[key] for key in ("config", "data")}))
    assert checkpoint.load_for_inference(str(run_copy), 5).step == 5
    assert "checkpoints/5 is of an older version, which kept no hash" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a.b": 1}', '{"items": 1}', "\udc80"])
@pytest.mark.parametrize("name", ["config.json", "data.json"])
def test_a_broken_file_of_a_run_is_named(tiny_config, tmp_path, name, text):
    checkpoint.claim_workdir(str(tmp_path), tiny_config, DATA)
    (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=rf"{name}|holds a run of another config or other data"):
        checkpoint.claim_workdir(str(tmp_path), tiny_config, DATA)


def test_a_workdir_of_another_config_or_other_data_is_refused(tiny_config, tmp_path):
    workdir = str(tmp_path / "run")
    checkpoint.claim_workdir(workdir, tiny_config, DATA)
    tiny_config.mesh.fsdp = 2  # may change
    checkpoint.claim_workdir(workdir, tiny_config, DATA)
    with pytest.raises(UserError, match=r"data of the train split: a -> c"):
        checkpoint.claim_workdir(workdir, tiny_config, DATA | {"train": "c"})
    tiny_config.seed = 7
    with pytest.raises(UserError, match=r"seed: 0 -> 7"):
        checkpoint.claim_workdir(workdir, tiny_config, DATA)


def test_a_run_never_holds_half_a_config(tiny_config, tmp_path):
    """A second claim puts a whole new file in place of the old, which stays as it was."""
    checkpoint.claim_workdir(str(tmp_path), tiny_config, DATA)
    for name in ("config.json", "data.json"):
        (tmp_path / f"old-{name}").hardlink_to(tmp_path / name)
    checkpoint.claim_workdir(str(tmp_path), tiny_config, DATA)
    for name in ("config.json", "data.json"):
        assert not (tmp_path / f"old-{name}").samefile(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "data.json",
        "old-config.json",
        "old-data.json",
    }
