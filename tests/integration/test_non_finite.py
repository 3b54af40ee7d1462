"""A step that is not finite stops the training before anything of it is saved, at every start.

The loop, the data and the checkpoints are real; the step is a toy, which compiles at once.
"""

import os
import signal

import jax
import jax.numpy as jnp
import pytest
from orbax.checkpoint import CheckpointManager

from cbam_flax import input_pipeline, loop, monitor, sharding
from cbam_flax import step as step_lib
from cbam_flax.config import default_config, duration
from data_prep.cli import UserError

BAD = 2


def init_state(model=None, optimizer=None, config=None):
    zero = jnp.zeros(())
    return step_lib.TrainState(jnp.int32(0), {"w": zero}, {"mean": zero}, {"mu": zero}, None)


def toy_step(model, optimizer, config, mesh):
    """`step_lib.sharded_train_step` with a loss of nan at step `BAD`."""

    def step(state, batch):
        bad = state.step + 1 == BAD
        loss = jnp.where(bad, jnp.nan, batch["label"].mean())
        figures = {"loss": loss, "accuracy": loss, "gradient_norm": loss, "skipped": bad}
        return state.replace(step=state.step + 1), figures

    everywhere = sharding.replicated(mesh)
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
        jax.eval_shape(init_state),
    )
    return jax.jit(step, out_shardings=everywhere), state


@pytest.fixture
def config(prepared, monkeypatch):
    monkeypatch.setattr(step_lib, "init_state", init_state)
    monkeypatch.setattr(step_lib, "sharded_train_step", toy_step)
    monkeypatch.setattr(monitor, "stages_of", lambda config: [])
    monkeypatch.setattr(monitor, "model_lines", lambda stages: [])
    monkeypatch.setattr(loop, "_write_augmented", lambda *args: None)
    monkeypatch.setattr(loop, "validate", lambda *args: {"auroc": 0.5})
    config = default_config()
    config.data_dir, config.dataset, config.image_size = str(prepared), "pneumonia_mnist", 28
    config.batch_size = 8
    config.duration = duration(steps=4)
    config.optimizer.warmup = duration(steps=1)
    config.checkpoint.every = config.evaluate.every = duration(steps=100)
    return config


def at_a_checkpoint(config, monkeypatch):
    config.checkpoint.every = duration(steps=1)


def at_an_evaluation(config, monkeypatch):
    config.evaluate.every = duration(steps=BAD)


def at_sigterm(config, monkeypatch):
    batches = input_pipeline.train_batches

    def with_signal(*args, start, stop):
        for step, batch in enumerate(batches(*args, start=start, stop=stop), start + 1):
            if step == BAD:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    monkeypatch.setattr(input_pipeline, "train_batches", with_signal)


def at_preemption(config, monkeypatch):
    monkeypatch.setattr(CheckpointManager, "reached_preemption", lambda self, step: step == BAD)


@pytest.mark.parametrize("due", [at_a_checkpoint, at_an_evaluation, at_sigterm, at_preemption])
def test_it_is_never_in_a_checkpoint(config, monkeypatch, tmp_path, due):
    due(config, monkeypatch)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    for _ in range(2):
        with pytest.raises(UserError, match=f"of step {BAD} is not finite"):
            loop.train(config, str(tmp_path))
        assert signal.getsignal(signal.SIGTERM) == on_sigterm
    saved = {name for name in os.listdir(tmp_path / "checkpoints") if name.isdigit()}
    assert saved == ({"1"} if due is at_a_checkpoint else set())
