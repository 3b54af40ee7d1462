"""Compiles the training step, or one stage of the model, for TPUs or GPUs that need not be present.

The result says how much memory it takes; on a TPU it has the compiler's own estimate of cycles for
every instruction (`cbam_flax.aot.hlo_cost`), on a GPU there are only lower bounds. Nothing is run:
all times here are computed from these, not measured.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.experimental.layout import Format, Layout
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict

from cbam_flax import optimizer as optimizer_lib
from cbam_flax import sharding, step
from cbam_flax.aot.chips import Chip
from cbam_flax.aot.hlo_cost import COLLECTIVES, Instruction, instructions
from cbam_flax.aot.targets import Target
from cbam_flax.input_pipeline import abstract_batch
from cbam_flax.models import create_model
from cbam_flax.models.inference import layer_names, part
from cbam_flax.models.ops.tpu import compiler_options as options_for
from data_prep.cli import UserError


class Report(NamedTuple):
    """What the compiler reports about one program; bytes, FLOPs and cycles are per device."""

    argument_bytes: int
    temporary_bytes: int
    peak_bytes: int
    flops: float
    instructions: list[Instruction]

    def seconds(self, chip: Chip) -> float:
        """The estimated cycles, plus a lower bound for the unpriced instructions."""
        return sum(cost(one, chip) for one in self.instructions)

    @property
    def hbm_bytes(self) -> int:
        """Read and written by all instructions; XLA's own figure counts fast memory too."""
        return sum(instruction.moved_bytes for instruction in self.instructions)

    @property
    def collectives(self) -> list[Instruction]:
        return [
            one
            for one in self.instructions
            if one.opcode.removesuffix("-start") in COLLECTIVES  # a -done is its other half
        ]


def cost(instruction: Instruction, chip: Chip) -> float:
    """Seconds: the compiler's estimate, or where it gives none the time to move the bytes.

    A gather costs what its schedule takes, a matrix product its arithmetic, where that is longer.
    """
    if instruction.priced:
        return instruction.cycles / chip.clock
    gathering = instruction.gathered * chip.gather_cycles / chip.clock
    return max(instruction.moved_bytes / chip.bandwidth, gathering, instruction.flops / chip.flops)


def train_step(config: ConfigDict, target: Target, batch_per_chip: int) -> Report:
    """The full training step, as `cbam_flax.main` would run it over `config.mesh`.

    Raises:
        UserError: the mesh does not fit the devices, or the program does not fit the memory.
    """
    config = config.copy_and_resolve_references()
    config.batch_size = batch_per_chip * target.chips
    mesh = sharding.make_mesh(config.mesh, target.devices)
    sharding.check_divisible(
        mesh,
        image_size=config.image_size,
        batch_size=config.batch_size,
        accumulate=config.optimizer.accumulate,
    )
    model = step.model_for(config, mesh)
    optimizer = optimizer_lib.make_optimizer(config.optimizer, lambda _: 1e-3, config.init)
    jitted, state = step.sharded_train_step(model, optimizer, config, mesh)
    batch = abstract_batch(config.batch_size, config.image_size, mesh, model.findings)
    return _report(jitted.lower(state, batch))


def stages(
    config: ConfigDict, images_per_device: int, platform: str = "tpu"
) -> dict[str, nn.Module]:
    """Every stage of `config.model`, in the order they run, as the platform would run it."""
    model = create_model(config.model, platform, images_per_device, config.image_size)
    return {name: part(model, [name]) for name in layer_names(model)}


def stage_reports(
    models: dict[str, nn.Module],
    image_size: int,
    batch_size: int,
    target: Target,
    only: str | None = None,
    prepare: Callable[[Any], Any] = lambda params: params,
    compiler_options: dict[str, str] | None = None,
) -> dict[str, Report]:
    """Forward and backward of each stage alone on one device, in training.

    Args:
        models: by name and in order; each maps the last one's output to the next one's input.
        image_size: pixels; the first stage reads (batch_size, image_size, image_size, 1).
        batch_size: images on that device.
        target: its first device is used.
        only: compile only this stage.
        prepare: applied to the parameters inside the differentiated function.
        compiler_options: by default those of the training step.
    """
    # The compiler chooses the layout of inputs and outputs, as it does inside a program.
    place = Format(Layout.AUTO, SingleDeviceSharding(target.devices[0]))
    x = jax.ShapeDtypeStruct((batch_size, image_size, image_size, 1), jnp.bfloat16)
    if compiler_options is None:
        compiler_options = options_for(target.devices[0].device_kind)
    reports = {}
    for number, (name, model) in enumerate(models.items()):
        variables = jax.eval_shape(model.init, jax.random.key(0), x)
        params, batch_stats = variables["params"], variables.get("batch_stats", {})

        def forward(params: Any, x: jax.Array, batch_stats: Any, model: nn.Module = model) -> Any:
            return model.apply(
                {"params": prepare(params), "batch_stats": batch_stats},
                x,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(0)},
            )

        def both(
            params: Any,
            x: jax.Array,
            batch_stats: Any,
            dy: jax.Array,
            forward: Any = forward,
            first: bool = number == 0,
        ) -> Any:
            wanted = (params,) if first else (params, x)  # the gradient of the image is not needed
            y, vjp, updated = jax.vjp(
                lambda params, x=x: forward(params, x, batch_stats), *wanted, has_aux=True
            )
            return y, updated, vjp(dy)

        y, _ = jax.eval_shape(forward, params, x, batch_stats)
        if only in (None, name):
            jitted = jax.jit(
                both, in_shardings=place, out_shardings=place, compiler_options=compiler_options
            )
            reports[name] = _report(jitted.lower(params, x, batch_stats, y))
        x = y
    return reports


def _report(lowered: Any) -> Report:
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        used = re.search(r"Used (\S+) of (\S+) hbm", str(error))
        needs = f"it needs {used[1]} of {used[2]}" if used else str(error).splitlines()[0]
        raise UserError(
            f"the program does not fit the chip's memory: {needs}; "
            "take a smaller --batch_per_chip, --config.model.remat=true or a larger topology"
        ) from error
    memory = compiled.memory_analysis()
    analysis = compiled.cost_analysis()  # a GPU's has none
    found = instructions(compiled.as_text())
    return Report(
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        peak_bytes=memory.peak_memory_in_bytes,
        flops=analysis["flops"] if analysis else sum(one.flops for one in found),
        instructions=found,
    )
