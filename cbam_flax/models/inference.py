"""Inference in chunks of images where that is faster."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import flax.linen as nn
import jax

from cbam_flax.models import ops
from cbam_flax.models.cbam_resnet import CBAMResNet


class Part(CBAMResNet):
    """Some of a model's layers; the parameters keep their names."""

    only: Sequence[str] = ()

    @nn.compact
    def __call__(self, x: ops.Map, train: bool = False) -> ops.Map:
        """From the input of the first of the layers to the output of the last."""
        layers = self.layers(train)
        for name in self.only:
            x = layers[name](x)
        return x


def part(model: CBAMResNet, only: Sequence[str]) -> Part:
    """The model reduced to the layers with these names."""
    fields = CBAMResNet.__dataclass_fields__.keys() - {"parent", "name"}
    return Part(**{name: getattr(model, name) for name in fields}, only=tuple(only))


def layer_names(model: CBAMResNet) -> list[str]:
    """The names of the model's layers, in the order they run."""
    return list(model.layers(train=False))


def in_chunks(model: CBAMResNet, run: Callable[[jax.Array], Any], images: jax.Array) -> Any:
    """`run(images)`, on as many images at a time as is fastest on the model's platform.

    On a CPU the early stages, whose maps are large, are faster on chunks of images whose maps fit
    the cache.

    Args:
        run: layers of the model, from images `(n, H, W, channels)` to a tree of arrays, each with
            the images along its first axis.
    """
    min_channels = max(round(min(model.stages) * model.width), 1)
    chunk_size = model.stage_ops[0].chunk(images.shape, min_channels)
    if chunk_size == images.shape[0]:
        return run(images)
    found = jax.lax.map(run, images.reshape(-1, chunk_size, *images.shape[1:]))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)


def infer(model: CBAMResNet, variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
    """`model.apply(variables, images)` in the way that is fastest on the model's platform.

    From the last block on the weights are larger than the maps, so there the full batch runs.

    Args:
        images: as `CBAMResNet` takes them.

    Returns:
        Logits float32, as `CBAMResNet` gives them.

    Raises:
        ValueError: as `CBAMResNet`.
    """
    model.check(images)
    names = layer_names(model)
    first_small_stage = names.index("block4")
    early, late = (part(model, n) for n in (names[:first_small_stage], names[first_small_stage:]))
    images = images.astype(model.dtype)
    maps = in_chunks(model, lambda chunk: ops.array(early.apply(variables, chunk)), images)
    return cast(jax.Array, late.apply(variables, maps))
