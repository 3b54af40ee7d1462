import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cbam_flax.config import default_config
from cbam_flax.optimizer import kernels, make_optimizer, make_schedule
from data_prep.cli import UserError

PARAMS = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "bn": {"scale": jnp.ones(2)}}


def test_schedule_warms_up_then_falls_to_zero():
    config = default_config().optimizer
    schedule = make_schedule(config, total_steps=100, warmup_steps=10)
    rates = [float(schedule(step)) for step in (0, 5, 10, 55, 100)]
    np.testing.assert_allclose(rates, [0, 5e-4, 1e-3, 5e-4, 0], atol=1e-9)


def test_constant_schedule_without_warmup():
    config = default_config().optimizer
    config.schedule = "constant"
    schedule = make_schedule(config, total_steps=100, warmup_steps=0)
    assert [float(schedule(step)) for step in (0, 99)] == pytest.approx([1e-3, 1e-3])


def test_only_kernels_are_decayed():
    assert kernels(PARAMS) == {"dense": {"kernel": True, "bias": False}, "bn": {"scale": False}}


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weight_decay_moves_kernels_alone_when_gradients_are_zero(name):
    config = default_config().optimizer
    config.name = name
    optimizer = make_optimizer(config, lambda step: 0.1)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["dense"]["kernel"], -0.1 * config.weight_decay, rtol=1e-6)
    assert not updates["dense"]["bias"].any()
    assert not updates["bn"]["scale"].any()


def test_gradients_are_clipped_by_their_global_norm():
    config = default_config().optimizer
    config.update(name="sgd", momentum=0.0, weight_decay=0.0, gradient_clip=1.0)
    optimizer = make_optimizer(config, lambda step: 1.0)
    large = jax.tree.map(lambda p: 100 * p, PARAMS)
    updates, _ = optimizer.update(large, optimizer.init(PARAMS), PARAMS)
    squares = sum(float((u**2).sum()) for u in jax.tree.leaves(updates))
    assert squares == pytest.approx(1.0)


def make_init(freeze=(), scale=()):
    init = default_config().init
    init.freeze, init.learning_rate_scale = freeze, scale
    return init


def one_update(init, **changes):
    """The updates of a step with gradients of 1, and the state after it."""
    config = default_config().optimizer
    config.update(changes)
    optimizer = make_optimizer(config, lambda step: 0.1, init)
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    return optimizer.update(ones, optimizer.init(PARAMS), PARAMS)


def test_without_parts_the_state_is_that_of_older_runs():
    config = default_config().optimizer
    states = [
        make_optimizer(config, lambda step: 0.1, init).init(PARAMS) for init in (None, make_init())
    ]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_what_is_frozen_has_no_update_no_decay_and_no_moments(name):
    updates, state = one_update(make_init(freeze=("dense/*",)), name=name)
    assert not updates["dense"]["kernel"].any()
    assert not updates["dense"]["bias"].any()
    assert updates["bn"]["scale"].all()
    assert not [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (2, 2)]


def test_frozen_gradients_are_no_part_of_the_clipped_norm():
    changes = {"name": "sgd", "momentum": 0.0, "weight_decay": 0.0, "gradient_clip": 1.0}
    updates, _ = one_update(make_init(freeze=("dense/*",)), **changes)
    np.testing.assert_allclose(updates["bn"]["scale"], -0.1 / np.sqrt(2), rtol=1e-6)


def test_updates_and_decay_are_scaled_by_the_first_pattern_that_matches():
    plain, _ = one_update(None)
    scaled, _ = one_update(make_init(scale=("dense/kernel=0.5", "dense/*=10")))
    np.testing.assert_allclose(scaled["dense"]["kernel"], 0.5 * plain["dense"]["kernel"])
    np.testing.assert_allclose(scaled["dense"]["bias"], 10 * plain["dense"]["bias"])
    np.testing.assert_allclose(scaled["bn"]["scale"], plain["bn"]["scale"])


def test_parts_can_be_frozen_and_others_scaled():
    updates, _ = one_update(make_init(freeze=("bn/*",), scale=("*/kernel=0.5",)))
    plain, _ = one_update(make_init(freeze=("bn/*",)))
    assert not updates["bn"]["scale"].any()
    np.testing.assert_allclose(updates["dense"]["kernel"], 0.5 * plain["dense"]["kernel"])


@pytest.mark.parametrize(
    ("init", "sentence"),
    [
        (
            {"freeze": ("block1/*",)},
            r"freeze has the pattern 'block1/\*', which .* bn/\*, dense/\*",
        ),
        ({"freeze": ("*",)}, "freezes every parameter"),
        ({"scale": ("block1/*=2",)}, r"learning_rate_scale has the pattern 'block1/\*'"),
        ({"freeze": ("bn/*",), "scale": ("bn/*=2",)}, "matches no parameter that is trained"),
        ({"scale": ("dense/*",)}, r"'dense/\*', which is not PATTERN=FACTOR"),
        ({"scale": ("dense/*=0",)}, "which is not PATTERN=FACTOR"),
        ({"scale": ("dense/*=nan",)}, "which is not PATTERN=FACTOR"),
    ],
    ids=str,
)
def test_parts_that_do_not_fit_are_refused(init, sentence):
    with pytest.raises(UserError, match=sentence):
        one_update(make_init(**init))
