"""Evaluates a checkpoint on a split: exact predictions, metrics, saliency maps, the report.

Writes WORKDIR/evaluation/<name>/{metrics.json,predictions.csv,report.html,*.png}. The calibration
and the operating point in it are fitted only on the run's validation split.
"""

import argparse
import os

from absl import logging

from data_prep import cli
from data_prep.files import folders

EXAMPLE = """examples:
  python -m cbam_flax.evaluate --workdir=runs/rsna --split=test
  python -m cbam_flax.evaluate --workdir=runs/rsna --data_dir=other --criterion=sensitivity=0.95
  python -m cbam_flax.evaluate --compare runs/cbam-0 runs/cbam-1 runs/none-0 runs/none-1
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m cbam_flax.evaluate",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--workdir", help="folder of the run")
    what.add_argument("--compare", nargs="+", help="folders of evaluated runs")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test")
    parser.add_argument("--step", type=int, help="of the checkpoint (default: the best)")
    parser.add_argument("--data_dir", help="other prepared data: external validation")
    parser.add_argument("--dataset", help="name, or name/variant, in that folder")
    parser.add_argument("--name", help="of the folder in WORKDIR/evaluation (default: the split)")
    parser.add_argument(
        "--criterion",
        help="of the operating point, fitted on validation: youden, sensitivity=X or specificity=X "
        "with X in (0, 1] (default: that of the evaluation `test` of these weights, else youden)",
    )
    parser.add_argument(
        "--prevalence",
        dest="prevalences",
        type=_share,
        nargs="+",
        help="prevalences for further PPV and NPV (default: 0.01 0.05 0.2)",
    )
    parser.add_argument(
        "--resamples",
        type=_count,
        help="of patients, for every interval (default: 2000)",
    )
    parser.add_argument(
        "--explained",
        type=int,
        help="positive images whose saliency maps are scored; 0: no maps (default: 100)",
    )
    parser.add_argument("--batch_size", type=_count, help="images per call; changes no metric")
    args = parser.parse_args()
    if args.name is not None:
        folders.check_name(args.name)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    # Here, so that --help and a wrong flag return at once.
    from cbam_flax.evaluate import compare, run

    logging.set_verbosity(logging.ERROR)  # orbax warns about what is intended
    if args.compare:
        print(compare.markdown(compare.compare(args.compare, args.name or args.split)))
        return
    given = {key: value for key, value in vars(args).items() if value is not None}
    metrics = run.evaluate_workdir(**given)
    for line in run.conclusion(args.workdir, metrics):
        print(line)


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return int(text)


def _share(text: str) -> float:
    if not 0 < float(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return float(text)


def command() -> None:
    cli.run(main)


if __name__ == "__main__":
    command()
