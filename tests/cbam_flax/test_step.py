import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cbam_flax import optimizer as optimizer_lib
from cbam_flax import sharding
from cbam_flax import step as step_lib
from cbam_flax.input_pipeline import abstract_batch, put_batch
from cbam_flax.models.ops import REFERENCE, table


def batches(count, size, batch_size=16):
    rng = np.random.default_rng(0)
    for _ in range(count):
        images = rng.integers(0, 256, (batch_size, size, size), np.uint8)
        yield images, rng.integers(0, 2, batch_size).astype(np.int32)


def train(config, mesh_shape=(1, 1, 1), steps=3, images_of=lambda images: images):
    """Losses and the final state of a few steps on random images."""
    shape = dict(zip(sharding.AXES, mesh_shape, strict=True))
    mesh = sharding.make_mesh(shape, jax.devices()[: int(np.prod(mesh_shape))])
    model = step_lib.model_for(config, mesh)
    schedule = optimizer_lib.make_schedule(config.optimizer, total_steps=10, warmup_steps=2)
    optimizer = optimizer_lib.make_optimizer(config.optimizer, schedule)
    init = functools.partial(step_lib.init_state, model, optimizer, config)
    places = sharding.state_sharding(jax.eval_shape(init), mesh, min_size=256)
    state = jax.jit(init, out_shardings=places)()
    step = jax.jit(
        functools.partial(
            step_lib.train_step, model=model, optimizer=optimizer, config=config, mesh=mesh
        ),
        in_shardings=(places, sharding.batch_sharding(mesh)),
        out_shardings=(places, sharding.replicated(mesh)),
        donate_argnums=0,
    )
    figures = []
    for images, labels in batches(steps, config.image_size):
        batch = put_batch(images_of(images), labels, np.arange(len(labels)), mesh)
        with jax.transfer_guard("disallow"):
            state, metrics = step(state, batch)
        figures.append(jax.device_get(metrics))
    return figures, state


@pytest.fixture(scope="module")
def one_device():
    return {}


@pytest.mark.parametrize("mesh_shape", [(8, 1, 1), (2, 2, 2)])
def test_losses_do_not_depend_on_the_mesh(tiny_config, mesh_shape, one_device):
    tiny_config.image_size = sharding.MIN_SPLIT_SIZE
    tiny_config.model.dropout = 0.3
    tiny_config.optimizer.accumulate = 2
    if not one_device:
        one_device["run"] = train(tiny_config)
    figures, state = train(tiny_config, mesh_shape)
    for expected, got in zip(one_device["run"][0], figures, strict=True):
        assert got["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    expected_stats = jax.device_get(one_device["run"][1].batch_stats)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
        jax.device_get(state.batch_stats),
        expected_stats,
    )


def test_a_split_height_halves_what_the_step_needs(tiny_config):
    def temporary(spatial):
        mesh = sharding.make_mesh(
            {"data": 1, "fsdp": 1, "spatial": spatial}, jax.devices()[:spatial]
        )
        config = tiny_config
        config.image_size, config.batch_size = 128, 2
        optimizer = optimizer_lib.make_optimizer(config.optimizer, lambda step: 1e-3)
        step, state = step_lib.sharded_train_step(
            step_lib.model_for(config, mesh), optimizer, config, mesh
        )
        batch = abstract_batch(config.batch_size, config.image_size, mesh)
        return step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes

    assert temporary(4) < temporary(1) / 2


def test_devices_that_share_an_image_run_ops_that_can_be_split(tiny_config):
    chosen = [
        step_lib.model_for(
            tiny_config, sharding.make_mesh(dict(zip(sharding.AXES, shape, strict=True)))
        ).stage_ops
        for shape in ((8, 1, 1), (4, 1, 2))
    ]
    assert chosen == [(table.CPU,) * 4, (REFERENCE,) * 4]


def test_accumulation_gives_the_gradient_of_the_large_batch(tiny_config):
    """With the same images in every piece BatchNorm sees the same statistics in each."""
    for name, value in tiny_config.augment.items():
        tiny_config.augment[name] = type(value)(0)
    twice = lambda images: np.repeat(images[: len(images) // 2], 2, axis=0)  # noqa: E731
    whole, _ = train(tiny_config, steps=1, images_of=twice)
    tiny_config.optimizer.accumulate = 2
    pieces, _ = train(tiny_config, steps=1, images_of=twice)
    assert pieces[0]["loss"] == pytest.approx(whole[0]["loss"], abs=1e-5)
    assert pieces[0]["gradient_norm"] == pytest.approx(whole[0]["gradient_norm"], rel=1e-3)


def test_a_step_that_is_not_finite_leaves_the_state_as_it_was(tiny_config):
    tiny_config.optimizer.warmup.steps = 0
    tiny_config.loss.positive_weight = float("inf")
    figures, state = train(tiny_config, steps=1)
    assert figures[0]["skipped"]
    assert int(state.step) == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.params)))


def test_ema_follows_closely_at_first_and_is_what_inference_uses(tiny_config):
    old, new = {"w": jnp.zeros(1)}, {"w": jnp.ones(1)}
    state = step_lib.TrainState(jnp.int32(0), old, {}, None, old)
    assert float(step_lib.update_ema(state, new, 0.999)["w"][0]) == pytest.approx(0.9)
    late = state.replace(step=jnp.int32(10**6))
    assert float(step_lib.update_ema(late, new, 0.999)["w"][0]) == pytest.approx(0.001, rel=1e-3)
    assert state.inference_variables["params"] is state.ema_params
    assert state.replace(ema_params=None).inference_variables["params"] is old


def test_loss_with_smoothing_and_positive_weight(tiny_config):
    logits, labels = jnp.array([2.0, -1.0]), jnp.array([1.0, 0.0])
    plain = step_lib.example_loss(logits, labels, tiny_config.loss)
    np.testing.assert_allclose(plain, np.log1p(np.exp([-2.0, -1.0])), rtol=1e-6)
    tiny_config.loss.positive_weight = 3.0
    weighted = step_lib.example_loss(logits, labels, tiny_config.loss)
    np.testing.assert_allclose(weighted, plain * jnp.array([3.0, 1.0]), rtol=1e-6)
    tiny_config.loss.update(positive_weight=1.0, label_smoothing=0.2)
    smooth = step_lib.example_loss(logits, labels, tiny_config.loss)
    flipped = np.log1p(np.exp([2.0, 1.0]))  # the loss of the opposite label
    np.testing.assert_allclose(smooth, 0.9 * plain + 0.1 * flipped, rtol=1e-6)


def test_images_are_scaled_to_the_unit_interval():
    scaled = step_lib.scale_images(jnp.array([[[0, 51, 255]]], jnp.uint8))
    assert scaled.shape == (1, 1, 3, 1)
    np.testing.assert_allclose(scaled[0, 0, :, 0], [0, 0.2, 1])


def gradients(config, labels):
    """Of one step on a fixed batch with these labels: the metrics and the change of the weights."""
    config.model.findings = labels.shape[1]
    mesh = sharding.make_mesh({"data": 1, "fsdp": 1, "spatial": 1}, jax.devices()[:1])
    model = step_lib.model_for(config, mesh)
    optimizer = optimizer_lib.make_optimizer(config.optimizer, lambda step: 0.1)
    state = step_lib.init_state(model, optimizer, config)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 32, 32), np.uint8)
    batch = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}
    step = functools.partial(
        step_lib.train_step, model=model, optimizer=optimizer, config=config, mesh=mesh
    )
    new, metrics = jax.jit(step)(state, batch)
    return jax.device_get(metrics), jax.tree.map(jnp.subtract, new.params, state.params)


def test_a_finding_that_is_not_labelled_teaches_nothing(tiny_config):
    tiny_config.optimizer.weight_decay = 0.0
    labels = np.random.default_rng(1).integers(0, 2, (16, 3)).astype(np.int32)
    labels[:, 2] = -1
    metrics, change = gradients(tiny_config, labels)
    assert np.abs(change["logit"]["kernel"][:, :2]).max() > 0
    np.testing.assert_array_equal(change["logit"]["kernel"][:, 2], 0)
    assert metrics["accuracy"] * 32 == pytest.approx(round(float(metrics["accuracy"]) * 32))

    metrics, change = gradients(tiny_config, np.full((16, 3), -1, np.int32))
    assert (metrics["loss"], metrics["accuracy"], metrics["skipped"]) == (0, 0, False)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(change))


def test_each_label_counts_the_same_in_whatever_microbatch():
    rng = np.random.default_rng(0)
    values, labels = rng.normal(size=(8, 3)), rng.integers(-1, 2, (8, 3))
    labels[:4] = -1
    labels[0, 0] = 1  # the first microbatch has one label
    share = step_lib.labelled_share(labels)
    whole = step_lib.labelled_mean(values, labels, share)
    assert whole == pytest.approx(values[labels >= 0].mean())
    halves = [
        step_lib.labelled_mean(values[part], labels[part], share)
        for part in (slice(4), slice(4, 8))
    ]
    assert np.mean(halves) == pytest.approx(whole)
