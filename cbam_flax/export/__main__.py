"""python -m cbam_flax.export: checkpoint -> inference bundle."""

import logging
import os
import pathlib
import sys

from cbam_flax.evaluate.scoring_flags import add_scoring_flags, check_scoring_flags
from data_prep import cli

EXAMPLE = """examples:
  python -m cbam_flax.export --workdir=runs/rsna --out=runs/rsna_bundle
  python -m cbam_flax.export --ensemble runs/rsna-0 runs/rsna-1 --out=runs/ensemble_bundle"""


def main() -> None:
    parser = cli.parser(
        "cbam_flax.export",
        "Writes the best checkpoint of a run as an inference bundle and verifies it.",
        EXAMPLE,
    )
    add_scoring_flags(parser)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the bundle to write")
    parser.add_argument("--step", type=int, help="of the checkpoint (default: the best)")
    parser.add_argument(
        "--evaluation",
        metavar="NAME",
        help="the evaluation whose calibration, operating point and figures it takes (default: "
        "test, ensemble-test, test-flip or ensemble-test-flip)",
    )
    parser.add_argument(
        *("--sign_with", "--sign-with"),
        type=pathlib.Path,
        metavar="KEY",
        help="Ed25519 private key, PEM or OpenSSH; also writes bundle.json.sig",
    )
    arguments = parser.parse_args()
    check_scoring_flags(arguments)
    # The CPU is fast enough, and its float32 arithmetic is the reference.
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns when it only reads

    from cbam_flax.export.run import export_workdir

    workdir, *with_runs = arguments.ensemble or [arguments.workdir]
    description = export_workdir(
        workdir,
        arguments.out,
        arguments.step,
        arguments.sign_with,
        arguments.evaluation,
        with_runs,
        arguments.combine or "logit",
        arguments.tta,
    )
    for name, difference in description["verification"]["max_difference"].items():
        files = description["files"].items()
        size = sum(entry["bytes"] for file, entry in files if file.split("/")[0] == name)
        print(
            f"{name:15}  {size / 1e6:6.2f} MB, "
            f"within {difference:.1e} of the training code's probabilities and maps"
        )
    step = description["fingerprints"]["checkpoint"]["step"]
    of = f"{len(with_runs) + 1} checkpoints" if with_runs else f"the checkpoint of step {step}"
    for warning in description["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"bundle of {of}: {arguments.out}")


def command() -> None:
    cli.run(main)


if __name__ == "__main__":
    command()
