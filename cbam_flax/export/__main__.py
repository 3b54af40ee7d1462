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
    parser.add_argument("--step", type=int, help="of the checkpoint (default: the best)")
    parser.add_argument(
        "--evaluation",
        default="test",
        metavar="NAME",
        help="the evaluation whose calibration, operating point and figures it takes (test)",
    )
    parser.add_argument(
        *("--sign_with", "--sign-with"),
        type=pathlib.Path,
        metavar="KEY",
        help="Ed25519 private key, PEM or OpenSSH; also writes bundle.json.sig",
    )
    arguments = parser.parse_args()
    # The CPU is fast enough, and its float32 arithmetic is the reference.
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns when it only reads

    from cbam_flax.export.run import export_workdir

    description = export_workdir(
        arguments.workdir,
        arguments.out,
        arguments.step,
        arguments.sign_with,
        arguments.evaluation,
    )
    for name, difference in description["verification"]["max_difference"].items():
        files = description["files"].items()
        size = sum(entry["bytes"] for file, entry in files if file.split("/")[0] == name)
        print(
            f"{name:15}  {size / 1e6:6.2f} MB, "
            f"within {difference:.1e} of the training code's probabilities and attention maps"
        )
    step = description["fingerprints"]["checkpoint"]["step"]
    print(f"bundle of the checkpoint of step {step}: {arguments.out}")


def command() -> None:
    cli.run(main)


if __name__ == "__main__":
    command()
