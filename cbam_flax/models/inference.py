"""Inference, a few images at a time where that is faster."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import flax.linen as nn
import jax

from cbam_flax.models import ops
from cbam_flax.models.cbam_resnet import CBAMResNet


class Part(CBAMResNet):
    """Some layers of a model alone, with their parameters under their names."""

    only: Sequence[str] = ()

    @nn.compact
    def __call__(self, x: ops.Map, train: bool = False) -> ops.Map:
        """What the first of the layers reads to what the last one returns."""
        layers = self.layers(train)
        for name in self.only:
            x = layers[name](x)
        return x


def part(model: CBAMResNet, only: Sequence[str]) -> Part:
    """The layers of these names, in the order they run."""
    fields = CBAMResNet.__dataclass_fields__.keys() - {"parent", "name"}
    return Part(**{name: getattr(model, name) for name in fields}, only=tuple(only))


def layer_names(model: CBAMResNet) -> list[str]:
    """The names of the model's layers, in the order they run."""
    return list(model.layers(train=False))


def infer(model: CBAMResNet, variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
    """`model.apply(variables, images)` in the way that is fastest on the model's platform.

    On a CPU, while maps are large, only as many images run at once as leave their maps in the
    cache. From the last block on the weights are larger than the maps, so all images share them.

    Args:
        images: as `CBAMResNet` takes them.

    Returns:
        Logits `(B,)` float32.

    Raises:
        ValueError: as `CBAMResNet`.
    """
    model.check(images)
    fewest = max(round(min(model.stages) * model.width), 1)
    count = model.stage_ops[0].chunk(images.shape, fewest)
    if count == images.shape[0]:
        return cast(jax.Array, model.apply(variables, images))
    names = layer_names(model)
    last = names.index("block4")
    early, late = part(model, names[:last]), part(model, names[last:])
    chunks = images.astype(model.dtype).reshape(-1, count, *images.shape[1:])
    maps = jax.lax.map(lambda chunk: ops.array(early.apply(variables, chunk)), chunks)
    logits = late.apply(variables, maps.reshape(-1, *maps.shape[2:]))
    return cast(jax.Array, logits)
