"""Parameters and forward FLOPs of a model, stage by stage."""

import argparse
import ast
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from data_prep import cli

if TYPE_CHECKING:
    from cbam_flax.models import CBAMResNet

EXAMPLE = """examples:
  python -m cbam_flax.models.table
  python -m cbam_flax.models.table preset=notebook
  python -m cbam_flax.models.table --image_size=512 attention=se dilations=1,2,4 head=gap
"""


class Stage(NamedTuple):
    """One row: the shape that the stage puts out, and what one image costs it, forward."""

    name: str
    output: tuple[int, ...]
    parameters: int
    statistics: int
    flops: int


def stage_table(model: "CBAMResNet", height: int, width: int) -> list[Stage]:
    """The stages in the order they run, for images of `height` x `width`; nothing is computed.

    FLOPs are two per multiply-add of the convolutions and dense layers, positions in the zero
    padding included, as is usual; elementwise work is left out (below 1 % at 224 x 224). Every
    kernel is applied once per position of its stage's map, so a kernel of n numbers costs
    2 n H W, however that map is computed.
    """
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import flatten_dict

    def trace(images: jax.Array) -> Any:
        variables = model.init(jax.random.key(0), images)
        _, captured = model.apply(
            variables, images, capture_intermediates=True, mutable=["intermediates"]
        )
        return variables, captured["intermediates"]

    images = jax.ShapeDtypeStruct((1, height, width, model.channels), jnp.float32)
    variables, captured = jax.eval_shape(trace, images)
    statistics_of_mlp = 1 if model.attention == "se" else 2

    def applications(path: tuple[str, ...], positions: int) -> int:
        if "mlp" in path:
            return statistics_of_mlp
        return 1 if "channel" in path or "image_level" in path else positions

    names = [f"{kind}{n}" for n in (1, 2, 3, 4) for kind in ("block", "pool")]
    names.insert(names.index("pool2") + 1, "context1")
    names += ["context2", "hidden", "logit"]
    stages = []
    for name in filter(variables["params"].__contains__, names):
        params = flatten_dict(variables["params"][name])
        output = captured[name]["__call__"][0].shape[1:]
        positions = math.prod(output[:-1])
        stages.append(
            Stage(
                name,
                output,
                parameters=sum(array.size for array in params.values()),
                statistics=sum(a.size for a in jax.tree.leaves(variables["batch_stats"].get(name))),
                flops=sum(
                    2 * kernel.size * applications(path, positions)
                    for path, kernel in params.items()
                    if path[-1] == "kernel"
                ),
            )
        )
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
        raise cli.UserError(f"{text!r} is not of the form KEY=VALUE, such as attention=se.")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m cbam_flax.models.table",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--image_size", type=int, default=224, help="height and width, in pixels")
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="keys of config.model, as in configs/"
    )
    arguments = parser.parse_args()
    settings = dict(map(_parse_setting, arguments.settings))

    from cbam_flax.models import create_model

    try:
        stages = stage_table(create_model(settings), arguments.image_size, arguments.image_size)
    except (ValueError, TypeError) as error:
        raise cli.UserError(str(error)) from error
    print(markdown(stages))
    numbers = sum(stage.parameters + stage.statistics for stage in stages)
    print(f"\n{numbers:,} numbers in all, the {sum(s.statistics for s in stages):,} of BN included")


if __name__ == "__main__":
    cli.run(main)
