"""Which implementation of each op a model uses: by platform and shape.

On a TPU this model is bound by passes over its large maps, not by arithmetic (docs/performance.md),
so each implementation saves passes or makes them cheaper. A vector register has 128 lanes. The
first stages have too few channels to fill them and large maps to broadcast along the channels, so
there the lanes hold the images of the batch. Where a device has fewer than 128 images, each is cut
into bands of rows, stacked along the batch axis, which exchange their edge rows in every
convolution.
"""

from collections.abc import Sequence
from functools import cache, partial

from jax.export import is_symbolic_dim

from cbam_flax.models.ops.affine import tpu as tpu_affine
from cbam_flax.models.ops.contract import REFERENCE, Ops
from cbam_flax.models.ops.convolution import cpu as cpu_convolution
from cbam_flax.models.ops.convolution import tpu as tpu_convolution
from cbam_flax.models.ops.cpu import planned_batch
from cbam_flax.models.ops.gate_convolution import cpu as cpu_gate_convolution
from cbam_flax.models.ops.gate_convolution import tpu as tpu_gate_convolution
from cbam_flax.models.ops.pooling import reference as reference_pooling
from cbam_flax.models.ops.pooling import tpu as tpu_pooling
from cbam_flax.models.ops.product import cpu as cpu_product
from cbam_flax.models.ops.statistics import cpu as cpu_statistics
from cbam_flax.models.ops.statistics import tpu as tpu_statistics
from cbam_flax.models.ops.tpu import CHANNELS_LAST, IMAGES_LAST, LANES

# Elements of a float32 map that stays in a CPU's last-level cache.
CACHED = 2**22
MAX_BANDS = 4  # cheap while a band has many more rows than the two at its edges
STAGES = 4


def ops_for(
    platform: str, images_per_device: int = 1, rows: int | None = None, split: bool = False
) -> tuple[Ops, ...]:
    """The ops of each of the model's four stages.

    Args:
        platform: "cpu", "gpu" or "tpu"; any other: the references.
        images_per_device: in a step.
        rows: of pixels of each image, or None where they are not known.
        split: devices share each image, so XLA must be able to split the ops over rows.
    """
    if platform == "cpu" and not split:
        return (CPU,) * STAGES
    if platform == "gpu":
        return (GPU,) * STAGES
    if platform == "tpu":
        return (SHARED_IMAGES,) * STAGES if split else _tpu(images_per_device, rows)
    return (REFERENCE,) * STAGES


def _chunk(shape: Sequence[int], features: int) -> int:
    """As many images as keep their maps in the cache, whatever the number of devices.

    Inference gives each device whole images, so the logits are the same on one device and on many.
    An unknown number of images, of an export for any, can only be divided into single ones.
    """
    images, height, width, _ = shape
    most = max(CACHED // (height * width * features), 1)
    if is_symbolic_dim(images):
        return shape[0] if planned_batch(shape) <= most else 1
    return max(n for n in range(1, most + 1) if images % n == 0)


CPU = Ops(
    conv=cpu_convolution.conv,
    gate_conv=cpu_gate_convolution.gate_conv,
    product=cpu_product.product,
    mean_and_max=cpu_statistics.mean_and_max,
    position_statistics=cpu_statistics.position_statistics,
    chunk=_chunk,
)
# A GPU moves a tenth less memory, says its compiler, where all statistics of a map are one pass and
# norm and channel gate one affine map; its other ops are best left to XLA (docs/gpu.md).
GPU = Ops(
    mean_and_max=tpu_statistics.mean_and_max,
    position_statistics=tpu_statistics.position_statistics,
)
CHANNELS_IN_LANES = Ops(
    conv=tpu_convolution.conv,
    gate_conv=tpu_gate_convolution.gate_conv,
    mean_and_max=tpu_statistics.mean_and_max,
    pool=partial(tpu_pooling.pool, layout=CHANNELS_LAST),
    position_statistics=tpu_statistics.position_statistics,
)
# With the TPU pooling, XLA would gather all windows of a shared image on each device.
SHARED_IMAGES = CHANNELS_IN_LANES._replace(pool=reference_pooling.pool)


@cache
def images_in_lanes(bands: int) -> Ops:
    """For the first stages, where the images, each cut into `bands`, fill the lanes."""
    return CHANNELS_IN_LANES._replace(
        conv=partial(tpu_convolution.band_conv, bands=bands),
        pool=partial(tpu_pooling.pool, layout=IMAGES_LAST),
        position_statistics=partial(tpu_statistics.position_statistics, bands=bands),
        affine=partial(tpu_affine.affine, bands=bands),
        bands=bands,
    )


def _tpu(images_per_device: int, rows: int | None) -> tuple[Ops, ...]:
    """Images with an unknown number of rows (None) are not cut into bands."""
    bands = max(LANES // images_per_device, 1)
    fills = images_per_device * bands % LANES == 0
    # A band's rows are halved twice.
    even = bands == 1 or (bands <= MAX_BANDS and rows is not None and rows % (4 * bands) == 0)
    early = images_in_lanes(bands) if fills and even else CHANNELS_IN_LANES
    return (early,) * 2 + (CHANNELS_IN_LANES,) * 2
