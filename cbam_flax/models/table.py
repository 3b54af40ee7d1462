"""Parameters and forward FLOPs of a model, stage by stage."""

import ast
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from cbam_flax.models import CBAMResNet, create_model
from data_prep import cli

EXAMPLE = """examples:
  python -m cbam_flax.models.table
  python -m cbam_flax.models.table preset=notebook
  python -m cbam_flax.models.table --image_size=512 attention=se dilations=1,2,4 head=gap
"""


STAGES = (
    *("block1", "pool1", "block2", "pool2", "context1"),
    *("block3", "pool3", "block4", "pool4", "context2"),
    *("hidden", "logit"),
)


class Stage(NamedTuple):
    """One row: a stage's output shape, parameters and forward cost for one image."""

    name: str
    output: tuple[int, ...]
    parameters: int
    statistics: int
    flops: int


def stage_table(model: CBAMResNet, height: int, width: int) -> list[Stage]:
    """The stages in the order they run, for images of `height` x `width`; nothing is run.

    FLOPs are two per multiply-add of the convolutions and dense layers, including positions in
    the zero padding, as is usual; elementwise work (about 1 %) is left out. A kernel of n weights
    costs 2 n per position, whatever the algorithm.
    """

    def trace(images: jax.Array) -> Any:
        variables = model.init(jax.random.key(0), images)
        _, captured = model.apply(
            variables, images, capture_intermediates=True, mutable=["intermediates"]
        )
        return variables, captured["intermediates"]

    def applications(path: tuple[str, ...], positions: int) -> int:
        if "mlp" in path:  # shared: applied to the mean and to the maximum
            return 1 if model.attention == "se" else 2
        return 1 if "channel" in path or "image_level" in path else positions

    images = jax.ShapeDtypeStruct((1, height, width, model.channels), jnp.float32)
    variables, captured = jax.eval_shape(trace, images)
    stages = []
    for name in STAGES:
        if name not in variables["params"]:
            continue
        params = flatten_dict(variables["params"][name])
        statistics = jax.tree.leaves(variables["batch_stats"].get(name))
        output = captured[name]["__call__"][0].shape[1:]
        flops = sum(
            2 * kernel.size * applications(path, math.prod(output[:-1]))
            for path, kernel in params.items()
            if path[-1] == "kernel"
        )
        sizes = (sum(a.size for a in params.values()), sum(a.size for a in statistics))
        stages.append(Stage(name, output, *sizes, flops))
    return stages


def markdown(stages: list[Stage]) -> str:
    """The rows and their sum as a Markdown table."""
    total = Stage(
        "total",
        (),
        *(sum(getattr(s, f) for s in stages) for f in ("parameters", "statistics", "flops")),
    )
    lines = [
        "| stage | output | parameters | BN statistics | forward MFLOP | share |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for stage in [*stages, total]:
        output = " x ".join(map(str, stage.output))
        lines.append(
            f"| {stage.name} | {output} | {stage.parameters:,} | {stage.statistics:,} "
            f"| {stage.flops / 1e6:,.2f} | {stage.flops / total.flops:.1%} |"
        )
    return "\n".join(lines)


def _parse_setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise cli.UserError(f"{text!r} is not KEY=VALUE, such as attention=se.")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def main() -> None:
    parser = cli.parser("cbam_flax.models.table", __doc__, EXAMPLE)
    parser.add_argument("--image_size", type=int, default=224, help="height and width, in pixels")
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="keys of config.model, as in configs/"
    )
    arguments = parser.parse_args()
    settings = dict(map(_parse_setting, arguments.settings))

    try:
        stages = stage_table(create_model(settings), arguments.image_size, arguments.image_size)
    except (ValueError, TypeError) as error:
        raise cli.UserError(str(error)) from error
    print(markdown(stages))
    numbers = sum(stage.parameters + stage.statistics for stage in stages)
    statistics = sum(stage.statistics for stage in stages)
    print(f"\n{numbers:,} values in all, including {statistics:,} BN statistics")


if __name__ == "__main__":
    cli.run(main)
