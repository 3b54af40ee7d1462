"""The training state and the two pure functions on it: one training step, one forward pass.

Callers jit both over a mesh. Under jit a sharded batch is still ONE array, so means, BatchNorm
statistics and gradients are global, and no code here mentions devices.
"""

from functools import partial
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cbam_flax import sharding
from cbam_flax.augment import augment
from cbam_flax.models import CBAMResNet, block_kernel_l2, create_model, infer
from cbam_flax.models.ops.tpu import compiler_options

EMA_WARMUP = 10  # steps; early on the average follows closely, to forget the initial values


class TrainState(flax.struct.PyTreeNode):
    """Everything a resume needs. The data's order and all randomness follow from `step`."""

    step: jax.Array  # int32, optimizer steps done
    params: Any
    batch_stats: Any
    opt_state: Any
    ema_params: Any  # None where config.optimizer.ema is 0

    @property
    def inference_variables(self) -> dict[str, Any]:
        """What evaluation and export use: the averaged parameters where they are kept."""
        params = self.params if self.ema_params is None else self.ema_params
        return {"params": params, "batch_stats": self.batch_stats}


def model_for(config: ConfigDict, mesh: Mesh) -> CBAMResNet:
    """The model of `config.model` with the op implementations for a training step on this mesh.

    Raises:
        ValueError: as `create_model`.
    """
    return create_model(
        config.model,
        mesh.devices.flat[0].platform,
        sharding.images_per_device(mesh, config.batch_size // config.optimizer.accumulate),
        config.image_size,
        split=mesh.shape["spatial"] > 1,
    )


def init_state(
    model: nn.Module, optimizer: optax.GradientTransformation, config: ConfigDict
) -> TrainState:
    """A fresh state, a pure function of `config.seed`."""
    size = config.image_size
    images = jnp.zeros((1, size, size, 1))
    variables = model.init({"params": jax.random.key(config.seed)}, images, train=False)
    params = variables["params"]
    return TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(params),
        # A copy: a donated state must not hold one buffer twice.
        ema_params=jax.tree.map(jnp.copy, params) if config.optimizer.ema else None,
    )


def scale_images(images: jax.Array) -> jax.Array:
    """uint8 (B, S, S) -> float32 (B, S, S, 1) in [0, 1], the model's input."""
    return images[..., None].astype(jnp.float32) / 255


def example_loss(logits: jax.Array, labels: jax.Array, config: ConfigDict) -> jax.Array:
    """Binary cross-entropy of each logit, with smoothing and positive weight.

    Args:
        logits: float32, of any shape.
        labels: float32 in [0, 1], of the same shape.
        config: `config.loss`.
    """
    weights = 1 + (config.positive_weight - 1) * labels
    smooth = labels * (1 - config.label_smoothing) + config.label_smoothing / 2
    return weights * optax.sigmoid_binary_cross_entropy(logits, smooth)


def labelled_mean(values: jax.Array, labels: jax.Array, share: jax.Array | None) -> jax.Array:
    """The mean of `values` over what is labelled.

    Args:
        values: float32 or bool, of the shape of the labels.
        labels: (B,), all of them 0 or 1; or (B, k) with -1 for "not labelled".
        share: what `labelled_share` gives for the batch that these examples are a part of.
    """
    if share is None:
        return jnp.mean(values)
    return jnp.where(labels >= 0, values, 0).mean() / share


def labelled_share(labels: jax.Array) -> jax.Array | None:
    """The share of the labels (B, k) that is known, but of one at least; None for labels (B,).

    It is of the full batch, so that each label counts the same whatever its microbatch.
    """
    if labels.ndim == 1:
        return None
    return jnp.maximum(jnp.sum(labels >= 0), 1) / labels.size


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    mesh: Mesh | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimizer step over a batch, in `config.optimizer.accumulate` microbatches.

    The accumulated gradient is that of the full batch, except for BatchNorm and dropout: each
    microbatch has its own statistics, applied one after the other.

    Args:
        state: donated by the caller.
        batch: `image` uint8 (B, S, S), `label` int32 (B,), or (B, k) of several findings.
        mesh: keeps the augmented images, and so all that follows, split as the batch is.

    Returns:
        The next state and the step's metrics, scalars. If the loss or the gradient is not
        finite, only `step` changes in the state, and `skipped` is True.
    """
    augment_key, dropout_key = jax.random.split(
        jax.random.fold_in(jax.random.key(config.seed), state.step)
    )
    images, labels = augment(
        scale_images(batch["image"]),
        batch["label"].astype(jnp.float32),
        augment_key,
        config.augment,
    )
    if mesh is not None:
        # Rotation needs the entire image: without this, XLA would not split the maps by rows.
        images = jax.lax.with_sharding_constraint(images, sharding.batch_sharding(mesh)["image"])

    share = labelled_share(labels)

    def loss_of(
        params: Any, batch_stats: Any, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        logits, updated = model.apply(
            {"params": _whole_kernels(params, mesh), "batch_stats": batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        loss = labelled_mean(example_loss(logits, labels, config.loss), labels, share)
        if config.loss.l2:
            loss += config.loss.l2 * block_kernel_l2(params)
        return loss, (updated["batch_stats"], logits)

    microbatches = config.optimizer.accumulate

    def accumulate(carry: Any, microbatch: Any) -> Any:
        gradients, batch_stats = carry
        (loss, (batch_stats, logits)), gradient = jax.value_and_grad(loss_of, has_aux=True)(
            state.params, batch_stats, *microbatch
        )
        gradients = jax.tree.map(lambda total, g: total + g / microbatches, gradients, gradient)
        return (gradients, batch_stats), (loss, logits)

    carry = (jax.tree.map(jnp.zeros_like, state.params), state.batch_stats)
    # No loop for one microbatch: XLA:CPU runs convolution gradients in a loop 6 times slower.
    if microbatches == 1:
        (gradients, batch_stats), (loss, logits) = accumulate(carry, (images, labels, dropout_key))
    else:
        # Microbatch i takes every n-th example, so that each device holds its share of each.
        images, labels = (
            x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1) for x in (images, labels)
        )
        (gradients, batch_stats), (losses, logits) = jax.lax.scan(
            accumulate, carry, (images, labels, jax.random.split(dropout_key, microbatches))
        )
        loss = losses.mean()

    gradient_norm = optax.tree.norm(gradients)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    new = state.replace(
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        ema_params=update_ema(state, params, config.optimizer.ema),
    )
    finite = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)
    new = jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, state)
    metrics = {
        "loss": loss,
        "accuracy": labelled_mean((logits > 0) == (labels > 0.5), labels, share),
        "gradient_norm": gradient_norm,
        "skipped": ~finite,
    }
    return new.replace(step=state.step + 1), metrics


def _whole_kernels(params: Any, mesh: Mesh | None) -> Any:
    """The parameters with convolution kernels gathered from their `fsdp` pieces.

    XLA's partitioner miscompiles a convolution whose kernel and input height are both split (jax
    0.10.2, losses off by 10 %), as `test_losses_do_not_depend_on_the_mesh` shows. The large dense
    kernel after the flattening stays split.
    """
    if mesh is None:
        return params
    replicated = sharding.replicated(mesh)
    return jax.tree.map(
        lambda x: jax.lax.with_sharding_constraint(x, replicated) if x.ndim == 4 else x, params
    )


def sharded_train_step(
    model: nn.Module, optimizer: optax.GradientTransformation, config: ConfigDict, mesh: Mesh
) -> tuple[Any, TrainState]:
    """`train_step` jitted over a mesh, donating its state, and that state as shapes.

    Returns:
        The function (state, batch) -> (state, metrics), and the state as ShapeDtypeStructs that
        carry their shardings.
    """
    shapes = jax.eval_shape(partial(init_state, model, optimizer, config))
    shardings = sharding.state_sharding(shapes, mesh)
    step = jax.jit(
        partial(train_step, model=model, optimizer=optimizer, config=config, mesh=mesh),
        in_shardings=(shardings, sharding.batch_sharding(mesh)),
        out_shardings=(shardings, sharding.replicated(mesh)),
        donate_argnums=0,
        compiler_options=compiler_options(mesh.devices.flat[0].device_kind),
    )
    return step, jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def update_ema(state: TrainState, params: Any, decay: float) -> Any:
    """The running average of the parameters; its decay grows from 1/10 to `decay` with the step."""
    if state.ema_params is None:
        return None
    warm = jnp.minimum(decay, (1 + state.step) / (EMA_WARMUP + state.step))
    return optax.incremental_update(params, state.ema_params, 1 - warm)


def eval_step(variables: dict[str, Any], images: jax.Array, *, model: CBAMResNet) -> jax.Array:
    """Logits float32 (B,), or (B, k), of uint8 images (B, S, S), in inference mode."""
    return infer(model, variables, scale_images(images))
