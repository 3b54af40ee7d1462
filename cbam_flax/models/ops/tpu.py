"""Shared by the TPU implementations: register width, memory layouts, compiler options."""

LANES = 128
# Dimensions of maps (B, H, W, C), from the outermost to the one in the lanes.
IMAGES_LAST, CHANNELS_LAST = (1, 2, 3, 0), (1, 2, 0, 3)


def compiler_options(device_kind: str) -> dict[str, str]:
    """For `jax.jit`: lets one instruction use more of the fast memory than the default 16 MiB.

    Larger windows mean fewer windows, with fewer rows read twice. Only for chips with 128 MiB.
    """
    roomy = device_kind in ("TPU v5 lite", "TPU v6 lite")
    return {"xla_tpu_scoped_vmem_limit_kib": str(48 * 1024)} if roomy else {}
