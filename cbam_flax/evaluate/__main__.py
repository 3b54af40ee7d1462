"""Evaluates a checkpoint on a split: exact predictions, metrics, saliency maps, the report.

Writes WORKDIR/evaluation/<name>/{metrics.json,predictions.csv,report.html,*.png}. The calibration
and the operating point in it are fitted only on the run's validation split.
"""

import argparse
import sys

from absl import logging

from cbam_flax import accelerator, logs
from cbam_flax.evaluate.scoring_flags import add_scoring_flags, check_scoring_flags
from data_prep import cli
from data_prep.files import folders

EXAMPLE = """examples:
  python -m cbam_flax.evaluate --workdir=runs/rsna --split=test
  python -m cbam_flax.evaluate --workdir=runs/rsna --data_dir=other --criterion=sensitivity=0.95
  python -m cbam_flax.evaluate --workdir=runs/rsna --tta=flip
  python -m cbam_flax.evaluate --ensemble runs/rsna-0 runs/rsna-1 runs/rsna-2
  python -m cbam_flax.evaluate --pool runs/fold0 runs/fold1 runs/fold2 --out=runs/pooled
  python -m cbam_flax.evaluate --compare runs/cbam-0 runs/cbam-1 runs/none-0 runs/none-1
"""

# What --compare and --pool would ignore, since they read evaluations that are there already.
_SCORING_FLAGS = (
    *("tta", "step", "data_dir", "dataset", "criterion", "prevalences", "resamples", "batch_size"),
)


def main() -> None:
    parser = cli.parser("cbam_flax.evaluate", __doc__, EXAMPLE)
    what = add_scoring_flags(parser)
    what.add_argument("--compare", nargs="+", help="folders of evaluated runs")
    what.add_argument(
        "--pool",
        nargs="+",
        metavar="RUN",
        help="evaluated runs of the folds of one data set: every image judged once",
    )
    parser.add_argument(
        "--out",
        help="folder for --pool, as in --out=runs/pooled (default: pooled-NAME beside the first "
        "run)",
    )
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
    check_flags(args)
    if args.name is not None:
        folders.check_name(args.name)
    logs.quiet_tensorflow()
    # Here, so that --help and a wrong flag return at once.
    import jax

    from cbam_flax.evaluate import compare, pool, run

    logging.set_verbosity(logging.ERROR)  # orbax warns about what is intended
    if args.compare:
        print(compare.markdown(compare.compare(args.compare, args.name or args.split)))
        return
    if args.pool:
        for line in pool.conclusion(pool.pool(args.pool, args.name or args.split, args.out)):
            print(line)
        return
    if sentence := accelerator.unused_gpu(jax.default_backend()):
        print(f"warning: {sentence}", file=sys.stderr)
    given = {key: value for key, value in vars(args).items() if value is not None}
    if args.ensemble:
        given["workdir"], *given["with_runs"] = given.pop("ensemble")
    metrics = run.evaluate_workdir(**given)
    for line in run.conclusion(given["workdir"], metrics):
        print(line)


def check_flags(args: argparse.Namespace) -> None:
    """Refuses flags that what is asked for would ignore."""
    check_scoring_flags(args)
    if args.out and not args.pool:
        raise cli.UserError("--out is for --pool only; leave it out")
    if args.explained is not None and not args.workdir:
        raise cli.UserError("--explained is for --workdir only; leave it out")
    if args.compare or args.pool:
        for flag in _SCORING_FLAGS:
            if getattr(args, flag) is not None:
                name = "prevalence" if flag == "prevalences" else flag
                raise cli.UserError(f"--{name} is for --workdir or --ensemble only; leave it out")


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
