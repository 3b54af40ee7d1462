"""How the pieces of the model are computed: one folder an op, in it one file an implementation.

`contract` says what each op is, `table` chooses an implementation by platform and shape, and
`feature_map` has the functions that the model's modules call.
"""

from cbam_flax.models.ops.contract import REFERENCE, Ops
from cbam_flax.models.ops.feature_map import (
    FeatureMap,
    Map,
    array,
    computed_by,
    convolve,
    matmul,
    mean_image,
    over_channels,
    over_positions,
    pool,
    relu,
    sigmoid,
    spread,
    values,
)
from cbam_flax.models.ops.table import ops_for

__all__ = [
    "REFERENCE",
    "FeatureMap",
    "Map",
    "Ops",
    "array",
    "computed_by",
    "convolve",
    "matmul",
    "mean_image",
    "ops_for",
    "over_channels",
    "over_positions",
    "pool",
    "relu",
    "sigmoid",
    "spread",
    "values",
]
