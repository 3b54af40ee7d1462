import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cbam_flax.config import default_config
from cbam_flax.optimizer import kernels, make_optimizer, make_schedule

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
