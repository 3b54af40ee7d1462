"""python -m cbam_flax.export: checkpoint -> inference bundle."""

import argparse
import logging
import os
import pathlib

from data_prep import cli

EXAMPLE = "example:\n  python -m cbam_flax.export --workdir=runs/rsna --out=runs/rsna_bundle"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m cbam_flax.export",
        description="Writes the best checkpoint of a run as an inference bundle and verifies it.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the bundle to write")
    parser.add_argument("--step", type=int, help="this checkpoint instead of the best")
    arguments = parser.parse_args()
    # Nothing here is heavy, and the reference must be float32 arithmetic as the CPU does it.
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns that it only reads

    from cbam_flax.export.run import export_workdir

    description = export_workdir(arguments.workdir, arguments.out, arguments.step)
    for name, entry in description["files"].items():
        print(f"{entry['bytes'] / 1e6:10.2f} MB  {name}")
    for name, difference in description["verification"]["max_difference"].items():
        print(f"{name} differs from the training code by at most {difference:.1e}")
    print(f"bundle of step {description['fingerprints']['checkpoint']['step']}: {arguments.out}")


if __name__ == "__main__":
    cli.run(main)
